//! A root that is a snapshot of its base: btrfs knows which inodes changed since.
//!
//! A snapshot begins with the inodes of its base, under the same numbers, and each change marks the
//! inode with its transaction; one of the names in a directory is a change of the directory. So what is
//! not marked is as in the base, with all that is in it but for the ways to inodes that are.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::btrfs::{self, ChangedInodes, OnTheWay};
use ebbtide_sys::file::{self, DirectoryEntry, open_quietly, read_opened_directory};
use ebbtide_sys::metadata::{self, FileKind, Metadata, metadata_of_entry};
use ebbtide_sys::resolve;
use rustix::fs::OFlags;

use super::compare::{Node, change, compare, deleted, unless_gone};
use super::shared::{self, Out};
use super::way::{self, Name, Renamed};
use super::{Kept, Visit, What, shown};
use crate::failure::{Context, Result};

/// How many names that lead to changes are remembered.
const NAMES: usize = 1 << 16;

/// Visits all changes of a root that is a subvolume. The cost follows what changed, if it is a snapshot
/// of the base, and nothing was written to that since; else it is that of [`super::reference()`].
///
/// What is mounted on the root is not looked at. The filesystem is synced first: only what was
/// committed is marked. Memory follows how scattered the changed inodes are. Needs `CAP_SYS_ADMIN`.
pub fn btrfs(
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    kept: &Kept,
    visit: &mut Visit<'_>,
) -> Result<()> {
    within(root, base, kept, NAMES, visit)
}

/// The same, with so many names remembered.
pub(super) fn within(
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    kept: &Kept,
    names: usize,
    visit: &mut Visit<'_>,
) -> Result<()> {
    file::sync_filesystem(root).context(|| "cannot sync the volume")?;
    let what = || "cannot ask btrfs when the root was made";
    let (made, of) = (btrfs::subvolume_info(root), btrfs::subvolume_info(base));
    let (made, of) = (made.context(what)?, of.context(what)?);
    let untouched = of.read_only && of.ctransid <= made.otransid;
    if made.parent_uuid != Some(of.uuid) || !untouched {
        return super::reference(root, base, kept, visit);
    }
    if kept.is_kept() {
        return Ok(());
    }
    let changed = btrfs::changed_inodes(root, made.otransid, names)
        .context(|| "cannot ask btrfs what changed in the root")?;
    let mount = metadata::metadata(root).context(|| "cannot look at the root")?.mount_id;
    let changed = &changed;
    let walk =
        |task, out: &mut Out<'_, _>| Walk { root, base, mount, changed, out }.walk(task, kept);
    shared::walk(walk, visit)
}

struct Walk<'w, 'o, 'k> {
    root: BorrowedFd<'w>,
    base: BorrowedFd<'w>,
    mount: u64,
    changed: &'w ChangedInodes,
    out: &'w mut Out<'o, Task<'k>>,
}

/// The way down to where the walk is.
type Way<'k> = way::Way<'k, Known>;
type Task<'k> = way::Task<'k, Known>;

/// What is known of a directory on the way.
#[derive(Clone, Copy)]
struct Known {
    /// The device number of the root's subvolume; `None` within another one, in which inode numbers mean
    /// something else.
    device: Option<(u32, u32)>,
    /// Its inode number, if it is as in the base.
    unchanged: Option<u64>,
}

/// What lies at a path: in the root, in the base.
struct Pair {
    found: Metadata,
    before: Option<Metadata>,
    /// Whether it lies in the root's own subvolume.
    own: bool,
    /// Whether both are one inode.
    same: bool,
}

impl<'k> Walk<'_, '_, 'k> {
    fn walk(&mut self, task: Task<'k>, kept: &'k Kept) -> Result<()> {
        let (top, pair, known) = match task {
            Task::Inner(top, pair, known) => (top, pair, known),
            Task::Top(top) => {
                let failed = || format!("cannot look at {}", shown(&top.path));
                let Some(pair) = top.open(self.root, self.base, kept).context(failed)? else {
                    return Ok(());
                };
                let found = metadata::metadata(pair.root.as_fd()).context(failed)?;
                let unchanged = self.unchanged(found.inode);
                (top, pair, Known { device: Some(found.device), unchanged })
            }
        };
        let failed = || format!("cannot look at {}", shown(&top.path));
        let mut way = Way::new(&top);
        self.enter(&mut way, pair, known).context(failed)?;
        while let Some((name, kept)) = way.next().context(failed)? {
            if !self.name(&mut way, &name, kept)? {
                way.back();
            }
            if self.out.is_over() {
                break;
            }
        }
        Ok(())
    }

    fn enter(
        &self,
        way: &mut Way<'k>,
        pair: way::Pair<'k>,
        known: Known,
    ) -> ebbtide_sys::Result<()> {
        let names = self.names(&pair.root, pair.base.as_ref(), known)?;
        way.enter(pair, names, known)
    }

    /// An inode of the root's own subvolume that is as in the base.
    fn unchanged(&self, inode: u64) -> Option<u64> {
        (!self.changed.contains(inode)).then_some(inode)
    }

    /// Looks at one name in the current directory; true if that is a directory and was entered.
    fn name(&mut self, way: &mut Way<'k>, name: &OsStr, kept: Option<&'k Kept>) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let root = way.root().context(failed)?;
        let found = metadata_of_entry(root, name).context(failed)?;
        let before = way.before(name).context(failed)?;
        let Some(found) = found else {
            self.gone(&path, before.as_ref());
            return Ok(false);
        };
        if found.mount_id != self.mount {
            return Ok(false);
        }
        let own = way.known().is_some_and(|known| known.device == Some(found.device));
        let is_same = |before: &Metadata| before.kind == found.kind && before.inode == found.inode;
        let same = own && before.as_ref().is_some_and(is_same) && !self.changed.is_new(found.inode);
        let pair = Pair { found, before, own, same };
        if pair.found.kind == FileKind::Directory {
            return self.directory(way, name, &pair, kept);
        }
        if same && self.unchanged(pair.found.inode).is_some() {
            return Ok(false);
        }
        let Pair { found, before, .. } = &pair;
        match before {
            Some(before) if before.kind == found.kind => {
                let base = way.base().context(failed)?;
                let root = Node { dir: root, name, found, opened: None };
                let base = Node { dir: base, name, found: before, opened: None };
                if let Some(what) = compare(&root, &base).context(failed)? {
                    self.out.change(change(&path, what, found));
                }
            }
            other => {
                self.gone(&path, other.as_ref());
                self.out.change(change(&path, What::Added, found));
            }
        }
        Ok(false)
    }

    fn directory(
        &mut self,
        way: &mut Way<'k>,
        name: &OsStr,
        pair: &Pair,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let Pair { found, before, own, same } = pair;
        let unchanged = self.unchanged(found.inode).filter(|_| *same);
        let nothing = |inode| matches!(self.changed.on_the_way(inode), OnTheWay::Nothing);
        if unchanged.is_some_and(nothing) {
            return Ok(false);
        }
        if let Some(from) = self.origin(pair).context(failed)? {
            self.gone(&path, before.as_ref());
            self.out.change(change(&path, What::Renamed { from: from.clone() }, found));
            self.out.renamed(Renamed { path, from });
            return Ok(false);
        }
        let root = way.root().context(failed)?;
        let open = |tree| unless_gone(open_quietly(tree, name, OFlags::DIRECTORY));
        let Some(inner) = open(root).context(failed)? else { return Ok(false) };
        let mut inner_base = None;
        if let Some(before) = before.as_ref().filter(|before| before.kind == FileKind::Directory) {
            let base = way.base().context(failed)?;
            inner_base = open(base).context(failed)?;
            if unchanged.is_none() {
                let root = Node { dir: root, name, found, opened: Some(inner.as_fd()) };
                let opened = inner_base.as_ref().map(AsFd::as_fd);
                let node = Node { dir: base, name, found: before, opened };
                if let Some(what) = compare(&root, &node).context(failed)? {
                    self.out.change(change(&path, what, found));
                }
            }
        } else {
            self.gone(&path, before.as_ref());
            // Directories on the way to an entry are made for it.
            if kept.is_none() {
                self.out.change(change(&path, What::Added, found));
            }
        }
        let known = Known { device: own.then_some(found.device), unchanged };
        let pair = way::Pair { root: inner, base: inner_base, kept };
        if self.out.finds_help() {
            let place = Renamed { path, from: way.from.clone() };
            self.out.give(Task::Inner(place, pair, known));
            return Ok(false);
        }
        self.enter(way, pair, known).context(failed)?;
        Ok(true)
    }

    /// The names in a directory that may lead to changes; of an unchanged one, only those on the way.
    fn names(
        &self,
        root: &OwnedFd,
        base: Option<&OwnedFd>,
        known: Known,
    ) -> ebbtide_sys::Result<Vec<Name>> {
        // An unchanged directory has the names that the base has.
        let base = match known.unchanged.map(|inode| self.changed.on_the_way(inode)) {
            Some(OnTheWay::Nothing) => return Ok(Vec::new()),
            Some(OnTheWay::These(names)) => {
                return Ok(names.iter().cloned().map(Name::anywhere).collect());
            }
            Some(OnTheWay::Any) => {
                let all = read_opened_directory(root.as_fd())?;
                return Ok(all.into_iter().map(|entry| Name::anywhere(entry.name)).collect());
            }
            None => base,
        };
        let mut found = read_opened_directory(root.as_fd())?;
        let mut before = base.map_or(Ok(Vec::new()), |base| read_opened_directory(base.as_fd()))?;
        if known.device.is_some() {
            self.leave_out_the_same(&mut found, &mut before);
        }
        let name =
            |may_be_in_base| move |entry: DirectoryEntry| Name { name: entry.name, may_be_in_base };
        Ok(found.into_iter().map(name(false)).chain(before.into_iter().map(name(true))).collect())
    }

    /// Leaves out what is one inode on both sides that nothing happened to. Of a directory, that says
    /// nothing of what is in it.
    fn leave_out_the_same(
        &self,
        found: &mut Vec<DirectoryEntry>,
        before: &mut Vec<DirectoryEntry>,
    ) {
        before.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut is_same = vec![false; before.len()];
        found.retain(|entry| {
            let at = before.binary_search_by(|other| other.name.cmp(&entry.name));
            let Some((other, is_same)) =
                at.ok().and_then(|at| before.get(at).zip(is_same.get_mut(at)))
            else {
                return true;
            };
            let is_file = entry.kind.is_some_and(|kind| kind != FileKind::Directory);
            *is_same = is_file
                && (other.kind, other.inode) == (entry.kind, entry.inode)
                && self.unchanged(entry.inode).is_some();
            !*is_same
        });
        let mut is_same = is_same.into_iter();
        before.retain(|_| is_same.next() != Some(true));
    }

    /// Where the base has a directory that was moved to where it is.
    fn origin(&self, pair: &Pair) -> ebbtide_sys::Result<Option<PathBuf>> {
        let inode = pair.found.inode;
        let from_base = self.changed.contains(inode) && !self.changed.is_new(inode);
        if pair.same || !pair.own || !from_base {
            return Ok(None);
        }
        let Some(from) = btrfs::path_of_directory(self.base, inode)? else { return Ok(None) };
        let there = unless_gone(resolve::open_directory(self.base, &from))?;
        Ok(there.map(|_| Path::new("/").join(from)))
    }

    /// Tells what the base had in the place of something else.
    fn gone(&mut self, path: &Path, before: Option<&Metadata>) {
        if let Some(before) = before {
            self.out.change(deleted(path, before));
        }
    }
}
