//! Roots as btrfs subvolumes: a new one is a snapshot of the base.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mountinfo::{self, MountEntry};
use ebbtide_sys::{btrfs, metadata, resolve};

use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{BaseIdentity, RootIdentity};

/// The identity of the subvolume that a descriptor lies on.
pub fn identity(directory: BorrowedFd<'_>) -> Result<RootIdentity> {
    let what = || "cannot ask btrfs which subvolume this is";
    let filesystem = btrfs::filesystem_uuid(directory).context(what)?;
    let info = btrfs::subvolume_info(directory).context(what)?;
    Ok(RootIdentity::Btrfs {
        filesystem,
        uuid: info.uuid,
        subvolume: info.id.0,
        parent: info.parent_uuid,
        made: info.otransid,
    })
}

/// A base: a read-only subvolume.
pub fn base(container: &Container, number: u64) -> Result<BaseIdentity> {
    let directory = open_base(container, number)?;
    let what = || format!("cannot look at base {number}");
    if !btrfs::is_subvolume(directory.as_fd()).context(what)? {
        return Err(Failure::new(format!("base {number} is not a subvolume")));
    }
    let info = btrfs::subvolume_info(directory.as_fd()).context(what)?;
    if !info.read_only {
        return Err(Failure::new(format!(
            "base {number} is writable, so it may not be what it was"
        ))
        .hint("if nothing changed it: `btrfs property set …/bases/N ro true`"));
    }
    Ok(BaseIdentity { number, uuid: info.uuid })
}

/// The tree of a base.
pub fn open_base(container: &Container, number: u64) -> Result<OwnedFd> {
    container.open_directory(&PathBuf::from(name::BASES).join(number.to_string()))
}

/// Makes `root.new`. It is durable when this returns: a snapshot ends in a transaction commit.
pub(super) fn make(container: &Container, base: u64) -> Result<()> {
    let base = open_base(container, base)?;
    btrfs::snapshot(base.as_fd(), container.directory(), OsStr::new(name::NEW), false)
        .context(|| "snapshot")
}

/// What lies under a name: whether it is a snapshot of the base that nothing was ever written to.
pub(super) fn is_pristine(
    directory: BorrowedFd<'_>,
    name: &str,
    base: &BaseIdentity,
) -> Result<bool> {
    let what = || format!("cannot look at {name} in the container");
    if !btrfs::is_subvolume(directory).context(what)? {
        return Err(Failure::new(format!("{name} in the container is not a subvolume"))
            .hint("look at what put it there, and move it out of the container"));
    }
    let info = btrfs::subvolume_info(directory).context(what)?;
    // A snapshot's generation is that of its making until something is written to it.
    Ok(info.parent_uuid == Some(base.uuid) && info.generation == info.otransid)
}

/// Bytes that were written to a root since it was made and are still there, subvolumes in it included.
pub(super) fn own_bytes(container: &Container, place: &Path) -> Result<u64> {
    let directory = container.open_directory(place)?;
    let what = || format!("cannot measure {}", place.display());
    let written = |subvolume: BorrowedFd<'_>| -> Result<u64> {
        let info = btrfs::subvolume_info(subvolume).context(what)?;
        // One that is no snapshot has nothing of another, not even what was written at once.
        let since = info.otransid.saturating_sub(u64::from(info.parent_uuid.is_none()));
        btrfs::written_since(subvolume, since).context(what)
    };
    let mut bytes = written(directory.as_fd())?;
    for (_, path) in btrfs::nested_subvolumes(directory.as_fd()).context(what)? {
        let nested = resolve::open_directory(directory.as_fd(), &path).context(what)?;
        bytes = bytes.saturating_add(written(nested.as_fd())?);
    }
    Ok(bytes)
}

/// Where `root` is mounted, if it is.
pub(super) fn mount_of_root(root: BorrowedFd<'_>) -> Result<Option<PathBuf>> {
    let device =
        metadata::metadata(root).context(|| "cannot look at the root in the container")?.device;
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    // Each subvolume has a device number of its own; the mount table shows that of the filesystem,
    // so a mount is told by what lies on it.
    let is_root = |mount: &MountEntry| {
        let Ok(mounted) = std::fs::File::open(&mount.mount_point) else { return false };
        metadata::metadata(mounted.as_fd()).is_ok_and(|found| found.device == device)
    };
    let found = mounts.into_iter().filter(|mount| mount.fstype == "btrfs").find(is_root);
    Ok(found.map(|mount| mount.mount_point))
}
