//! Files of caches: looking at them, and deleting those that were not used for long.
//!
//! Whoever owns a cache may change it meanwhile. So every file is looked at once more before it goes, by a
//! descriptor, and does not go if it was used since or is open.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::file;
use ebbtide_sys::metadata::{self, FileKind, Metadata, Time};
use ebbtide_sys::mountinfo::MountEntry;
use ebbtide_sys::tree::stack::{Identity, identity};
use ebbtide_sys::tree::{self, Visited};
use rustix::fs::OFlags;

use super::plan::{Cache, Cached};
use crate::compiled::{Compiled, Entry, Kind, Method, MountOption, StoreName};
use crate::failure::{Context, Result};
use crate::undeclared::shown;

/// The directories that a store keeps and that are used where they lie. What is copied in and taken back, and
/// what is mounted as a single file, never goes.
fn entries<'c>(name: &StoreName, compiled: &'c Compiled) -> impl Iterator<Item = &'c Entry> {
    let used_there = |entry: &&Entry| {
        entry.kind == Kind::Directory && matches!(entry.method, Method::Bind | Method::Symlink)
    };
    compiled.entries.iter().filter(move |it| it.store == *name).filter(used_there)
}

/// All that is kept below a directory has a rule of its own.
fn kept_below(entry: &Path, compiled: &Compiled) -> BTreeSet<PathBuf> {
    let inner = |it: &Entry| it.path.strip_prefix(entry).ok().map(Path::to_owned);
    let mut inner: BTreeSet<PathBuf> = compiled.entries.iter().filter_map(inner).collect();
    inner.remove(Path::new(""));
    inner
}

/// When a file was used last. The time of its change, which no program can set, is no use by itself, but a
/// file that was put there a moment ago may have other times that are as old as where it came from.
fn used(found: &Metadata) -> Time {
    found.accessed.max(found.modified).max(found.changed)
}

/// Looks at all files of a cache. `open`: what processes have open.
pub(super) fn look(
    name: &StoreName,
    store: BorrowedFd<'_>,
    compiled: &Compiled,
    open: &HashSet<Identity>,
) -> Result<Cache> {
    let mut cache = Cache::default();
    let mut linked: HashMap<Identity, (Cached, u64)> = HashMap::new();
    for entry in entries(name, compiled) {
        let index = cache.entries.len();
        let inner = kept_below(&entry.path, compiled);
        let walked =
            tree::visit(store, entry.relative(), &|path| inner.contains(path), &mut |it| {
                let found = it.found;
                if !matches!(found.kind, FileKind::Regular | FileKind::Symlink) {
                    return Ok(true);
                }
                let (used, bytes) = (used(found), found.blocks * 512);
                let file = Cached { entry: index, used, bytes, names: 1, frees: true };
                if found.nlink > 1 {
                    let (known, _) = linked.entry(identity(found)).or_insert_with(|| {
                        cache.bytes += bytes;
                        (Cached { names: 0, ..file }, u64::from(found.nlink))
                    });
                    // A name below another entry is no name here.
                    known.names += u64::from(known.entry == index);
                    return Ok(true);
                }
                cache.bytes += bytes;
                if !open.contains(&identity(found)) {
                    cache.files.push(file);
                }
                Ok(true)
            });
        match walked {
            Err(error) if error.is_not_found() => {}
            walked => walked.context(|| format!("cannot look at {}", shown(&entry.path)))?,
        }
        cache.entries.push(entry.path.clone());
    }
    for (identity, (file, names)) in linked {
        let frees = file.names >= names;
        if !frees {
            cache.elsewhere.insert(identity);
        }
        if !open.contains(&identity) {
            cache.files.push(Cached { frees, ..file });
        }
    }
    Ok(cache)
}

/// Whether reads of what a cache keeps leave their time in this boot, as far as it was not declared that they
/// do not: `noatime` of mount(8). `stores`: where stores are mounted.
pub(super) fn are_reads_noted(
    name: &StoreName,
    compiled: &Compiled,
    mounts: &[MountEntry],
    stores: &Path,
    sysroot: &Path,
) -> bool {
    let quiet = |path: &Path| {
        let mount = mounts.iter().rev().find(|mount| mount.mount_point == path);
        mount.is_some_and(|mount| mount.has_option("noatime"))
    };
    let meant = |entry: &&Entry| entry.options.contains(&MountOption::Noatime);
    !quiet(&stores.join(&name.0))
        && !entries(name, compiled)
            .filter(|entry| !meant(entry))
            .any(|entry| quiet(&sysroot.join(entry.relative())))
}

/// What is to go from below one entry.
pub(super) struct Order<'a> {
    pub(super) path: &'a Path,
    /// Nothing that was used later.
    pub(super) last: Time,
    /// No more than so many.
    pub(super) files: u64,
    /// Only what makes room.
    pub(super) for_room: bool,
    /// Files that have a name elsewhere too.
    pub(super) elsewhere: &'a HashSet<Identity>,
}

/// What went, and what did not.
#[derive(Debug, Default)]
pub(super) struct Removed {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// So many are open.
    pub(super) open: u64,
    /// So many could not be deleted; why the first one could not.
    pub(super) failed: Option<(u64, String)>,
}

/// Deletes files.
pub(super) fn remove(
    store: BorrowedFd<'_>,
    compiled: &Compiled,
    order: &Order<'_>,
) -> Result<Removed> {
    let inner = kept_below(order.path, compiled);
    let mut run = Run { order, removed: Removed::default(), condemned: HashSet::new() };
    let path = order.path.strip_prefix("/").unwrap_or(order.path);
    match tree::visit(store, path, &|path| inner.contains(path), &mut |it| {
        run.look(it);
        Ok(run.removed.files < order.files)
    }) {
        Err(error) if error.is_not_found() => {}
        walked => walked.context(|| format!("cannot look at {}", shown(order.path)))?,
    }
    Ok(run.removed)
}

struct Run<'a> {
    order: &'a Order<'a>,
    removed: Removed,
    /// Files that lost a name here, which changed their time, and have others.
    condemned: HashSet<Identity>,
}

impl Run<'_> {
    fn look(&mut self, it: &Visited<'_>) {
        match self.remove(it) {
            Ok(Gone::Yes(bytes)) => {
                self.removed.files += 1;
                self.removed.bytes += bytes;
            }
            Ok(Gone::IsOpen) => self.removed.open += 1,
            Ok(Gone::Stays) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                let path = shown(&self.order.path.join(it.above).join(it.name));
                let (count, _) =
                    self.removed.failed.get_or_insert_with(|| (0, format!("{path}: {error}")));
                *count += 1;
            }
        }
    }

    /// Whether a file is to go, by its times.
    fn is_due(&self, found: &Metadata) -> bool {
        let condemned = self.condemned.contains(&identity(found));
        let used = if condemned { found.accessed.max(found.modified) } else { used(found) };
        let regular = found.kind == FileKind::Regular;
        let kind = regular || (found.kind == FileKind::Symlink && !self.order.for_room);
        let elsewhere = self.order.elsewhere.contains(&identity(found));
        let makes_room = found.blocks > 0 && !elsewhere;
        kind && used <= self.order.last && (makes_room || !self.order.for_room)
    }

    fn remove(&mut self, it: &Visited<'_>) -> ebbtide_sys::Result<Gone> {
        if !self.is_due(it.found) {
            return Ok(Gone::Stays);
        }
        if it.found.kind == FileKind::Symlink {
            return Ok(Gone::after(file::remove_file(it.directory, it.name)?, 0));
        }
        // The lease is given back when it is closed: what opens the file meanwhile waits for that.
        let opened = file::open_quietly(it.directory, it.name, OFlags::NONBLOCK)?;
        let found = metadata::metadata(opened.as_fd())?;
        if identity(&found) != identity(it.found) || !self.is_due(&found) {
            return Ok(Gone::Stays);
        }
        if !file::take_lease(opened.as_fd())? {
            return Ok(Gone::IsOpen);
        }
        let gone = file::remove_file(it.directory, it.name)?;
        if found.nlink > 1 {
            self.condemned.insert(identity(&found));
        }
        Ok(Gone::after(gone, if found.nlink > 1 { 0 } else { found.blocks * 512 }))
    }
}

/// What became of a file.
enum Gone {
    Yes(u64),
    IsOpen,
    Stays,
}

impl Gone {
    fn after(removed: bool, bytes: u64) -> Self {
        if removed { Self::Yes(bytes) } else { Self::Stays }
    }
}

#[cfg(test)]
mod tests;
