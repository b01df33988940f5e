//! One path in two trees: what is different about it, with the content of files.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{self, FileKind, Metadata};
use ebbtide_sys::{escape, file, resolve, tree, xattr};
use rustix::io::Errno;

use crate::changes::is_private_attribute;
use crate::failure::{Context, Failure, Result};
use crate::past::version;

/// Of a longer file the content is only compared, in bytes.
pub const LIMIT: u64 = 4 << 20;

/// What is at a path in one tree.
#[derive(Debug)]
pub struct Node {
    /// Its type, owner, mode and times.
    pub metadata: Metadata,
    /// Its extended attributes, without those of overlayfs, in order of their names.
    pub attributes: Vec<(OsString, Vec<u8>)>,
    /// What is in it.
    pub content: Content,
    file: Option<OwnedFd>,
}

/// What is in it.
#[derive(Debug, PartialEq, Eq)]
pub enum Content {
    /// The bytes of a regular file.
    Bytes(Vec<u8>),
    /// A regular file of more than [`LIMIT`] bytes.
    Large,
    /// The target of a symbolic link.
    Link(PathBuf),
    /// The numbers of a device, major and minor.
    Device(u32, u32),
    /// Of directories, pipes and sockets, which have no content of their own.
    None,
}

/// One path in two trees.
#[derive(Debug)]
pub struct Compared {
    /// What the older tree has.
    pub old: Option<Node>,
    /// What the newer tree has.
    pub new: Option<Node>,
    /// Whether they are of different types, or have different content, or only one is there.
    pub other_content: bool,
    /// Whether owner, group, mode or an extended attribute is different.
    pub other_metadata: bool,
}

impl Compared {
    /// Whether nothing is different. Times alone are no difference.
    pub fn is_same(&self) -> bool {
        !self.other_content && !self.other_metadata
    }
}

/// Looks at a path in two trees. No link is followed, neither on the way nor at the end.
///
/// # Errors
///
/// Among others if the path is a directory in both: there is no content to show then.
pub fn compare(old: BorrowedFd<'_>, new: BorrowedFd<'_>, path: &Path) -> Result<Compared> {
    let what = || format!("cannot compare {}", escape(path.as_os_str().as_bytes()));
    let (old, new) = (look(old, path).context(what)?, look(new, path).context(what)?);
    let mut compared = Compared { old, new, other_content: true, other_metadata: false };
    match (&compared.old, &compared.new) {
        (None, None) => return Err(Failure::new("neither of the two has it")).context(what),
        (Some(old), Some(new)) => {
            if [old, new].iter().all(|node| node.metadata.kind == FileKind::Directory) {
                return Err(Failure::new(format!(
                    "{} is a directory",
                    escape(path.as_os_str().as_bytes())
                ))
                .hint(
                    "name files; without `--content`, what changed below a directory is listed",
                ));
            }
            compared.other_content =
                old.metadata.kind != new.metadata.kind || is_other(old, new).context(what)?;
            let owned = |it: &Node| (it.metadata.mode, it.metadata.uid, it.metadata.gid);
            compared.other_metadata = owned(old) != owned(new) || old.attributes != new.attributes;
        }
        _ => {}
    }
    Ok(compared)
}

/// Whether two nodes of one type have different content.
fn is_other(old: &Node, new: &Node) -> ebbtide_sys::Result<bool> {
    match (&old.file, &new.file) {
        (Some(a), Some(b)) if old.metadata.size == new.metadata.size => {
            Ok(!tree::has_same_content(a.as_fd(), b.as_fd())?)
        }
        (Some(_), Some(_)) => Ok(true),
        _ => Ok(old.content != new.content),
    }
}

fn look(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<Node>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let opened = match resolve::open_path(tree, relative) {
        Ok(opened) => opened,
        Err(error) if version::is_absent(&error) => return Ok(None),
        Err(error) => return Err(version::explain(tree, relative, error)),
    };
    let what = || "cannot look at it".to_owned();
    let mut found = metadata::metadata(opened.as_fd()).context(what)?;
    let mut attributes = xattr::all(opened.as_fd()).context(what)?;
    attributes.retain(|(name, _)| !is_private_attribute(name));
    attributes.sort_unstable();
    let mut opened_file = None;
    let content = match found.kind {
        FileKind::Regular => {
            let (file, now) = version::open_regular(tree, relative)?;
            found = now;
            let content = if found.size > LIMIT { Content::Large } else { bytes(&file)? };
            opened_file = Some(file);
            content
        }
        FileKind::Symlink => {
            Content::Link(file::read_link(tree, relative).context(|| "cannot read the link")?)
        }
        FileKind::CharDevice | FileKind::BlockDevice => Content::Device(found.rdev.0, found.rdev.1),
        FileKind::Directory | FileKind::Fifo | FileKind::Socket => Content::None,
    };
    Ok(Some(Node { metadata: found, attributes, content, file: opened_file }))
}

/// The bytes of a file, if they are not too many: it may grow meanwhile.
fn bytes(file: &OwnedFd) -> Result<Content> {
    let mut all = Vec::new();
    let mut buffer = vec![0; 128 * 1024];
    while all.len() as u64 <= LIMIT {
        match rustix::io::pread(file, &mut buffer, all.len() as u64) {
            Ok(0) => return Ok(Content::Bytes(all)),
            Ok(count) => all.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot read it"),
        }
    }
    Ok(Content::Large)
}
