//! What an inode is, who owns it and when it changed: statx(2) and the calls that set it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Statx, StatxAttributes, StatxFlags, Timespec, Timestamps, Uid,
};
use rustix::io::Errno;

use crate::descriptor::magic_link;
use crate::error::{Error, Result};
use crate::resolve;

/// The type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    pub(crate) fn from_file_type(file_type: FileType) -> Option<Self> {
        Some(match file_type {
            FileType::RegularFile => Self::Regular,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

/// A point in time: seconds since 1970 (negative before), and nanoseconds.
pub type Time = (i64, u32);

/// The metadata of an inode, as statx(2) reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The type.
    pub kind: FileKind,
    /// The permission bits with set-uid, set-gid and sticky: at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
    /// The space taken, in blocks of 512 bytes.
    pub blocks: u64,
    /// The number of names.
    pub nlink: u32,
    /// The inode number.
    pub inode: u64,
    /// Major and minor number of the filesystem's device; on btrfs each subvolume has its own.
    pub device: (u32, u32),
    /// Major and minor number of a device node, else zeros.
    pub rdev: (u32, u32),
    /// When it was last read.
    pub accessed: Time,
    /// When its content last changed.
    pub modified: Time,
    /// When its metadata last changed.
    pub changed: Time,
    /// When it was made, where the filesystem knows.
    pub created: Option<Time>,
    /// The mount that it was reached through, as in mountinfo; 0 before Linux 5.8.
    pub mount_id: u64,
    /// Whether it is the root of a mount.
    pub mount_root: bool,
}

/// Reads the metadata of an open file; `O_PATH` descriptors are fine. See statx(2).
pub fn metadata(fd: BorrowedFd<'_>) -> Result<Metadata> {
    statx(fd, OsStr::new(""))
}

/// Reads the metadata of what is at `path` below `dir`; a final symbolic link is not followed.
///
/// `None` if it or a directory on the way does not exist.
///
/// # Errors
///
/// A symbolic link (`ELOOP`) or another file (`ENOTDIR`) where a directory should be is an error.
pub fn metadata_beneath(dir: BorrowedFd<'_>, path: &Path) -> Result<Option<Metadata>> {
    match resolve::open_path(dir, path) {
        Ok(fd) => metadata(fd.as_fd()).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the metadata of one entry of a directory, in one call; a symbolic link is not followed.
///
/// `None` if there is none of that name. A name has no slash, so nothing between the directory and the
/// entry could be exchanged for a link.
///
/// # Errors
///
/// `EINVAL` for what is no name, and those of statx(2).
pub fn metadata_of_entry(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Metadata>> {
    crate::descriptor::check_name("statx", dir, name)?;
    match try_statx(dir, name) {
        Ok(found) => Ok(Some(found)),
        // Without a message: a walk asks for many names that are not there.
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(statx_failed(errno, dir, name)),
    }
}

/// Reads the metadata of an entry of `dir`, or of `dir` itself if the name is empty.
pub(crate) fn statx(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Metadata> {
    try_statx(dir, name).map_err(|errno| statx_failed(errno, dir, name))
}

fn statx_failed(errno: Errno, dir: BorrowedFd<'_>, name: &OsStr) -> Error {
    Error::new("statx", errno).fd(dir).path(name).arg("AT_SYMLINK_NOFOLLOW")
}

fn try_statx(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Metadata> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME | StatxFlags::MNT_ID;
    rustix::fs::statx(dir, name, flags, mask).and_then(|found| from_statx(&found))
}

fn from_statx(found: &Statx) -> rustix::io::Result<Metadata> {
    let raw_mode = u32::from(found.stx_mode);
    let has = |flag: StatxFlags| found.stx_mask & flag.bits() != 0;
    let time = |t: &rustix::fs::StatxTimestamp| (t.tv_sec, t.tv_nsec);
    Ok(Metadata {
        kind: FileKind::from_file_type(FileType::from_raw_mode(raw_mode)).ok_or(Errno::INVAL)?,
        mode: raw_mode & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size: found.stx_size,
        blocks: found.stx_blocks,
        nlink: found.stx_nlink,
        inode: found.stx_ino,
        device: (found.stx_dev_major, found.stx_dev_minor),
        rdev: (found.stx_rdev_major, found.stx_rdev_minor),
        accessed: time(&found.stx_atime),
        modified: time(&found.stx_mtime),
        changed: time(&found.stx_ctime),
        created: has(StatxFlags::BTIME).then(|| time(&found.stx_btime)),
        mount_id: if has(StatxFlags::MNT_ID) { found.stx_mnt_id } else { 0 },
        mount_root: found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}

/// Sets owner and group, of a symbolic link too; `O_PATH` descriptors are fine.
///
/// This may clear set-uid and set-gid bits and drops `security.capability`: chown, then chmod, then
/// extended attributes. See fchownat(2).
///
/// # Errors
///
/// `EINVAL` for the id 4294967295, which the kernel would take for "leave it".
pub fn set_owner(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> Result<()> {
    let failed = |e| Error::new("fchownat", e).fd(fd).path("").arg(uid).arg(gid);
    if uid == u32::MAX || gid == u32::MAX {
        return Err(failed(Errno::INVAL));
    }
    let (uid, gid) = (Uid::from_raw_unchecked(uid), Gid::from_raw_unchecked(gid));
    rustix::fs::chownat(fd, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH).map_err(failed)
}

/// Sets the permission bits (`0o7777`) exactly; `O_PATH` descriptors are fine. See fchmod(2).
///
/// # Errors
///
/// `EOPNOTSUPP` for a symbolic link, which has no mode of its own.
pub fn set_mode(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    let failed =
        |call: &'static str, e: Errno| Error::new(call, e).fd(fd).arg(format_args!("{mode:#o}"));
    if mode > 0o7777 {
        return Err(failed("fchmod", Errno::INVAL));
    }
    match rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)) {
        Ok(()) => return Ok(()),
        Err(Errno::BADF) => {} // O_PATH
        Err(errno) => return Err(failed("fchmod", errno)),
    }
    match fchmodat2(fd, mode) {
        Ok(()) => Ok(()),
        // Before Linux 6.6, or refused by a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            set_mode_by_path(fd, mode).map_err(|e| failed("chmod", e))
        }
        Err(errno) => Err(failed("fchmodat2", errno)),
    }
}

fn set_mode_by_path(fd: BorrowedFd<'_>, mode: u32) -> rustix::io::Result<()> {
    rustix::fs::chmod(magic_link(fd), Mode::from_raw_mode(mode))
}

/// The number of fchmodat2(2) on every architecture; the C library's headers may be older.
const SYS_FCHMODAT2: libc::c_long = 452;

fn fchmodat2(fd: BorrowedFd<'_>, mode: u32) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: the descriptor is borrowed for the call, and the path is a NUL-terminated literal;
    // the kernel reads nothing else and writes nothing.
    let result = unsafe {
        libc::syscall(SYS_FCHMODAT2, fd.as_raw_fd(), c"".as_ptr(), mode, libc::AT_EMPTY_PATH)
    };
    if result == 0 { Ok(()) } else { Err(crate::error::last_errno()) }
}

/// Sets the times of last access and modification, of a symbolic link too; `O_PATH` is fine.
///
/// See utimensat(2); `AT_EMPTY_PATH` is there since Linux 5.8.
pub fn set_times(fd: BorrowedFd<'_>, accessed: Time, modified: Time) -> Result<()> {
    let spec =
        |(seconds, nanoseconds): Time| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = Timestamps { last_access: spec(accessed), last_modification: spec(modified) };
    rustix::fs::utimensat(fd, "", &times, AtFlags::EMPTY_PATH)
        .map_err(|e| Error::new("utimensat", e).fd(fd).path("").arg(format_args!("{modified:?}")))
}

#[cfg(test)]
mod tests;
