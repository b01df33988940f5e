//! Data in a store that no entry keeps: what `forget` left there, or a changed declaration.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, metadata_of_entry};
use ebbtide_sys::{escape, file, resolve, tree};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::compiled::{Compiled, StoreName};
use crate::container::Container;
use crate::failure::{Context, Result};
use crate::harvest::Manifest;
use crate::record::{Record, RootIdentity};
use crate::store::notes::{self, Known};
use crate::store::{self, Since};

/// What fsck puts at the top of a filesystem of its own.
const LOST: &str = "lost+found";
/// So deep is looked.
const DEPTH: usize = 100;

/// Data in a store that no entry keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Undeclared {
    /// The store.
    pub store: StoreName,
    /// The path that it would be at.
    #[serde(serialize_with = "escaped")]
    #[cfg_attr(feature = "declaration", schemars(with = "String"))]
    pub path: PathBuf,
    /// Whether the store is known to have kept it. Anything else somebody put there.
    pub known: bool,
    /// What it takes, in bytes.
    pub bytes: u64,
    /// Since when it is not declared; null if nobody noted that.
    pub since: Option<Since>,
}

fn escaped<S: serde::Serializer>(
    path: &Path,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&escape(path.as_os_str().as_encoded_bytes()))
}

/// One that was found and not measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// The path that it would be at.
    pub(crate) path: PathBuf,
    /// Whether the store is known to have kept it.
    pub(crate) known: bool,
    /// Since when it is not declared.
    pub(crate) since: Option<Since>,
}

/// What is in use in this boot though it may not be declared any more: mounted, or on the list of what
/// is taken back from its root.
pub(crate) fn in_use(container: &Container, record: Option<&Record>) -> Result<BTreeSet<PathBuf>> {
    let Some(record) = record else { return Ok(BTreeSet::new()) };
    let mut paths: BTreeSet<PathBuf> =
        record.attached.iter().flat_map(|it| it.mounted.keys().cloned()).collect();
    if let Some(root) = record.root.as_ref().map(RootIdentity::uuid)
        && let Some(manifest) = Manifest::read(container, root)?
    {
        paths.extend(manifest.items.into_iter().map(|item| item.path));
    }
    Ok(paths)
}

/// Finds it in one store, without measuring. A directory with no file in it is no data.
pub(crate) fn find(
    name: &StoreName,
    opened: BorrowedFd<'_>,
    compiled: &Compiled,
    in_use: &BTreeSet<PathBuf>,
) -> Result<Vec<Found>> {
    let declared = compiled.entries.iter().filter(|entry| entry.store == *name);
    let kept: BTreeSet<&Path> = declared
        .map(|entry| entry.path.as_path())
        .chain(in_use.iter().map(PathBuf::as_path))
        .collect();
    let known = notes::known(opened)?;
    let top = resolve::open_directory(opened, Path::new("")).context(|| "cannot open it")?;
    let mut walk = Walk { kept, known, found: Vec::new() };
    walk.directory(&top, Path::new("/"), None, 0)
        .context(|| format!("cannot look for what no entry keeps in store {name}"))?;
    Ok(walk.found)
}

/// Finds and measures it.
pub(crate) fn measured(
    name: &StoreName,
    opened: BorrowedFd<'_>,
    compiled: &Compiled,
    in_use: &BTreeSet<PathBuf>,
) -> Result<Vec<Undeclared>> {
    let measure = |Found { path, known, since }: Found| {
        let bytes = tree::tree_size(opened, path.strip_prefix("/").unwrap_or(&path))
            .context(|| format!("cannot measure {} in store {name}", shown(&path)))?;
        Ok(Undeclared { store: name.clone(), path, known, bytes, since })
    };
    find(name, opened, compiled, in_use)?.into_iter().map(measure).collect()
}

/// A path for a message.
pub(crate) fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

struct Walk<'a> {
    kept: BTreeSet<&'a Path>,
    known: BTreeMap<PathBuf, Known>,
    found: Vec<Found>,
}

impl Walk<'_> {
    /// `above`: the note of a directory that holds this one, if the store is known to have kept that.
    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &Path,
        above: Option<Known>,
        depth: usize,
    ) -> ebbtide_sys::Result<()> {
        let mut entries = file::read_directory(directory.as_fd())?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            if depth == 0 && (entry.name == store::OWN || entry.name == LOST) {
                continue;
            }
            let inner = path.join(&entry.name);
            if self.kept.contains(inner.as_path()) {
                continue;
            }
            let Some(seen) = metadata_of_entry(directory.as_fd(), &entry.name)? else { continue };
            let note = self.known.get(&inner).copied().or(above);
            // What lies below a path follows it in the order of paths.
            let deeper =
                self.kept.range(inner.as_path()..).next().is_some_and(|it| it.starts_with(&inner))
                    || (note.is_none()
                        && self
                            .known
                            .range(inner.clone()..)
                            .next()
                            .is_some_and(|(it, _)| it.starts_with(&inner)));
            if seen.kind == FileKind::Directory {
                let child = file::open_quietly(directory.as_fd(), &entry.name, OFlags::DIRECTORY)?;
                if deeper && depth < DEPTH {
                    self.directory(&child, &inner, note, depth + 1)?;
                    continue;
                }
                if !has_file(&child, 0)? {
                    continue;
                }
            }
            let (known, since) = (note.is_some(), note.and_then(|it| it.since));
            self.found.push(Found { path: inner, known, since });
        }
        Ok(())
    }
}

/// Whether there is anything but directories in a directory.
fn has_file(directory: &OwnedFd, depth: usize) -> ebbtide_sys::Result<bool> {
    for entry in file::read_directory(directory.as_fd())? {
        let Some(seen) = metadata_of_entry(directory.as_fd(), &entry.name)? else { continue };
        if seen.kind != FileKind::Directory || depth > DEPTH {
            return Ok(true);
        }
        let child = file::open_quietly(directory.as_fd(), &entry.name, OFlags::DIRECTORY)?;
        if has_file(&child, depth + 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}
