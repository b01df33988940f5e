//! A past root where it can be looked at: mounted, for reading only.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::{escape, file, metadata};
use rustix::fs::{Mode, OFlags};

use crate::backend::overlay;
use crate::boot::Boot;
use crate::compiled::Backend;
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::BootNumber;
use crate::volume;

/// What such a mount allows: an old program with set-user-id may have been replaced because it was not
/// safe.
const ATTRIBUTES: MountAttributes = MountAttributes::READ_ONLY
    .union(MountAttributes::NOSUID)
    .union(MountAttributes::NODEV)
    .union(MountAttributes::NOATIME);

/// Looks whether a past root can be mounted at a directory, and changes nothing. Returns the directory,
/// opened.
///
/// # Errors
///
/// Fails if there is no such past root, and if the directory is not there, not empty, a link, or has
/// something mounted on it.
pub fn check(container: &Container, number: BootNumber, directory: &Path) -> Result<OwnedFd> {
    if !container.numbers(name::PAST)?.contains(&number) {
        return Err(Failure::new(format!("cannot mount the root of boot {number}"))
            .caused_by("there is no such past root")
            .hint("`ebbtide boots` lists those that there are"));
    }
    let shown = escape(directory.as_os_str().as_encoded_bytes());
    let what = || format!("cannot mount it at {shown}");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty()).context(what)?;
    let found = metadata::metadata(opened.as_fd()).context(what)?;
    let hint = "name an empty directory, such as one that `mkdir -m 700` makes";
    if found.mount_root {
        return Err(Failure::new(what()).caused_by("something is mounted there").hint(hint));
    }
    if !file::read_directory(opened.as_fd()).context(what)?.is_empty() {
        return Err(Failure::new(what()).caused_by("the directory is not empty").hint(hint));
    }
    Ok(opened)
}

/// Mounts a past root at an empty directory: its whole tree, read-only, `nosuid` and `nodev`. It stays
/// until it is unmounted, and `gc` leaves it alone as long.
pub fn mount(
    boot: &Boot,
    container: &Container,
    number: BootNumber,
    directory: &Path,
) -> Result<()> {
    let target = check(container, number, directory)?;
    let what = || format!("cannot mount the root of boot {number}");
    let place = PathBuf::from(name::PAST).join(number.to_string());
    let mounted = match container.backend() {
        Backend::Btrfs => {
            // Only this mount is for reading: the filesystem is mounted for writing elsewhere.
            let subvolume = container.path().join(&place);
            let flags = &boot.switches.flags;
            volume::mount(&boot.locator.device, Some(&subvolume), flags, MountAttributes::NOATIME)
        }
        Backend::Overlay | Backend::Tmpfs => overlay::tree(container, &place, &boot.run),
    }
    .context(what)?;
    mount::set_attributes(mounted.as_fd(), ATTRIBUTES, true).context(what)?;
    mount::attach(mounted.as_fd(), target.as_fd()).context(what)
}
