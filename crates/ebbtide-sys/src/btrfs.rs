//! Subvolumes of btrfs, by its own ioctls. See btrfs-ioctl(2) and linux/btrfs.h.
//!
//! A descriptor of a subvolume is one of the directory at its top. Descriptors may be `O_PATH`.

mod changed;
mod cleaner;
mod nested;
mod raw;
mod search;
mod subvolume;
mod written;

use std::os::fd::BorrowedFd;

use rustix::fs::StatFs;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::metadata::{FileKind, Metadata, metadata};

pub use changed::{ChangedInodes, InodeItem, OnTheWay, changed_inodes, path_of_directory};
pub use cleaner::wait_until_freed;
pub use nested::{delete_subvolume_recursively, nested_subvolumes};
pub use search::default_subvolume;
pub use subvolume::{
    create_subvolume, delete_subvolume, set_default_subvolume, set_read_only, snapshot,
    subvolume_info,
};
pub use written::written_since;

/// The number of a subvolume, unique in its filesystem for all time; the top level has 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubvolumeId(pub u64);

impl SubvolumeId {
    /// The subvolume that every btrfs has and that contains all others.
    pub const TOP_LEVEL: Self = Self(5);
}

impl std::fmt::Display for SubvolumeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What btrfs knows about a subvolume. See `BTRFS_IOC_GET_SUBVOL_INFO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubvolumeInfo {
    /// Its number.
    pub id: SubvolumeId,
    /// Its name in the directory that contains it; empty for the top level.
    pub name: std::ffi::OsString,
    /// The subvolume that contains it; none for the top level.
    pub parent_id: Option<SubvolumeId>,
    /// Its UUID.
    pub uuid: Uuid,
    /// The UUID of the subvolume that it is a snapshot of, which may be gone.
    pub parent_uuid: Option<Uuid>,
    /// The UUID that it had where it was sent from, if it was received.
    pub received_uuid: Option<Uuid>,
    /// The last transaction that changed its tree. As long as it equals `otransid`, a snapshot is
    /// as it was made: renaming, mounting and reading without access times do not count, being the
    /// source of a snapshot does. A change shows once it is committed:
    /// [`sync_filesystem`](crate::file::sync_filesystem) first.
    pub generation: u64,
    /// The transaction that changed an inode in it last.
    pub ctransid: u64,
    /// The transaction that made it.
    pub otransid: u64,
    /// Whether it is read-only.
    pub read_only: bool,
    /// When it was made: seconds since 1970 and nanoseconds.
    pub created: (u64, u32),
}

/// The inode number of a subvolume's top directory, `BTRFS_FIRST_FREE_OBJECTID`.
const TOP_INODE: u64 = 256;

/// The inode number of what a snapshot has in place of a nested subvolume: an empty directory with a
/// device number of its own. `BTRFS_EMPTY_SUBVOL_DIR_OBJECTID`.
const EMPTY_INODE: u64 = 2;

/// What an entry of a directory is to a walk through a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Border {
    /// The same subvolume, or another kind of filesystem.
    None,
    /// A subvolume.
    Subvolume,
    /// The empty directory that stands for a subvolume in a snapshot.
    Placeholder,
}

/// Tells whether a walk that stays within a mount meets a subvolume: its device number differs.
pub(crate) fn border(directory: &Metadata, entry: &Metadata) -> Border {
    if entry.kind != FileKind::Directory || entry.device == directory.device {
        Border::None
    } else if entry.inode == EMPTY_INODE {
        Border::Placeholder
    } else {
        Border::Subvolume
    }
}

/// Returns whether a file is on btrfs. See fstatfs(2).
pub fn is_btrfs(fd: BorrowedFd<'_>) -> Result<bool> {
    let found: StatFs = rustix::fs::fstatfs(fd).map_err(|e| Error::new("fstatfs", e).fd(fd))?;
    Ok(i128::from(found.f_type) == i128::from(libc::BTRFS_SUPER_MAGIC))
}

/// Returns whether a descriptor is of the top directory of a subvolume.
pub fn is_subvolume(fd: BorrowedFd<'_>) -> Result<bool> {
    if !is_btrfs(fd)? {
        return Ok(false);
    }
    let found = metadata(fd)?;
    Ok(found.kind == FileKind::Directory && found.inode == TOP_INODE)
}

/// Returns the UUID of the filesystem: that of `UUID=`. See `BTRFS_IOC_FS_INFO`.
pub fn filesystem_uuid(fd: BorrowedFd<'_>) -> Result<Uuid> {
    let mut info = raw::FsInfo::default();
    raw::fs_info(fd, &mut info)?;
    Ok(Uuid::from_bytes(info.fsid))
}

#[cfg(test)]
mod tests;
