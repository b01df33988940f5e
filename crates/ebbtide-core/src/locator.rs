//! The locator: the little that has to travel in the initramfs to find the container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::compiled::{Backend, ContainerRef, DeviceSpec};
use crate::failure::Result;
use crate::format;

/// The version of the locator's format.
pub const VERSION: u32 = 1;

/// Where it lies in an initramfs.
pub const PATH: &str = "/etc/ebbtide/locator.json";

/// What finds the container and the state store. JSON, written when an initramfs is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locator {
    /// Always [`VERSION`].
    pub version: u32,
    /// Which backend makes roots.
    pub backend: Backend,
    /// The device that holds the container.
    pub device: DeviceSpec,
    /// Where the container is and which one it must be.
    pub container: ContainerRef,
    /// Mount options of the root, besides `subvol=` and `noatime`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// The store that holds the compiled declaration.
    pub state: StateStore,
}

impl Locator {
    /// Reads one, and refuses another version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        format::parse("the locator", VERSION, bytes).map_err(|failure| {
            failure.hint("build the initramfs again, so that both come from the same package")
        })
    }
}

/// Where the state store is, and which one it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateStore {
    /// The device that holds it.
    pub device: DeviceSpec,
    /// On btrfs, the subvolume's path below the top level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<PathBuf>,
    /// The directory's path below the top level of its filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The UUID in its marker.
    pub uuid: Uuid,
}
