//! Backends: how roots are made and put away.
//!
//! What a reset does is the same for all of them, and planned in one place: a new root is made beside
//! `root`, exchanged with it in one atomic step, and the old one gets its number. What differs is what a
//! root is: a subvolume, or a directory that an overlay writes to.

mod apply;
pub mod btrfs;
mod observe;
pub mod overlay;
mod plan;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::file;
use ebbtide_sys::mount::MountAttributes;
use uuid::Uuid;

pub use apply::apply;
pub use observe::{last_boot_on, observe};
pub use plan::{Leftover, Observation, Plan, Root, Source, Step, plan, plan_to_bring_back};

use crate::compiled::Backend;
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{BaseIdentity, BootNumber, RootIdentity};
use crate::volume;

/// The identity of a root that lies in the container: `root`, or a past one.
pub fn identity(container: &Container, place: &Path) -> Result<RootIdentity> {
    let directory = container.open_directory(place)?;
    match container.backend() {
        Backend::Btrfs => btrfs::identity(directory.as_fd()),
        Backend::Overlay | Backend::Tmpfs => {
            let id = overlay::read_id(directory.as_fd())?.ok_or_else(|| {
                Failure::new(format!("{} in the container is no root", place.display()))
            })?;
            Ok(RootIdentity::Overlay { uuid: id.uuid, base: id.base, in_ram: false })
        }
    }
}

/// What the kernel says of the root that is mounted at a path.
pub fn mounted(backend: Backend, path: &Path) -> Result<RootIdentity> {
    let opened = std::fs::File::open(path).context(|| format!("cannot open {}", path.display()))?;
    match backend {
        Backend::Btrfs => btrfs::identity(opened.as_fd()),
        Backend::Overlay | Backend::Tmpfs => overlay::mounted(opened.as_fd()),
    }
    .context(|| format!("{} is not a root of Ebbtide", path.display()))
}

/// The identity of a base by its number.
pub fn base(container: &Container, number: u64) -> Result<BaseIdentity> {
    match container.backend() {
        Backend::Btrfs => btrfs::base(container, number),
        Backend::Overlay | Backend::Tmpfs => {
            Ok(BaseIdentity { number, uuid: overlay::Base::read(container, number)?.uuid })
        }
    }
}

/// The base that a root was made from, as long as the container has it.
pub fn base_of(container: &Container, root: &RootIdentity) -> Result<BaseIdentity> {
    let uuid = root.base().ok_or_else(|| {
        Failure::new("the root was made from no base, so there is nothing to compare it with")
    })?;
    let mut why = Failure::new(format!("no base in the container has UUID {uuid}"));
    for number in bases(container)? {
        match base(container, number) {
            Ok(base) if base.uuid == uuid => return Ok(base),
            Ok(_) => {}
            Err(failure) => why = failure,
        }
    }
    Err(why).context(|| "cannot find the base that the root was made from")
}

/// The numbers of all bases.
fn bases(container: &Container) -> Result<BTreeSet<u64>> {
    let directory = container.open_directory(Path::new(name::BASES))?;
    let names = file::read_directory(directory.as_fd()).context(|| "cannot list the bases")?;
    let number = |name: &OsStr| {
        let name = name.to_str()?;
        name.strip_suffix(".json").unwrap_or(name).parse().ok()
    };
    Ok(names.iter().filter_map(|entry| number(&entry.name)).collect())
}

/// The tree of a base.
pub fn open_base(container: &Container, number: u64) -> Result<OwnedFd> {
    match container.backend() {
        Backend::Btrfs => btrfs::open_base(container, number),
        Backend::Overlay | Backend::Tmpfs => {
            overlay::Base::read(container, number)?.open(container)
        }
    }
}

/// The whole tree of a root that lies in the container, as nobody sees it mounted now. `run`: where
/// mounts can be put together.
///
/// The tree of an overlay is for reading.
pub fn tree(container: &Container, place: &Path, run: &Path) -> Result<OwnedFd> {
    match container.backend() {
        Backend::Btrfs => container.open_directory(place),
        Backend::Overlay | Backend::Tmpfs => overlay::tree(container, place, run),
    }
}

/// The UUID and the tree of the root that the next reset puts away, without what is mounted on it.
pub fn root_of_today(container: &Container, run: &Path) -> Option<(Uuid, OwnedFd)> {
    let place = Path::new(name::ROOT);
    // In a container of another machine that is only looked at, it is not what runs here.
    let running = match (container.backend(), mounted(container.backend(), Path::new("/"))) {
        (Backend::Overlay, Ok(running)) => {
            identity(container, place).ok().filter(|root| *root == running)
        }
        (Backend::Tmpfs, Ok(running)) => {
            last_boot_on(container, running.uuid()).ok().flatten().map(|_| running)
        }
        _ => None,
    };
    match running {
        // What runs must not be mounted a second time, and in RAM it is nowhere else.
        Some(running) => {
            let tree = volume::clone_directory(Path::new("/"), MountAttributes::NOATIME);
            Some((running.uuid(), tree.ok()?))
        }
        None if container.backend() == Backend::Tmpfs => None,
        None => {
            let root = identity(container, place).ok()?;
            Some((root.uuid(), tree(container, place, run).ok()?))
        }
    }
}

/// What was written to a root that is an overlay; `None` for a subvolume. `run`: where that of a root in
/// RAM is mounted.
pub fn upper(container: &Container, place: &Path, run: &Path) -> Result<Option<OwnedFd>> {
    let in_ram = container.backend() == Backend::Tmpfs && place == Path::new(name::ROOT);
    match container.backend() {
        Backend::Btrfs => Ok(None),
        Backend::Tmpfs if in_ram => {
            let path = run.join(overlay::RAM).join(overlay::UPPER);
            let opened = std::fs::File::open(&path);
            opened.map(|it| Some(it.into())).context(|| format!("cannot open {}", path.display()))
        }
        Backend::Overlay | Backend::Tmpfs => {
            container.open_directory(&place.join(overlay::UPPER)).map(Some)
        }
    }
}

/// The tree of a past root.
pub fn past(container: &Container, number: BootNumber, run: &Path) -> Result<OwnedFd> {
    tree(container, &Path::new(name::PAST).join(number.to_string()), run)
}

/// Where `root` is mounted, if it is: something runs on it then.
pub fn mount_of_root(container: &Container) -> Result<Option<PathBuf>> {
    let place = Path::new(name::ROOT);
    match container.backend() {
        Backend::Tmpfs => Ok(None),
        Backend::Btrfs => match container.open_directory(place) {
            Ok(root) => btrfs::mount_of_root(root.as_fd()),
            Err(_) => Ok(None),
        },
        Backend::Overlay => match identity(container, place) {
            Ok(root) => overlay::mount_of(root.uuid()),
            Err(_) => Ok(None),
        },
    }
}

/// Bytes that a root has beside its base.
pub fn own_bytes(container: &Container, place: &Path) -> Result<u64> {
    match container.backend() {
        Backend::Btrfs => btrfs::own_bytes(container, place),
        Backend::Overlay | Backend::Tmpfs => overlay::own_bytes(container, place),
    }
}
