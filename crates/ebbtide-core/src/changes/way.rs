//! The way down two trees at once: a root, and the base that it is compared with.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, Metadata};
use ebbtide_sys::resolve;
use ebbtide_sys::tree::stack::DirectoryStack;

use super::Kept;
use super::compare::unless_gone;
use super::shared::{Elsewhere, Out};

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
    /// A directory of which nothing is known yet.
    Top(Renamed),
    /// Some names in one that another walk is in.
    Rest(Rest<'k, L>),
}

impl<L> Task<'_, L> {
    /// Where in the root it begins.
    pub fn path(&self) -> &Path {
        match self {
            Self::Top(place) | Self::Rest(Rest { place, .. }) => &place.path,
        }
    }
}

/// Names in a directory that are to be looked at, and what is known of that.
pub(super) struct Rest<'k, L> {
    place: Renamed,
    names: Vec<Candidate>,
    in_base: bool,
    kept: Option<&'k Kept>,
    known: L,
}

/// A name that a walk comes to, and what is kept at it or below.
type At<'k> = (Candidate, Option<&'k Kept>);

/// What comes next in a walk.
enum Step<'k> {
    Name(At<'k>),
    /// What another one walks.
    Elsewhere(Elsewhere),
}

/// In a directory with fewer names left, none are given away.
const FEW: usize = 4;

/// How far a walk is, with what it knows of each directory on the way, in `L`.
pub(super) struct Way<'k, L> {
    /// Where it is.
    pub path: PathBuf,
    /// The same place in the base, where it has one.
    pub from: PathBuf,
    root: DirectoryStack,
    base: DirectoryStack,
    levels: Vec<Level<'k, L>>,
}

/// A name in a directory that is to be looked at, and what is known of it already.
#[derive(Debug)]
pub(super) struct Candidate {
    pub name: OsString,
    pub root: Listed,
    pub base: Listed,
}

/// What a list says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    /// It is not known whether there is one.
    Maybe,
    /// There is none.
    Absent,
    /// There is one, of this type, with this inode number.
    There(FileKind, u64),
}

impl Candidate {
    /// A name of which it is not known where it is.
    pub fn anywhere(name: OsString) -> Self {
        Self { name, root: Listed::Maybe, base: Listed::Maybe }
    }
}

enum Next {
    Name(Candidate),
    Elsewhere(Elsewhere),
}

/// One directory on the way.
struct Level<'k, L> {
    /// What is still to be looked at, last one first.
    names: Vec<Next>,
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
        }
    }

    /// Goes into a directory, to look at these names in it; `path` leads there already.
    pub fn enter(
        &mut self,
        pair: Pair<'k>,
        names: Vec<Candidate>,
        known: L,
    ) -> ebbtide_sys::Result<()> {
        let in_base = pair.base.is_some();
        self.root.push(pair.root)?;
        if let Some(base) = pair.base {
            self.base.push(base)?;
        }
        self.look_at(names, in_base, pair.kept, known);
        Ok(())
    }

    /// Goes into a directory that both have, without opening it yet. On failure, the walk is where it was.
    pub fn pass(
        &mut self,
        name: &OsStr,
        kept: Option<&'k Kept>,
        names: Vec<Candidate>,
        known: L,
    ) -> ebbtide_sys::Result<()> {
        let in_base = self.is_in_base();
        self.root.pass(name)?;
        if in_base && let Err(error) = self.base.pass(name) {
            self.root.pop()?;
            return Err(error);
        }
        self.look_at(names, in_base, kept, known);
        Ok(())
    }

    fn look_at(
        &mut self,
        mut names: Vec<Candidate>,
        in_base: bool,
        kept: Option<&'k Kept>,
        known: L,
    ) {
        names.sort_unstable_by(|a, b| b.name.cmp(&a.name));
        names.dedup_by(|later, earlier| later.name == earlier.name);
        let names = names.into_iter().map(Next::Name).collect();
        self.levels.push(Level { names, in_base, kept, known });
    }

    /// Takes up names that another walk gave away; `None` if their directory has gone.
    pub fn resume(
        rest: Rest<'k, L>,
        root: BorrowedFd<'_>,
        base: BorrowedFd<'_>,
    ) -> ebbtide_sys::Result<Option<Self>> {
        let Rest { place, names, in_base, kept, known } = rest;
        let mut way = Self::new(&place);
        let Some(opened) = unless_gone(resolve::open_directory(root, &place.path))? else {
            return Ok(None);
        };
        way.root.push(opened)?;
        if in_base {
            way.base.push(resolve::open_directory(base, &place.from)?)?;
        }
        way.look_at(names, in_base, kept, known);
        Ok(Some(way))
    }

    /// Gives some of the names that come next in a directory far up to a thread that has nothing to do.
    fn share(&mut self, out: &Out<'_, Task<'k, L>>)
    where
        L: Clone,
    {
        let mut place = None;
        let given = out.share(|most| {
            let is_name = |next: &Next| matches!(next, Next::Name(_));
            let names = |level: &Level<'k, L>| level.names.iter().filter(|it| is_name(it)).count();
            let (depth, count) =
                self.levels.iter().map(names).enumerate().find(|(_, count)| *count >= FEW)?;
            let level = self.levels.get_mut(depth)?;
            let end = level.names.iter().rposition(is_name)? + 1;
            let share = (count / 2).min(most);
            let run = level.names[..end].iter().rev().take(share).take_while(|it| is_name(it));
            let start = end - run.count();
            let names = level.names.drain(start..end).filter_map(|next| match next {
                Next::Name(name) => Some(name),
                Next::Elsewhere(_) => None,
            });
            let names = names.collect();
            place = Some((depth, start));
            let &mut Level { in_base, kept, ref known, .. } = level;
            let known = known.clone();
            let place = self.place(depth);
            Some(Task::Rest(Rest { place, names, in_base, kept, known }))
        });
        if let Some(part) = given
            && let Some((depth, start)) = place
            && let Some(level) = self.levels.get_mut(depth)
        {
            level.names.insert(start, Next::Elsewhere(part));
        }
    }

    /// Where one of the directories on the way is. The walk is in the last one.
    fn place(&self, depth: usize) -> Renamed {
        let above = self.levels.len() - 1 - depth;
        let place = |path: &Path| path.ancestors().nth(above).unwrap_or(path).to_owned();
        Renamed { path: place(&self.path), from: place(&self.from) }
    }

    /// Goes on to the next name that no entry covers; `None` at the end of the walk.
    ///
    /// `path` leads to it then. Whoever does not enter it calls [`Self::back`].
    pub fn next(&mut self) -> ebbtide_sys::Result<Option<At<'k>>> {
        while let Some(step) = self.step()? {
            // Nothing is given away in a walk that is not shared.
            if let Step::Name(at) = step {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// The same in a walk that threads share: gives names away, and tells where those belong. `None` also once
    /// nobody wants to know any more.
    pub fn next_shared(
        &mut self,
        out: &mut Out<'_, Task<'k, L>>,
    ) -> ebbtide_sys::Result<Option<At<'k>>>
    where
        L: Clone,
    {
        while !out.is_over() {
            self.share(out);
            match self.step()? {
                Some(Step::Name(at)) => return Ok(Some(at)),
                Some(Step::Elsewhere(part)) => out.elsewhere(part),
                None => break,
            }
        }
        Ok(None)
    }

    fn step(&mut self) -> ebbtide_sys::Result<Option<Step<'k>>> {
        while let Some(level) = self.levels.last_mut() {
            let candidate = match level.names.pop() {
                Some(Next::Name(candidate)) => candidate,
                Some(Next::Elsewhere(part)) => return Ok(Some(Step::Elsewhere(part))),
                None => {
                    self.leave()?;
                    continue;
                }
            };
            let kept = level.kept.and_then(|kept| kept.get(&candidate.name));
            if kept.is_some_and(Kept::is_kept) {
                continue;
            }
            self.path.push(&candidate.name);
            self.from.push(&candidate.name);
            return Ok(Some(Step::Name((candidate, kept))));
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

    /// Whether the base has the current directory.
    pub fn is_in_base(&self) -> bool {
        self.levels.last().is_some_and(|level| level.in_base)
    }

    /// The current directory of the root.
    pub fn root(&self) -> ebbtide_sys::Result<BorrowedFd<'_>> {
        self.root.top()
    }

    /// The current directory of the base, which has one if [`Self::before`] found something.
    pub fn base(&self) -> ebbtide_sys::Result<BorrowedFd<'_>> {
        self.base.top()
    }

    /// Opens a directory in the current one of the root.
    pub fn open_in_root(&self, name: &OsStr) -> ebbtide_sys::Result<Option<OwnedFd>> {
        unless_gone(self.root.open(name))
    }

    /// Opens a directory in the current one of the base.
    pub fn open_in_base(&self, name: &OsStr) -> ebbtide_sys::Result<Option<OwnedFd>> {
        unless_gone(self.base.open(name))
    }

    /// What the base has under a name in the current directory.
    pub fn before(&self, candidate: &Candidate) -> ebbtide_sys::Result<Option<Metadata>> {
        if !self.may_be_in_base(candidate) {
            return Ok(None);
        }
        self.base.metadata_of(&candidate.name)
    }

    /// Whether it is worth a look if the base has a name of the current directory.
    pub fn may_be_in_base(&self, candidate: &Candidate) -> bool {
        candidate.base != Listed::Absent && self.is_in_base()
    }
}
