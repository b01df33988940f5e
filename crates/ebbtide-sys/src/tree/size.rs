//! How much space a tree takes.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::open_child;
use super::stack::{DirectoryStack, identity};
use crate::error::Result;
use crate::file::{DirectoryEntry, read_directory};
use crate::metadata::{FileKind, Metadata, metadata, statx};
use crate::resolve::{open_directory, open_path};

/// Returns the bytes allocated for what is at `path` and everything below it.
///
/// A file with several names counts once. Mounts are not entered, nested btrfs subvolumes are.
/// Content that files share by reflink counts for each of them. What vanishes meanwhile is left out.
pub fn tree_size(dir: BorrowedFd<'_>, path: &Path) -> Result<u64> {
    tree_size_up_to(dir, path, u64::MAX)
}

/// As [`tree_size`], but stops counting as soon as it is more than `limit`, and returns that.
pub fn tree_size_up_to(dir: BorrowedFd<'_>, path: &Path, limit: u64) -> Result<u64> {
    let top = metadata(open_path(dir, path)?.as_fd())?;
    if top.kind != FileKind::Directory {
        return Ok(top.blocks * 512);
    }
    let mut bytes = 0;
    let mut seen = HashSet::new();
    let mut stack = DirectoryStack::default();
    let mut pending = Vec::new();
    enter(open_directory(dir, path)?, &top, &mut stack, &mut pending)?;
    bytes += top.blocks * 512;
    while let Some(entries) = pending.last_mut() {
        if bytes > limit {
            break;
        }
        let Some(entry) = entries.pop() else {
            stack.pop()?;
            pending.pop();
            continue;
        };
        let parent = stack.top()?;
        let found = match statx(parent, &entry.name) {
            Ok(found) if found.mount_id == top.mount_id => found,
            Ok(_) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        let is_directory = found.kind == FileKind::Directory;
        if is_directory || found.nlink == 1 || seen.insert(identity(&found)) {
            bytes += found.blocks * 512;
        }
        if is_directory {
            match open_child(parent, &entry.name) {
                Ok(child) => {
                    let found = metadata(child.as_fd())?;
                    if found.mount_id == top.mount_id {
                        enter(child, &found, &mut stack, &mut pending)?;
                    }
                }
                Err(error)
                    if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(bytes)
}

fn enter(
    directory: OwnedFd,
    found: &Metadata,
    stack: &mut DirectoryStack,
    pending: &mut Vec<Vec<DirectoryEntry>>,
) -> Result<()> {
    pending.push(read_directory(directory.as_fd())?);
    stack.push(directory, identity(found));
    Ok(())
}
