//! The obvious way: two whole trees, side by side.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(test)]
use std::path::Path;

use ebbtide_sys::file::read_directory;
use ebbtide_sys::metadata::{self, FileKind, Metadata, metadata_of_entry};
#[cfg(test)]
use ebbtide_sys::resolve;

use super::compare::{Look, Node, change, compare, deleted};
use super::way::{self, Candidate, Pair, Renamed};
use super::{Kept, Visit, What, shown};
use crate::failure::{Context, Result};

/// Visits all differences between a root and its base, for any backend, by looking at every file of
/// both: slow, and right. What is mounted on the root is not looked at.
///
/// It cannot see renames: what was renamed is deleted and added.
pub fn reference(
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    kept: &Kept,
    visit: &mut Visit<'_>,
) -> Result<()> {
    walk(root, base, kept, false, visit)
}

/// Visits all differences between two roots that come from one base, or from bases of one lineage: as
/// [`reference()`], but what is one inode with the same times in both is not compared.
///
/// A snapshot has the inodes of its origin, and an overlay those of its base; no program sets the time of
/// the last change of an inode.
pub fn between(
    root: BorrowedFd<'_>,
    earlier: BorrowedFd<'_>,
    kept: &Kept,
    visit: &mut Visit<'_>,
) -> Result<()> {
    walk(root, earlier, kept, true, visit)
}

fn walk(
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    kept: &Kept,
    kin: bool,
    visit: &mut Visit<'_>,
) -> Result<()> {
    if kept.is_kept() {
        return Ok(());
    }
    let mount = metadata::metadata(root).context(|| "cannot look at the root")?.mount_id;
    let top = Renamed::top();
    match top.open(root, base, kept).context(|| "cannot open the root")? {
        Some(pair) => Walk { mount, kin, visit }.subtree(&top, pair),
        None => Ok(()),
    }
}

struct Walk<'w, 'v> {
    mount: u64,
    /// Whether the same inode number means the same inode.
    kin: bool,
    visit: &'w mut Visit<'v>,
}

/// The way down to where the walk is: with few descriptors, however deep that is.
type Way<'k> = way::Way<'k, ()>;

impl Walk<'_, '_> {
    fn subtree(&mut self, top: &Renamed, pair: Pair<'_>) -> Result<()> {
        let failed = || format!("cannot look at {}", shown(&top.path));
        let mut way = Way::new(top);
        enter(&mut way, pair).context(failed)?;
        while let Some((it, kept)) = way.next().context(failed)? {
            if !self.look(&mut way, &it, kept)? {
                way.back();
            }
        }
        Ok(())
    }

    /// Looks at one name in the current directories; true if that is a directory and was entered.
    fn look<'k>(
        &mut self,
        way: &mut Way<'k>,
        candidate: &Candidate,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let before = way.before(candidate).context(failed)?;
        let name = candidate.name.as_os_str();
        let now = metadata_of_entry(way.root().context(failed)?, name).context(failed)?;
        let Some(now) = now else {
            if let Some(before) = &before {
                (self.visit)(deleted(&path, before.kind));
            }
            return Ok(false);
        };
        if now.mount_id != self.mount {
            return Ok(false);
        }
        let same_kind = before.as_ref().filter(|before| before.kind == now.kind);
        if let Some(before) = same_kind {
            self.compare(way, name, &now, before).context(failed)?;
        } else {
            if let Some(before) = &before {
                (self.visit)(deleted(&path, before.kind));
            }
            let leads_to_kept = now.kind == FileKind::Directory && kept.is_some();
            if !leads_to_kept {
                (self.visit)(change(&path, What::Added, &Look::from(&now)));
            }
        }
        if now.kind != FileKind::Directory {
            return Ok(false);
        }
        let root = way.open_in_root(name).context(failed)?;
        let base = match same_kind {
            Some(_) => way.open_in_base(name).context(failed)?,
            None => None,
        };
        let Some(root) = root else { return Ok(false) };
        enter(way, Pair { root, base, kept }).context(failed)?;
        Ok(true)
    }

    /// Compares two of one kind.
    fn compare(
        &mut self,
        way: &Way<'_>,
        name: &OsStr,
        now: &Metadata,
        before: &Metadata,
    ) -> ebbtide_sys::Result<()> {
        let key = |it: &Metadata| (it.inode, it.size, it.modified, it.changed);
        if self.kin && key(before) == key(now) {
            return Ok(());
        }
        let (now, before) = (Look::from(now), Look::from(before));
        let root = Node { dir: way.root()?, name, found: &now };
        let base = Node { dir: way.base()?, name, found: &before };
        if let Some(what) = compare(&root, &base)? {
            (self.visit)(change(&way.path, what, &now));
        }
        Ok(())
    }
}

fn enter<'k>(way: &mut Way<'k>, pair: Pair<'k>) -> ebbtide_sys::Result<()> {
    let mut names = Vec::new();
    for directory in std::iter::once(&pair.root).chain(&pair.base) {
        names.extend(
            read_directory(directory.as_fd())?.into_iter().map(|it| Candidate::anywhere(it.name)),
        );
    }
    way.enter(pair, names, ())
}

/// Visits what is below one directory of a root, against another one of the base.
#[cfg(test)]
pub(super) fn below(
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    path: &Path,
    kept: Option<&Kept>,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let mount = metadata::metadata(root).context(|| "cannot look at the root")?.mount_id;
    let open = |tree| resolve::open_directory(tree, Path::new("")).context(|| "cannot open it");
    let pair = Pair { root: open(root)?, base: Some(open(base)?), kept };
    let top = Renamed { path: path.to_owned(), from: path.to_owned() };
    Walk { mount, kin: false, visit }.subtree(&top, pair)
}
