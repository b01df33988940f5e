//! How much room a filesystem has.

use std::os::fd::BorrowedFd;

use crate::error::{Error, Result};

/// The room of a filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// All of it, what the filesystem itself takes left out.
    pub total: u64,
    /// What users other than root can still write.
    pub available: u64,
}

/// Returns the room of the filesystem that a file is on, as df(1) has it. See statvfs(3).
///
/// On btrfs it is an estimate, and what was deleted is not in it before the cleaner is done.
pub fn room(fd: BorrowedFd<'_>) -> Result<Room> {
    let found = rustix::fs::fstatvfs(fd).map_err(|e| Error::new("fstatvfs", e).fd(fd))?;
    Ok(Room {
        total: found.f_blocks.saturating_mul(found.f_frsize),
        available: found.f_bavail.saturating_mul(found.f_frsize),
    })
}
