//! Mounts that are put together for a root in namespaces: overlays over what is mounted already, and
//! places for them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::metadata;
use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::{file, resolve, xattr};

use crate::backend::overlay::{UPPER, WORK};
use crate::failure::{Context, Result};

/// As for the root's overlay, with the same reasons.
pub(crate) const OPTIONS: [(&str, Option<&str>); 5] = [
    ("index", Some("off")),
    ("metacopy", Some("off")),
    ("redirect_dir", Some("on")),
    ("xino", Some("on")),
    ("nfs_export", Some("off")),
];

/// An overlay over a mounted directory, attached nowhere. What is written goes to an upper directory in
/// `directory/name`, which is returned too.
pub(crate) fn overlay_over(
    source: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &str,
    attributes: MountAttributes,
) -> Result<(OwnedFd, OwnedFd)> {
    let place = make_directory(directory, name)?;
    let upper = make_directory(place.as_fd(), UPPER)?;
    let work = make_directory(place.as_fd(), WORK)?;
    like(source, upper.as_fd())?;
    // By descriptor: paths may be longer than an option, and have commas and colons in them.
    let [lower, upper_place, work] = [source, upper.as_fd(), work.as_fd()].map(magic);
    let mut options = vec![
        ("lowerdir", Some(&*lower)),
        ("upperdir", Some(&*upper_place)),
        ("workdir", Some(&*work)),
    ];
    options.extend(OPTIONS);
    let mounted = mount::mount_detached("overlay", None, &options, attributes)
        .context(|| "cannot mount an overlay")?;
    Ok((mounted, upper))
}

/// What is mounted at a place, once more, for reading.
pub(crate) fn bind_read_only(
    source: BorrowedFd<'_>,
    attributes: MountAttributes,
) -> Result<OwnedFd> {
    let clone = mount::clone_mount(source, Path::new(""), false).context(|| "cannot bind it")?;
    mount::set_attributes(clone.as_fd(), attributes | MountAttributes::READ_ONLY, false)
        .context(|| "cannot make it read-only")?;
    Ok(clone)
}

/// Puts a mount at a path of the root. A mount point that is missing is made.
pub(crate) fn attach(mount: &OwnedFd, root: &OwnedFd, path: &Path) -> Result<()> {
    let what = || format!("cannot mount it at {}", path.display());
    let target = match resolve::open_path(root.as_fd(), path) {
        Err(error) if error.is_not_found() => make_path(root, path)?,
        opened => opened.context(what)?,
    };
    mount::attach(mount.as_fd(), target.as_fd()).context(what)
}

/// Makes the directories of a path that are missing, and opens the last one.
pub(crate) fn make_path(root: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let what = || format!("cannot make {}", path.display());
    let mut at = resolve::open_directory(root.as_fd(), Path::new("")).context(what)?;
    for component in path.components() {
        let std::path::Component::Normal(name) = component else { continue };
        at = match resolve::open_directory(at.as_fd(), Path::new(name)) {
            Err(error) if error.is_not_found() => file::create_directory(at.as_fd(), name, 0o755),
            opened => opened,
        }
        .context(what)?;
    }
    Ok(at)
}

/// Gives a new directory or file the owner, mode and labels of another one.
pub(crate) fn like(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let what = || "cannot give it its owner and mode";
    let found = metadata::metadata(from).context(what)?;
    metadata::set_owner(to, found.uid, found.gid).context(what)?;
    metadata::set_mode(to, found.mode).context(what)?;
    match xattr::copy_xattrs(from, to) {
        // FAT and others have none.
        Err(error) if error.errno() == rustix::io::Errno::NOTSUP => Ok(()),
        copied => copied.context(what),
    }
}

/// A directory, made if it is missing.
pub(crate) fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match file::create_directory(parent, OsStr::new(name), 0o700) {
        Err(error) if error.errno() == rustix::io::Errno::EXIST => {
            resolve::open_directory(parent, Path::new(name))
        }
        made => made,
    }
    .context(|| format!("cannot make {name}"))
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .context(|| format!("cannot open {}", path.display()))
}

pub(crate) fn magic(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
