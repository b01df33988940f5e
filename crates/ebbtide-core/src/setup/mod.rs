//! Setting a volume up: a container, base 1, stores, and a first root.
//!
//! The container's marker is written when everything it promises is there. Until then nothing on
//! the volume is Ebbtide's, and nothing that was there before is changed.

mod apply;
mod chroot;
mod observe;
mod plan;
mod sanitise;
mod separate;

use std::path::PathBuf;

pub use apply::apply;
pub use observe::{Builder, Observation, Occupant, StoreState, observe, open_volume};
pub use plan::{Plan, Step, plan};
use uuid::Uuid;

use crate::compiled::{Backend, ContainerRef, DeviceSpec};
use crate::declaration::Declaration;

/// What is asked for.
#[derive(Debug)]
pub struct Request {
    /// The device of the volume.
    pub device: DeviceSpec,
    /// Where the container goes, and its UUID.
    pub container: ContainerRef,
    /// What base 1 is made from.
    pub base: BaseSource,
    /// The checked declaration.
    pub declaration: Declaration,
    /// Its text, as it is written to `/etc/ebbtide/ebbtide.toml` of base and store.
    pub text: String,
    /// What happens to programs that update the system by themselves; `None`: not decided.
    pub updaters: Option<Updaters>,
    /// The disk that GRUB is installed on, with base 1 as its home.
    pub grub: Option<PathBuf>,
}

impl Request {
    /// How roots are going to be made.
    pub fn backend(&self) -> Backend {
        self.declaration.root.as_ref().map_or(Backend::Btrfs, |root| root.backend)
    }
}

/// What base 1 is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseSource {
    /// Nothing: an empty root, for systems whose own store rebuilds the rest.
    Blank,
    /// A copy of an installed system's tree.
    Directory(PathBuf),
    /// A snapshot of a subvolume, by its path below the volume's top level.
    Subvolume(PathBuf),
}

/// What happens to programs that update the system by themselves: what they do is gone at the next
/// boot, unless the base is what they work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updaters {
    /// They stay as they are.
    Keep,
    /// Their units are masked in the base.
    Disable,
}

/// Units that update the system by themselves, and what they belong to.
pub const UPDATERS: [(&str, &str); 3] = [
    ("apt-daily-upgrade.timer", "apt"),
    ("unattended-upgrades.service", "unattended-upgrades"),
    ("packagekit-offline-update.service", "PackageKit"),
];

/// The directories that need a decision: kept whole, or ephemeral.
pub const HOMES: [&str; 3] = ["/home", "/root", "/srv"];

/// A fresh UUID for a container.
pub fn new_uuid() -> Uuid {
    ebbtide_sys::random::uuid_v4()
}
