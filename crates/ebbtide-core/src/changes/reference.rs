//! The obvious way: two whole trees, side by side.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use ebbtide_sys::file::{open_quietly, read_directory};
use ebbtide_sys::metadata::{self, FileKind, Metadata, metadata_of_entry};
use rustix::fs::OFlags;

use super::compare::{Node, change, compare, deleted, unless_gone};
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
    let top = metadata::metadata(root).context(|| "cannot look at the root")?;
    let mut walk = Walk { mount: top.mount_id, kin, path: PathBuf::from("/"), visit };
    walk.directory(root, Some(base), Some(kept))
}

struct Walk<'w, 'v> {
    mount: u64,
    /// Whether the same inode number means the same inode.
    kin: bool,
    path: PathBuf,
    visit: &'w mut Visit<'v>,
}

impl Walk<'_, '_> {
    fn directory(
        &mut self,
        root: BorrowedFd<'_>,
        base: Option<BorrowedFd<'_>>,
        kept: Option<&Kept>,
    ) -> Result<()> {
        let names = |directory| -> ebbtide_sys::Result<BTreeSet<OsString>> {
            Ok(read_directory(directory)?.into_iter().map(|entry| entry.name).collect())
        };
        let what = || format!("cannot list {}", shown(&self.path));
        let mut all = names(root).context(what)?;
        if let Some(base) = base {
            all.extend(names(base).context(what)?);
        }
        for name in all {
            let kept = kept.and_then(|kept| kept.get(&name));
            if kept.is_some_and(Kept::is_kept) {
                continue;
            }
            self.path.push(&name);
            self.name(root, base, kept)?;
            self.path.pop();
        }
        Ok(())
    }

    /// The last component of the path, in both.
    fn name(
        &mut self,
        root: BorrowedFd<'_>,
        base: Option<BorrowedFd<'_>>,
        kept: Option<&Kept>,
    ) -> Result<()> {
        let path = self.path.clone();
        let Some(name) = path.file_name() else { return Ok(()) };
        let failed = || format!("cannot look at {}", shown(&path));
        let now = metadata_of_entry(root, name).context(failed)?;
        let before = match base {
            Some(base) => metadata_of_entry(base, name).context(failed)?,
            None => None,
        };
        let Some(now) = now else {
            if let Some(before) = &before {
                (self.visit)(deleted(&path, before));
            }
            return Ok(());
        };
        if now.mount_id != self.mount {
            return Ok(());
        }
        let same_kind = before.as_ref().is_some_and(|before| before.kind == now.kind);
        let way = now.kind == FileKind::Directory && kept.is_some();
        let is_same = |before: &Metadata| {
            let key = |it: &Metadata| (it.inode, it.size, it.modified, it.changed);
            self.kin && same_kind && key(before) == key(&now)
        };
        match (&before, base) {
            (Some(before), Some(_)) if is_same(before) => {}
            (Some(before), Some(base)) if same_kind => {
                let root = Node { dir: root, name, found: &now, opened: None };
                let base = Node { dir: base, name, found: before, opened: None };
                if let Some(what) = compare(&root, &base).context(failed)? {
                    (self.visit)(change(&path, what, &now));
                }
            }
            _ => {
                if let Some(before) = &before {
                    (self.visit)(deleted(&path, before));
                }
                if !way {
                    (self.visit)(change(&path, What::Added, &now));
                }
            }
        }
        if now.kind != FileKind::Directory {
            return Ok(());
        }
        let open = |directory| unless_gone(open_quietly(directory, name, OFlags::DIRECTORY));
        let Some(inner) = open(root).context(failed)? else { return Ok(()) };
        let inner_base = match base.filter(|_| same_kind) {
            Some(base) => open(base).context(failed)?,
            None => None,
        };
        self.directory(inner.as_fd(), inner_base.as_ref().map(AsFd::as_fd), kept)
    }
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
    let top = metadata::metadata(root).context(|| "cannot look at the root")?;
    Walk { mount: top.mount_id, kin: false, path: path.to_owned(), visit }.directory(
        root,
        Some(base),
        kept,
    )
}
