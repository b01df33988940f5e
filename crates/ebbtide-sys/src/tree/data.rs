//! Copying the content of a file: shared if possible, else by the kernel, else by hand.

use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How much is copied between two reports of progress, in bytes.
const STEP: u64 = 16 * 1024 * 1024;
/// The size of the buffer when copying by hand, in bytes.
const BUFFER: usize = 256 * 1024;

/// What was copied.
pub(super) struct Content {
    /// The length of the copy, holes included.
    pub(super) bytes: u64,
    /// Whether it is shared with the source.
    pub(super) shared: bool,
}

/// Copies `size` bytes into an empty file; fewer if the source shrinks meanwhile.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<Content> {
    if size == 0 {
        return Ok(Content { bytes: 0, shared: false });
    }
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => {
            progress(size);
            return Ok(Content { bytes: size, shared: true });
        }
        // Another filesystem, one without sharing, a swap file, other inode flags, …
        Err(errno) if !is_fatal(errno) => {}
        Err(errno) => return Err(Error::new("ioctl", errno).fd(to).arg("FICLONE").fd(from)),
    }
    let bytes = copy_data(from, to, size, progress)?;
    // Holes at the end, and all else if the file is one hole.
    rustix::fs::ftruncate(to, bytes).map_err(|e| Error::new("ftruncate", e).fd(to).arg(bytes))?;
    progress(bytes);
    Ok(Content { bytes, shared: false })
}

/// Copies what is not a hole; returns the length that the copy is to have.
fn copy_data(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    size: u64,
    progress: &mut dyn FnMut(u64),
) -> Result<u64> {
    let mut offset = 0;
    while offset < size {
        let (start, end) = match rustix::fs::seek(from, SeekFrom::Data(offset)) {
            Ok(start) => match rustix::fs::seek(from, SeekFrom::Hole(start)) {
                Ok(end) => (start, end.min(size)),
                Err(errno) => return Err(Error::new("lseek", errno).fd(from).arg("SEEK_HOLE")),
            },
            // No data behind the offset.
            Err(Errno::NXIO) => return Ok(size),
            // A filesystem that does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => (offset, size),
            Err(errno) => return Err(Error::new("lseek", errno).fd(from).arg("SEEK_DATA")),
        };
        let mut at = start;
        while at < end {
            let until = end.min(at + STEP);
            let reached = copy_range(from, to, at, until)?;
            if reached < until {
                return Ok(reached);
            }
            at = reached;
            progress(at);
        }
        offset = end.max(offset + 1);
    }
    Ok(size)
}

/// Copies a range; returns where the source ended, if that is before `end`.
fn copy_range(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<u64> {
    let mut at = start;
    while at < end {
        let (mut from_at, mut to_at) = (at, at);
        let length = usize::try_from(end - at).unwrap_or(BUFFER);
        match rustix::fs::copy_file_range(from, Some(&mut from_at), to, Some(&mut to_at), length) {
            // Some filesystems report the end of the file where there is more to read.
            Ok(0) => return copy_by_hand(from, to, at, end),
            Ok(count) => at += count as u64,
            Err(Errno::INTR) => {}
            Err(errno) if is_fatal(errno) => {
                return Err(Error::new("copy_file_range", errno).fd(from).fd(to).arg(length));
            }
            Err(_) => return copy_by_hand(from, to, at, end),
        }
    }
    Ok(at)
}

fn copy_by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, start: u64, end: u64) -> Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut at = start;
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        let count = match rustix::io::pread(from, &mut buffer[..length], at) {
            Ok(0) => return Ok(at),
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Error::new("pread64", errno).fd(from).arg(at)),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match rustix::io::pwrite(to, rest, at) {
                Ok(0) => return Err(Error::new("pwrite64", Errno::IO).fd(to).arg(at)),
                Ok(written) => {
                    rest = &rest[written..];
                    at += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new("pwrite64", errno).fd(to).arg(at)),
            }
        }
    }
    Ok(at)
}

/// Errors that another way of copying would meet as well.
fn is_fatal(errno: Errno) -> bool {
    matches!(errno, Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS | Errno::NOMEM)
}
