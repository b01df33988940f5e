//! Opening what lies below a directory, without following any symbolic link.
//!
//! A path is always below `dir`: a leading `/` is stripped, `..` is refused, `.` and repeated or
//! trailing slashes mean nothing. Whoever may write in the tree can plant links and swap
//! directories for links while a path is resolved; the result is then an error (`ELOOP`, `ENOTDIR`),
//! never a file elsewhere. See openat2(2).

mod walk;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How often a resolution that the kernel could not finish undisturbed is tried again.
const ATTEMPTS: usize = 128;

/// Opens `path` below `dir`; `O_CLOEXEC` is always set and `mode` counts only with `O_CREAT`.
///
/// An empty path and `/` mean `dir` itself. Uses openat2(2) with `RESOLVE_BENEATH`,
/// `RESOLVE_NO_SYMLINKS` and `RESOLVE_NO_MAGICLINKS`; where that is missing or filtered away, and
/// for paths longer than `PATH_MAX`, opens one component after the other with the same result.
///
/// With `O_PATH|O_NOFOLLOW` a final symbolic link itself is opened.
///
/// # Errors
///
/// `ELOOP` for a symbolic link on the way, `EINVAL` for `..`, and those of open(2).
pub fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd> {
    let relative = relative(path).map_err(|e| failed(e, dir, path, flags))?;
    let flags = flags | OFlags::CLOEXEC;
    let mode =
        if flags.intersects(OFlags::CREATE | OFlags::TMPFILE) { mode } else { Mode::empty() };
    match openat2(dir, &relative, flags, mode) {
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => {
            walk::open(dir, &relative, flags, mode)
        }
        result => result,
    }
    .map_err(|e| failed(e, dir, path, flags))
}

fn openat2(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match rustix::fs::openat2(dir, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => {}
            result => return result,
        }
    }
}

/// Opens a directory below `dir` for reading; an empty path or `/` opens `dir` a second time.
pub fn open_directory(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open_beneath(dir, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a directory below `dir` as an `O_PATH` descriptor, which resolves entries and reads nothing.
pub fn open_directory_path(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open_beneath(dir, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
}

/// Opens anything below `dir` as an `O_PATH` descriptor: a final symbolic link is opened itself.
pub fn open_path(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    open_beneath(dir, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
}

/// Splits a path into the directory and the name in it.
///
/// `None` if there is no name: an empty path, `/`, or a path that ends in `..`.
///
/// ```
/// # use std::{ffi::OsStr, path::Path};
/// let split = ebbtide_sys::resolve::split_parent(Path::new("var/log"));
/// assert_eq!(split, Some((Path::new("var"), OsStr::new("log"))));
/// ```
pub fn split_parent(path: &Path) -> Option<(&Path, &OsStr)> {
    Some((path.parent()?, path.file_name()?))
}

/// Returns the path below the directory: no leading slash, no `.`; `.` alone if nothing is left.
fn relative(path: &Path) -> rustix::io::Result<PathBuf> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Errno::INVAL);
    }
    let mut relative = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => relative.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL),
        }
    }
    if relative.as_os_str().is_empty() {
        relative.push(".");
    }
    Ok(relative)
}

fn failed(errno: Errno, dir: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Error {
    let error = Error::new("openat2", errno).fd(dir).path(path).arg(render(flags));
    match errno {
        Errno::LOOP => error.note("a symbolic link is in the way"),
        Errno::INVAL if path.components().any(|c| c == Component::ParentDir) => {
            error.note("`..` is not allowed")
        }
        _ => error,
    }
}

/// Renders open flags as strace(1) does.
fn render(flags: OFlags) -> String {
    let mut text = String::from(match flags & OFlags::RWMODE {
        OFlags::WRONLY => "O_WRONLY",
        OFlags::RDWR => "O_RDWR",
        _ if flags.contains(OFlags::PATH) => "O_PATH",
        _ => "O_RDONLY",
    });
    for (flag, name) in [
        (OFlags::CREATE, "O_CREAT"),
        (OFlags::EXCL, "O_EXCL"),
        (OFlags::TRUNC, "O_TRUNC"),
        (OFlags::APPEND, "O_APPEND"),
        (OFlags::NONBLOCK, "O_NONBLOCK"),
        (OFlags::DIRECTORY, "O_DIRECTORY"),
        (OFlags::NOFOLLOW, "O_NOFOLLOW"),
        (OFlags::NOATIME, "O_NOATIME"),
    ] {
        if flags.contains(flag) {
            let _ = write!(text, "|{name}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
