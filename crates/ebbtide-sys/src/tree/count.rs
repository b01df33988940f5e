//! How many files a tree has.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use super::open_child;
use super::stack::DirectoryStack;
use crate::error::Result;
use crate::file::read_directory;
use crate::metadata::{FileKind, metadata, statx};
use crate::resolve::{open_directory, open_path};

/// Counts what is at `path` and below it, directories left out. No link is followed; what vanishes
/// meanwhile does not count.
pub fn count_files(dir: BorrowedFd<'_>, path: &Path) -> Result<u64> {
    if metadata(open_path(dir, path)?.as_fd())?.kind != FileKind::Directory {
        return Ok(1);
    }
    let mut files = 0;
    let mut stack = DirectoryStack::default();
    let top = open_directory(dir, path)?;
    let mut pending = vec![read_directory(top.as_fd())?];
    stack.push(top)?;
    while let Some(entries) = pending.last_mut() {
        let Some(entry) = entries.pop() else {
            stack.pop()?;
            pending.pop();
            continue;
        };
        let parent = stack.top()?;
        match statx(parent, &entry.name) {
            Ok(found) if found.kind != FileKind::Directory => files += 1,
            Ok(_) => match open_child(parent, &entry.name) {
                Ok(child) => {
                    pending.push(read_directory(child.as_fd())?);
                    stack.push(child)?;
                }
                Err(error)
                    if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            },
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}
