//! The way from the top of a tree down to where a walk is, in any depth with few descriptors.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::descriptor::check_name;
use crate::error::{Error, Result};
use crate::file::open_quietly;
use crate::metadata::{Metadata, metadata, metadata_of_entry, statx};
use crate::resolve::{open_beneath, open_directory};

/// How many directories on the way are kept open: more than that only in very deep trees.
const OPEN: usize = 64;

/// How long a path may get, in bytes, before one of the directories that were passed on it is opened.
const PASSED: usize = 1024;

/// The device and inode number of a directory.
pub type Identity = ((u32, u32), u64);

/// Returns what makes a directory the one that it is.
pub fn identity(metadata: &Metadata) -> Identity {
    (metadata.device, metadata.inode)
}

/// A stack of directories, the lower ones but for the top of the tree closed when it gets deep.
///
/// A closed one is opened again as `..` of the one above it, which is only accepted if it is the
/// directory that was left: whoever moves directories about meanwhile gets an error, no more. One that was
/// only passed is opened when somebody asks for it.
#[derive(Debug, Default)]
pub struct DirectoryStack {
    levels: Vec<Level>,
}

#[derive(Debug)]
enum Level {
    Open(OwnedFd),
    /// The one above it is open, or closed as well.
    Closed(Identity),
    Passed {
        name: OsString,
        opened: OnceCell<OwnedFd>,
    },
}

impl Level {
    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Open(fd) => Some(fd.as_fd()),
            Self::Closed(_) => None,
            Self::Passed { opened, .. } => opened.get().map(AsFd::as_fd),
        }
    }
}

impl DirectoryStack {
    /// Enters a directory.
    pub fn push(&mut self, fd: OwnedFd) -> Result<()> {
        self.levels.push(Level::Open(fd));
        self.close()
    }

    /// Enters a directory of the current one, without a look at it: it has to be one. On failure, the current
    /// one stays.
    pub fn pass(&mut self, name: &OsStr) -> Result<()> {
        let (_, path) = self.nearest()?;
        if path.as_os_str().len() > PASSED {
            self.top()?;
        }
        self.levels.push(Level::Passed { name: name.to_owned(), opened: OnceCell::new() });
        let closed = self.close();
        if closed.is_err() {
            self.levels.pop();
        }
        closed
    }

    /// Closes a directory far below the current one.
    fn close(&mut self) -> Result<()> {
        // The top stays open: what is mounted over it by now is what `..` would lead to.
        if let Some(deep @ 1..) = self.levels.len().checked_sub(OPEN + 1)
            && let Some(fd) = self.levels[deep].descriptor()
        {
            let closed = Level::Closed(identity(&metadata(fd)?));
            self.opened(deep + 1)?;
            self.levels[deep] = closed;
        }
        Ok(())
    }

    /// Returns the current directory.
    ///
    /// # Errors
    ///
    /// Those of openat2(2), if it was only passed.
    pub fn top(&self) -> Result<BorrowedFd<'_>> {
        match self.levels.len().checked_sub(1) {
            Some(last) => self.opened(last),
            None => Err(nothing()),
        }
    }

    /// Returns an entry of the current directory that is a directory, opened for reading, without opening
    /// those that were only passed.
    pub fn open(&self, name: &OsStr) -> Result<OwnedFd> {
        let (nearest, path) = self.nearest()?;
        check_name("openat", nearest, name)?;
        if path.as_os_str().is_empty() {
            return open_quietly(nearest, name, OFlags::DIRECTORY);
        }
        open(nearest, &path.join(name))
    }

    /// Reads the metadata of an entry of the current directory, as [`metadata_of_entry`], without opening
    /// those that were only passed.
    ///
    /// For a tree that nobody writes to: a link in the place of what was passed would be followed.
    pub fn metadata_of(&self, name: &OsStr) -> Result<Option<Metadata>> {
        let (nearest, path) = self.nearest()?;
        if path.as_os_str().is_empty() {
            return metadata_of_entry(nearest, name);
        }
        check_name("statx", nearest, name)?;
        match statx(nearest, path.join(name).as_os_str()) {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn opened(&self, level: usize) -> Result<BorrowedFd<'_>> {
        match &self.levels[level] {
            Level::Open(fd) => Ok(fd.as_fd()),
            Level::Closed(_) => Err(nothing()),
            Level::Passed { opened, .. } => {
                if let Some(fd) = opened.get() {
                    return Ok(fd.as_fd());
                }
                let (nearest, path) = self.nearest_to(level)?;
                let fd = open(nearest, &path)?;
                Ok(opened.get_or_init(|| fd).as_fd())
            }
        }
    }

    /// The nearest directory on the way that is open, and the path from there to the current one.
    fn nearest(&self) -> Result<(BorrowedFd<'_>, PathBuf)> {
        self.nearest_to(self.levels.len().saturating_sub(1))
    }

    fn nearest_to(&self, level: usize) -> Result<(BorrowedFd<'_>, PathBuf)> {
        let to_it = self.levels.get(..=level).unwrap_or_default();
        let open = to_it.iter().rposition(|level| level.descriptor().is_some());
        let Some((open, passed)) = open.and_then(|open| to_it[open..].split_first()) else {
            return Err(nothing());
        };
        let name = |level: &Level| match level {
            Level::Passed { name, .. } => Some(name.clone()),
            _ => None,
        };
        let path = passed.iter().map(name).collect::<Option<PathBuf>>();
        open.descriptor().zip(path).ok_or_else(nothing)
    }

    /// Leaves the current directory and returns it, if it was opened.
    pub fn pop(&mut self) -> Result<Option<OwnedFd>> {
        let child = match self.levels.pop() {
            Some(Level::Open(child)) => Some(child),
            Some(Level::Passed { opened, .. }) => opened.into_inner(),
            _ => return Err(nothing()),
        };
        if let Some(level) = self.levels.last_mut()
            && let Level::Closed(expected) = level
        {
            let Some(child) = &child else { return Err(nothing()) };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let failed = |e| Error::new("openat", e).fd(child.as_fd()).path("..");
            let parent = rustix::fs::openat(child, "..", flags, Mode::empty()).map_err(failed)?;
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

/// Opens a directory for reading without a trace in its access time, if the caller may ask for that.
fn open(nearest: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOATIME;
    match open_beneath(nearest, path, flags, Mode::empty()) {
        Err(error) if error.errno() == Errno::PERM => open_directory(nearest, path),
        result => result,
    }
}

fn nothing() -> Error {
    Error::new("openat", Errno::NOENT)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::Scratch;

    /// Of each level, whether it is passed.
    fn goes_down(passes: impl Fn(usize) -> bool) {
        const DEEP: usize = 3 * OPEN;
        let scratch = Scratch::new();
        // So long that the way down is longer than any path may be.
        let name = "d".repeat(200);
        let name = OsStr::new(&name);
        let mut here = open_directory(scratch.fd(), Path::new("")).unwrap();
        let mut identities = Vec::new();
        for _ in 0..DEEP {
            identities.push(identity(&metadata(here.as_fd()).unwrap()));
            rustix::fs::mkdirat(&here, name, Mode::RWXU).unwrap();
            here = open_directory(here.as_fd(), Path::new(name)).unwrap();
        }
        let mut stack = DirectoryStack::default();
        stack.push(open_directory(scratch.fd(), Path::new("")).unwrap()).unwrap();
        for (depth, next) in identities.iter().skip(1).enumerate() {
            let seen = stack.metadata_of(name).unwrap().unwrap();
            assert_eq!(identity(&seen), *next);
            assert_eq!(stack.metadata_of(OsStr::new("missing")).unwrap(), None);
            if passes(depth) {
                stack.pass(name).unwrap();
            } else {
                stack.push(stack.open(name).unwrap()).unwrap();
            }
            let open = stack.levels.iter().filter(|level| level.descriptor().is_some()).count();
            assert!(open <= OPEN + 1, "{open} of {depth}");
        }
        identities.pop();
        for expected in identities.into_iter().rev() {
            stack.pop().unwrap();
            assert_eq!(identity(&metadata(stack.top().unwrap()).unwrap()), expected);
        }
    }

    #[test]
    fn any_depth_is_reached_with_few_descriptors() {
        goes_down(|_| false);
        goes_down(|_| true);
        goes_down(|depth| depth % 3 != 0);
        goes_down(|depth| depth / 50 % 2 == 0);
    }

    #[test]
    fn what_was_passed_has_to_be_a_directory() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("directory")).unwrap();
        fs::write(scratch.path("file"), "").unwrap();
        std::os::unix::fs::symlink("directory", scratch.path("link")).unwrap();
        let mut stack = DirectoryStack::default();
        stack.push(open_directory(scratch.fd(), Path::new("")).unwrap()).unwrap();
        for (name, expected) in
            [("file", Errno::NOTDIR), ("link", Errno::LOOP), ("missing", Errno::NOENT)]
        {
            stack.pass(OsStr::new(name)).unwrap();
            assert_eq!(stack.top().unwrap_err().errno(), expected, "{name}");
            assert!(stack.pop().unwrap().is_none());
        }
        assert!(stack.metadata_of(OsStr::new("a/b")).is_err());
        assert!(stack.open(OsStr::new("..")).is_err());
        stack.pass(OsStr::new("directory")).unwrap();
        stack.top().unwrap();
        assert!(stack.pop().unwrap().is_some());
    }
}
