//! How two nodes of the same path differ.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_sys::btrfs::InodeItem;
use ebbtide_sys::file::{open_quietly, read_link};
use ebbtide_sys::metadata::{FileKind, Metadata, Time};
use ebbtide_sys::{Error, Result, resolve, tree, xattr};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Change, What};

/// The extended attributes in which overlayfs keeps its own notes.
const PRIVATE: &[u8] = b"trusted.overlay.";

/// What can be told of a node without opening it.
#[derive(Clone, Copy)]
pub(super) struct Look {
    pub kind: FileKind,
    /// Mode, owner and group.
    rights: (u32, u32, u32),
    /// The size in bytes.
    size: u64,
    rdev: (u32, u32),
    /// When its metadata last changed.
    changed: Time,
}

impl From<&Metadata> for Look {
    fn from(it: &Metadata) -> Self {
        let rights = (it.mode, it.uid, it.gid);
        Self { kind: it.kind, rights, size: it.size, rdev: it.rdev, changed: it.changed }
    }
}

impl From<&InodeItem> for Look {
    fn from(it: &InodeItem) -> Self {
        let rights = (it.mode, it.uid, it.gid);
        Self { kind: it.kind, rights, size: it.size, rdev: it.rdev, changed: it.changed }
    }
}

impl Look {
    /// Whether nothing needs to be opened to tell that two of one type have another content.
    pub fn has_other_content(&self, other: &Self) -> bool {
        match self.kind {
            FileKind::Regular => self.size != other.size,
            FileKind::CharDevice | FileKind::BlockDevice => self.rdev != other.rdev,
            _ => false,
        }
    }

    fn has_other_rights(&self, other: &Self) -> bool {
        self.rights != other.rights
    }
}

/// One node of a tree that is walked.
pub(super) struct Node<'a> {
    pub dir: BorrowedFd<'a>,
    pub name: &'a OsStr,
    pub found: &'a Look,
}

/// Compares two nodes of the same type: content first, then metadata. Content is read only where
/// nothing else tells files apart. What vanishes meanwhile is no difference.
pub(super) fn compare(root: &Node<'_>, base: &Node<'_>) -> Result<Option<What>> {
    if root.found.has_other_content(base.found) {
        return Ok(Some(What::Changed));
    }
    match root.found.kind {
        FileKind::Regular => {
            let open = |node: &Node<'_>| open_quietly(node.dir, node.name, OFlags::NONBLOCK);
            let opened = unless_gone(open(root).and_then(|root| Ok((root, open(base)?))))?;
            let Some((root_file, base_file)) = opened else { return Ok(None) };
            let (root_file, base_file) = (root_file.as_fd(), base_file.as_fd());
            if !tree::has_same_content(root_file, base_file)? {
                return Ok(Some(What::Changed));
            }
            compare_opened((root.found, root_file), (base.found, base_file))
        }
        FileKind::Symlink if unless_gone(is_other_link(root, base))? == Some(true) => {
            Ok(Some(What::Changed))
        }
        _ if root.found.has_other_rights(base.found) => Ok(Some(What::Metadata)),
        _ => {
            let open = |node: &Node<'_>| resolve::open_path(node.dir, Path::new(node.name));
            let opened = unless_gone(open(root).and_then(|root| Ok((root, open(base)?))))?;
            let Some((root_node, base_node)) = opened else { return Ok(None) };
            compare_opened((root.found, root_node.as_fd()), (base.found, base_node.as_fd()))
        }
    }
}

/// Compares the metadata of two opened nodes.
pub(super) fn compare_opened(
    root: (&Look, BorrowedFd<'_>),
    base: (&Look, BorrowedFd<'_>),
) -> Result<Option<What>> {
    if root.0.has_other_rights(base.0) {
        return Ok(Some(What::Metadata));
    }
    compare_listed((root.0, root.1, xattr::list(root.1)?), base)
}

/// The same, if the names of the root's extended attributes were read already.
pub(super) fn compare_listed(
    (root, root_node, names): (&Look, BorrowedFd<'_>, Vec<OsString>),
    (base, base_node): (&Look, BorrowedFd<'_>),
) -> Result<Option<What>> {
    if root.has_other_rights(base) {
        return Ok(Some(What::Metadata));
    }
    let attributes = |node, names| xattr::values(node, names, |name| !is_private_attribute(name));
    let same = attributes(root_node, names)? == attributes(base_node, xattr::list(base_node)?)?;
    Ok((!same).then_some(What::Metadata))
}

fn is_other_link(root: &Node<'_>, base: &Node<'_>) -> Result<bool> {
    let target = |node: &Node<'_>| read_link(node.dir, Path::new(node.name));
    Ok(target(root)? != target(base)?)
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
pub(super) fn change(path: &Path, what: What, found: &Look) -> Change {
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
pub(super) fn deleted(path: &Path, kind: FileKind) -> Change {
    Change { path: path.to_owned(), what: What::Deleted, kind, bytes: 0, when: None }
}
