//! Mounting overlays. All options are said: what a kernel takes for granted is up to whoever built it.
//!
//! - `index=off`, `metacopy=off`: with either, an upper directory is bound to the inode numbers of its
//!   base for ever, and a restored or copied base is refused with ESTALE.
//! - `redirect_dir=on`: renaming a directory of the base works as on any filesystem. Without it rename(2)
//!   fails with EXDEV, which programs do not expect of two names side by side.
//! - `xino=on`: all files of a root have one device number, which `find -xdev` and backups go by, also
//!   where base and root lie on two filesystems.
//! - `nfs_export=off`: it wants `index=on`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::mountinfo::{self, MountEntry};
use ebbtide_sys::{file, metadata, resolve};
use uuid::Uuid;

use super::{Base, UPPER, WORK, make_directory, others, read_id};
use crate::compiled::RamSize;
use crate::container::Container;
use crate::failure::{Context, Failure, Result};
use crate::record::RootIdentity;
use crate::staging::{self, Staging};
use crate::volume;

/// Where the RAM of a root is mounted in the run directory.
pub const RAM: &str = "ram";
/// Where layers are attached, for the names that the kernel tells: each below its UUID.
const ROOTS: &str = "root";
const IN_RAM: &str = "in-ram";
const BASES: &str = "base";

/// Mounts the root that lies at a place in the container, attached nowhere.
pub fn mount(container: &Container, place: &Path, run: &Path) -> Result<OwnedFd> {
    staging::within(run, |staging| {
        let layers = Layers::attach(container, place, staging)?;
        overlay(&layers.over(&layers.root), MountAttributes::NOATIME)
    })
}

/// The whole tree of a root that lies in the container, for reading.
pub fn tree(container: &Container, place: &Path, run: &Path) -> Result<OwnedFd> {
    staging::within(run, |staging| {
        let layers = Layers::attach(container, place, staging)?;
        if container.volume().is_directory() {
            // It may lie in its own base, the running system: as a lower layer of it that is ELOOP.
            let attributes = MountAttributes::NOATIME | MountAttributes::READ_ONLY;
            let over = |lower: &Path, upper: &Path, work: &Path| {
                overlay(&written(lower, upper, work), attributes)
            };
            let tree = overlay(&layers.over(&layers.root), attributes)?;
            let base = layers.outside.as_deref().unwrap_or(&layers.base);
            return others::put_on(tree, &layers.root, base, staging, over);
        }
        let lower = format!("{}:{}", text(&layers.root.join(UPPER))?, text(&layers.base)?);
        let options =
            [("lowerdir", lower.as_str()), ("redirect_dir", "follow"), ("metacopy", "off")];
        let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
        overlay(&options, MountAttributes::NOATIME | MountAttributes::READ_ONLY)
    })
}

/// Mounts a root whose upper directory is in RAM: an empty filesystem of half the RAM at most, which
/// stays mounted in the run directory, so that it can be looked at.
pub fn mount_in_ram(container: &Container, root: &RootIdentity, run: &Path) -> Result<OwnedFd> {
    let base = root.base().ok_or_else(|| Failure::new("the root has no base"))?;
    let base = Base::find(container, base)?;
    let ram = run.join(RAM);
    let what = || format!("cannot mount the root's RAM at {}", ram.display());
    let size = RamSize::DEFAULT.to_string();
    let options = [("size", Some(size.as_str())), ("mode", Some("0700"))];
    let fresh =
        mount::mount_detached("tmpfs", None, &options, MountAttributes::NOATIME).context(what)?;
    file::create_directories(&ram).context(what)?;
    volume::attach(fresh.as_fd(), None, &ram)?;
    let upper = make_directory(fresh.as_fd(), UPPER)?;
    make_directory(fresh.as_fd(), WORK)?;
    super::like(base.open(container)?.as_fd(), upper.as_fd())?;
    staging::within(run, |staging| {
        // Opened again: only a mount of this namespace can be cloned in it.
        let ram = std::fs::File::open(&ram).context(what)?;
        let clone = mount::clone_mount(ram.as_fd(), Path::new(""), false).context(what)?;
        let root_path = staging.put(&named(IN_RAM, root.uuid()), clone.as_fd())?;
        let base = attach_base(container, &base, staging)?;
        let layers = Layers { root: root_path, base, outside: None };
        overlay(&layers.over(&layers.root), MountAttributes::NOATIME)
    })
}

/// The base in use alone, for reading.
pub fn mount_base(container: &Container, run: &Path) -> Result<OwnedFd> {
    staging::within(run, |staging| {
        let base = Base::read(container, container.base()?)?;
        let place = attach_base(container, &base, staging)?;
        let only = MountAttributes::READ_ONLY | MountAttributes::NOATIME;
        volume::clone_directory(&place, only)
    })
}

/// Limits the RAM of the running root.
pub fn limit_ram(run: &Path, size: RamSize) -> Result<()> {
    let ram = run.join(RAM);
    mount::reconfigure(&ram, &[("size", &size.to_string())])
        .context(|| format!("cannot limit the root's RAM to {size}"))
}

/// What the kernel says that a mounted overlay is made of.
pub fn mounted(directory: BorrowedFd<'_>) -> Result<RootIdentity> {
    let what = || "cannot find the mount in the mount table";
    let id = metadata::metadata(directory).context(what)?.mount_id;
    let mounts = mountinfo::read_self().context(what)?;
    mounts
        .iter()
        .find(|mount| u64::from(mount.id) == id)
        .and_then(layers_of)
        .ok_or_else(|| Failure::new("it is no overlay that Ebbtide mounted"))
}

/// Where a root is mounted, if it is.
pub(crate) fn mount_of(root: Uuid) -> Result<Option<PathBuf>> {
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let is_root = |mount: &MountEntry| {
        layers_of(mount).is_some_and(|it| it.uuid() == root)
            // One that is only looked at has the root among the lower layers.
            || (mount.fstype == "overlay" && named_layer(mount, "lowerdir", ROOTS) == Some(root))
    };
    Ok(mounts.into_iter().find(is_root).map(|mount| mount.mount_point))
}

/// Root and base, by the places at which the layers were attached.
fn layers_of(mount: &MountEntry) -> Option<RootIdentity> {
    if mount.fstype != "overlay" {
        return None;
    }
    let named = |option: &str, kind: &str| named_layer(mount, option, kind);
    let base = named("lowerdir", BASES)?;
    let on_disk = named("upperdir", ROOTS);
    let uuid = on_disk.or_else(|| named("upperdir", IN_RAM))?;
    Some(RootIdentity::Overlay { uuid, base, in_ram: on_disk.is_none() })
}

/// The UUID that a layer's place has after the name of its kind.
fn named_layer(mount: &MountEntry, option: &str, kind: &str) -> Option<Uuid> {
    let value = String::from_utf8(mount.super_option(option)?).ok()?;
    let parts = value.split('/').zip(value.split('/').skip(1));
    let mut named = parts.filter(|(name, _)| *name == kind);
    named.find_map(|(_, uuid)| Uuid::parse_str(uuid).ok())
}

/// Where the layers are attached.
struct Layers {
    /// The directory that holds `upper` and `work`.
    root: PathBuf,
    base: PathBuf,
    /// Where the base is mounted outside, with all that is mounted on it.
    outside: Option<PathBuf>,
}

impl Layers {
    /// Attaches the layers of a root that lies in the container.
    fn attach(container: &Container, place: &Path, staging: &Staging) -> Result<Self> {
        let directory = container.open_directory(place)?;
        let id = read_id(directory.as_fd())?
            .ok_or_else(|| Failure::new(format!("{} is no root", place.display())))?;
        let found = Base::find(container, id.base)?;
        let base = attach_base(container, &found, staging)?;
        let root = in_container(container, place, staging)?;
        let root = staging.put(&named(ROOTS, id.uuid), root.as_fd())?;
        Ok(Self { root, base, outside: found.outside() })
    }

    /// The options of an overlay that is written to.
    fn over(&self, root: &Path) -> Vec<(String, String)> {
        written(&self.base, &root.join(UPPER), &root.join(WORK))
    }
}

fn written(lower: &Path, upper: &Path, work: &Path) -> Vec<(String, String)> {
    let place = |path: &Path| path.display().to_string();
    [
        ("lowerdir", place(lower)),
        ("upperdir", place(upper)),
        ("workdir", place(work)),
        ("index", "off".to_owned()),
        ("metacopy", "off".to_owned()),
        ("redirect_dir", "on".to_owned()),
        ("xino", "on".to_owned()),
        ("nfs_export", "off".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn attach_base(container: &Container, base: &Base, staging: &Staging) -> Result<PathBuf> {
    let place = named(BASES, base.uuid);
    match &base.device {
        None => {
            let tree = in_container(container, &base.place(), staging)?;
            staging.put(&place, tree.as_fd())
        }
        Some(device) => {
            let place = staging.put(&place, base.volume(device)?.as_fd())?;
            Ok(match &base.directory {
                Some(directory) => {
                    let top = std::fs::File::open(&place)
                        .context(|| format!("cannot open {}", place.display()))?;
                    resolve::open_directory(top.as_fd(), directory)
                        .context(|| format!("cannot open {} on {device}", directory.display()))?;
                    place.join(directory)
                }
                None => place,
            })
        }
    }
}

/// A mount of a directory in the container.
fn in_container(container: &Container, place: &Path, staging: &Staging) -> Result<OwnedFd> {
    let what = || format!("cannot clone {}", place.display());
    let top = staging.path().join("volume");
    if !top.exists() {
        staging.put(Path::new("volume"), container.volume().again()?.as_fd())?;
    }
    let top = std::fs::File::open(&top).context(what)?;
    mount::clone_mount(top.as_fd(), &container.path().join(place), false).context(what)
}

fn named(kind: &str, uuid: Uuid) -> PathBuf {
    Path::new(kind).join(uuid.to_string())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Failure::new(format!("{} is not UTF-8", path.display())))
}

fn overlay(options: &[(String, String)], attributes: MountAttributes) -> Result<OwnedFd> {
    let options: Vec<_> =
        options.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))).collect();
    mount::mount_detached("overlay", Some(Path::new("overlay")), &options, attributes)
        .context(|| "cannot mount the overlay")
}
