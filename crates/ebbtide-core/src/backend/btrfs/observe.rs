//! What lies in the container, as the kernel tells it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{btrfs, file, metadata, resolve};
use uuid::Uuid;

use super::plan::{Observation, Root};
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{BaseIdentity, BootNumber, RootIdentity};

/// Looks at the container, the base in use among it. Makes the filesystem write what is pending
/// first, because a subvolume's generation is only true after that.
pub fn observe(container: &Container) -> Result<(Observation, BaseIdentity)> {
    file::sync_filesystem(container.directory()).context(|| "cannot sync the volume")?;
    let base = base(container)?;
    let boots = container.numbers(name::BOOTS)?;
    let look = |name: &str| look(container, name, &base, &boots);
    let observation = Observation {
        last: container.last_number()?,
        taken: container.numbers(name::PAST)?.into_iter().collect(),
        root: look(name::ROOT)?,
        leftover: look(name::NEW)?,
        base: base.number,
    };
    Ok((observation, base))
}

/// The identity of the subvolume that a descriptor lies on.
pub fn identity(directory: BorrowedFd<'_>) -> Result<RootIdentity> {
    let what = || "cannot ask btrfs which subvolume this is";
    let filesystem = btrfs::filesystem_uuid(directory).context(what)?;
    let info = btrfs::subvolume_info(directory).context(what)?;
    Ok(RootIdentity {
        filesystem,
        uuid: info.uuid,
        subvolume: info.id.0,
        parent: info.parent_uuid,
        made: info.otransid,
    })
}

/// The base in use: a read-only subvolume.
fn base(container: &Container) -> Result<BaseIdentity> {
    let number = container.base()?;
    let path = PathBuf::from(name::BASES).join(number.to_string());
    let directory = container.open_directory(&path)?;
    let is_subvolume = btrfs::is_subvolume(directory.as_fd())
        .context(|| format!("cannot look at base {number}"))?;
    if !is_subvolume {
        return Err(Failure::new(format!("base {number} is not a subvolume")));
    }
    let info = btrfs::subvolume_info(directory.as_fd())
        .context(|| format!("cannot look at base {number}"))?;
    if !info.read_only {
        return Err(Failure::new(format!(
            "base {number} is writable, so it may not be what it was"
        ))
        .hint("if nothing changed it: `btrfs property set …/bases/N ro true`"));
    }
    Ok(BaseIdentity { number, uuid: info.uuid })
}

/// Which boot ran last on a subvolume.
pub fn last_boot_on(container: &Container, root: Uuid) -> Result<Option<BootNumber>> {
    Ok(find_last_boot_on(container, &container.numbers(name::BOOTS)?, root))
}

/// Which boot ran last on a subvolume: found among the newest records, as a rule the newest one.
/// Records that can't be read are passed over: they only cost a past root its number.
fn find_last_boot_on(
    container: &Container,
    boots: &[BootNumber],
    root: Uuid,
) -> Option<BootNumber> {
    boots.iter().rev().copied().find(|number| {
        let record = container.record(*number).ok().flatten();
        record.and_then(|record| record.root).is_some_and(|found| found.uuid == root)
    })
}

fn look(
    container: &Container,
    name: &str,
    base: &BaseIdentity,
    boots: &[BootNumber],
) -> Result<Option<Root>> {
    let what = || format!("cannot look at {name} in the container");
    let found = metadata::metadata_beneath(container.directory(), Path::new(name)).context(what)?;
    if found.is_none() {
        return Ok(None);
    }
    let directory =
        resolve::open_directory(container.directory(), Path::new(name)).context(what)?;
    if !btrfs::is_subvolume(directory.as_fd()).context(what)? {
        return Err(Failure::new(format!("{name} in the container is not a subvolume"))
            .hint("look at what put it there, and move it out of the container"));
    }
    let info = btrfs::subvolume_info(directory.as_fd()).context(what)?;
    // A snapshot's generation is that of its making until something is written to it.
    let pristine = info.parent_uuid == Some(base.uuid) && info.generation == info.otransid;
    Ok(Some(Root { pristine, boot: find_last_boot_on(container, boots, info.uuid) }))
}
