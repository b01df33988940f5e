//! Making, deleting and describing single subvolumes.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use uuid::Uuid;

use super::{SubvolumeId, SubvolumeInfo, raw};
use crate::error::Result;

/// Returns what btrfs knows about the subvolume that a file is in; no privilege is needed.
///
/// # Errors
///
/// `ENOTTY` if it is not on btrfs.
pub fn subvolume_info(fd: BorrowedFd<'_>) -> Result<SubvolumeInfo> {
    let mut info = Box::<raw::SubvolInfo>::default();
    raw::get_subvol_info(fd, &mut info)?;
    let uuid = |bytes| Some(Uuid::from_bytes(bytes)).filter(|uuid| !uuid.is_nil());
    Ok(SubvolumeInfo {
        id: SubvolumeId(info.treeid),
        name: OsString::from(OsStr::from_bytes(raw::until_nul(&info.name))),
        parent_id: (info.parent_id != 0).then_some(SubvolumeId(info.parent_id)),
        uuid: Uuid::from_bytes(info.uuid),
        parent_uuid: uuid(info.parent_uuid),
        received_uuid: uuid(info.received_uuid),
        generation: info.generation,
        ctransid: info.ctransid,
        otransid: info.otransid,
        read_only: info.flags & raw::ROOT_READ_ONLY != 0,
        created: (info.otime.sec, info.otime.nsec),
    })
}

/// Makes an empty subvolume. See `BTRFS_IOC_SUBVOL_CREATE`.
///
/// # Errors
///
/// `EEXIST` if anything has that name.
pub fn create_subvolume(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    raw::subvol_create(dir, name)
}

/// Makes a snapshot of the subvolume `source` as `name` in `dir`. See `BTRFS_IOC_SNAP_CREATE_V2`.
///
/// Subvolumes nested in the source are empty directories in the snapshot.
///
/// # Errors
///
/// `EEXIST` if anything has that name, `EXDEV` for another filesystem, `ETXTBSY` if the source holds
/// an active swap file, `EINVAL` if it is not the top of a subvolume.
pub fn snapshot(
    source: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    read_only: bool,
) -> Result<()> {
    let flags = if read_only { raw::SUBVOLUME_READ_ONLY } else { 0 };
    raw::snap_create(source, dir, name, flags)
}

/// Deletes a subvolume; its space is freed later. See `BTRFS_IOC_SNAP_DESTROY`.
///
/// # Errors
///
/// `ENOTEMPTY` if it contains another, `EPERM` if it is the default one or in use by send, `EINVAL`
/// if it is a plain directory, `EROFS` if the subvolume around it is read-only.
pub fn delete_subvolume(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    raw::snap_destroy(dir, name)
}

/// Makes a subvolume read-only or writable. See `BTRFS_IOC_SUBVOL_SETFLAGS`.
///
/// # Errors
///
/// `ETXTBSY` if a file in it is open for writing.
pub fn set_read_only(fd: BorrowedFd<'_>, read_only: bool) -> Result<()> {
    let old = raw::subvol_getflags(fd)?;
    let bit = raw::SUBVOLUME_READ_ONLY;
    let new = if read_only { old | bit } else { old & !bit };
    if new == old {
        return Ok(());
    }
    raw::subvol_setflags(fd, new)
}

/// Chooses the subvolume that is mounted if none is named. See `BTRFS_IOC_DEFAULT_SUBVOL`.
pub fn set_default_subvolume(fd: BorrowedFd<'_>, id: SubvolumeId) -> Result<()> {
    raw::default_subvol(fd, id.0)
}
