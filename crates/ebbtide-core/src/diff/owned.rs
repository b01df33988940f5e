//! The changes of one user: only what is theirs, and only what they can reach.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::metadata::metadata_beneath;
use rustix::io::Errno;

use super::{About, Diff, Root, Which, roots};
use crate::backend;
use crate::boot::Boot;
use crate::changes::{Change, What};
use crate::container::Container;
use crate::failure::{Failure, Result};
use crate::past::theirs::{ACCOUNTS, Person};

/// How many changes a user is told, in one answer.
pub const LIMIT: usize = 100_000;

/// A root and what it is compared with, for one user.
#[derive(Debug)]
pub struct Owned {
    diff: Diff,
    old: Side,
    new: Side,
    uid: u32,
}

/// One whole tree.
#[derive(Debug)]
struct Side {
    tree: OwnedFd,
    /// Whether it is known that the user had their number in it.
    is_known: bool,
}

/// What is at a path in one tree, to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Theirs,
    Others,
    Nothing,
    /// They may not go there.
    Closed,
}

impl Owned {
    /// Opens both trees, with what a container has that was opened for reading. Needs root.
    ///
    /// # Errors
    ///
    /// Those of [`Diff::open`].
    pub fn open(
        boot: &Boot,
        container: &Container,
        sysroot: &Path,
        which: Which,
        person: &Person,
    ) -> Result<Self> {
        let diff = Diff::open_in(boot, container, sysroot, which)?;
        let (earlier, root) = roots(boot, container, sysroot, which)?;
        let side = |root: &Root| -> Result<Side> {
            let tree = root.whole(boot, container, sysroot)?;
            let is_known = !root.is_past
                || (!has_accounts_elsewhere(container, root)? && person.is_known_in(tree.as_fd()));
            Ok(Side { tree, is_known })
        };
        let old = if let Some(earlier) = &earlier {
            side(earlier)?
        } else {
            let tree = backend::open_base(container, root.base.number)?;
            let is_known = person.is_known_in(tree.as_fd());
            Side { tree, is_known }
        };
        Ok(Self { diff, old, new: side(&root)?, uid: person.uid })
    }

    /// What is compared. Of entries that were not in place, only those are told that are the user's.
    pub fn about(&self) -> About {
        let mut about = self.diff.about.clone();
        about.uncovered.retain(|path| self.new.find(path, self.uid) == Found::Theirs);
        about.carried.retain(|path| self.new.find(path, self.uid) == Found::Theirs);
        about
    }

    /// Finds the changes that are the user's. Needs root.
    ///
    /// # Errors
    ///
    /// Those of [`Diff::each`], with names that are not for the user; and if there are more than [`LIMIT`].
    pub fn changes(&self) -> Result<Vec<Change>> {
        let (mut found, mut more) = (Vec::new(), false);
        self.diff.each(&mut |change| match self.told(change) {
            Some(_) if found.len() == LIMIT => more = true,
            told => found.extend(told),
        })?;
        if more {
            return Err(Failure::new(format!("there are more than {LIMIT} changes")));
        }
        Ok(found)
    }

    /// What is told of a change, to whoever calls it: what is closed to them is not.
    pub fn told(&self, mut change: Change) -> Option<Change> {
        let new = self.new.find(&change.path, self.uid);
        let is_told = match &change.what {
            // What is there now may be in a place that they can't see any more.
            What::Deleted => {
                new != Found::Closed && self.old.find(&change.path, self.uid) == Found::Theirs
            }
            What::Added => new == Found::Theirs,
            What::Changed | What::Metadata => {
                let old = self.old.find(&change.path, self.uid);
                new == Found::Theirs && matches!(old, Found::Theirs | Found::Nothing)
            }
            What::Renamed { from } => {
                if self.old.find(from, self.uid) != Found::Theirs {
                    change.what = What::Added;
                }
                new == Found::Theirs
            }
        };
        is_told.then_some(change)
    }
}

impl Side {
    fn find(&self, path: &Path, uid: u32) -> Found {
        let relative = path.strip_prefix("/").unwrap_or(path);
        match metadata_beneath(self.tree.as_fd(), relative) {
            Ok(Some(found)) if found.uid == uid && self.is_known => Found::Theirs,
            Ok(Some(_)) => Found::Others,
            Ok(None) => Found::Nothing,
            Err(error) if matches!(error.errno(), Errno::NOTDIR | Errno::LOOP) => Found::Nothing,
            Err(_) => Found::Closed,
        }
    }
}

/// Whether what a root has as accounts was mounted on it: then it is not in the tree.
fn has_accounts_elsewhere(container: &Container, root: &Root) -> Result<bool> {
    let Some(number) = root.boot else { return Ok(true) };
    let attached = container.record(number)?.and_then(|record| record.attached);
    let mounted = attached.map(|attached| attached.mounted).unwrap_or_default();
    Ok(mounted.keys().any(|path| Path::new(ACCOUNTS).starts_with(path)))
}
