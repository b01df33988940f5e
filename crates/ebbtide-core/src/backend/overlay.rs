//! Roots as overlays: what is written goes into a directory of this boot, over a base that nothing
//! writes to. On any filesystem, or with that directory in RAM.
//!
//! A root's directory holds `upper` and `work` side by side, so that one rename moves both, and `id.json`,
//! which comes last when it is made. The directory *is* the change (filesystems/overlayfs.rst).

mod mounting;
pub mod others;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, metadata, resolve, xattr};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) use mounting::mount_of;
pub use mounting::{RAM, limit_ram, mount, mount_base, mount_in_ram, mounted, tree};

use crate::compiled::DeviceSpec;
use crate::container::{self, Container, check_version, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{BaseIdentity, RootIdentity};
use crate::volume;

/// What is written to a root.
pub const UPPER: &str = "upper";
/// What the kernel needs beside it.
pub const WORK: &str = "work";
const ID: &str = "id.json";

/// Who a root is, and what it lies over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Id {
    version: u32,
    /// What no other root has.
    pub uuid: Uuid,
    /// The base.
    pub base: Uuid,
}

/// Writes the `id.json` of a root that was in RAM into its copy on a disk.
pub(crate) fn write_id(copy: BorrowedFd<'_>, root: &RootIdentity) -> Result<()> {
    let base = root.base().ok_or_else(|| Failure::new("the root has no base"))?;
    container::write(copy, ID, &Id { version: container::VERSION, uuid: root.uuid(), base })
}

/// Reads a root's `id.json`; `None` if there is none.
pub fn read_id(root: BorrowedFd<'_>) -> Result<Option<Id>> {
    let id: Option<Id> = container::read(root, Path::new(ID))?;
    if let Some(id) = &id {
        check_version("the id of a root", id.version)?;
    }
    Ok(id)
}

/// A base: a tree that nothing writes to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Base {
    version: u32,
    /// What no other base has.
    pub uuid: Uuid,
    /// The volume that it lies on, if that is not its place in the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceSpec>,
    /// Its directory below the top of that volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    #[serde(skip)]
    number: u64,
}

impl Base {
    /// Describes a base that lies in the container, or on another volume.
    pub fn new(number: u64, elsewhere: Option<(DeviceSpec, Option<PathBuf>)>) -> Self {
        let (device, directory) = elsewhere.map_or((None, None), |(device, it)| (Some(device), it));
        let uuid = ebbtide_sys::random::uuid_v4();
        Self { version: container::VERSION, uuid, device, directory, number }
    }

    /// Reads what the container says of a base.
    pub fn read(container: &Container, number: u64) -> Result<Self> {
        Self::read_in(container.directory(), number)
    }

    fn read_in(container: BorrowedFd<'_>, number: u64) -> Result<Self> {
        let path = Path::new(name::BASES).join(format!("{number}.json"));
        let base: Option<Self> = container::read(container, &path)?;
        let base = base.ok_or_else(|| Failure::new(format!("there is no base {number}")))?;
        check_version("the description of the base", base.version)?;
        Ok(Self { number, ..base })
    }

    /// The base with this UUID.
    fn find(container: &Container, uuid: Uuid) -> Result<Self> {
        let bases = container.open_directory(Path::new(name::BASES))?;
        let names = file::read_directory(bases.as_fd()).context(|| "cannot list the bases")?;
        let numbers = names
            .iter()
            .filter_map(|it| it.name.to_str()?.strip_suffix(".json")?.parse::<u64>().ok());
        for number in numbers {
            match Self::read(container, number) {
                Ok(base) if base.uuid == uuid => return Ok(base),
                _ => {}
            }
        }
        Err(Failure::new(format!("the base {uuid} of this root is not in the container any more")))
    }

    /// Writes the description, which makes a tree in the container a base.
    pub fn write(&self, container: BorrowedFd<'_>) -> Result<()> {
        let bases = resolve::open_directory(container, Path::new(name::BASES))
            .context(|| "cannot open the bases")?;
        container::write(bases.as_fd(), &format!("{}.json", self.number), self)
    }

    fn place(&self) -> PathBuf {
        Path::new(name::BASES).join(self.number.to_string())
    }

    /// Its tree.
    pub fn open(&self, container: &Container) -> Result<OwnedFd> {
        match &self.device {
            None => container.open_directory(&self.place()),
            Some(device) => volume::inside(self.volume(device)?, device, self.directory.as_deref()),
        }
    }

    /// The directory that it is, where that is one of what is mounted already.
    pub fn outside(&self) -> Option<PathBuf> {
        let device = self.device.as_ref().filter(|device| device.is_directory())?;
        let top = Path::new(&device.0);
        Some(self.directory.as_ref().map_or_else(|| top.to_owned(), |it| top.join(it)))
    }

    /// The volume of a base outside of the container, for reading.
    fn volume(&self, device: &DeviceSpec) -> Result<OwnedFd> {
        volume::mount_for_reading(device, None, &[])
            .context(|| format!("cannot open base {}", self.number))
    }
}

/// What lies under the name of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Its making was cut off.
    Unfinished,
    /// Made from the base in use, and never mounted.
    Pristine,
    /// Anything else.
    Used,
}

/// Looks at a root's directory. The kernel makes something in `work` as soon as it is mounted.
pub(super) fn condition(root: BorrowedFd<'_>, base: &BaseIdentity) -> Result<Condition> {
    let is_empty = |name: &str| -> Result<bool> {
        match resolve::open_directory(root, Path::new(name)) {
            Ok(directory) => Ok(file::read_directory(directory.as_fd())
                .context(|| format!("list {name}"))?
                .is_empty()),
            Err(error) if error.is_not_found() => Ok(true),
            Err(error) => Err(error).context(|| format!("open {name}")),
        }
    };
    let untouched = is_empty(UPPER)? && is_empty(WORK)?;
    Ok(match read_id(root)? {
        None if untouched => Condition::Unfinished,
        Some(id) if untouched && id.base == base.uuid => Condition::Pristine,
        _ => Condition::Used,
    })
}

/// Makes `root.new`, or finishes it.
pub(super) fn make(container: &Container, number: u64) -> Result<()> {
    let base = Base::read(container, number)?;
    let tree = base.open(container)?;
    make_as(container.directory(), name::NEW, tree.as_fd(), base.uuid).map(drop)
}

/// Makes the first root of a container that has no marker yet.
#[cfg(feature = "declaration")]
pub(crate) fn make_first(
    container: BorrowedFd<'_>,
    number: u64,
    tree: BorrowedFd<'_>,
) -> Result<()> {
    let base = Base::read_in(container, number)?;
    make_as(container, name::ROOT, tree, base.uuid).map(drop)
}

/// Makes a root over a base, whose tree it is, and returns what no other root has. What was made is
/// durable before it has its id.
pub(crate) fn make_as(
    directory: BorrowedFd<'_>,
    name: &str,
    tree: BorrowedFd<'_>,
    base: Uuid,
) -> Result<Uuid> {
    let root = make_directory(directory, name)?;
    let upper = make_directory(root.as_fd(), UPPER)?;
    make_directory(root.as_fd(), WORK)?;
    like(tree, upper.as_fd())?;
    file::sync_filesystem(root.as_fd()).context(|| "sync the volume")?;
    let uuid = ebbtide_sys::random::uuid_v4();
    let id = Id { version: container::VERSION, uuid, base };
    container::write(root.as_fd(), ID, &id)?;
    file::sync_filesystem(root.as_fd()).context(|| "sync the volume")?;
    Ok(uuid)
}

fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match file::create_directory(parent, OsStr::new(name), 0o700) {
        Err(error) if error.errno() == Errno::EXIST => {
            resolve::open_directory(parent, Path::new(name)).context(|| format!("open {name}"))
        }
        made => made.context(|| format!("make {name}")),
    }
}

/// The top directory of an overlay is its upper one, with that one's owner, mode and labels.
fn like(base: BorrowedFd<'_>, upper: BorrowedFd<'_>) -> Result<()> {
    let what = || "make the top directory like that of the base";
    let found = metadata::metadata(base).context(what)?;
    metadata::set_owner(upper, found.uid, found.gid).context(what)?;
    metadata::set_mode(upper, found.mode).context(what)?;
    xattr::copy_xattrs(base, upper).context(what)
}

/// A root that is going to be made in RAM.
pub(crate) fn in_ram(container: &Container) -> Result<RootIdentity> {
    let base = Base::read(container, container.base()?)?.uuid;
    Ok(RootIdentity::Overlay { uuid: ebbtide_sys::random::uuid_v4(), base, in_ram: true })
}

/// Bytes that a root has beside its base.
pub(super) fn own_bytes(container: &Container, place: &Path) -> Result<u64> {
    ebbtide_sys::tree::tree_size(container.directory(), &place.join(UPPER))
        .context(|| format!("cannot measure {}", place.display()))
}
