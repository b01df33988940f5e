//! Removing a whole tree.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, IFlags, OFlags};
use rustix::io::Errno;

use super::{DirectoryEntry, open_quietly, read_directory};
use crate::btrfs::{Border, border};
use crate::descriptor::{check_name, usable};
use crate::error::{Error, Result};
use crate::metadata::{FileKind, Metadata, metadata, statx};
use crate::tree::stack::DirectoryStack;

/// Removes an entry of `dir` with everything below it; nothing to do if it is absent.
///
/// No link is followed, no mount and no btrfs subvolume is entered. Depth does not matter.
/// On an error, what was removed before stays removed.
///
/// # Errors
///
/// `EBUSY` for a mount point, `ENOTEMPTY` for a btrfs subvolume, each with its path, `ESTALE` if
/// somebody moves the directories about, and those of unlink(2).
pub fn remove_tree(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    remove(dir, name, Flags::Respected)
}

/// As [`remove_tree`], also what has the immutable or the append-only flag (`ioctl_iflags(2)`).
///
/// Those flags are for trees in use; this is for one that nothing uses any more. Needs
/// `CAP_LINUX_IMMUTABLE` where there are any.
pub fn remove_tree_by_force(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    remove(dir, name, Flags::Cleared)
}

/// What becomes of flags that forbid to remove something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flags {
    Respected,
    Cleared,
}

impl Flags {
    /// Removes an entry; if its flags or those of the directory forbid that, without them.
    fn unlink(
        self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        how: AtFlags,
    ) -> std::result::Result<(), Errno> {
        match rustix::fs::unlinkat(parent, name, how) {
            Err(Errno::PERM) if self == Self::Cleared => {
                // What can't be cleared shows in the second attempt.
                let _ = unprotect(parent);
                let entry = open_quietly(parent, name, OFlags::NONBLOCK);
                let taken = entry.as_ref().ok().and_then(|it| take_protection(it.as_fd()).ok());
                let done = rustix::fs::unlinkat(parent, name, how);
                if let (Ok(entry), Some(taken)) = (entry, taken) {
                    protect_again(entry.as_fd(), taken);
                }
                done
            }
            done => done,
        }
    }
}

/// Takes the immutable and the append-only flag from a file or a directory; false if it had none.
///
/// The descriptor must not be `O_PATH` unless it is of a directory. See `ioctl_iflags(2)`.
pub fn unprotect(fd: BorrowedFd<'_>) -> Result<bool> {
    take_protection(fd).map(|taken| !taken.is_empty())
}

/// As [`unprotect`]; returns the flags that were taken.
fn take_protection(fd: BorrowedFd<'_>) -> Result<IFlags> {
    let fd = usable(fd)?;
    let failed = |e| Error::new("ioctl", e).fd(fd.as_fd()).arg("FS_IOC_SETFLAGS");
    let flags = rustix::fs::ioctl_getflags(&fd).map_err(failed)?;
    let forbidding = flags.intersection(IFlags::IMMUTABLE | IFlags::APPEND);
    if !forbidding.is_empty() {
        rustix::fs::ioctl_setflags(&fd, flags.difference(forbidding)).map_err(failed)?;
    }
    Ok(forbidding)
}

/// Gives a file its flags back that has another name still: under that one it may be in use.
fn protect_again(fd: BorrowedFd<'_>, taken: IFlags) {
    let has_name = metadata(fd).is_ok_and(|left| left.nlink > 0);
    if !taken.is_empty()
        && has_name
        && let Ok(flags) = rustix::fs::ioctl_getflags(fd)
    {
        let _ = rustix::fs::ioctl_setflags(fd, flags | taken);
    }
}

fn remove(dir: BorrowedFd<'_>, name: &OsStr, flags: Flags) -> Result<()> {
    check_name("unlinkat", dir, name)?;
    let mut stack = DirectoryStack::default();
    let mut levels = Vec::new();
    if let Some(top) = remove_or_open(dir, &metadata(dir)?, name, None, flags)? {
        enter(&mut stack, &mut levels, top, name.to_owned())?;
    }
    while let Some(level) = levels.last_mut() {
        if let Some(entry) = level.entries.pop() {
            let parent = stack.top()?;
            if let Some(child) =
                remove_or_open(parent, &level.metadata, &entry.name, entry.kind, flags)?
            {
                enter(&mut stack, &mut levels, child, entry.name)?;
            }
            continue;
        }
        stack.pop()?;
        let parent = if stack.depth() == 0 { dir } else { stack.top()? };
        remove_empty(parent, &level.name, flags)?;
        levels.pop();
    }
    Ok(())
}

/// A directory that is being emptied: its name in its parent, what it is, what is left in it.
struct Level {
    name: OsString,
    metadata: Metadata,
    entries: Vec<DirectoryEntry>,
}

/// Removes an entry, or opens it if it is a directory that may be entered.
fn remove_or_open(
    parent: BorrowedFd<'_>,
    here: &Metadata,
    name: &OsStr,
    hint: Option<FileKind>,
    flags: Flags,
) -> Result<Option<OwnedFd>> {
    let failed = |e| Error::new("unlinkat", e).fd(parent).path(name);
    // The hint saves a call for each directory, for which unlink(2) would only say no.
    if hint != Some(FileKind::Directory) {
        match flags.unlink(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(None),
            Err(Errno::ISDIR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    let found = match statx(parent, name) {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    if found.mount_id != here.mount_id {
        return Err(failed(Errno::BUSY).note("a filesystem is mounted there"));
    }
    match border(here, &found) {
        Border::None => {}
        Border::Placeholder => return remove_empty(parent, name, flags).map(|()| None),
        Border::Subvolume => return Err(failed(Errno::NOTEMPTY).note("a btrfs subvolume")),
    }
    match open_quietly(parent, name, OFlags::DIRECTORY) {
        Ok(child) => Ok(Some(child)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn enter(
    stack: &mut DirectoryStack,
    levels: &mut Vec<Level>,
    directory: OwnedFd,
    name: OsString,
) -> Result<()> {
    let found = metadata(directory.as_fd())?;
    // What was looked at may have been swapped for a mount before it was opened.
    if let Some(parent) = levels.last()
        && (parent.metadata.mount_id, parent.metadata.device) != (found.mount_id, found.device)
    {
        return Err(Error::new("openat", Errno::BUSY).fd(directory.as_fd()));
    }
    let entries = read_directory(directory.as_fd())?;
    stack.push(directory)?;
    levels.push(Level { name, metadata: found, entries });
    Ok(())
}

fn remove_empty(parent: BorrowedFd<'_>, name: &OsStr, flags: Flags) -> Result<()> {
    match flags.unlink(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(Error::new("unlinkat", errno).fd(parent).path(name).arg("AT_REMOVEDIR")),
    }
}
