//! A root that is a snapshot of its base: btrfs knows which inodes changed since.
//!
//! A snapshot begins with the inodes of its base, under the same numbers, and each change marks the
//! inode with its transaction; one of the names in a directory is a change of the directory. So what is
//! not marked is as in the base, with all that is in it but for the ways to inodes that are.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::btrfs::{self, ChangedInodes, OnTheWay};
use ebbtide_sys::file::{self, DirectoryEntry, read_opened_directory};
use ebbtide_sys::metadata::{self, FileKind, metadata_of_entry};
use ebbtide_sys::resolve;

use super::compare::{Look, Node, change, compare, compare_opened, deleted, unless_gone};
use super::shared::{self, Out};
use super::way::{self, Candidate, Listed, Renamed};
use super::{Kept, Visit, What, shown};
use crate::failure::{Context, Result};

/// How many names that lead to changes are remembered.
const NAMES: usize = 1 << 16;

/// Visits all changes of a root that is a subvolume. The cost follows what changed, if it is a snapshot
/// of the base, and nothing was written to that since; else it is that of [`super::reference()`].
///
/// Nothing may be mounted on the root: give a clone of its mount that is not recursive. The filesystem is
/// synced first: only what was committed is marked. Memory follows how scattered the changed inodes are.
/// Needs `CAP_SYS_ADMIN`.
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
    let changed = &changed;
    let walk = |task, out: &mut Out<'_, _>| Walk { root, base, changed, out }.walk(task, kept);
    shared::walk(walk, visit)
}

struct Walk<'w, 'o, 'k> {
    root: BorrowedFd<'w>,
    base: BorrowedFd<'w>,
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
    now: Now,
    before: Option<Before>,
    /// Whether both are one inode.
    same: bool,
}

struct Now {
    look: Look,
    inode: u64,
    /// Whether it lies in the root's own subvolume.
    own: bool,
}

struct Before {
    kind: FileKind,
    inode: u64,
    /// The rest, where somebody looked at it already.
    look: Option<Look>,
}

impl Before {
    /// What a list says of it, or a look at it.
    fn at(way: &Way<'_>, candidate: &Candidate) -> ebbtide_sys::Result<Option<Self>> {
        if let Listed::There(kind, inode) = candidate.base {
            return Ok(way.is_in_base().then_some(Self { kind, inode, look: None }));
        }
        Ok(way.before(candidate)?.map(|it| {
            let look = Some(Look::from(&it));
            Self { kind: it.kind, inode: it.inode, look }
        }))
    }

    fn look(&self, way: &Way<'_>, candidate: &Candidate) -> ebbtide_sys::Result<Option<Look>> {
        match self.look {
            Some(look) => Ok(Some(look)),
            None => Ok(way.before(candidate)?.as_ref().map(Look::from)),
        }
    }
}

impl<'k> Walk<'_, '_, 'k> {
    fn walk(&mut self, task: Task<'k>, kept: &'k Kept) -> Result<()> {
        let path = task.path().to_owned();
        let failed = || format!("cannot look at {}", shown(&path));
        let Some(mut way) = self.begin(task, kept).context(failed)? else { return Ok(()) };
        while let Some((it, kept)) = way.next_shared(self.out).context(failed)? {
            if !self.look(&mut way, &it, kept)? {
                way.back();
            }
        }
        Ok(())
    }

    fn begin(&self, task: Task<'k>, kept: &'k Kept) -> ebbtide_sys::Result<Option<Way<'k>>> {
        let top = match task {
            Task::Rest(rest) => return Way::resume(rest, self.root, self.base),
            Task::Top(top) => top,
        };
        let Some(pair) = top.open(self.root, self.base, kept)? else { return Ok(None) };
        let found = metadata::metadata(pair.root.as_fd())?;
        let unchanged = self.unchanged(found.inode);
        let mut way = Way::new(&top);
        self.enter(&mut way, pair, Known { device: Some(found.device), unchanged })?;
        Ok(Some(way))
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
    fn look(
        &mut self,
        way: &mut Way<'k>,
        candidate: &Candidate,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        if let Listed::There(FileKind::Directory, inode) = candidate.root
            && let Some(inode) = self.unchanged(inode)
            && let OnTheWay::These(names) = self.changed.on_the_way(inode)
        {
            return self.pass(way, candidate, kept, (inode, names)).context(failed);
        }
        let before = Before::at(way, candidate).context(failed)?;
        let Some(now) = self.now(way, candidate).context(failed)? else {
            self.gone(&path, before.as_ref());
            return Ok(false);
        };
        let is_same = |it: &Before| it.kind == now.look.kind && it.inode == now.inode;
        let same =
            now.own && before.as_ref().is_some_and(is_same) && !self.changed.is_new(now.inode);
        let pair = Pair { now, before, same };
        if pair.now.look.kind == FileKind::Directory {
            return self.directory(way, candidate, &pair, kept);
        }
        let Pair { now, before, same } = pair;
        if same && self.unchanged(now.inode).is_some() {
            return Ok(false);
        }
        match before {
            Some(before) if before.kind == now.look.kind => {
                let what = compare_files(way, candidate, &now.look, &before).context(failed)?;
                if let Some(what) = what {
                    self.out.change(change(&path, what, &now.look));
                }
            }
            other => {
                self.gone(&path, other.as_ref());
                self.out.change(change(&path, What::Added, &now.look));
            }
        }
        Ok(false)
    }

    /// What the root has under a name: what the search found of it, or a look at it.
    fn now(&self, way: &Way<'k>, candidate: &Candidate) -> ebbtide_sys::Result<Option<Now>> {
        let device = way.known().and_then(|known| known.device);
        match candidate.root {
            Listed::Absent => return Ok(None),
            Listed::There(kind, inode) if device.is_some() => {
                let item = self.changed.item(inode).filter(|item| item.kind == kind);
                if let Some(item) = item {
                    return Ok(Some(Now { look: item.into(), inode, own: true }));
                }
            }
            _ => {}
        }
        let Some(root) = unless_gone(way.root())? else { return Ok(None) };
        Ok(metadata_of_entry(root, &candidate.name)?.map(|it| {
            let own = device == Some(it.device);
            Now { look: Look::from(&it), inode: it.inode, own }
        }))
    }

    /// Goes through a directory that is as in the base, on to these names in it.
    fn pass(
        &mut self,
        way: &mut Way<'k>,
        candidate: &Candidate,
        kept: Option<&'k Kept>,
        (inode, names): (u64, &BTreeMap<OsString, u64>),
    ) -> ebbtide_sys::Result<bool> {
        let device = way.known().and_then(|known| known.device);
        let known = Known { device, unchanged: Some(inode) };
        let passed = way.pass(&candidate.name, kept, self.on_the_way(names), known);
        Ok(unless_gone(passed)?.is_some())
    }

    fn directory(
        &mut self,
        way: &mut Way<'k>,
        candidate: &Candidate,
        pair: &Pair,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let Pair { now, before, same } = pair;
        let unchanged = self.unchanged(now.inode).filter(|_| *same);
        let nothing = |inode| matches!(self.changed.on_the_way(inode), OnTheWay::Nothing);
        if unchanged.is_some_and(nothing) {
            return Ok(false);
        }
        if let Some(from) = self.origin(pair).context(failed)? {
            self.gone(&path, before.as_ref());
            self.out.change(change(&path, What::Renamed { from: from.clone() }, &now.look));
            self.out.renamed(Renamed { path, from });
            return Ok(false);
        }
        let Some(inner) = way.open_in_root(&candidate.name).context(failed)? else {
            return Ok(false);
        };
        let mut inner_base = None;
        if let Some(before) = before.as_ref().filter(|before| before.kind == FileKind::Directory) {
            inner_base = way.open_in_base(&candidate.name).context(failed)?;
            if unchanged.is_none()
                && let Some(base) = &inner_base
                && let Some(look) = before.look(way, candidate).context(failed)?
                && let Some(what) =
                    compare_opened((&now.look, inner.as_fd()), (&look, base.as_fd()))
                        .context(failed)?
            {
                self.out.change(change(&path, what, &now.look));
            }
        } else {
            self.gone(&path, before.as_ref());
            // Directories on the way to an entry are made for it.
            if kept.is_none() {
                self.out.change(change(&path, What::Added, &now.look));
            }
        }
        let device = way.known().and_then(|known| known.device).filter(|_| now.own);
        let known = Known { device, unchanged };
        let pair = way::Pair { root: inner, base: inner_base, kept };
        self.enter(way, pair, known).context(failed)?;
        Ok(true)
    }

    /// The names in a directory that may lead to changes; of an unchanged one, only those on the way.
    fn names(
        &self,
        root: &OwnedFd,
        base: Option<&OwnedFd>,
        known: Known,
    ) -> ebbtide_sys::Result<Vec<Candidate>> {
        let Some(unchanged) = known.unchanged else {
            let root = read_opened_directory(root.as_fd())?;
            let base = base.map_or(Ok(Vec::new()), |base| read_opened_directory(base.as_fd()))?;
            return Ok(self.differing(root, base, known.device.is_some()));
        };
        // It has the names that the base has.
        Ok(match self.changed.on_the_way(unchanged) {
            OnTheWay::Nothing => Vec::new(),
            OnTheWay::These(names) => self.on_the_way(names),
            OnTheWay::Any => {
                let mut all = read_opened_directory(root.as_fd())?;
                let is_same = |it: &DirectoryEntry| {
                    listed(it) != Listed::Maybe && self.unchanged(it.inode).is_some()
                };
                all.retain(|entry| !is_same(entry));
                let both = |entry: DirectoryEntry| {
                    let there = listed(&entry);
                    Candidate { name: entry.name, root: there, base: there }
                };
                all.into_iter().map(both).collect()
            }
        })
    }

    /// Names in an unchanged directory: both sides have one inode there.
    fn on_the_way(&self, names: &BTreeMap<OsString, u64>) -> Vec<Candidate> {
        let there = |inode| match self.changed.item(inode) {
            Some(item) => Listed::There(item.kind, inode),
            None if self.changed.contains(inode) => Listed::Maybe,
            None => Listed::There(FileKind::Directory, inode),
        };
        let name = |(name, inode): (&OsString, &u64)| {
            let there = there(*inode);
            Candidate { name: name.clone(), root: there, base: there }
        };
        names.iter().map(name).collect()
    }

    /// The names in two directories, without those of what is one inode on both sides that nothing happened
    /// to. Of a directory, that says nothing of what is in it. Inode numbers mean something in the root's own
    /// subvolume.
    fn differing(
        &self,
        root: Vec<DirectoryEntry>,
        mut base: Vec<DirectoryEntry>,
        own: bool,
    ) -> Vec<Candidate> {
        base.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut in_root = vec![false; base.len()];
        let mut names = Vec::new();
        for entry in root {
            let at = base.binary_search_by(|other| other.name.cmp(&entry.name)).ok();
            let other = at.and_then(|at| base.get(at));
            if let Some(in_root) = at.and_then(|at| in_root.get_mut(at)) {
                *in_root = true;
            }
            let there = listed(&entry);
            let before = other.map_or(Listed::Absent, listed);
            let is_same = own && matches!(there, Listed::There(..)) && there == before;
            if !is_same || self.unchanged(entry.inode).is_none() {
                names.push(Candidate { name: entry.name, root: there, base: before });
            }
        }
        let only_before = base.into_iter().zip(in_root).filter(|(_, in_root)| !in_root);
        names.extend(only_before.map(|(entry, _)| {
            let there = listed(&entry);
            Candidate { name: entry.name, root: Listed::Absent, base: there }
        }));
        names
    }

    /// Where the base has a directory that was moved to where it is.
    fn origin(&self, pair: &Pair) -> ebbtide_sys::Result<Option<PathBuf>> {
        let inode = pair.now.inode;
        let from_base = self.changed.contains(inode) && !self.changed.is_new(inode);
        if pair.same || !pair.now.own || !from_base {
            return Ok(None);
        }
        let Some(from) = btrfs::path_of_directory(self.base, inode)? else { return Ok(None) };
        let there = unless_gone(resolve::open_directory(self.base, &from))?;
        Ok(there.map(|_| Path::new("/").join(from)))
    }

    /// Tells what the base had in the place of something else.
    fn gone(&mut self, path: &Path, before: Option<&Before>) {
        if let Some(before) = before {
            self.out.change(deleted(path, before.kind));
        }
    }
}

/// What the list of a directory says of an entry: of a directory it may have the number of a subvolume.
fn listed(entry: &DirectoryEntry) -> Listed {
    match entry.kind {
        Some(FileKind::Directory) | None => Listed::Maybe,
        Some(kind) => Listed::There(kind, entry.inode),
    }
}

/// Compares two of one type that are no directories.
fn compare_files(
    way: &Way<'_>,
    candidate: &Candidate,
    now: &Look,
    before: &Before,
) -> ebbtide_sys::Result<Option<What>> {
    let Some(before) = before.look(way, candidate)? else { return Ok(None) };
    if now.has_other_content(&before) {
        return Ok(Some(What::Changed));
    }
    let Some(root) = unless_gone(way.root())? else { return Ok(None) };
    let name = candidate.name.as_os_str();
    let base = Node { dir: way.base()?, name, found: &before };
    compare(&Node { dir: root, name, found: now }, &base)
}
