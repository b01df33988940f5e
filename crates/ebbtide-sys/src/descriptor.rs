//! What descriptors refer to, and how to use one that was opened with `O_PATH`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Returns the magic link of a descriptor, `/proc/thread-self/fd/N`: see `proc_pid_fd(5)`.
///
/// Calls that refuse an `O_PATH` descriptor accept this path, and it leads to exactly that inode,
/// even if that is a symbolic link.
pub(crate) fn magic_link(fd: BorrowedFd<'_>) -> String {
    format!("/proc/thread-self/fd/{}", fd.as_raw_fd())
}

/// Returns what the kernel calls a descriptor's file; only good for messages.
pub(crate) fn path_of(fd: BorrowedFd<'_>) -> Option<Vec<u8>> {
    rustix::fs::readlink(magic_link(fd), Vec::new()).ok().map(std::ffi::CString::into_bytes)
}

/// A directory descriptor that is good for `ioctl(2)`, `fsync(2)` and the like.
pub(crate) enum Usable<'a> {
    Borrowed(BorrowedFd<'a>),
    Reopened(OwnedFd),
}

impl AsFd for Usable<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Borrowed(fd) => *fd,
            Self::Reopened(fd) => fd.as_fd(),
        }
    }
}

/// Returns the directory itself, or a fresh `O_RDONLY` descriptor of it if it is `O_PATH`.
pub(crate) fn usable(fd: BorrowedFd<'_>) -> Result<Usable<'_>> {
    let flags =
        rustix::fs::fcntl_getfl(fd).map_err(|e| Error::new("fcntl", e).fd(fd).arg("F_GETFL"))?;
    if flags.contains(OFlags::PATH) {
        reopen_directory(fd).map(Usable::Reopened)
    } else {
        Ok(Usable::Borrowed(fd))
    }
}

/// Opens a directory a second time, for reading.
pub(crate) fn reopen_directory(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(fd, ".", flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(fd).path(".").arg("O_RDONLY|O_DIRECTORY"))
}

/// Refuses what is not the name of one directory entry: `""`, `.`, `..`, a slash or a NUL byte.
pub(crate) fn check_name(call: &'static str, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::new(call, Errno::INVAL)
            .fd(dir)
            .path(name)
            .note("not the name of a single directory entry"));
    }
    Ok(())
}
