//! Copying one entry that is neither a directory nor a socket.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::copy::apply;
use crate::error::{Error, Result};
use crate::file::{create_symlink, open_quietly, read_link_fd};
use crate::metadata::{FileKind, Metadata, metadata};

/// Opens a regular file for reading; `None` if it is gone or has become something else.
pub(super) fn open_regular(
    dir: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<Option<(OwnedFd, Metadata)>> {
    match open_quietly(dir, name, OFlags::NONBLOCK) {
        Ok(file) => {
            let found = metadata(file.as_fd())?;
            Ok((found.kind == FileKind::Regular).then_some((file, found)))
        }
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::LOOP | Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies a link, pipe or device with its metadata, which is returned; `None` if it is gone or has
/// become something else.
pub(super) fn copy_special(
    source_dir: BorrowedFd<'_>,
    name: &OsStr,
    kind: FileKind,
    target_dir: BorrowedFd<'_>,
    target_name: &OsStr,
) -> Result<Option<Metadata>> {
    let source = match open_itself(source_dir, name) {
        Ok(source) => source,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = metadata(source.as_fd())?;
    if found.kind != kind {
        return Ok(None);
    }
    let file_type = match kind {
        FileKind::Symlink => {
            create_symlink(target_dir, target_name, &read_link_fd(source.as_fd())?)?;
            None
        }
        FileKind::Fifo => Some(FileType::Fifo),
        FileKind::CharDevice => Some(FileType::CharacterDevice),
        FileKind::BlockDevice => Some(FileType::BlockDevice),
        FileKind::Regular | FileKind::Directory | FileKind::Socket => return Ok(None),
    };
    if let Some(file_type) = file_type {
        make_node(target_dir, target_name, file_type, found.rdev)?;
    }
    let target = open_itself(target_dir, target_name)?;
    // Who may write in the target directory may have swapped it for something to be given away.
    let made = metadata(target.as_fd())?;
    if (made.kind, made.rdev, made.nlink) != (kind, found.rdev, 1) {
        return Err(Error::new("mknodat", Errno::STALE).fd(target_dir).path(target_name));
    }
    apply(source.as_fd(), target.as_fd(), &found)?;
    Ok(Some(found))
}

fn make_node(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    file_type: FileType,
    (major, minor): (u32, u32),
) -> Result<()> {
    let device = rustix::fs::makedev(major, minor);
    rustix::fs::mknodat(dir, name, file_type, Mode::RUSR | Mode::WUSR, device).map_err(|e| {
        Error::new("mknodat", e).fd(dir).path(name).arg(format_args!("{major}:{minor}"))
    })
}

fn open_itself(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(dir).path(name).arg("O_PATH|O_NOFOLLOW"))
}
