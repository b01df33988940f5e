//! The place that something is restored to, seen by descriptor and without following a link.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{self, FileKind, metadata_beneath, metadata_of_entry};
use ebbtide_sys::mountinfo;
use ebbtide_sys::{file, resolve};

use super::plan::{Area, Existing, Fate, Target, shown};
use crate::compiled::{Entry, Method};
use crate::failure::{Context, Failure, Result};
use crate::past::history::KeptBy;
use crate::past::sources::Sources;

/// A copy on its way is in a directory of this name and that of its place, beside it.
const PREFIX: &str = ".ebbtide-restore.";
/// The longest name that Linux filesystems have, in bytes.
const NAME_MAX: usize = 255;

/// A place, and the tree through which it is reached.
#[derive(Debug)]
pub(super) struct Reached {
    pub target: Target,
    /// The root, the store, or the directory that was asked for.
    pub tree: OwnedFd,
    /// The place below that.
    pub relative: PathBuf,
}

impl Reached {
    /// The directory that holds the place, and the name in it.
    pub(super) fn split(&self) -> Result<(&Path, &OsStr)> {
        resolve::split_parent(&self.relative)
            .ok_or_else(|| Failure::new(format!("{} has no name", shown(&self.target.path))))
    }
}

/// The name of the directory in which a copy is made.
pub(crate) fn working_name(name: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut whole = PREFIX.as_bytes().to_vec();
    whole.extend_from_slice(name.as_bytes());
    whole.truncate(NAME_MAX);
    OsString::from_vec(whole)
}

/// Finds a path's own place: on the root, or in what an entry keeps.
pub(super) fn own_place(sources: &Sources, sysroot: &Path, path: &Path) -> Result<Reached> {
    let cannot = || format!("cannot restore {}", shown(path));
    if !sources.running {
        return Err(Failure::new(cannot())
            .caused_by("this system does not run on a root of that container")
            .hint("`--to DIR` names a directory to restore to"));
    }
    let root: OwnedFd =
        std::fs::File::open(sysroot).map(OwnedFd::from).context(|| "cannot open the root")?;
    let relative = path.strip_prefix("/").unwrap_or(path).to_owned();
    let (area, tree) = match sources.entry(path) {
        Some(entry) => in_entry(sources, entry, root.as_fd(), &relative).context(cannot)?,
        None => (Area::Root(Fate::Forgotten), None),
    };
    let tree = tree.unwrap_or(root);
    let found = reach(tree, relative, path.to_owned(), area).context(cannot)?;
    let mut found = with_mounts(found, sysroot)?;
    // In the store it is a directory like any other.
    let target = &mut found.target;
    if let Some(entry) = sources.entry(path).filter(|entry| entry.path == path)
        && matches!(target.area, Area::Store(_))
        && target.existing == Existing::EmptyDirectory
        && target.mounts == [path]
    {
        let declared = entry.user.is_some() || entry.group.is_some() || entry.mode.is_some();
        target.existing = Existing::EmptyEntry { declared };
    }
    Ok(found)
}

/// Finds the place in a directory that was asked for. The way to that is the caller's own word.
pub(super) fn given_place(directory: &Path, path: &Path) -> Result<Reached> {
    let what = || format!("cannot restore to {}", shown(directory));
    let opened = std::fs::File::open(directory).context(what)?;
    let found = metadata::metadata(opened.as_fd()).context(what)?;
    if found.kind != FileKind::Directory {
        return Err(Failure::new(what()).caused_by("it is not a directory"));
    }
    let name = path
        .file_name()
        .ok_or_else(|| Failure::new("cannot restore /: the whole root has no name").hint(ALL))?;
    let at = std::path::absolute(directory).context(what)?.join(name);
    let found = reach(opened.into(), PathBuf::from(name), at, Area::Given).context(what)?;
    with_mounts(found, Path::new("/"))
}

const ALL: &str = "`ebbtide boots mount` shows all of a past root";

/// Looks at the place. Above it there may be directories that are not there.
fn reach(tree: OwnedFd, relative: PathBuf, path: PathBuf, area: Area) -> Result<Reached> {
    let (parent, name) = resolve::split_parent(&relative)
        .ok_or_else(|| Failure::new("the whole root cannot be restored").hint(ALL))?;
    let top = metadata::metadata(tree.as_fd()).context(|| "cannot look at the root")?;
    let mut missing = Vec::new();
    let mut above = parent;
    let opened = loop {
        match resolve::open_directory(tree.as_fd(), above) {
            Ok(opened) => break opened,
            Err(error) if error.is_not_found() => {
                missing.push(above.to_owned());
                above = above.parent().unwrap_or(Path::new(""));
            }
            Err(error) => {
                return Err(error).context(|| format!("cannot open /{}", shown(above)));
            }
        }
    };
    missing.reverse();
    let mount = metadata::metadata(opened.as_fd()).context(|| "cannot look at it")?.mount_id;
    let area = match area {
        Area::Root(_) if mount != top.mount_id => Area::Mounted,
        area => area,
    };
    let (mut existing, mut leftover) = (Existing::Nothing, None);
    if missing.is_empty() {
        existing = what_is_there(opened.as_fd(), name)?;
        let working = working_name(name);
        let found = metadata_of_entry(opened.as_fd(), &working)
            .context(|| "cannot look beside the place")?;
        leftover = match found {
            None => None,
            Some(found)
                if (found.kind, found.uid, found.mode) == (FileKind::Directory, 0, 0o700) =>
            {
                Some(path.with_file_name(&working))
            }
            Some(_) => {
                return Err(Failure::new(format!(
                    "{} has the name that a copy on its way has",
                    shown(&path.with_file_name(&working))
                ))
                .hint("it was not made by Ebbtide: look at it, and move it away"));
            }
        };
    }
    let absolute = |below: &PathBuf| -> PathBuf {
        // What is missing are the directories just above the path.
        let up = parent.components().count().saturating_sub(below.components().count()) + 1;
        path.ancestors().nth(up).unwrap_or(Path::new("/")).to_owned()
    };
    let parents = missing.iter().map(absolute).collect();
    let target = Target { path, area, existing, parents, mounts: Vec::new(), leftover };
    Ok(Reached { target, tree, relative })
}

fn what_is_there(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Existing> {
    let what = || "cannot look at what is there";
    let Some(found) = metadata_of_entry(parent, name).context(what)? else {
        return Ok(Existing::Nothing);
    };
    if found.kind != FileKind::Directory || found.mount_root {
        return Ok(Existing::Data);
    }
    let opened = file::open_quietly(parent, name, rustix::fs::OFlags::DIRECTORY).context(what)?;
    let is_empty = file::read_directory(opened.as_fd()).context(what)?.is_empty();
    Ok(if is_empty { Existing::EmptyDirectory } else { Existing::Data })
}

/// Adds what is mounted there: a rename would take a mount along, or is refused.
fn with_mounts(mut reached: Reached, sysroot: &Path) -> Result<Reached> {
    let root = sysroot.canonicalize().context(|| "cannot find the root")?;
    let path = &reached.target.path;
    let at = root.join(path.strip_prefix("/").unwrap_or(path));
    // The mount table has the directory's own path, whatever links led to it.
    let at = match (at.parent().and_then(|it| it.canonicalize().ok()), at.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => at,
    };
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let inside = mounts.iter().filter_map(|mount| mount.mount_point.strip_prefix(&at).ok());
    reached.target.mounts = inside
        .map(|below| if below.as_os_str().is_empty() { path.clone() } else { path.join(below) })
        .collect();
    Ok(reached)
}

/// Where something at an entry or below it belongs; the store, if it is in there.
fn in_entry(
    sources: &Sources,
    entry: &Entry,
    root: BorrowedFd<'_>,
    relative: &Path,
) -> Result<(Area, Option<OwnedFd>)> {
    let kept = KeptBy::new(entry);
    match entry.method {
        Method::Sync => return Ok((Area::Root(Fate::Synced(kept)), None)),
        Method::Copy => {
            return Err(Failure::new(format!("every boot puts {} there again", kept.entry))
                .hint("`--to DIR` restores it elsewhere"));
        }
        Method::Symlink => {
            return Err(Failure::new(format!(
                "{} is kept as a symbolic link into store {}, and none is followed",
                kept.entry, kept.store
            ))
            .hint(format!(
                "`--to DIR` restores elsewhere; its place is in /run/ebbtide/stores/{}",
                kept.store
            )));
        }
        Method::Bind => {}
    }
    let what = || format!("cannot look at {}", kept.entry);
    let store = sources.open_store(entry)?;
    let identity = |tree: BorrowedFd<'_>, path: &Path| -> Result<_> {
        let found = metadata_beneath(tree, path).context(what)?;
        Ok(found.map(|found| (found.device, found.inode)))
    };
    let in_store = identity(store.as_fd(), entry.relative())?;
    if in_store.is_none() {
        // What is put there is what the entry begins with.
        return Ok((Area::Root(Fate::First(kept)), None));
    }
    // As deep as there is something: it has to be the store's, and nothing mounted over it.
    let mut way = relative;
    while way.starts_with(entry.relative()) {
        let (seen, stored) = (identity(root, way)?, identity(store.as_fd(), way)?);
        match (seen, stored) {
            (None, None) => {}
            (seen, stored) if seen == stored => return Ok((Area::Store(kept), Some(store))),
            _ => break,
        }
        way = way.parent().unwrap_or(Path::new(""));
    }
    Err(Failure::new(format!(
        "/{} is not what store {} has there: the entry {} is not in place, or something is mounted \
         over it",
        shown(way),
        kept.store,
        kept.entry
    ))
    .hint("`ebbtide status` says what is not in place; `--to DIR` restores elsewhere"))
}
