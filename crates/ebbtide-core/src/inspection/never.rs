//! Entries at whose paths nothing ever was: mistyped perhaps, or for a program that is not used.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, Metadata, metadata};
use ebbtide_sys::{file, resolve};

use super::near::near;
use super::{Finding, Machine, paths, shown, word};
use crate::compiled::{Entry, Kind};
use crate::container::name;
use crate::declaration::{Severity, Surroundings};
use crate::failure::Result;
use crate::past::sources::{Place, Source, Sources};
use crate::past::version::is_absent;

/// In fewer boots than this, nothing is to be expected.
const BOOTS: usize = 3;
/// Directories with more names in them are not searched for another spelling.
const NAMES: usize = 5000;

/// What is at a path in one tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    /// A directory in which nothing is. Whether nothing ever was, as far as its times tell.
    Empty {
        always: bool,
    },
    Something,
    Unknown,
}

/// What is known of one entry.
#[derive(Debug)]
struct Seen {
    /// In how many boots it was declared, with nothing in it at their beginning.
    boots: usize,
    in_store: There,
    /// Whether the root, a past one, a base or a trash has something there.
    elsewhere: bool,
}

pub(super) fn look(
    machine: &Machine<'_>,
    entries: &[&Entry],
    surroundings: &Surroundings,
    add: &mut dyn FnMut(&Entry, Finding),
) -> Result<()> {
    let boots = boots(machine)?;
    let sources: OnceCell<Option<Sources>> = OnceCell::new();
    let kept = paths(entries);
    let of_presets: BTreeSet<&str> =
        surroundings.presets.iter().map(|preset| preset.source.name.as_str()).collect();
    // Of a preset, nobody uses every path: only one that is of no use at all is told.
    let mut presets: BTreeMap<&str, Option<Vec<(&Entry, usize)>>> = BTreeMap::new();
    for entry in entries {
        let seen = Seen {
            boots: boots.get(&entry.path).copied().unwrap_or_default(),
            in_store: in_store(machine, entry),
            elsewhere: false,
        };
        let mut is_never = seen.is_never();
        if is_never {
            let sources = sources.get_or_init(|| {
                let opened = Sources::open(machine.boot, machine.container, machine.sysroot);
                opened.map(Sources::with_trash).ok()
            });
            let elsewhere = sources.as_ref().is_none_or(|it| elsewhere(it, &entry.path));
            is_never = Seen { elsewhere, ..seen }.is_never();
        }
        let file = entry.origin.file.as_str();
        if of_presets.contains(file) {
            let unused = presets.entry(file).or_insert_with(|| Some(Vec::new()));
            match unused {
                Some(unused) if is_never => unused.push((entry, seen.boots)),
                other => *other = None,
            }
        } else if is_never {
            let meant = near(&entry.path, &|at| names(machine.root(), at), &|path| {
                !kept.iter().any(|kept| path.starts_with(kept) || kept.starts_with(path))
                    && is_alike(machine.root(), path, entry.kind)
            });
            add(entry, told(entry, &seen, meant.as_deref()));
        }
    }
    for (file, unused) in presets {
        if let Some([(entry, boots), ..]) = unused.as_deref() {
            let message = format!("nothing ever was at any path of the {file}, in {boots} boots");
            let hint = "take it out of `presets`, if its application is not used here";
            add(entry, Finding::new(Severity::Note, message, hint));
        }
    }
    Ok(())
}

/// In how many boots each path was declared and either had no data or was mounted.
fn boots(machine: &Machine<'_>) -> Result<BTreeMap<PathBuf, usize>> {
    let mut counts = BTreeMap::new();
    for number in machine.container.numbers(name::BOOTS)? {
        // One that can't be read counts for nothing.
        let record = machine.container.record(number).ok().flatten();
        let Some(attached) = record.and_then(|it| it.attached) else { continue };
        for path in attached.mounted.into_keys().chain(attached.waiting) {
            *counts.entry(path).or_default() += 1;
        }
    }
    Ok(counts)
}

fn in_store(machine: &Machine<'_>, entry: &Entry) -> There {
    let Some(store) = machine.store_of(entry) else { return There::Unknown };
    there(store, &entry.path)
}

/// Looks at a path in a tree, without following links.
fn there(tree: BorrowedFd<'_>, path: &Path) -> There {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let opened = match resolve::open_path(tree, relative) {
        Ok(opened) => opened,
        Err(error) if is_absent(&error) => return There::Nothing,
        Err(_) => return There::Unknown,
    };
    let Ok(found) = metadata(opened.as_fd()) else { return There::Unknown };
    if found.kind != FileKind::Directory {
        return There::Something;
    }
    match file::is_empty_directory(opened.as_fd()) {
        Ok(true) => There::Empty { always: is_untouched(&found) },
        Ok(false) => There::Something,
        Err(_) => There::Unknown,
    }
}

/// Whether nothing was ever made in a directory: that would be newer than the directory is. One that was
/// copied has an older time, that of its original.
fn is_untouched(directory: &Metadata) -> bool {
    directory.created.is_some_and(|made| directory.modified <= made)
}

/// Whether any other tree has something at a path. What can't be looked at may have.
fn elsewhere(sources: &Sources, path: &Path) -> bool {
    let has = |source: &Source| {
        if source.mounted_over(path).is_some() {
            return false;
        }
        let Ok(tree) = source.tree() else { return true };
        match there(tree, path) {
            There::Nothing => false,
            // The mount point that Ebbtide makes, or what is mounted there.
            There::Empty { .. } => matches!(source.place, Place::Trash { .. }),
            There::Something | There::Unknown => true,
        }
    };
    sources.all.iter().chain(&sources.trash).any(has)
}

impl Seen {
    /// Whether nothing ever was there.
    fn is_never(&self) -> bool {
        let nothing = matches!(self.in_store, There::Nothing | There::Empty { always: true });
        nothing && !self.elsewhere && self.boots >= BOOTS
    }
}

fn told(entry: &Entry, seen: &Seen, meant: Option<&Path>) -> Finding {
    let (path, boots) = (shown(&entry.path), seen.boots);
    let message = match seen.in_store {
        There::Nothing => format!("nothing ever was at {path}, in {boots} boots"),
        _ => format!("{path} was always empty, in {boots} boots"),
    };
    if let Some(meant) = meant {
        let hint = format!("{} is there, and is not kept: is it the one?", shown(meant));
        return Finding::new(Severity::Warning, message, hint);
    }
    let forget = format!("`ebbtide forget {}`", word(&entry.path));
    let hint = format!("see whether the path is right; if nothing needs it, {forget}");
    // A program may be going to need a directory still.
    let severity = match seen.in_store {
        There::Nothing if !entry.optional => Severity::Warning,
        _ => Severity::Note,
    };
    Finding::new(severity, message, hint)
}

/// The names in a directory, unless it has very many.
fn names(root: BorrowedFd<'_>, directory: &Path) -> Vec<std::ffi::OsString> {
    let relative = directory.strip_prefix("/").unwrap_or(directory);
    let Ok(opened) = resolve::open_directory(root, relative) else { return Vec::new() };
    let mut names = file::read_directory(opened.as_fd()).unwrap_or_default();
    if names.len() > NAMES {
        names.clear();
    }
    names.into_iter().map(|entry| entry.name).collect()
}

/// Whether something of this kind is at a path.
fn is_alike(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> bool {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let Ok(opened) = resolve::open_path(root, relative) else { return false };
    let Ok(found) = metadata(opened.as_fd()) else { return false };
    match kind {
        Kind::File => found.kind == FileKind::Regular,
        Kind::Directory => {
            found.kind == FileKind::Directory
                && file::is_empty_directory(opened.as_fd()).is_ok_and(|empty| !empty)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_too_early_or_of_what_was_ever_there() {
        let empty = |always| There::Empty { always };
        for (boots, in_store, elsewhere, is_never) in [
            (3, There::Nothing, false, true),
            (2, There::Nothing, false, false),
            (3, There::Nothing, true, false),
            (3, empty(true), false, true),
            (3, empty(false), false, false),
            (9, There::Something, false, false),
            (9, There::Unknown, false, false),
        ] {
            let seen = Seen { boots, in_store, elsewhere };
            assert_eq!(seen.is_never(), is_never, "{seen:?}");
        }
    }
}
