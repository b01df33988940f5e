//! What lies in the container, as the kernel tells it.

use std::path::Path;

use ebbtide_sys::{file, metadata, resolve};
use std::os::fd::AsFd;
use uuid::Uuid;

use super::plan::{Observation, Root};
use super::{base, btrfs, overlay};
use crate::compiled::Backend;
use crate::container::{Container, name as names};
use crate::failure::{Context, Result};
use crate::record::{BaseIdentity, BootNumber};

/// Looks at the container, the base in use among it. Makes the filesystem write what is pending
/// first, because a subvolume's generation is only true after that.
pub fn observe(container: &Container) -> Result<(Observation, BaseIdentity)> {
    file::sync_filesystem(container.directory()).context(|| "cannot sync the volume")?;
    let base = base(container, container.base()?)?;
    let boots = container.numbers(names::BOOTS)?;
    let in_ram = container.backend() == Backend::Tmpfs;
    let look = |name: &str| {
        if in_ram { Ok(None) } else { look(container, name, &base, &boots) }
    };
    let observation = Observation {
        last: container.last_number()?,
        taken: container.numbers(names::PAST)?.into_iter().collect(),
        root: look(names::ROOT)?,
        leftover: look(names::NEW)?,
        in_ram,
        base: base.number,
    };
    Ok((observation, base))
}

/// Which boot ran last on a root.
pub fn last_boot_on(container: &Container, root: Uuid) -> Result<Option<BootNumber>> {
    Ok(find_last_boot_on(container, &container.numbers(names::BOOTS)?, root))
}

/// Which boot ran last on a root: found among the newest records, as a rule the newest one.
/// Records that can't be read are passed over: they only cost a past root its number.
fn find_last_boot_on(
    container: &Container,
    boots: &[BootNumber],
    root: Uuid,
) -> Option<BootNumber> {
    boots.iter().rev().copied().find(|number| {
        let record = container.record(*number).ok().flatten();
        record.and_then(|record| record.root).is_some_and(|found| found.uuid() == root)
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
    let pristine = match container.backend() {
        Backend::Btrfs => btrfs::is_pristine(directory.as_fd(), name, base)?,
        Backend::Overlay | Backend::Tmpfs => {
            match overlay::condition(directory.as_fd(), base).context(what)? {
                // Its making was cut off, and is taken up where it was left.
                overlay::Condition::Unfinished if name == names::NEW => return Ok(None),
                overlay::Condition::Pristine => true,
                overlay::Condition::Unfinished | overlay::Condition::Used => false,
            }
        }
    };
    let boot = super::identity(container, Path::new(name))
        .ok()
        .and_then(|identity| find_last_boot_on(container, boots, identity.uuid()));
    Ok(Some(Root { pristine, boot }))
}
