//! From files to one set of tables and entries: later layers win.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::path::PathBuf;

use super::file::{Entry, File, Root, Store};
use super::problem::{Problem, Severity, quote};
use crate::compiled::StoreName;

/// What all layers together declare.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub root: Option<Root>,
    pub stores: BTreeMap<StoreName, Store>,
    /// By path, so that parents precede children.
    pub entries: BTreeMap<PathBuf, Entry>,
}

/// Merges files in the order of layers, and notes paths that stand twice in one file.
pub(super) fn merge(files: impl IntoIterator<Item = File>, problems: &mut Vec<Problem>) -> Merged {
    let mut merged = Merged::default();
    for file in files {
        merged.root = file.root.or(merged.root);
        merged.stores.extend(file.store);
        for entry in file.keep.directories.into_iter().chain(file.keep.files) {
            match merged.entries.entry(entry.path.value.clone()) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(entry);
                }
                btree_map::Entry::Occupied(mut earlier) => {
                    problems.extend(repetition(earlier.get(), &entry));
                    earlier.insert(entry);
                }
            }
        }
    }
    merged
}

/// What is wrong, if anything, with a path being declared again.
fn repetition(earlier: &Entry, later: &Entry) -> Option<Problem> {
    let path = quote(&later.path.value.to_string_lossy());
    let same_file = earlier.path.place.file == later.path.place.file;
    let (severity, message, hint) = match (same_file, earlier.kind == later.kind) {
        (false, true) => return None,
        (true, true) => {
            (Severity::Error, format!("{path} is declared twice"), "remove one of them")
        }
        (true, false) => (
            Severity::Error,
            format!("{path} is declared as a directory and as a file"),
            "keep the one that it is",
        ),
        (false, false) => (
            Severity::Warning,
            format!("{path} is a {} here and a {} in an earlier layer", later.kind, earlier.kind),
            "the later layer wins; check what the path is",
        ),
    };
    Some(Problem {
        severity,
        message,
        mark: later.path.place.mark(""),
        other: Some(earlier.path.place.mark(format!("declared as a {} here", earlier.kind))),
        hint: Some(hint.to_owned()),
    })
}
