//! Replacing a small file so that a crash leaves the old content or the new one, whole.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{create_file, open_quietly, remove_file, rename_replace, sync, write_all};
use crate::descriptor::check_name;
use crate::error::{Error, Result};
use crate::metadata::{FileKind, metadata, set_mode, set_owner, statx};
use crate::resolve::open_path;
use crate::xattr::{copy_xattrs, label_like};

/// The longest name that Linux filesystems have, in bytes.
const NAME_MAX: usize = 255;
const PREFIX: &[u8] = b".ebbtide-new.";

/// How often to try again when others work on the same temporary name: each time one of them is
/// done, and which of those who wait comes next is chance.
const ATTEMPTS: usize = 10_000;

/// Replaces or makes a file, atomically and durably; it belongs to the caller's user and group. Where no
/// policy of SELinux is loaded it has the label of the file that it replaces, or of its directory.
///
/// Writes `.ebbtide-new.NAME` beside it, synchronises that, renames it over `name` and synchronises
/// the directory. A temporary file that a crash left is replaced. Writers of the same name exclude
/// each other by a lock on the temporary file, so none publishes what another has half written.
///
/// # Errors
///
/// Those of open(2), write(2), fsync(2) and rename(2); `name` then has its old content.
pub fn replace_file(dir: BorrowedFd<'_>, name: &OsStr, content: &[u8], mode: u32) -> Result<()> {
    replace(dir, name, content, |file| set_mode(file, mode))?;
    sync(dir)
}

/// As [`replace_file`], without the last step: it is the caller who waits, once for all that was done,
/// until the filesystem is on disk. A power cut before that leaves the old content or the new one, whole.
///
/// # Errors
///
/// Those of [`replace_file`].
pub fn replace_file_unsettled(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    content: &[u8],
    mode: u32,
) -> Result<()> {
    replace(dir, name, content, |file| set_mode(file, mode))
}

/// Gives a file other content, as [`replace_file`] does; owner, mode, ACLs and other extended
/// attributes stay.
///
/// # Errors
///
/// `EINVAL` if it is no regular file, and those of [`replace_file`].
pub fn replace_content(dir: BorrowedFd<'_>, name: &OsStr, content: &[u8]) -> Result<()> {
    check_name("openat", dir, name)?;
    let old = open_quietly(dir, name, OFlags::NONBLOCK)?;
    let found = metadata(old.as_fd())?;
    if found.kind != FileKind::Regular {
        return Err(Error::new("openat", Errno::INVAL).fd(dir).path(name));
    }
    replace(dir, name, content, |file| {
        set_owner(file, found.uid, found.gid)?;
        set_mode(file, found.mode)?;
        copy_xattrs(old.as_fd(), file)
    })?;
    sync(dir)
}

fn replace(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    content: &[u8],
    finish: impl FnOnce(BorrowedFd<'_>) -> Result<()>,
) -> Result<()> {
    check_name("openat", dir, name)?;
    let temporary = temporary_name(name);
    let file = create_locked(dir, &temporary)?;
    let written = write_all(file.as_fd(), content)
        .and_then(|()| finish(file.as_fd()))
        .and_then(|()| label(dir, name, file.as_fd()))
        .and_then(|()| sync(file.as_fd()))
        .and_then(|()| rename_replace(dir, &temporary, dir, name));
    if let Err(error) = written {
        // The first error counts; a leftover is replaced next time.
        let _ = remove_file(dir, &temporary);
        return Err(error);
    }
    Ok(())
}

fn label(dir: BorrowedFd<'_>, name: &OsStr, file: BorrowedFd<'_>) -> Result<()> {
    match open_path(dir, Path::new(name)) {
        Ok(old) => label_like(old.as_fd(), file),
        Err(error) if error.is_not_found() => label_like(dir, file),
        Err(error) => Err(error),
    }
}

fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = PREFIX.to_vec();
    temporary.extend_from_slice(name.as_bytes());
    temporary.truncate(NAME_MAX);
    OsString::from_vec(temporary)
}

/// Makes the temporary file and returns it locked, once it is certain that the name is still ours.
fn create_locked(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let mut last = Error::new("openat", Errno::EXIST).fd(dir).path(name);
    for _ in 0..ATTEMPTS {
        match create_file(dir, name, 0o600) {
            Ok(file) => {
                lock(file.as_fd())?;
                // Before the lock was held, another writer may have taken this for a leftover.
                if is_at(dir, name, file.as_fd())? {
                    return Ok(file);
                }
            }
            Err(error) if error.errno() == Errno::EXIST => {
                last = error;
                remove_leftover(dir, name)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// Removes a temporary file as soon as nobody writes it any more.
fn remove_leftover(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(leftover) => {
            lock(leftover.as_fd())?;
            if is_at(dir, name, leftover.as_fd())? {
                remove_file(dir, name)?;
            }
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        // A link or a socket: not one of ours.
        Err(Errno::LOOP | Errno::NXIO) => remove_file(dir, name).map(drop),
        Err(errno) => Err(Error::new("openat", errno).fd(dir).path(name)),
    }
}

fn lock(file: BorrowedFd<'_>) -> Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("flock", errno).fd(file).arg("LOCK_EX")),
        }
    }
}

/// Returns whether the name still refers to this file.
fn is_at(dir: BorrowedFd<'_>, name: &OsStr, file: BorrowedFd<'_>) -> Result<bool> {
    let ours = metadata(file)?;
    match statx(dir, name) {
        Ok(there) => Ok((there.device, there.inode) == (ours.device, ours.inode)),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}
