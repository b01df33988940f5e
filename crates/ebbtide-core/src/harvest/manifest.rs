//! The manifest: what was copied into a root when it was attached.
//!
//! It lies in the container under the root's UUID, because a root may run for more than one boot.
//! A file that is not in it is never a deletion.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::file;
use ebbtide_sys::metadata::Metadata;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::compiled::StoreName;
use crate::container::{self, Container};
use crate::failure::{Context, Result};

/// The version of the manifest's format.
pub const VERSION: u32 = 1;

/// What was put on one root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always [`VERSION`].
    pub version: u32,
    /// The root's subvolume UUID.
    pub root: Uuid,
    /// The `sync` entries of that root, those that had no data then among them.
    pub items: Vec<Item>,
}

/// One `sync` entry of a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Absolute path.
    pub path: PathBuf,
    /// The store that it came from, and goes back to.
    pub store: StoreName,
    /// Which store that was.
    pub store_uuid: Uuid,
    /// Files of one set are harvested all or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// What was put there; `None` if there was nothing to put.
    pub content: Option<Content>,
    /// How the file looked when it had been put there, to tell an untouched one without reading it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub witness: Option<Witness>,
}

/// A file's content and metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// SHA-256 of the bytes, in hexadecimal digits.
    pub hash: String,
    /// Size in bytes.
    pub size: u64,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// SHA-256 of all extended attributes, names and values.
    pub attributes: String,
}

/// The inode and the time of its last change (statx(2), `stx_ctime`), which no program can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// Inode number.
    pub inode: u64,
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

impl Witness {
    /// That of a file that looks like this.
    pub fn of(found: &Metadata) -> Self {
        let (seconds, nanoseconds) = found.changed;
        Self { inode: found.inode, seconds, nanoseconds }
    }
}

impl Manifest {
    /// Reads the manifest of a root; `None` if it never had one.
    pub fn read(container: &Container, root: Uuid) -> Result<Option<Self>> {
        let path = Path::new(container::name::MANIFESTS).join(format!("{root}.json"));
        let manifest: Option<Self> = container::read(container.directory(), &path)?;
        if let Some(manifest) = &manifest {
            container::check_version("the manifest", manifest.version)?;
        }
        Ok(manifest.filter(|manifest| manifest.root == root))
    }

    /// Removes that of a root, if it has one. It is the caller who waits until that is on disk.
    pub(crate) fn remove_unsettled(container: &Container, root: Uuid) -> Result<()> {
        let directory = container.make_directory(container::name::MANIFESTS)?;
        match file::remove_file(directory.as_fd(), OsStr::new(&format!("{root}.json"))) {
            Err(error) if !error.is_not_found() => {
                Err(error).context(|| "cannot remove the manifest of a past root")
            }
            _ => Ok(()),
        }
    }

    /// Writes it, atomically and durably.
    pub fn write(&self, container: &Container) -> Result<()> {
        let directory = container.make_directory(container::name::MANIFESTS)?;
        container::write(directory.as_fd(), &format!("{}.json", self.root), self)
    }
}
