//! Mounts by descriptor: fsopen(2), fsmount(2), `open_tree(2)`, `mount_setattr(2)`, `move_mount(2)`.
//!
//! A detached mount has no place in any namespace: files in it are reached through its descriptor
//! only, and it goes away with the last descriptor unless it is attached.

use std::ffi::OsStr;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use crate::error::{Error, Result, last_errno};
use crate::resolve::open_path;
use crate::text::escape;

/// Attributes of one mount, as opposed to those of the filesystem. See `mount_setattr(2)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttributes(u64);

impl MountAttributes {
    /// No attributes.
    pub const NONE: Self = Self(0);
    /// Nothing can be written through the mount.
    pub const READ_ONLY: Self = Self(libc::MOUNT_ATTR_RDONLY);
    /// Set-uid and set-gid bits and file capabilities have no effect.
    pub const NOSUID: Self = Self(libc::MOUNT_ATTR_NOSUID);
    /// Device nodes can't be opened.
    pub const NODEV: Self = Self(libc::MOUNT_ATTR_NODEV);
    /// Programs can't be run.
    pub const NOEXEC: Self = Self(libc::MOUNT_ATTR_NOEXEC);
    /// Access times are not updated.
    pub const NOATIME: Self = Self(libc::MOUNT_ATTR_NOATIME);

    /// Returns the attributes of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns whether all of the other's attributes are among these.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Returns whether there are none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for MountAttributes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

/// Mounts a filesystem without a place in any namespace.
///
/// `options` are those of the filesystem, as names with values (of at most 255 bytes) or as flags. `READ_ONLY` makes both
/// the filesystem and the mount read-only; all other attributes are of this mount. Linux 6.1 refuses
/// an overlay whose layers are in detached mounts.
///
/// # Errors
///
/// Those of fsopen(2) and fsconfig(2), with what the filesystem had to say about it.
pub fn mount_detached(
    fstype: &str,
    source: Option<&Path>,
    options: &[(&str, Option<&str>)],
    attributes: MountAttributes,
) -> Result<OwnedFd> {
    let context = rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|e| Error::new("fsopen", e).path(fstype))?;
    let fs = context.as_fd();
    if let Some(source) = source {
        set_string(fs, "source", source.as_os_str())?;
    }
    for (name, value) in options {
        match value {
            Some(value) => set_string(fs, name, OsStr::new(value))?,
            None => set_flag(fs, name)?,
        }
    }
    if attributes.contains(MountAttributes::READ_ONLY) {
        set_flag(fs, "ro")?;
    }
    rustix::mount::fsconfig_create(fs)
        .map_err(|e| said(fs, config_error(e, "FSCONFIG_CMD_CREATE", fstype, source)))?;
    // All attribute bits fit: they are those of `MOUNT_ATTR_*`.
    let bits = u32::try_from(attributes.0).unwrap_or(u32::MAX);
    let attributes = MountAttrFlags::from_bits_retain(bits);
    rustix::mount::fsmount(fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|e| said(fs, Error::new("fsmount", e).path(fstype)))
}

fn set_string(fs: BorrowedFd<'_>, name: &str, value: &OsStr) -> Result<()> {
    rustix::mount::fsconfig_set_string(fs, name, value).map_err(|e| {
        said(fs, Error::new("fsconfig", e).arg("FSCONFIG_SET_STRING").path(name).path(value))
    })
}

fn set_flag(fs: BorrowedFd<'_>, name: &str) -> Result<()> {
    rustix::mount::fsconfig_set_flag(fs, name)
        .map_err(|e| said(fs, Error::new("fsconfig", e).arg("FSCONFIG_SET_FLAG").path(name)))
}

fn config_error(errno: Errno, command: &str, fstype: &str, source: Option<&Path>) -> Error {
    let error = Error::new("fsconfig", errno).arg(command).path(fstype);
    match source {
        Some(source) => error.path(source),
        None => error,
    }
}

/// Adds the messages of a filesystem context to an error: one is read at a time, until `ENODATA`.
fn said(context: BorrowedFd<'_>, error: Error) -> Error {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    // The kernel keeps at most eight.
    for _ in 0..16 {
        match rustix::io::read(context, &mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => {
                let message = buffer[..count].trim_ascii();
                // "e text": the letter is the severity.
                let text = message.get(2..).unwrap_or(message);
                messages.push(escape(text));
            }
        }
    }
    if messages.is_empty() { error } else { error.note(messages.join("; ")) }
}

/// Makes a detached copy of the mount at `path` below `dir`; no link is followed.
///
/// The copy shows the tree from `path` on. Mounts below come along if `recursive`, else what they
/// cover becomes visible. See `open_tree(2)`, `OPEN_TREE_CLONE`.
pub fn clone_mount(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> Result<OwnedFd> {
    let at = open_path(dir, path)?;
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(&at, "", flags)
        .map_err(|e| Error::new("open_tree", e).fd(at.as_fd()).path("").arg("OPEN_TREE_CLONE"))
}

/// Makes a detached copy of the mount at one entry of a directory, as [`clone_mount`] does, in one call.
///
/// # Errors
///
/// `EINVAL` for what is not the name of one entry, and those of `open_tree(2)`.
pub fn clone_entry(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    crate::descriptor::check_name("open_tree", dir, name)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    rustix::mount::open_tree(dir, name, flags).map_err(|e| {
        Error::new("open_tree", e).fd(dir).path(name).arg("OPEN_TREE_CLONE|AT_SYMLINK_NOFOLLOW")
    })
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

const _: () = assert!(size_of::<MountAttr>() == 32);

/// Adds attributes to a mount; with `recursive` to all below it as well. See `mount_setattr(2)`.
pub fn set_attributes(mount: BorrowedFd<'_>, set: MountAttributes, recursive: bool) -> Result<()> {
    change_attributes(mount, set, MountAttributes::NONE, recursive)
}

/// Sets some attributes of a mount and clears others. See `mount_setattr(2)`.
pub fn replace_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttributes,
    clear: MountAttributes,
) -> Result<()> {
    change_attributes(mount, set, clear, false)
}

fn change_attributes(
    mount: BorrowedFd<'_>,
    set: MountAttributes,
    clear: MountAttributes,
    recursive: bool,
) -> Result<()> {
    let mut clear = clear.0;
    if set.contains(MountAttributes::NOATIME) {
        // The access time is one setting with several values: the old one must be cleared.
        clear |= libc::MOUNT_ATTR__ATIME;
    }
    let attr = MountAttr { set: set.0, clear, propagation: 0, userns_fd: 0 };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the descriptor is borrowed for the call; the path is a NUL-terminated literal; the
    // kernel reads `size_of` bytes of `attr`, whose layout is asserted above, and writes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Error::new("mount_setattr", last_errno())
        .fd(mount)
        .arg(format_args!("set={:#x}, clear={clear:#x}", set.0)))
}

/// Puts a detached mount, or moves an attached one, onto a directory or file. See `move_mount(2)`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags)
        .map_err(|e| Error::new("move_mount", e).fd(mount).path("").fd(target).path(""))
}

/// Puts a detached mount, or moves an attached one, onto one entry of a directory, in one call; a
/// symbolic link is not followed. See `move_mount(2)`.
///
/// # Errors
///
/// `EINVAL` for what is not the name of one entry, and those of `move_mount(2)`.
pub fn attach_to_entry(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    crate::descriptor::check_name("move_mount", dir, name)?;
    rustix::mount::move_mount(mount, "", dir, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::new("move_mount", e).fd(mount).path("").fd(dir).path(name))
}

/// Unmounts what is on top at `path`; a final link is not followed. See umount2(2).
///
/// With `detach` it goes out of sight at once, with all mounts below it, and away when unused.
pub fn unmount(path: &Path, detach: bool) -> Result<()> {
    let (flags, rendered) = unmount_flags(detach);
    rustix::mount::unmount(path, flags)
        .map_err(|e| Error::new("umount2", e).path(path).arg(rendered))
}

fn unmount_flags(detach: bool) -> (UnmountFlags, &'static str) {
    if detach {
        (UnmountFlags::NOFOLLOW | UnmountFlags::DETACH, "UMOUNT_NOFOLLOW|MNT_DETACH")
    } else {
        (UnmountFlags::NOFOLLOW, "UMOUNT_NOFOLLOW")
    }
}

/// Unmounts what is mounted on an entry of a directory, and nothing that a link leads to: for places
/// that others than root may change meanwhile. `detach`: as for [`unmount`].
///
/// The way leads through `/proc/self/fd`, because a descriptor of the mount itself would keep it busy.
pub fn unmount_entry(dir: BorrowedFd<'_>, name: &OsStr, detach: bool) -> Result<()> {
    crate::descriptor::check_name("umount2", dir, name)?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let (flags, rendered) = unmount_flags(detach);
    rustix::mount::unmount(&path, flags)
        .map_err(|e| Error::new("umount2", e).fd(dir).path(name).arg(rendered))
}

/// Makes the filesystem and the mount at `path` writable, without access times.
///
/// Other attributes of the mount are kept. A final link is not followed.
///
/// # Errors
///
/// `EINVAL` if nothing is mounted at `path`, and those of fspick(2) and fsconfig(2).
pub fn remount_writable(path: &Path) -> Result<()> {
    if is_writable_already(path)? {
        return Ok(());
    }
    let mount = reconfigured(path, |fs| set_flag(fs, "rw"))?;
    change_attributes(mount.as_fd(), MountAttributes::NOATIME, MountAttributes::READ_ONLY, false)
}

/// Whether there is nothing to do: to reconfigure a filesystem takes milliseconds even then.
fn is_writable_already(path: &Path) -> Result<bool> {
    let mount = open_mount(path)?;
    let flags = AtFlags::EMPTY_PATH;
    let found = rustix::fs::statx(&mount, "", flags, StatxFlags::empty())
        .map_err(|e| Error::new("statx", e).fd(mount.as_fd()).path(""))?;
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(false);
    }
    // Read-only if the mount is, or the filesystem.
    let options = rustix::fs::fstatvfs(&mount)
        .map_err(|e| Error::new("fstatfs", e).fd(mount.as_fd()))?
        .f_flag;
    let wanted = StatVfsMountFlags::NOATIME;
    Ok(options & (wanted | StatVfsMountFlags::RDONLY) == wanted)
}

fn open_mount(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(CWD).path(path).arg("O_PATH|O_NOFOLLOW"))
}

/// Changes options of the filesystem that is mounted at `path`; a final link is not followed.
///
/// # Errors
///
/// As [`remount_writable`].
pub fn reconfigure(path: &Path, options: &[(&str, &str)]) -> Result<()> {
    reconfigured(path, |fs| {
        options.iter().try_for_each(|(name, value)| set_string(fs, name, OsStr::new(value)))
    })
    .map(drop)
}

/// Lets `change` set options, and has the filesystem take them. Returns the mount.
fn reconfigured(path: &Path, change: impl FnOnce(BorrowedFd<'_>) -> Result<()>) -> Result<OwnedFd> {
    let mount = open_mount(path)?;
    let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
    let context = rustix::mount::fspick(&mount, "", flags)
        .map_err(|e| Error::new("fspick", e).fd(mount.as_fd()).path(""))?;
    let fs = context.as_fd();
    change(fs)?;
    rustix::mount::fsconfig_reconfigure(fs)
        .map_err(|e| said(fs, config_error(e, "FSCONFIG_CMD_RECONFIGURE", "", Some(path))))?;
    Ok(mount)
}

/// Moves the calling thread to a mount namespace of its own, which gets no more mounts from outside
/// and gives none back.
///
/// Other threads stay where they are, and so does their working directory. See unshare(2).
pub fn enter_private_mount_namespace() -> Result<()> {
    let flags = rustix::thread::UnshareFlags::NEWNS;
    // SAFETY: only `CLONE_FILES` is a hazard, since descriptors of one thread would mean nothing
    // to another; the descriptor table is not touched here.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|e| Error::new("unshare", e).arg("CLONE_NEWNS"))?;
    let propagation = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", propagation)
        .map_err(|e| Error::new("mount", e).path("/").arg("MS_REC|MS_PRIVATE"))
}

#[cfg(test)]
mod tests;
