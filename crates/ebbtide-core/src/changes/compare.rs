//! How two nodes of the same path differ.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_sys::file::{open_quietly, read_link};
use ebbtide_sys::metadata::{FileKind, Metadata};
use ebbtide_sys::{Error, Result, resolve, tree, xattr};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Change, What};

/// The extended attributes in which overlayfs keeps its own notes.
const PRIVATE: &[u8] = b"trusted.overlay.";

/// One node of a tree that is walked.
pub(super) struct Node<'a> {
    pub dir: BorrowedFd<'a>,
    pub name: &'a OsStr,
    pub found: &'a Metadata,
}

/// Compares two nodes of the same type: content first, then metadata. Content is read only where
/// nothing else tells files apart. What vanishes meanwhile is no difference.
pub(super) fn compare(root: &Node<'_>, base: &Node<'_>) -> Result<Option<What>> {
    let differs = match root.found.kind {
        FileKind::Regular if root.found.size != base.found.size => true,
        FileKind::Regular => unless_gone(is_other_content(root, base))?.unwrap_or(false),
        FileKind::Symlink => unless_gone(is_other_link(root, base))?.unwrap_or(false),
        FileKind::CharDevice | FileKind::BlockDevice => root.found.rdev != base.found.rdev,
        FileKind::Directory | FileKind::Fifo | FileKind::Socket => false,
    };
    if differs {
        return Ok(Some(What::Changed));
    }
    let owned = |it: &Metadata| (it.mode, it.uid, it.gid);
    if owned(root.found) != owned(base.found) {
        return Ok(Some(What::Metadata));
    }
    let same = unless_gone(attributes(root).and_then(|a| Ok(a == attributes(base)?)))?;
    Ok((same == Some(false)).then_some(What::Metadata))
}

fn is_other_content(root: &Node<'_>, base: &Node<'_>) -> Result<bool> {
    let open = |node: &Node<'_>| open_quietly(node.dir, node.name, OFlags::NONBLOCK);
    let (root, base) = (open(root)?, open(base)?);
    Ok(!tree::has_same_content(root.as_fd(), base.as_fd())?)
}

fn is_other_link(root: &Node<'_>, base: &Node<'_>) -> Result<bool> {
    let target = |node: &Node<'_>| read_link(node.dir, Path::new(node.name));
    Ok(target(root)? != target(base)?)
}

fn attributes(node: &Node<'_>) -> Result<Vec<(OsString, Vec<u8>)>> {
    let opened = resolve::open_path(node.dir, Path::new(node.name))?;
    let mut all = xattr::all(opened.as_fd())?;
    all.retain(|(name, _)| !is_private_attribute(name));
    Ok(all)
}

/// Whether it is a note of overlayfs to itself.
pub(crate) fn is_private_attribute(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PRIVATE)
}

/// `None` for what has gone, or has become something else, since it was looked at.
pub(super) fn unless_gone<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO)
}

/// A change in which the root's node is told.
pub(super) fn change(path: &Path, what: What, found: &Metadata) -> Change {
    let content = matches!(what, What::Added | What::Changed) && found.kind == FileKind::Regular;
    Change {
        path: path.to_owned(),
        kind: found.kind,
        bytes: if content { found.size } else { 0 },
        when: Some(found.changed),
        what,
    }
}

/// Something that only the base has.
///
/// When it went is not known: all whiteouts of an overlay are one inode.
pub(super) fn deleted(path: &Path, base: &Metadata) -> Change {
    Change { path: path.to_owned(), what: What::Deleted, kind: base.kind, bytes: 0, when: None }
}
