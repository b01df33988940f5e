//! Reading files, links and directories of foreign trees.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{Dir, Mode, OFlags, RawDir};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::metadata::{FileKind, Metadata, metadata};
use crate::resolve::{open_beneath, open_path};

/// Reads a regular file of at most `limit` bytes.
///
/// # Errors
///
/// `EINVAL` for anything that is not a regular file (which is never opened), `EFBIG` if there are
/// more bytes, and those of [`open_beneath`].
pub fn read_limited(dir: BorrowedFd<'_>, path: &Path, limit: u64) -> Result<Vec<u8>> {
    // Opening a device or a pipe has effects, so first look without opening; and look again at
    // what was opened, since somebody may have swapped it.
    check_regular(open_path(dir, path)?.as_fd(), limit)?;
    let file = open_beneath(dir, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let size = check_regular(file.as_fd(), limit)?.size;
    read_all(file.as_fd(), size, limit)
}

/// How much room there is for a file at least, in bytes.
const LEAST: usize = 4 * 1024;

/// How much more is read at a time of a file that is larger than expected, in bytes.
const MORE: usize = 64 * 1024;

/// Reads an open file to its end; `size` is how much is expected.
pub(crate) fn read_all(file: BorrowedFd<'_>, size: u64, limit: u64) -> Result<Vec<u8>> {
    // The end is seen where there is room left. Files of /proc have no size, and some are read at once or not.
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0).max(LEAST) + 1);
    loop {
        if content.len() == content.capacity() {
            content.reserve(MORE);
        }
        match rustix::io::read(file, spare_capacity(&mut content)) {
            Ok(0) => return Ok(content),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("read", errno).fd(file)),
        }
        if content.len() as u64 > limit {
            return Err(too_large(file, limit));
        }
    }
}

/// Returns what is known of a regular file that is within the limit.
pub(super) fn check_regular(file: BorrowedFd<'_>, limit: u64) -> Result<Metadata> {
    let found = metadata(file)?;
    if found.kind != FileKind::Regular {
        let note = match found.kind {
            FileKind::Symlink => "a symbolic link, not a regular file",
            FileKind::Directory => "a directory, not a regular file",
            _ => "not a regular file",
        };
        return Err(Error::new("read", Errno::INVAL).fd(file).note(note));
    }
    if found.size > limit {
        return Err(too_large(file, limit));
    }
    Ok(found)
}

fn too_large(file: BorrowedFd<'_>, limit: u64) -> Error {
    Error::new("read", Errno::FBIG).fd(file).note(format!("more than {limit} bytes"))
}

/// Reads the target of a symbolic link below `dir`. See readlinkat(2).
///
/// # Errors
///
/// `EINVAL` if it is something else.
pub fn read_link(dir: BorrowedFd<'_>, path: &Path) -> Result<PathBuf> {
    let link = open_path(dir, path)?;
    if metadata(link.as_fd())?.kind != FileKind::Symlink {
        return Err(Error::new("readlinkat", Errno::INVAL).fd(dir).path(path));
    }
    read_link_fd(link.as_fd())
}

/// Reads the target of the symbolic link that an `O_PATH|O_NOFOLLOW` descriptor refers to.
pub(crate) fn read_link_fd(link: BorrowedFd<'_>) -> Result<PathBuf> {
    rustix::fs::readlinkat(link, "", Vec::new())
        .map(|target| OsString::from_vec(target.into_bytes()).into())
        .map_err(|e| Error::new("readlinkat", e).fd(link).path(""))
}

/// Opens an entry for reading without a trace in its access time, if the caller may ask for that.
///
/// `O_NOATIME` is for the owner and for `CAP_FOWNER`. A link is never followed. `name` is a single
/// component, and `flags` are added to `O_RDONLY`.
pub fn open_quietly(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags;
    match rustix::fs::openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::openat(dir, name, flags, Mode::empty()),
        result => result,
    }
    .map_err(|e| Error::new("openat", e).fd(dir).path(name).arg("O_RDONLY|O_NOFOLLOW"))
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its name.
    pub name: OsString,
    /// Its inode number; of a mount point, that of the directory below the mount.
    pub inode: u64,
    /// Its type, if the filesystem tells; only a hint, as it may change.
    pub kind: Option<FileKind>,
}

/// Returns whether a directory has no entry. However many it has, only the first ones are read.
pub fn is_empty_directory(fd: BorrowedFd<'_>) -> Result<bool> {
    let failed = |e| Error::new("getdents64", e).fd(fd);
    let own = open_quietly(fd, OsStr::new("."), OFlags::DIRECTORY)?;
    for entry in Dir::new(own).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Lists a directory without `.` and `..`, in the filesystem's order. See getdents(2).
///
/// The descriptor's own position is not used, and it may be `O_PATH`.
pub fn read_directory(fd: BorrowedFd<'_>) -> Result<Vec<DirectoryEntry>> {
    entries(open_quietly(fd, OsStr::new("."), OFlags::DIRECTORY)?.as_fd())
}

/// The same of a directory that was opened for reading and not read yet: its position moves to the end.
pub fn read_opened_directory(fd: BorrowedFd<'_>) -> Result<Vec<DirectoryEntry>> {
    entries(fd)
}

fn entries(fd: BorrowedFd<'_>) -> Result<Vec<DirectoryEntry>> {
    let mut entries = Vec::new();
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut read = RawDir::new(fd, buffer.spare_capacity_mut());
    while let Some(entry) = read.next() {
        let entry = entry.map_err(|e| Error::new("getdents64", e).fd(fd))?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        entries.push(DirectoryEntry {
            name: OsStr::from_bytes(name).to_owned(),
            inode: entry.ino(),
            kind: FileKind::from_file_type(entry.file_type()),
        });
    }
    Ok(entries)
}
