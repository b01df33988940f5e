//! How much space a tree takes.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

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
    walk(dir, path, limit, &mut |_, _| ())
}

/// Returns the bytes allocated for each directory with everything below it, as [`tree_size`] counts
/// them. Paths are relative to `path`, which is the empty one; what lies inside comes before what it
/// lies in.
pub fn directory_sizes(dir: BorrowedFd<'_>, path: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut sizes = Vec::new();
    walk(dir, path, u64::MAX, &mut |path, bytes| sizes.push((path.to_owned(), bytes)))?;
    Ok(sizes)
}

/// Tells of each directory what it takes, when all of it is known. Returns what all of it takes, or what
/// was counted when that was more than `limit`.
fn walk(
    dir: BorrowedFd<'_>,
    path: &Path,
    limit: u64,
    tell: &mut dyn FnMut(&Path, u64),
) -> Result<u64> {
    let opened = open_directory(dir, path)?;
    let top = metadata(opened.as_fd())?;
    let mut seen = HashSet::new();
    let mut stack = DirectoryStack::default();
    let mut levels = Vec::new();
    // One path, and not one for each level: a tree can be so deep that these fill the memory.
    let mut path = PathBuf::new();
    let mut all = enter(opened, &top, &mut stack, &mut levels)?;
    while all <= limit
        && let Some(level) = levels.last_mut()
    {
        let Some(entry) = level.entries.pop() else {
            stack.pop()?;
            let bytes = level.bytes;
            levels.pop();
            tell(&path, bytes);
            path.pop();
            if let Some(above) = levels.last_mut() {
                above.bytes += bytes;
            }
            continue;
        };
        let parent = stack.top()?;
        let found = match statx(parent, &entry.name) {
            Ok(found) if found.mount_id == top.mount_id => found,
            Ok(_) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if found.kind == FileKind::Directory {
            match open_child(parent, &entry.name) {
                Ok(child) => {
                    let found = metadata(child.as_fd())?;
                    if found.mount_id == top.mount_id {
                        path.push(&entry.name);
                        all += enter(child, &found, &mut stack, &mut levels)?;
                    }
                }
                Err(error)
                    if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        } else if found.nlink == 1 || seen.insert(identity(&found)) {
            level.bytes += found.blocks * 512;
            all += found.blocks * 512;
        }
    }
    Ok(all)
}

/// A directory on the way.
struct Level {
    /// What is still to be looked at.
    entries: Vec<DirectoryEntry>,
    bytes: u64,
}

fn enter(
    directory: OwnedFd,
    found: &Metadata,
    stack: &mut DirectoryStack,
    levels: &mut Vec<Level>,
) -> Result<u64> {
    let entries = read_directory(directory.as_fd())?;
    let bytes = found.blocks * 512;
    levels.push(Level { entries, bytes });
    stack.push(directory)?;
    Ok(bytes)
}
