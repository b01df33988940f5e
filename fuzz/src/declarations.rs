//! What people write, in TOML.

use std::collections::BTreeMap;

use ebbtide_core::compiled::{Compiled, DeclarationHash};
use ebbtide_core::declaration::{Problem, SourceFile, Surroundings, check_in, read_preset, report};
use uuid::Uuid;

use crate::assert_printable;

fn source(bytes: &[u8]) -> Option<SourceFile> {
    let text = std::str::from_utf8(bytes).ok()?.to_owned();
    Some(SourceFile { name: "fuzz.toml".to_owned(), text })
}

/// How many problems are drawn: as many as a person is shown.
const SHOWN: usize = 50;

/// Every problem has a place, in a file that was checked, and can be drawn.
fn assert_placed(problems: &[Problem], sources: &[SourceFile]) {
    for problem in problems {
        for mark in std::iter::once(&problem.mark).chain(&problem.other) {
            let source = sources.get(mark.file).expect("a problem is in one of the files");
            let text = source.text.get(mark.span.clone());
            assert!(text.is_some(), "{:?} is no part of the file: {}", mark.span, problem.message);
        }
    }
    for problem in problems.iter().take(SHOWN) {
        assert!(!problem.message.is_empty());
        assert_printable(&problem.render(sources, false));
    }
    for told in report(problems, sources) {
        assert!(told.line > 0 && told.column > 0 && !told.file.is_empty(), "{told:?}");
        assert_printable(&told.message);
    }
}

pub(crate) fn declaration(bytes: &[u8]) {
    let Some(source) = source(bytes) else { return };
    let surroundings = Surroundings {
        homes: BTreeMap::from([("alice".to_owned(), "/home/alice".into())]),
        uids: BTreeMap::from([("alice".to_owned(), 1000)]),
        ..Surroundings::default()
    };
    let outcome = check_in(&[source], &surroundings);
    assert_placed(&outcome.problems, &outcome.sources);
    let errors = outcome.problems.iter().any(Problem::is_error);
    assert_eq!(
        outcome.declaration.is_none(),
        errors,
        "refused without a word, or used in spite of one"
    );
    let Some(declaration) = outcome.declaration else { return };
    let Some(uuid) = declaration.root.as_ref().and_then(|root| root.uuid) else { return };
    let stores = declaration.stores.keys().map(|name| (name.clone(), Uuid::nil())).collect();
    let compiled = declaration.compile(uuid, &stores).expect("all its stores are known");
    let bytes = compiled.to_bytes();
    let read = Compiled::from_bytes(&bytes, &DeclarationHash::of(&bytes));
    assert_eq!(read.expect("a boot reads what was compiled"), compiled);
}

pub(crate) fn preset(bytes: &[u8]) {
    let Some(source) = source(bytes) else { return };
    let mut problems = Vec::new();
    let preset = read_preset(0, &source, &mut problems);
    assert_placed(&problems, &[source]);
    if let Some(preset) = preset {
        for entry in preset.entries.iter().chain(&preset.user_entries) {
            let parts = entry.path().components().map(std::path::Component::as_os_str);
            assert!(!parts.into_iter().any(|part| part == ".."), "{}", entry.path().display());
        }
    } else {
        assert!(problems.iter().any(Problem::is_error), "refused without a word");
    }
}
