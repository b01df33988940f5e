//! Subvolumes inside a subvolume.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::search::{Key, ROOT_TREE, le_u16, le_u64, visit};
use super::{SubvolumeId, delete_subvolume, is_subvolume, raw, set_read_only};
use crate::descriptor::check_name;
use crate::error::{Error, Result};
use crate::file::unprotect;
use crate::resolve::{open_directory, split_parent};

/// `BTRFS_ROOT_REF_KEY`: from a subvolume (objectid) to one that it contains (offset).
const ROOT_REF: u32 = 156;

/// Lists the subvolumes inside a subvolume, in any depth, with paths relative to it.
///
/// A subvolume comes before those that it contains. Needs `CAP_SYS_ADMIN`.
///
/// # Errors
///
/// `ENAMETOOLONG` if one is in a directory whose path within its subvolume has over 4079 bytes.
pub fn nested_subvolumes(subvolume: BorrowedFd<'_>) -> Result<Vec<(SubvolumeId, PathBuf)>> {
    // Tree 0 is the one that the descriptor is in, and its number is in the answer.
    let top = raw::ino_lookup(subvolume, 0, super::TOP_INODE)?.treeid;
    let mut found = Vec::new();
    let mut next = 0;
    let mut within = (SubvolumeId(top), PathBuf::new());
    loop {
        for reference in references(subvolume, within.0)? {
            let mut path = within.1.clone();
            path.push(directory_path(subvolume, within.0, reference.directory)?);
            path.push(reference.name);
            found.push((reference.child, path));
        }
        match found.get(next) {
            Some(subvolume) => within = subvolume.clone(),
            None => return Ok(found),
        }
        next += 1;
    }
}

/// An item of type `ROOT_REF`: the entry of a directory that is a subvolume.
struct Reference {
    child: SubvolumeId,
    directory: u64,
    name: OsString,
}

/// Finds the subvolumes directly inside another.
fn references(fd: BorrowedFd<'_>, parent: SubvolumeId) -> Result<Vec<Reference>> {
    let key = |offset| Key { objectid: parent.0, kind: ROOT_REF, offset };
    let mut found = Vec::new();
    visit(fd, ROOT_TREE, key(0)..=key(u64::MAX), 0, |key, item| {
        found.extend(parse_reference(key, item));
    })?;
    Ok(found)
}

/// Reads a `btrfs_root_ref`: directory, sequence, length of the name; then the name.
fn parse_reference(key: Key, item: &[u8]) -> Option<Reference> {
    const NAME: usize = 18;
    let length = usize::from(le_u16(item, 16)?);
    let name = item.get(NAME..NAME + length)?;
    Some(Reference {
        child: SubvolumeId(key.offset),
        directory: le_u64(item, 0)?,
        name: OsString::from_vec(name.to_vec()),
    })
}

/// Returns the path of a directory within its subvolume; empty for the top.
pub(super) fn directory_path(
    fd: BorrowedFd<'_>,
    tree: SubvolumeId,
    directory: u64,
) -> Result<PathBuf> {
    let answer = raw::ino_lookup(fd, tree.0, directory)?;
    Ok(PathBuf::from(OsStr::from_bytes(raw::until_nul(&answer.name))))
}

/// Deletes a subvolume and those inside it, the innermost first.
///
/// Read-only subvolumes that contain others are made writable for that, and the immutable and
/// append-only flags of those directories that are in the way are cleared. If it is interrupted, what
/// is left can be deleted in the same way.
///
/// # Errors
///
/// `EINVAL` if `name` is not a subvolume, and those of [`delete_subvolume`].
pub fn delete_subvolume_recursively(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    check_name("ioctl", dir, name)?;
    let top = open_directory(dir, Path::new(name))?;
    if !is_subvolume(top.as_fd())? {
        return Err(Error::new("ioctl", Errno::INVAL)
            .fd(dir)
            .arg("BTRFS_IOC_SNAP_DESTROY")
            .path(name)
            .note("not a subvolume"));
    }
    let nested = nested_subvolumes(top.as_fd())?;
    for (_, path) in nested.iter().rev() {
        let Some((parent, name)) = split_parent(path) else { continue };
        let directory = open_directory(top.as_fd(), parent)?;
        match delete(directory.as_fd(), name) {
            Err(error) if error.errno() == Errno::ROFS => {
                let around = subvolume_around(&nested, path);
                set_read_only(open_directory(top.as_fd(), around)?.as_fd(), false)?;
                delete(directory.as_fd(), name)?;
            }
            result => result?,
        }
    }
    delete(dir, name)
}

/// Deletes one, without the flags that forbid it.
fn delete(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    match delete_subvolume(dir, name) {
        Err(error) if error.errno() == Errno::PERM => {
            let _ = unprotect(dir);
            let _ = unprotect(open_directory(dir, Path::new(name))?.as_fd());
            delete_subvolume(dir, name)
        }
        result => result,
    }
}

/// Returns the path of the subvolume that contains another; empty for the top one.
fn subvolume_around<'a>(all: &'a [(SubvolumeId, PathBuf)], path: &Path) -> &'a Path {
    all.iter()
        .map(|(_, candidate)| candidate.as_path())
        .filter(|candidate| *candidate != path && path.starts_with(candidate))
        .max_by_key(|candidate| candidate.as_os_str().len())
        .unwrap_or(Path::new(""))
}
