//! The same resolution without openat2(2): one component at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

/// Opens a path that has only normal components, or is `.`.
///
/// Each directory on the way is opened with `O_PATH|O_NOFOLLOW|O_DIRECTORY` relative to the one
/// before, so a directory that is swapped for a link in between is an error.
pub(super) fn open(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let mut current: Option<OwnedFd> = None;
    let mut names = path.components().map(std::path::Component::as_os_str).peekable();
    while let Some(name) = names.next() {
        let at = current.as_ref().map_or(dir, |fd| fd.as_fd());
        if names.peek().is_none() {
            return last(at, Path::new(name), flags, mode);
        }
        let way = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let next = retry(|| rustix::fs::openat(at, name, way, Mode::empty()));
        current = Some(next.map_err(|e| explain(e, at, Path::new(name)))?);
    }
    Err(Errno::NOENT)
}

fn last(dir: BorrowedFd<'_>, name: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let fd = retry(|| rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW, mode))
        .map_err(|e| explain(e, dir, name))?;
    if flags.contains(OFlags::PATH) && !flags.contains(OFlags::NOFOLLOW) {
        let stat = rustix::fs::fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
    }
    Ok(fd)
}

/// Tells a link from another file in the way: with `O_DIRECTORY` both are `ENOTDIR` to open(2).
fn explain(errno: Errno, dir: BorrowedFd<'_>, name: &Path) -> Errno {
    if errno != Errno::NOTDIR {
        return errno;
    }
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => Errno::LOOP,
        _ => errno,
    }
}

fn retry(mut call: impl FnMut() -> Result<OwnedFd>) -> Result<OwnedFd> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
