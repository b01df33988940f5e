//! The way from the top of a tree down to where a walk is, in any depth with few descriptors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::metadata::{Metadata, metadata};

/// How many directories on the way are kept open: more than that only in very deep trees.
const OPEN: usize = 64;

/// The device and inode number of a directory.
pub type Identity = ((u32, u32), u64);

/// Returns what makes a directory the one that it is.
pub fn identity(metadata: &Metadata) -> Identity {
    (metadata.device, metadata.inode)
}

/// A stack of open directories, the lower ones but for the top of the tree closed when it gets deep.
///
/// A closed one is opened again as `..` of the one above it, which is only accepted if it is the
/// directory that was left: whoever moves directories about meanwhile gets an error, no more.
#[derive(Debug, Default)]
pub struct DirectoryStack {
    levels: Vec<Level>,
}

#[derive(Debug)]
enum Level {
    Open(OwnedFd),
    Closed(Identity),
}

impl DirectoryStack {
    /// Enters a directory.
    pub fn push(&mut self, fd: OwnedFd) -> Result<()> {
        self.levels.push(Level::Open(fd));
        // The top stays open: what is mounted over it by now is what `..` would lead to.
        if let Some(deep @ 1..) = self.levels.len().checked_sub(OPEN + 1)
            && let Level::Open(fd) = &self.levels[deep]
        {
            self.levels[deep] = Level::Closed(identity(&metadata(fd.as_fd())?));
        }
        Ok(())
    }

    /// Returns the current directory.
    pub fn top(&self) -> Result<BorrowedFd<'_>> {
        match self.levels.last() {
            Some(Level::Open(fd)) => Ok(fd.as_fd()),
            _ => Err(Error::new("openat", Errno::NOENT)),
        }
    }

    /// Leaves the current directory and returns it; its parent is open and current afterwards.
    pub fn pop(&mut self) -> Result<OwnedFd> {
        let Some(Level::Open(child)) = self.levels.pop() else {
            return Err(Error::new("openat", Errno::NOENT));
        };
        if let Some(level) = self.levels.last_mut()
            && let Level::Closed(expected) = level
        {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let failed = |e| Error::new("openat", e).fd(child.as_fd()).path("..");
            let parent = rustix::fs::openat(&child, "..", flags, Mode::empty()).map_err(failed)?;
            if identity(&metadata(parent.as_fd())?) != *expected {
                return Err(failed(Errno::STALE).note("the directory was moved meanwhile"));
            }
            *level = Level::Open(parent);
        }
        Ok(child)
    }

    /// Returns how deep the current directory is: 0 above the top.
    pub fn depth(&self) -> usize {
        self.levels.len()
    }
}
