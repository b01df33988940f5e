//! The way down two trees at once: a root, and the base that it is compared with.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use ebbtide_sys::metadata::{Metadata, metadata_of_entry};
use ebbtide_sys::resolve;
use ebbtide_sys::tree::stack::DirectoryStack;

use super::Kept;
use super::compare::unless_gone;

/// A directory that is looked at together with another one of the base: `/` with `/`, and what was renamed
/// with what it was.
pub(super) struct Renamed {
    pub path: PathBuf,
    pub from: PathBuf,
}

impl Renamed {
    /// The tops of both trees.
    pub fn top() -> Self {
        Self { path: PathBuf::from("/"), from: PathBuf::from("/") }
    }

    /// Opens both, and finds what is kept below; `None` if the root's has gone.
    pub fn open<'k>(
        &self,
        root: BorrowedFd<'_>,
        base: BorrowedFd<'_>,
        kept: &'k Kept,
    ) -> ebbtide_sys::Result<Option<Pair<'k>>> {
        let open = |tree, path| unless_gone(resolve::open_directory(tree, path));
        let Some(root) = open(root, &self.path)? else { return Ok(None) };
        let base = open(base, &self.from)?;
        let kept = self.path.iter().skip(1).try_fold(kept, |kept, name| kept.get(name));
        Ok(Some(Pair { root, base, kept }))
    }
}

/// A directory of the root, the one of the base that it is compared with, and what is kept in it.
pub(super) struct Pair<'k> {
    pub root: OwnedFd,
    pub base: Option<OwnedFd>,
    pub kept: Option<&'k Kept>,
}

/// A part of a walk.
pub(super) enum Task<'k, L> {
    /// A directory that is to be opened yet.
    Top(Renamed),
    /// One that another walk came to.
    Inner(Renamed, Pair<'k>, L),
}

/// How far a walk is, with what it knows of each directory on the way, in `L`.
pub(super) struct Way<'k, L> {
    /// Where it is.
    pub path: PathBuf,
    /// The same place in the base, where it has one.
    pub from: PathBuf,
    root: DirectoryStack,
    base: DirectoryStack,
    levels: Vec<Level<'k, L>>,
    /// Whether the base may have the name that `path` leads to.
    may_be_in_base: bool,
}

/// A name in a directory that is to be looked at.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub name: OsString,
    /// Whether the base may have it: nobody looks for it there if a list says that it does not.
    pub may_be_in_base: bool,
}

impl Name {
    /// A name of which it is not known where it is.
    pub fn anywhere(name: OsString) -> Self {
        Self { name, may_be_in_base: true }
    }
}

/// One directory on the way.
struct Level<'k, L> {
    /// Names that are still to be looked at, last one first.
    names: Vec<Name>,
    /// Whether the base has the directory: it is on the stack then.
    in_base: bool,
    kept: Option<&'k Kept>,
    known: L,
}

impl<'k, L> Way<'k, L> {
    /// A way that begins with [`Self::enter`] at these places.
    pub fn new(from: &Renamed) -> Self {
        Self {
            path: from.path.clone(),
            from: from.from.clone(),
            root: DirectoryStack::default(),
            base: DirectoryStack::default(),
            levels: Vec::new(),
            may_be_in_base: true,
        }
    }

    /// Goes into a directory, to look at these names in it; `path` leads there already.
    pub fn enter(
        &mut self,
        pair: Pair<'k>,
        mut names: Vec<Name>,
        known: L,
    ) -> ebbtide_sys::Result<()> {
        // Of two that are equal, the one that may be in the base stays.
        names.sort_unstable_by(|a, b| b.cmp(a));
        names.dedup_by(|later, earlier| later.name == earlier.name);
        let in_base = pair.base.is_some();
        self.root.push(pair.root)?;
        if let Some(base) = pair.base {
            self.base.push(base)?;
        }
        self.levels.push(Level { names, in_base, kept: pair.kept, known });
        Ok(())
    }

    /// Goes on to the next name that no entry covers; `None` at the end of the walk.
    ///
    /// `path` leads to it then. Whoever does not enter it calls [`Self::back`].
    pub fn next(&mut self) -> ebbtide_sys::Result<Option<(OsString, Option<&'k Kept>)>> {
        while let Some(level) = self.levels.last_mut() {
            let Some(Name { name, may_be_in_base }) = level.names.pop() else {
                self.leave()?;
                continue;
            };
            let kept = level.kept.and_then(|kept| kept.get(&name));
            if kept.is_some_and(Kept::is_kept) {
                continue;
            }
            self.path.push(&name);
            self.from.push(&name);
            self.may_be_in_base = may_be_in_base;
            return Ok(Some((name, kept)));
        }
        Ok(None)
    }

    /// Back from a name to the directory that it is in.
    pub fn back(&mut self) {
        self.path.pop();
        self.from.pop();
    }

    fn leave(&mut self) -> ebbtide_sys::Result<()> {
        self.root.pop()?;
        if self.levels.pop().is_some_and(|level| level.in_base) {
            self.base.pop()?;
        }
        self.back();
        Ok(())
    }

    /// What is known of the current directory.
    pub fn known(&self) -> Option<&L> {
        self.levels.last().map(|level| &level.known)
    }

    /// The current directory of the root.
    pub fn root(&self) -> ebbtide_sys::Result<BorrowedFd<'_>> {
        self.root.top()
    }

    /// The current directory of the base, which has one if [`Self::before`] found something.
    pub fn base(&self) -> ebbtide_sys::Result<BorrowedFd<'_>> {
        self.base.top()
    }

    /// What the base has under the name in the current directory that [`Self::next`] gave.
    pub fn before(&self, name: &OsStr) -> ebbtide_sys::Result<Option<Metadata>> {
        if !self.may_be_in_base || !self.levels.last().is_some_and(|level| level.in_base) {
            return Ok(None);
        }
        metadata_of_entry(self.base.top()?, name)
    }
}
