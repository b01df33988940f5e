//! Volumes: the filesystems that containers and stores lie on, each mounted without a place in the
//! tree and reached by its descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::{device, resolve};

use crate::compiled::DeviceSpec;
use crate::failure::{Context, Failure, Result};

/// Filesystems that a volume can have; with their own modules in an initramfs.
pub const FILESYSTEMS: [&str; 3] = ["btrfs", "ext4", "xfs"];

/// A volume with its top level, attached nowhere.
#[derive(Debug)]
pub struct Volume {
    top: OwnedFd,
    device: DeviceSpec,
    flags: Vec<String>,
    for_reading: bool,
}

impl Volume {
    /// Mounts it. `flags` are more mount options, such as `degraded`.
    pub fn open(device: &DeviceSpec, flags: &[String]) -> Result<Self> {
        let top = mount(device, None, flags, MountAttributes::NOATIME)?;
        Ok(Self { top, device: device.clone(), flags: flags.to_vec(), for_reading: false })
    }

    /// Mounts it for reading only.
    pub fn open_for_reading(device: &DeviceSpec, flags: &[String]) -> Result<Self> {
        let top = mount_for_reading(device, None, flags)?;
        Ok(Self { top, device: device.clone(), flags: flags.to_vec(), for_reading: true })
    }

    /// Whether it is a directory of what is mounted already.
    pub fn is_directory(&self) -> bool {
        self.device.is_directory()
    }

    /// One more mount of it: one that was attached somewhere can't be attached elsewhere as well.
    pub fn again(&self) -> Result<OwnedFd> {
        if self.for_reading {
            return mount_for_reading(&self.device, None, &self.flags);
        }
        mount(&self.device, None, &self.flags, MountAttributes::NOATIME)
    }
}

impl AsFd for Volume {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }
}

/// Mounts a volume, attached nowhere; on btrfs with the subvolume, or else with its top level.
///
/// An absolute path of a directory is a volume too: that directory, without what is mounted below it.
/// `flags` are more mount options, such as `degraded`.
pub fn mount(
    spec: &DeviceSpec,
    subvolume: Option<&Path>,
    flags: &[String],
    attributes: MountAttributes,
) -> Result<OwnedFd> {
    if spec.is_directory() {
        let top = clone_directory(Path::new(&spec.0), attributes)?;
        return inside(top, spec, subvolume);
    }
    let path = device::find(&spec.0).context(|| format!("cannot find the device {spec}"))?;
    let superblock = device::probe(&path)
        .context(|| format!("cannot read the superblock of {spec}"))?
        .ok_or_else(|| {
            Failure::new(format!("there is no filesystem on {spec} that Ebbtide knows"))
                .hint("containers and stores can be on btrfs, ext4 and xfs")
        })?;
    let name = subvolume.and_then(Path::to_str);
    let mut options = Vec::new();
    if superblock.fstype == "btrfs" {
        match name {
            Some(name) => options.push(("subvol", Some(name))),
            None => options.push(("subvolid", Some("5"))),
        }
    } else if let Some(name) = name {
        return Err(Failure::new(format!(
            "{spec} has {}, which has no subvolumes: there is no {name}",
            superblock.fstype
        ))
        .hint("name a directory instead: `directory = \"…\"`"));
    }
    options.extend(flags.iter().map(|flag| option(flag)));
    mount::mount_detached(superblock.fstype, Some(&path), &options, attributes)
        .context(|| format!("cannot mount {spec}"))
}

/// As [`mount`], for reading only: the filesystem too, unless something has it mounted for writing.
pub fn mount_for_reading(
    spec: &DeviceSpec,
    subvolume: Option<&Path>,
    flags: &[String],
) -> Result<OwnedFd> {
    let only = MountAttributes::READ_ONLY | MountAttributes::NOATIME;
    mount(spec, subvolume, flags, only).or_else(|failure| {
        // Something has it mounted for writing: then only this mount is for reading.
        let mount = mount(spec, subvolume, flags, MountAttributes::NOATIME).map_err(|_| failure)?;
        mount::set_attributes(mount.as_fd(), only, false)
            .context(|| format!("cannot mount {spec} for reading only"))?;
        Ok(mount)
    })
}

/// The name of the filesystem of a volume, as mount(8) has it; `None` for a directory.
pub fn filesystem(spec: &DeviceSpec) -> Result<Option<&'static str>> {
    if spec.is_directory() {
        return Ok(None);
    }
    let path = device::find(&spec.0).context(|| format!("cannot find the device {spec}"))?;
    let probed =
        device::probe(&path).context(|| format!("cannot read the superblock of {spec}"))?;
    Ok(probed.map(|superblock| superblock.fstype))
}

/// A directory of what is mounted now as a mount of its own.
pub fn clone_directory(path: &Path, attributes: MountAttributes) -> Result<OwnedFd> {
    let what = || format!("cannot clone the mount of {}", path.display());
    let opened = OwnedFd::from(std::fs::File::open(path).context(what)?);
    let clone = mount::clone_mount(opened.as_fd(), Path::new(""), false).context(what)?;
    mount::set_attributes(clone.as_fd(), attributes, false).context(what)?;
    Ok(clone)
}

/// Opens a directory below the top of a volume. It stays open when the volume's own descriptor is gone.
pub fn inside(top: OwnedFd, spec: &DeviceSpec, directory: Option<&Path>) -> Result<OwnedFd> {
    match directory {
        None => Ok(top),
        Some(path) => open_inside(top.as_fd(), spec, path),
    }
}

/// As [`inside`], of a volume that stays open.
pub fn open_inside(top: BorrowedFd<'_>, spec: &DeviceSpec, directory: &Path) -> Result<OwnedFd> {
    resolve::open_directory(top, directory)
        .context(|| format!("cannot open {} on {spec}", directory.display()))
}

/// Attaches a detached mount at a path, or only a directory of it.
///
/// A directory is cloned in the tree and not before: until Linux 6.15 a mount can only be cloned in
/// the namespace that it is in.
pub fn attach(volume: BorrowedFd<'_>, directory: Option<&Path>, path: &Path) -> Result<()> {
    let what = || format!("cannot mount it at {}", path.display());
    let open = || std::fs::File::open(path).context(what);
    mount::attach(volume, open()?.as_fd()).context(what)?;
    let Some(directory) = directory else { return Ok(()) };
    let clone =
        open().and_then(|top| mount::clone_mount(top.as_fd(), directory, false).context(what));
    mount::unmount(path, true).context(what)?;
    mount::attach(clone?.as_fd(), open()?.as_fd()).context(what)
}

/// Splits `key=value`.
pub(crate) fn option(option: &str) -> (&str, Option<&str>) {
    match option.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (option, None),
    }
}
