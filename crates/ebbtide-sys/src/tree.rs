//! Copying and measuring whole trees.

mod beside;
mod compare;
mod content;
mod copy;
mod count;
mod data;
mod extents;
mod node;
mod privileges;
mod size;
pub mod stack;
mod visit;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::descriptor::{check_name, reopen_directory};
use crate::error::{Error, Result};
use crate::file::{create_directory, read_directory};
use crate::metadata::{FileKind, metadata};
use crate::resolve::{open_directory, open_path, split_parent};

pub use beside::copy_tree_compared;
pub use compare::{changed_since, first_difference};
pub use content::has_same_content;
pub use count::count_files;
pub use privileges::{Privileges, drop_privileges};
pub use size::{directory_sizes, tree_size, tree_size_up_to};
pub use visit::{Visited, visit};

/// What to copy, and whom to tell.
pub struct CopyOptions<'a> {
    /// Asked with each path relative to the copied root (never with the root itself): true leaves
    /// it out, with everything below it.
    pub skip: &'a dyn Fn(&Path) -> bool,
    /// Whether names of one file inside the tree become names of one copy.
    pub keep_hard_links: bool,
    /// Whether btrfs subvolumes inside the tree are copied, as plain directories; else an empty
    /// directory is left. Other mounts are never entered.
    pub cross_subvolumes: bool,
    /// Called with the bytes of file content copied so far.
    pub progress: Option<&'a mut dyn FnMut(u64)>,
}

impl Default for CopyOptions<'_> {
    /// Everything, with hard links, without nested subvolumes.
    fn default() -> Self {
        Self { skip: &|_| false, keep_hard_links: true, cross_subvolumes: false, progress: None }
    }
}

/// What was copied and what was not. Paths are relative to the copied root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Entries copied that are not directories, further names of a file included.
    pub files: u64,
    /// Bytes of file content, holes included.
    pub bytes: u64,
    /// Regular files whose content is shared with the source.
    pub reflinked: u64,
    /// Entries that were gone or had become something else when they were about to be copied.
    pub vanished: u64,
    /// Mount points: an empty directory or file with owner and mode was left.
    pub mounts_skipped: Vec<PathBuf>,
    /// Nested btrfs subvolumes that were copied as directories.
    pub subvolumes_copied: Vec<PathBuf>,
    /// Nested btrfs subvolumes that were left as empty directories.
    pub subvolumes_skipped: Vec<PathBuf>,
    /// Sockets: they mean nothing without the program that listens.
    pub sockets_skipped: Vec<PathBuf>,
}

/// Copies `from`, which may be a directory or any other file, to a new entry of `to_dir`.
///
/// Content is shared where the filesystem can (`FICLONE`), else copied with its holes. Owner, mode,
/// extended attributes with ACLs and capabilities, and times in nanoseconds are kept, and inside
/// the tree hard links. Inode flags are not, except btrfs's no-copy-on-write. An empty `from` is
/// `from_dir` itself. The source is read with `O_NOATIME` where permitted.
///
/// Nothing is durable until the caller synchronises, and on an error what was copied stays. `to_dir`
/// should not be writable by others: they can't lead the copy elsewhere, but they can spoil it.
///
/// # Errors
///
/// `EEXIST` if `to_name` is taken, `EINVAL` if it lies within `from`, `ESTALE` if directories of the
/// source are moved about meanwhile, and those of the calls in this crate.
pub fn copy_tree(
    from_dir: BorrowedFd<'_>,
    from: &Path,
    to_dir: BorrowedFd<'_>,
    to_name: &OsStr,
    options: CopyOptions<'_>,
) -> Result<CopyReport> {
    check_name("mkdirat", to_dir, to_name)?;
    let found = metadata(open_path(from_dir, from)?.as_fd())?;
    if found.kind == FileKind::Directory {
        let source = open_directory(from_dir, from)?;
        let target = create_directory(to_dir, to_name, 0o700)?;
        return copy::directory(source, target, options, &mut |_, _| {});
    }
    let Some((parent, name)) = split_parent(from) else {
        return Err(Error::new("openat", Errno::NOTDIR).fd(from_dir).path(from));
    };
    copy::single(open_directory(from_dir, parent)?.as_fd(), name, to_dir, to_name, options)
}

/// Copies the content of the directory `from`, and its own metadata, into an empty directory.
///
/// As [`copy_tree`] otherwise: this one is for a directory that had to be made in another way, such
/// as a fresh subvolume.
///
/// # Errors
///
/// `ENOTEMPTY` if there is anything in the target.
pub fn copy_tree_into(
    from_dir: BorrowedFd<'_>,
    from: &Path,
    to_directory: BorrowedFd<'_>,
    options: CopyOptions<'_>,
) -> Result<CopyReport> {
    let source = open_directory(from_dir, from)?;
    let target = reopen_directory(to_directory)?;
    if !read_directory(target.as_fd())?.is_empty() {
        return Err(Error::new("mkdirat", Errno::NOTEMPTY).fd(to_directory));
    }
    copy::directory(source, target, options, &mut |_, _| {})
}

/// Opens a directory of a tree that is walked.
fn open_child(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    crate::file::open_quietly(parent, name, OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests;
