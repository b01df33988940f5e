//! The upper directory of an overlay: it is the change.
//!
//! Its format is that of the kernel's Documentation/filesystems/overlayfs.rst, for mounts with
//! `index=off,metacopy=off,redirect_dir=on,xino=on`.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::file::{DirectoryEntry, read_opened_directory};
use ebbtide_sys::metadata::{self, FileKind, Metadata, metadata_of_entry};
use ebbtide_sys::{resolve, xattr};

use super::compare::{Look, Node, change, compare, compare_listed, deleted, unless_gone};
use super::shared::{self, Out};
use super::way::{self, Candidate, Listed, Pair, Renamed};
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
    let walk = |task, out: &mut Out<'_, _>| Walk { upper, base, mount, out }.walk(task, kept);
    shared::walk(walk, visit)
}

struct Walk<'w, 'o, 'k> {
    upper: BorrowedFd<'w>,
    base: BorrowedFd<'w>,
    /// The mount that the base is looked at through.
    mount: u64,
    out: &'w mut Out<'o, Task<'k>>,
}

/// The way down to where the walk is: the root's side of it is the upper directory.
type Way<'k> = way::Way<'k, Layers>;
type Task<'k> = way::Task<'k, Layers>;

/// What is known of a directory on the way.
#[derive(Clone, Copy)]
struct Layers {
    /// Whether what the base has in it shows through.
    merged: bool,
    /// Whether empty files in it may be whiteouts.
    whiteout_files: bool,
}

/// A node, opened already if a list said that it is a directory: what is open is looked at without another
/// search for its name.
struct Seen {
    metadata: Metadata,
    opened: Option<OwnedFd>,
}

impl Seen {
    fn of(opened: OwnedFd) -> ebbtide_sys::Result<Self> {
        let metadata = metadata::metadata(opened.as_fd())?;
        Ok(Self { metadata, opened: Some(opened) })
    }

    /// The directory that it is, opened now if it is not yet.
    fn open(
        self,
        open: impl FnOnce() -> ebbtide_sys::Result<Option<OwnedFd>>,
    ) -> ebbtide_sys::Result<Option<OwnedFd>> {
        self.opened.map_or_else(open, |opened| Ok(Some(opened)))
    }
}

impl From<Metadata> for Seen {
    fn from(metadata: Metadata) -> Self {
        Self { metadata, opened: None }
    }
}

/// What the kernel noted about a directory.
struct Notes {
    opaque: bool,
    whiteout_files: bool,
    redirect: Option<PathBuf>,
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
            Task::Rest(rest) => return Way::resume(rest, self.upper, self.base),
            Task::Top(top) => top,
        };
        let Some(pair) = top.open(self.upper, self.base, kept)? else { return Ok(None) };
        let top_notes = notes(pair.root.as_fd(), &xattr::list(pair.root.as_fd())?)?;
        let whiteout_files = top_notes.whiteout_files;
        let mut way = Way::new(&top);
        enter(&mut way, pair, Layers { merged: true, whiteout_files })?;
        Ok(Some(way))
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
        let Some(&Layers { merged, whiteout_files }) = way.known() else { return Ok(false) };
        let upper = way.root().context(failed)?;
        let name = candidate.name.as_os_str();
        let (found, before) = nodes(way, candidate).context(failed)?;
        if before.as_ref().is_some_and(|before| before.metadata.mount_id != self.mount) {
            return Err(Failure::new(format!(
                "something is mounted on the base at {}",
                shown(&path)
            )));
        }
        let hidden = match &found {
            None => !merged,
            Some(found) => {
                is_whiteout(upper, name, &found.metadata, whiteout_files).context(failed)?
            }
        };
        let Some(found) = found.filter(|_| !hidden) else {
            if let Some(before) = before.filter(|_| hidden) {
                self.out.change(deleted(&path, before.metadata.kind));
            }
            return Ok(false);
        };
        if found.metadata.kind == FileKind::Directory {
            return self.directory(way, name, found, before, kept);
        }
        let (found, before) = (found.metadata, before.map(|before| before.metadata));
        match &before {
            Some(before) if before.kind == found.kind => {
                refuse_metacopy(upper, name, &found, &path)?;
                let base = way.base().context(failed)?;
                let (found, before) = (Look::from(&found), Look::from(before));
                let root = Node { dir: upper, name, found: &found };
                let base = Node { dir: base, name, found: &before };
                if let Some(what) = compare(&root, &base).context(failed)? {
                    self.out.change(change(&path, what, &found));
                }
            }
            other => {
                self.gone(&path, other.as_ref());
                self.out.change(change(&path, What::Added, &Look::from(&found)));
            }
        }
        Ok(false)
    }

    fn directory(
        &mut self,
        way: &mut Way<'k>,
        name: &OsStr,
        found: Seen,
        before: Option<Seen>,
        kept: Option<&'k Kept>,
    ) -> Result<bool> {
        let path = way.path.clone();
        let failed = || format!("cannot look at {}", shown(&path));
        let look = Look::from(&found.metadata);
        let inner = found.open(|| way.open_in_root(name)).context(failed)?;
        let Some(inner) = inner else { return Ok(false) };
        let attributes = xattr::list(inner.as_fd()).context(failed)?;
        let notes = notes(inner.as_fd(), &attributes).context(failed)?;
        let parent_merged = way.known().is_some_and(|known| known.merged);
        let origin = self.origin(way, &notes, parent_merged).context(failed)?;
        // Renamed, and back again: it is where it was.
        let back = origin.as_ref() == Some(&way.from);
        if let Some(from) = origin.filter(|_| !back) {
            self.gone(&path, before.as_ref().map(|before| &before.metadata));
            self.out.change(change(&path, What::Renamed { from: from.clone() }, &look));
            self.out.renamed(Renamed { path, from });
            return Ok(false);
        }
        let mut inner_base = None;
        match before {
            Some(before) if before.metadata.kind == FileKind::Directory => {
                let look_before = Look::from(&before.metadata);
                inner_base = before.open(|| way.open_in_base(name)).context(failed)?;
                if let Some(base) = &inner_base
                    && let Some(what) = compare_listed(
                        (&look, inner.as_fd(), attributes),
                        (&look_before, base.as_fd()),
                    )
                    .context(failed)?
                {
                    self.out.change(change(&path, what, &look));
                }
            }
            other => {
                self.gone(&path, other.as_ref().map(|other| &other.metadata));
                // Directories on the way to an entry are made for it.
                if kept.is_none() {
                    self.out.change(change(&path, What::Added, &look));
                }
            }
        }
        let merged = (parent_merged || back) && !notes.opaque && inner_base.is_some();
        let known = Layers { merged, whiteout_files: notes.whiteout_files };
        let pair = Pair { root: inner, base: inner_base, kept };
        enter(way, pair, known).context(failed)?;
        Ok(true)
    }

    /// Tells what the base had in the place of something else.
    fn gone(&mut self, path: &Path, before: Option<&Metadata>) {
        if let Some(before) = before {
            self.out.change(deleted(path, before.kind));
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

/// Looks at what the upper directory and the base have under a name.
fn nodes(
    way: &Way<'_>,
    candidate: &Candidate,
) -> ebbtide_sys::Result<(Option<Seen>, Option<Seen>)> {
    let name = candidate.name.as_os_str();
    let (mut root, mut base) = (None, None);
    if matches!(candidate.root, Listed::There(FileKind::Directory, _)) {
        root = way.open_in_root(name)?;
        if way.may_be_in_base(candidate) {
            base = way.open_in_base(name)?;
        }
    }
    let root = match root {
        Some(opened) => Some(Seen::of(opened)?),
        None => metadata_of_entry(way.root()?, name)?.map(Seen::from),
    };
    let base = match base {
        Some(opened) => Some(Seen::of(opened)?),
        None => way.before(candidate)?.map(Seen::from),
    };
    Ok((root, base))
}

fn enter<'k>(way: &mut Way<'k>, pair: Pair<'k>, known: Layers) -> ebbtide_sys::Result<()> {
    let upper = read_opened_directory(pair.root.as_fd())?;
    let base = match &pair.base {
        // Where the base does not show through, what it has is gone, unless the upper directory has it again.
        Some(base) if !known.merged || is_soon_listed(base.as_fd(), upper.len())? => {
            let all = read_opened_directory(base.as_fd())?;
            Some(all.into_iter().map(|entry| entry.name).collect::<HashSet<_>>())
        }
        _ => None,
    };
    let name = |entry: DirectoryEntry| {
        let may_be_in_base = base.as_ref().is_none_or(|base| base.contains(&entry.name));
        let base = if may_be_in_base { Listed::Maybe } else { Listed::Absent };
        let root = entry.kind.map_or(Listed::Maybe, |kind| Listed::There(kind, entry.inode));
        Candidate { name: entry.name, root, base }
    };
    let mut names: Vec<_> = upper.into_iter().map(name).collect();
    names.extend(base.filter(|_| !known.merged).into_iter().flatten().map(Candidate::anywhere));
    way.enter(pair, names, known)
}

/// Whether a list of what is in a directory costs less than to look for each of so many names in it.
fn is_soon_listed(directory: BorrowedFd<'_>, names: usize) -> ebbtide_sys::Result<bool> {
    const MANY: usize = 16;
    // Bytes of a directory for each name that is looked for, on a filesystem that has large ones.
    const ROOM: u64 = 512;
    if names < MANY {
        return Ok(false);
    }
    Ok(metadata::metadata(directory)?.size <= names as u64 * ROOM)
}

/// Reads what a directory with these extended attributes has of them: most have none.
fn notes(directory: BorrowedFd<'_>, all: &[OsString]) -> ebbtide_sys::Result<Notes> {
    let note = |name: &str| {
        let is_there = all.iter().any(|it| it == name);
        is_there.then(|| xattr::get(directory, OsStr::new(name))).transpose()
    };
    let (opaque, redirect) = (note(OPAQUE)?.flatten(), note(REDIRECT)?.flatten());
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
