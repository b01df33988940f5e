//! Extended attributes of any inode, symbolic links and `O_PATH` descriptors included. See xattr(7).
//!
//! The f-calls refuse `O_PATH` descriptors, so those go through the magic link in `/proc`.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::descriptor::magic_link;
use crate::error::{Error, Result};

const ACCESS_ACL: &str = "system.posix_acl_access";
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The attribute that has SELinux's label, a text that may end in a NUL.
pub const SELINUX: &str = "security.selinux";

/// Lists the names; empty where the filesystem has no extended attributes. See listxattr(2).
pub fn list(fd: BorrowedFd<'_>) -> Result<Vec<OsString>> {
    let read = |buffer: &mut [u8]| match rustix::fs::flistxattr(fd, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::listxattr(magic_link(fd), buffer),
        result => result,
    };
    match read_all(read) {
        Ok(names) => Ok(names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| OsString::from_vec(name.to_vec()))
            .collect()),
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(Error::new("flistxattr", errno).fd(fd)),
    }
}

/// Reads one value; `None` if there is no such attribute. See getxattr(2).
pub fn get(fd: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Vec<u8>>> {
    let read = |buffer: &mut [u8]| match rustix::fs::fgetxattr(fd, name, &mut *buffer) {
        Err(Errno::BADF) => rustix::fs::getxattr(magic_link(fd), name, buffer),
        result => result,
    };
    match read_all(read) {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(Error::new("fgetxattr", errno).fd(fd).path(name)),
    }
}

/// Reads all names and values, sorted by name, without the second names that XFS has for ACLs.
pub fn all(fd: BorrowedFd<'_>) -> Result<Vec<(OsString, Vec<u8>)>> {
    values(fd, list(fd)?, |_| true)
}

/// The same of names that were listed, as far as they are wanted.
pub fn values(
    fd: BorrowedFd<'_>,
    mut names: Vec<OsString>,
    is_wanted: impl Fn(&OsStr) -> bool,
) -> Result<Vec<(OsString, Vec<u8>)>> {
    names.retain(|name| !is_alias(name) && is_wanted(name));
    names.sort();
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        // Absent: removed since it was listed.
        if let Some(value) = get(fd, &name)? {
            all.push((name, value));
        }
    }
    Ok(all)
}

/// Sets one value, replacing an old one. See setxattr(2).
pub fn set(fd: BorrowedFd<'_>, name: &OsStr, value: &[u8]) -> Result<()> {
    match rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()) {
        Err(Errno::BADF) => rustix::fs::setxattr(magic_link(fd), name, value, XattrFlags::empty()),
        result => result,
    }
    .map_err(|e| {
        Error::new("fsetxattr", e).fd(fd).path(name).arg(format_args!("{} bytes", value.len()))
    })
}

/// Removes one attribute; false if it was absent. See removexattr(2).
pub fn remove(fd: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    let result = match rustix::fs::fremovexattr(fd, name) {
        Err(Errno::BADF) => rustix::fs::removexattr(magic_link(fd), name),
        result => result,
    };
    match result {
        Ok(()) => Ok(true),
        Err(Errno::NODATA) => Ok(false),
        Err(errno) => Err(Error::new("fremovexattr", errno).fd(fd).path(name)),
    }
}

/// Copies all attributes, ACLs and file capabilities included, after owner and mode were set.
///
/// ACLs that the target inherited from its directory, and that the source has not, are removed. A
/// target filesystem that can't store an attribute is an error, except for `user.*` and for
/// filesystem properties such as `btrfs.compression`, which are left out.
///
/// # Errors
///
/// `EOPNOTSUPP` for an ACL, a capability or a label that the target can't store.
pub fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let mut names = list(from)?;
    names.retain(|name| !is_alias(name));
    for name in &names {
        // Absent: removed since it was listed.
        let Some(value) = get(from, name)? else { continue };
        match set(to, name, &value) {
            Err(error) if error.errno() == Errno::OPNOTSUPP && is_dispensable(name) => {}
            result => result?,
        }
    }
    for inherited in list(to)? {
        let is_acl = inherited == ACCESS_ACL || inherited == DEFAULT_ACL;
        if is_acl && !names.contains(&inherited) {
            remove(to, &inherited)?;
        }
    }
    Ok(())
}

/// Whether what [`copy_xattrs`] made is what it was made from: every attribute is there with its value, but
/// for those that the target can't store and may do without, and no ACL more.
pub fn is_copy(original: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> Result<bool> {
    let mut names = list(original)?;
    names.retain(|name| !is_alias(name));
    for name in &names {
        // Absent: removed since it was listed.
        let Some(value) = get(original, name)? else { continue };
        match get(copy, name)? {
            Some(copied) if copied == value => {}
            None if is_dispensable(name) => {}
            _ => return Ok(false),
        }
    }
    let is_acl = |name: &OsString| name == ACCESS_ACL || name == DEFAULT_ACL;
    Ok(list(copy)?.iter().all(|name| !is_acl(name) || names.contains(name)))
}

/// Copies what decides about access besides owner and mode: security labels, and ACLs with those that
/// new files inherit. Owner and mode have to be set before.
///
/// ACLs that the target inherited, and that the source has not, are removed. What the target's
/// filesystem can't store is left out.
pub fn copy_labels(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let is_label = |name: &OsStr| {
        let name = name.as_bytes();
        name == SELINUX.as_bytes() || name.starts_with(b"security.SMACK64")
    };
    let is_acl = |name: &OsStr| name == ACCESS_ACL || name == DEFAULT_ACL;
    let names = list(from)?;
    for name in names.iter().filter(|name| is_label(name) || is_acl(name)) {
        let Some(value) = get(from, name)? else { continue };
        match set(to, name, &value) {
            Err(error) if error.errno() == Errno::OPNOTSUPP => {}
            result => result?,
        }
    }
    for inherited in list(to)?.iter().filter(|name| is_acl(name) && !names.contains(name)) {
        remove(to, inherited)?;
    }
    Ok(())
}

/// Gives what was made a moment ago the SELinux label of `model`: before the policy is loaded, as in the
/// initramfs, the kernel gives it none. Where it has one, that is the policy's, and stays. What is not labelled
/// itself, and a filesystem that can't store a label, is no error.
pub fn label_like(model: BorrowedFd<'_>, made: BorrowedFd<'_>) -> Result<()> {
    let name = OsStr::new(SELINUX);
    if get(made, name)?.is_some() {
        return Ok(());
    }
    let Some(label) = get(model, name)? else { return Ok(()) };
    match set(made, name, &label) {
        Err(error) if error.errno() == Errno::OPNOTSUPP => Ok(()),
        result => result,
    }
}

/// XFS shows each ACL a second time, under the name that it has on the disk.
pub(crate) fn is_alias(name: &OsStr) -> bool {
    matches!(name.as_bytes(), b"trusted.SGI_ACL_FILE" | b"trusted.SGI_ACL_DEFAULT")
}

fn is_dispensable(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"user.") || name.starts_with(b"btrfs.")
}

/// Reads something of unknown length: grows the buffer while the kernel says `ERANGE`.
fn read_all(
    mut read: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    // The kernel's limit for a value and for a list of names.
    const LIMIT: usize = 64 * 1024;
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < LIMIT => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests;
