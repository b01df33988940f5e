//! The upper directory of an overlay: it is the change.
//!
//! Its format is that of the kernel's Documentation/filesystems/overlayfs.rst, for mounts with
//! `index=off,metacopy=off,redirect_dir=on,xino=on`.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::file::{open_quietly, read_directory};
use ebbtide_sys::metadata::{self, FileKind, Metadata, metadata_of_entry};
use ebbtide_sys::tree::stack::{DirectoryStack, identity};
use ebbtide_sys::{resolve, xattr};
use rustix::fs::OFlags;

use super::compare::{Node, change, compare, deleted, unless_gone};
use super::{Kept, Visit, What, shown};
use crate::failure::{Context, Failure, Result};

const OPAQUE: &str = "trusted.overlay.opaque";
const REDIRECT: &str = "trusted.overlay.redirect";
const WHITEOUT: &str = "trusted.overlay.whiteout";
const METACOPY: &str = "trusted.overlay.metacopy";

/// Visits all changes in the upper directory of an overlay over one base.
///
/// Both are plain trees, not looked at through the overlay. Nothing may be mounted on the base: give
/// a clone of its mount that is not recursive. The overlay may be mounted meanwhile; what vanishes is
/// passed over. Needs `CAP_SYS_ADMIN`, to read what the kernel noted in `trusted.overlay.*`.
pub fn overlay(
    upper: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    kept: &Kept,
    visit: &mut Visit<'_>,
) -> Result<()> {
    if kept.is_kept() {
        return Ok(());
    }
    let mount = metadata::metadata(base).context(|| "cannot look at the base")?.mount_id;
    let mut walk = Walk { upper, base, mount, visit, renamed: VecDeque::new() };
    let root = PathBuf::from("/");
    walk.renamed.push_back(Renamed { path: root.clone(), from: root });
    // Renamed directories wait for their turn: their place in the base is another than their own.
    while let Some(next) = walk.renamed.pop_front() {
        walk.subtree(&next, kept)?;
    }
    Ok(())
}

/// A directory that is looked at together with another one of the base.
struct Renamed {
    path: PathBuf,
    from: PathBuf,
}

struct Walk<'w, 'v> {
    upper: BorrowedFd<'w>,
    base: BorrowedFd<'w>,
    /// The mount that the base is looked at through.
    mount: u64,
    visit: &'w mut Visit<'v>,
    renamed: VecDeque<Renamed>,
}

/// The way down to where the walk is.
struct Way<'k> {
    path: PathBuf,
    /// The same place in the base, where it has one.
    from: PathBuf,
    upper: DirectoryStack,
    base: DirectoryStack,
    levels: Vec<Level<'k>>,
}

/// One directory on the way.
struct Level<'k> {
    /// Names that are still to be looked at, last one first.
    names: Vec<OsString>,
    /// Whether the base has the directory: it is on the stack then.
    in_base: bool,
    /// Whether what the base has in it shows through.
    merged: bool,
    /// Whether empty files in it may be whiteouts.
    whiteout_files: bool,
    kept: Option<&'k Kept>,
}

/// What the kernel noted about a directory.
struct Notes {
    opaque: bool,
    whiteout_files: bool,
    redirect: Option<PathBuf>,
}

impl Walk<'_, '_> {
    fn subtree(&mut self, top: &Renamed, kept: &Kept) -> Result<()> {
        let failed = || format!("cannot look at {}", shown(&top.path));
        let open = |tree, path| unless_gone(resolve::open_directory(tree, path));
        let Some(upper) = open(self.upper, &top.path).context(failed)? else { return Ok(()) };
        let base = open(self.base, &top.from).context(failed)?;
        let kept = top.path.iter().skip(1).try_fold(kept, |kept, name| kept.get(name));
        let notes = notes(upper.as_fd()).context(failed)?;
        let mut way = Way {
            path: top.path.clone(),
            from: top.from.clone(),
            upper: DirectoryStack::default(),
            base: DirectoryStack::default(),
            levels: Vec::new(),
        };
        way.enter(upper, base, true, notes.whiteout_files, kept).context(failed)?;
        while let Some(level) = way.levels.last_mut() {
            let Some(name) = level.names.pop() else {
                way.leave().context(failed)?;
                continue;
            };
            let kept = level.kept.and_then(|kept| kept.get(&name));
            if kept.is_some_and(Kept::is_kept) {
                continue;
            }
            way.path.push(&name);
            way.from.push(&name);
            if !self.name(&mut way, &name, kept)? {
                way.path.pop();
                way.from.pop();
            }
        }
        Ok(())
    }

    /// Looks at one name in the current directory; true if that is a directory and was entered.
    fn name<'k>(
        &mut self,
        way: &mut Way<'k>,
        name: &OsStr,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let Some(level) = way.levels.last() else { return Ok(false) };
        let (in_base, merged, whiteout_files) = (level.in_base, level.merged, level.whiteout_files);
        let upper = way.upper.top().context(failed)?;
        let found = metadata_of_entry(upper, name).context(failed)?;
        let before = if in_base {
            metadata_of_entry(way.base.top().context(failed)?, name).context(failed)?
        } else {
            None
        };
        if before.as_ref().is_some_and(|before| before.mount_id != self.mount) {
            return Err(Failure::new(format!(
                "something is mounted on the base at {}",
                shown(&path)
            )));
        }
        let hidden = match &found {
            None => !merged,
            Some(found) => is_whiteout(upper, name, found, whiteout_files).context(failed)?,
        };
        let Some(found) = found.filter(|_| !hidden) else {
            if let Some(before) = before.filter(|_| hidden) {
                (self.visit)(deleted(&path, &before));
            }
            return Ok(false);
        };
        if found.kind == FileKind::Directory {
            return self.directory(way, name, &found, before.as_ref(), kept);
        }
        match &before {
            Some(before) if before.kind == found.kind => {
                refuse_metacopy(upper, name, &found, &path)?;
                let base = way.base.top().context(failed)?;
                let root = Node { dir: upper, name, found: &found };
                let base = Node { dir: base, name, found: before };
                if let Some(what) = compare(&root, &base).context(failed)? {
                    (self.visit)(change(&path, what, &found));
                }
            }
            other => {
                self.gone(&path, other.as_ref());
                (self.visit)(change(&path, What::Added, &found));
            }
        }
        Ok(false)
    }

    fn directory<'k>(
        &mut self,
        way: &mut Way<'k>,
        name: &OsStr,
        found: &Metadata,
        before: Option<&Metadata>,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let upper = way.upper.top().context(failed)?;
        let open = |tree| unless_gone(open_quietly(tree, name, OFlags::DIRECTORY));
        let Some(inner) = open(upper).context(failed)? else { return Ok(false) };
        let notes = notes(inner.as_fd()).context(failed)?;
        let parent_merged = way.levels.last().is_some_and(|level| level.merged);
        let origin = self.origin(way, &notes, parent_merged).context(failed)?;
        // Renamed, and back again: it is where it was.
        let back = origin.as_ref() == Some(&way.from);
        if let Some(from) = origin.filter(|_| !back) {
            self.gone(&path, before);
            (self.visit)(change(&path, What::Renamed { from: from.clone() }, found));
            self.renamed.push_back(Renamed { path, from });
            return Ok(false);
        }
        let same = before.filter(|before| before.kind == FileKind::Directory);
        let mut inner_base = None;
        if let Some(before) = same {
            let base = way.base.top().context(failed)?;
            let root = Node { dir: upper, name, found };
            let node = Node { dir: base, name, found: before };
            if let Some(what) = compare(&root, &node).context(failed)? {
                (self.visit)(change(&path, what, found));
            }
            inner_base = open(base).context(failed)?;
        } else {
            self.gone(&path, before);
            // Directories on the way to an entry are made for it.
            if kept.is_none() {
                (self.visit)(change(&path, What::Added, found));
            }
        }
        let merged = (parent_merged || back) && !notes.opaque && inner_base.is_some();
        way.enter(inner, inner_base, merged, notes.whiteout_files, kept).context(failed)?;
        Ok(true)
    }

    /// Tells what the base had in the place of something else.
    fn gone(&mut self, path: &Path, before: Option<&Metadata>) {
        if let Some(before) = before {
            (self.visit)(deleted(path, before));
        }
    }

    /// The directory of the base that shows through one that was renamed. The kernel looks for a relative
    /// name beside it, and for an absolute one from the top, and takes directories only.
    fn origin(
        &self,
        way: &Way<'_>,
        notes: &Notes,
        parent_merged: bool,
    ) -> ebbtide_sys::Result<Option<PathBuf>> {
        let Some(redirect) = notes.redirect.as_ref().filter(|_| !notes.opaque) else {
            return Ok(None);
        };
        let from = match way.from.parent() {
            _ if redirect.is_absolute() => redirect.clone(),
            Some(parent) if parent_merged => parent.join(redirect),
            _ => return Ok(None),
        };
        let there = unless_gone(resolve::open_directory(self.base, &from))?;
        Ok(there.map(|_| from))
    }
}

impl<'k> Way<'k> {
    fn enter(
        &mut self,
        upper: OwnedFd,
        base: Option<OwnedFd>,
        merged: bool,
        whiteout_files: bool,
        kept: Option<&'k Kept>,
    ) -> ebbtide_sys::Result<()> {
        let names = |fd: &OwnedFd| -> ebbtide_sys::Result<Vec<OsString>> {
            Ok(read_directory(fd.as_fd())?.into_iter().map(|entry| entry.name).collect())
        };
        let mut all = names(&upper)?;
        if let Some(base) = base.as_ref().filter(|_| !merged) {
            // What the base has here is gone, unless the upper directory has it again.
            all.extend(names(base)?);
        }
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.dedup();
        let in_base = base.is_some();
        let found = metadata::metadata(upper.as_fd())?;
        self.upper.push(upper, identity(&found));
        if let Some(base) = base {
            let found = metadata::metadata(base.as_fd())?;
            self.base.push(base, identity(&found));
        }
        self.levels.push(Level { names: all, in_base, merged, whiteout_files, kept });
        Ok(())
    }

    fn leave(&mut self) -> ebbtide_sys::Result<()> {
        self.upper.pop()?;
        if self.levels.pop().is_some_and(|level| level.in_base) {
            self.base.pop()?;
        }
        self.path.pop();
        self.from.pop();
        Ok(())
    }
}

fn notes(directory: BorrowedFd<'_>) -> ebbtide_sys::Result<Notes> {
    let opaque = xattr::get(directory, OsStr::new(OPAQUE))?;
    let redirect = xattr::get(directory, OsStr::new(REDIRECT))?;
    Ok(Notes {
        opaque: opaque.as_deref() == Some(b"y"),
        whiteout_files: opaque.as_deref() == Some(b"x"),
        redirect: redirect.map(|path| PathBuf::from(OsString::from_vec(path))),
    })
}

fn is_whiteout(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
    whiteout_files: bool,
) -> ebbtide_sys::Result<bool> {
    match found.kind {
        FileKind::CharDevice => Ok(found.rdev == (0, 0)),
        FileKind::Regular if whiteout_files && found.size == 0 => {
            Ok(note(directory, name, WHITEOUT)?.is_some())
        }
        _ => Ok(false),
    }
}

fn note(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    attribute: &str,
) -> ebbtide_sys::Result<Option<Vec<u8>>> {
    let read = || {
        let opened = resolve::open_path(directory, Path::new(name))?;
        xattr::get(opened.as_fd(), OsStr::new(attribute))
    };
    Ok(unless_gone(read())?.flatten())
}

/// With `metacopy=on` a file can be in the upper directory without its content.
fn refuse_metacopy(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
    path: &Path,
) -> Result<()> {
    let failed = || format!("cannot look at {}", shown(path));
    let empty = found.kind == FileKind::Regular && found.blocks == 0 && found.size > 0;
    if empty && note(directory, name, METACOPY).context(failed)?.is_some() {
        return Err(Failure::new(format!("{} has its content in another layer", shown(path)))
            .hint("the overlay was mounted with metacopy=on, which is not supported"));
    }
    Ok(())
}
