//! From sources to a declaration, with every problem of every file.

use super::file::{KeepBoots, KeepTrash};
use super::merge::{Merged, merge};
use super::preset::Library;
use super::problem::{Lines, Problem, Severity};
use super::{
    DEFAULT_CONTAINER, Declaration, Outcome, RootDeclaration, SourceFile, StoreDeclaration,
    Surroundings, entries, lint, read, root, stores,
};
use crate::compiled::Origin;

/// Checks the layers of a declaration, given in their order: later ones win. Only the presets that
/// come with Ebbtide are known, and no users.
pub fn check(sources: &[SourceFile]) -> Outcome {
    check_in(sources, &Surroundings::default())
}

/// As [`check`], for a system with presets and users of its own.
pub fn check_in(sources: &[SourceFile], surroundings: &Surroundings) -> Outcome {
    let mut problems = Vec::new();
    let files: Vec<_> = sources
        .iter()
        .enumerate()
        .map(|(index, source)| read::read(index, source, &mut problems))
        .collect();
    let whole = files.iter().all(Option::is_some);
    let library = Library::read(&surroundings.presets, sources.len());
    let merged = merge(files.into_iter().flatten(), &library, surroundings, &mut problems);
    let sources: Vec<SourceFile> = sources.iter().chain(&library.sources).cloned().collect();
    root::check(&merged, &mut problems);
    stores::check(&merged, whole, &mut problems);
    entries::check(&merged, whole, &mut problems);
    lint::lint(&merged, &library, surroundings, &mut problems);
    problems.extend(unpinned(&merged));
    problems.sort_by_key(|problem| (problem.mark.file, problem.mark.span.start));
    let usable = !problems.iter().any(Problem::is_error);
    let declaration = if usable { declaration(&merged, &sources) } else { None };
    Outcome { declaration, problems, sources }
}

/// The note that no container has been made yet.
fn unpinned(merged: &Merged) -> Option<Problem> {
    let root = merged.root.as_ref().filter(|root| root.sound && root.uuid.is_none())?;
    Some(Problem {
        severity: Severity::Note,
        message: "`[root]` has no `uuid`: it is not tied to a container yet".to_owned(),
        mark: root.place.mark(""),
        other: None,
        hint: Some("`ebbtide init` makes the container and writes its UUID here".to_owned()),
    })
}

/// The result; `None` only where a problem has been noted.
fn declaration(merged: &Merged, sources: &[SourceFile]) -> Option<Declaration> {
    let root = match &merged.root {
        None => None,
        Some(root) => Some(RootDeclaration {
            backend: root.backend.as_ref()?.value,
            device: root.device.as_ref()?.value.clone(),
            container: root
                .container
                .as_ref()
                .map_or_else(|| DEFAULT_CONTAINER.into(), |at| at.value.clone()),
            uuid: root.uuid.as_ref().map(|at| at.value),
            options: root.options.iter().map(|at| at.value.clone()).collect(),
            ephemeral: root.ephemeral.iter().map(|at| at.value.clone()).collect(),
            size: root.size.as_ref().map(|at| at.value),
            archive: root.archive.as_ref().map(|at| at.value),
            writable: root.writable.as_ref().is_none_or(|at| at.value),
            tmpfs: root::ram_mounts(root),
            mounts: root::volume_mounts(root),
            audit: root.audit.as_ref().is_some_and(|at| at.value),
            require_login: root.require_login.as_ref().is_none_or(|at| at.value),
            keep_boots: root.keep_boots.as_ref().map(KeepBoots::with_defaults),
        }),
    };
    let stores = merged
        .stores
        .iter()
        .map(|(name, store)| {
            let own = store.device.as_ref().map(|at| &at.value);
            let device = own.or(root.as_ref().map(|root| &root.device))?.clone();
            let subvolume = store.subvolume.as_ref().map(|at| at.value.clone());
            let class = store.class.as_ref().map(|at| at.value).unwrap_or_default();
            let options = store.mount_options();
            let directory = store.directory.as_ref().map(|at| at.value.clone());
            let trash = store.trash.as_ref().map(KeepTrash::with_defaults);
            let expiry = store.expiry();
            let store =
                StoreDeclaration { device, subvolume, directory, class, options, trash, expiry };
            Some((name.clone(), store))
        })
        .collect::<Option<_>>()?;
    let lines: Vec<_> = sources.iter().map(|source| Lines::of(&source.text)).collect();
    let entries = entries::resolve(&merged.entries, |entry| {
        let place = &entry.path.place;
        let source = sources.get(place.file);
        let line = lines.get(place.file).map_or(0, |lines| lines.line(place.span.start));
        Origin {
            file: source.map_or_else(String::new, |source| source.name.clone()),
            line: u32::try_from(line).unwrap_or(u32::MAX),
        }
    });
    let auto = entries::undecided(&merged.entries);
    Some(Declaration { root, stores, entries, auto })
}
