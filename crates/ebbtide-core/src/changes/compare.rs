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
    /// It itself, where it was opened for reading already.
    pub opened: Option<BorrowedFd<'a>>,
}

/// Compares two nodes of the same type: content first, then metadata. Content is read only where
/// nothing else tells files apart. What vanishes meanwhile is no difference.
pub(super) fn compare(root: &Node<'_>, base: &Node<'_>) -> Result<Option<What>> {
    match root.found.kind {
        FileKind::Regular if root.found.size != base.found.size => Ok(Some(What::Changed)),
        FileKind::Regular => {
            let open = |node: &Node<'_>| open_quietly(node.dir, node.name, OFlags::NONBLOCK);
            let opened = unless_gone(open(root).and_then(|root| Ok((root, open(base)?))))?;
            let Some((root_file, base_file)) = opened else { return Ok(metadata(root, base)) };
            let (root_file, base_file) = (root_file.as_fd(), base_file.as_fd());
            if !tree::has_same_content(root_file, base_file)? {
                return Ok(Some(What::Changed));
            }
            metadata_and_attributes(
                &Node { opened: Some(root_file), ..*root },
                &Node { opened: Some(base_file), ..*base },
            )
        }
        FileKind::Symlink if unless_gone(is_other_link(root, base))? == Some(true) => {
            Ok(Some(What::Changed))
        }
        FileKind::CharDevice | FileKind::BlockDevice if root.found.rdev != base.found.rdev => {
            Ok(Some(What::Changed))
        }
        _ => metadata_and_attributes(root, base),
    }
}

fn metadata(root: &Node<'_>, base: &Node<'_>) -> Option<What> {
    let owned = |it: &Metadata| (it.mode, it.uid, it.gid);
    (owned(root.found) != owned(base.found)).then_some(What::Metadata)
}

fn metadata_and_attributes(root: &Node<'_>, base: &Node<'_>) -> Result<Option<What>> {
    if let Some(what) = metadata(root, base) {
        return Ok(Some(what));
    }
    let same = unless_gone(attributes(root).and_then(|a| Ok(a == attributes(base)?)))?;
    Ok((same == Some(false)).then_some(What::Metadata))
}

fn is_other_link(root: &Node<'_>, base: &Node<'_>) -> Result<bool> {
    let target = |node: &Node<'_>| read_link(node.dir, Path::new(node.name));
    Ok(target(root)? != target(base)?)
}

fn attributes(node: &Node<'_>) -> Result<Vec<(OsString, Vec<u8>)>> {
    let is_its_own = |name: &OsStr| !is_private_attribute(name);
    if let Some(opened) = node.opened {
        return xattr::some(opened, is_its_own);
    }
    xattr::some(resolve::open_path(node.dir, Path::new(node.name))?.as_fd(), is_its_own)
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
