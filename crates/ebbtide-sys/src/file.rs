//! Making, replacing, renaming and removing entries of a directory, and making that durable.
//!
//! A `name` is one component: anything with a slash, `.` and `..` is refused with `EINVAL`.

mod lease;
mod mount_point;
mod read;
mod remove;
mod replace;
mod room;
mod trusted;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::descriptor::{check_name, usable};
use crate::error::{Error, Result};
use crate::metadata::set_mode;

pub use lease::take_lease;
pub use mount_point::create_mount_point;
pub use read::{
    DirectoryEntry, is_empty_directory, open_quietly, read_directory, read_limited, read_link,
    read_opened_directory,
};
pub(crate) use read::{read_all, read_link_fd};
pub use remove::{remove_tree, remove_tree_by_force, unprotect};
pub use replace::{replace_content, replace_file, replace_file_unsettled};
pub use room::{Room, room};
pub use trusted::{changeable, read_trusted};

/// Removes a file and waits until that is on disk; false if it was absent already.
///
/// The directory is synchronised either way: an earlier removal may still be in memory only.
///
/// # Errors
///
/// `EISDIR` for a directory, and those of unlink(2).
pub fn remove_file_durably(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    let removed = remove_file(dir, name)?;
    sync(dir)?;
    Ok(removed)
}

/// Removes a file; false if it was absent. See unlinkat(2).
pub fn remove_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    check_name("unlinkat", dir, name)?;
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::new("unlinkat", errno).fd(dir).path(name)),
    }
}

/// Makes a directory with exactly these permission bits, whatever the umask, and opens it.
///
/// Whoever may write in `dir` at the same time can put another directory in its place; it is then
/// that one that is opened, but never one behind a link.
///
/// # Errors
///
/// `EEXIST` if anything has that name, and those of mkdir(2).
pub fn create_directory(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<OwnedFd> {
    check_name("mkdirat", dir, name)?;
    rustix::fs::mkdirat(dir, name, Mode::RWXU)
        .map_err(|e| Error::new("mkdirat", e).fd(dir).path(name).arg("0700"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(dir).path(name).arg("O_DIRECTORY|O_NOFOLLOW"))?;
    set_mode(opened.as_fd(), mode)?;
    Ok(opened)
}

/// Makes a directory and those above it, as far as they are missing. For paths that are ours alone: links are
/// followed.
///
/// `create_dir_all` of std says that it exists (`EEXIST`) where it exists and cannot be looked at. This says
/// why.
///
/// # Errors
///
/// Those of mkdir(2), and of stat(2).
pub fn create_directories(path: &Path) -> std::io::Result<()> {
    let made = std::fs::create_dir_all(path);
    if let Err(error) = &made
        && error.kind() == std::io::ErrorKind::AlreadyExists
        && std::fs::metadata(path)?.is_dir()
    {
        return Ok(());
    }
    made
}

/// Makes an empty file with exactly these permission bits and opens it for reading and writing.
///
/// # Errors
///
/// `EEXIST` if anything has that name, even a dangling link, and those of open(2).
pub fn create_file(dir: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<OwnedFd> {
    let file = create_private_file(dir, name)?;
    set_mode(file.as_fd(), mode)?;
    Ok(file)
}

/// Makes an empty file that nobody but its owner has rights to, and opens it for reading and writing: its mode is
/// to be set.
pub(crate) fn create_private_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    check_name("openat", dir, name)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|e| Error::new("openat", e).fd(dir).path(name).arg("O_CREAT|O_EXCL, 0600"))
}

/// Makes a symbolic link with any text as its target. See symlinkat(2).
///
/// # Errors
///
/// `EEXIST` if anything has that name.
pub fn create_symlink(dir: BorrowedFd<'_>, name: &OsStr, target: &Path) -> Result<()> {
    check_name("symlinkat", dir, name)?;
    rustix::fs::symlinkat(target, dir, name)
        .map_err(|e| Error::new("symlinkat", e).path(target).fd(dir).path(name))
}

/// Renames, never over something that exists. See renameat2(2), `RENAME_NOREPLACE`.
///
/// # Errors
///
/// `EEXIST` if the new name is taken; `EINVAL` from a filesystem that can't promise that.
pub fn rename_noreplace(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> Result<()> {
    rename(from_dir, from, to_dir, to, RenameFlags::NOREPLACE, "RENAME_NOREPLACE")
}

/// Exchanges two entries in one atomic step. See renameat2(2), `RENAME_EXCHANGE`.
///
/// # Errors
///
/// `ENOENT` if one is missing; `EINVAL` from a filesystem that can't exchange.
pub fn exchange(dir_a: BorrowedFd<'_>, a: &OsStr, dir_b: BorrowedFd<'_>, b: &OsStr) -> Result<()> {
    rename(dir_a, a, dir_b, b, RenameFlags::EXCHANGE, "RENAME_EXCHANGE")
}

/// Renames, atomically replacing a file that has the new name. See renameat(2).
pub fn rename_replace(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
) -> Result<()> {
    rename(from_dir, from, to_dir, to, RenameFlags::empty(), "0")
}

fn rename(
    from_dir: BorrowedFd<'_>,
    from: &OsStr,
    to_dir: BorrowedFd<'_>,
    to: &OsStr,
    flags: RenameFlags,
    rendered: &str,
) -> Result<()> {
    check_name("renameat2", from_dir, from)?;
    check_name("renameat2", to_dir, to)?;
    rustix::fs::renameat_with(from_dir, from, to_dir, to, flags).map_err(|e| {
        Error::new("renameat2", e).fd(from_dir).path(from).fd(to_dir).path(to).arg(rendered)
    })
}

/// Writes everything of the filesystem that holds `fd` to disk, and waits. See syncfs(2).
pub fn sync_filesystem(fd: BorrowedFd<'_>) -> Result<()> {
    let result = match rustix::fs::syncfs(fd) {
        Err(Errno::BADF) => rustix::fs::syncfs(usable(fd)?),
        result => result,
    };
    result.map_err(|e| Error::new("syncfs", e).fd(fd))
}

/// Writes a file's content, or a directory's entries, to disk and waits. See fsync(2).
///
/// For directories an `O_PATH` descriptor is fine.
pub fn sync(fd: BorrowedFd<'_>) -> Result<()> {
    let result = match rustix::fs::fsync(fd) {
        Err(Errno::BADF) => rustix::fs::fsync(usable(fd)?),
        result => result,
    };
    result.map_err(|e| Error::new("fsync", e).fd(fd))
}

/// Writes all bytes at the descriptor's position. See write(2).
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut content: &[u8]) -> Result<()> {
    while !content.is_empty() {
        match rustix::io::write(fd, content) {
            Ok(0) => return Err(Error::new("write", Errno::IO).fd(fd)),
            Ok(count) => content = &content[count..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("write", errno).fd(fd)),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
