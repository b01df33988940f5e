//! Sending what a user has at a path of a tree. The process is that user's by now.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_core::failure::{Context, Failure, Result};
use ebbtide_sys::metadata::{self, FileKind, Metadata};
use ebbtide_sys::{file, resolve, xattr};
use rustix::fs::OFlags;

use super::wire::{self, Answer, Bytes, Node, NodeKind};

/// How many directories may be in one another: each costs a descriptor, at both ends.
const DEPTH: usize = 200;

/// Whose it is, where it goes, and what was left out so far.
pub struct Sender<'a, W> {
    /// The user.
    pub uid: u32,
    /// The socket.
    pub out: &'a mut W,
    /// How much was not theirs, or has no content.
    pub left_out: u64,
}

/// Whether an attribute is one that users have a say in.
fn is_for_users(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_")
}

impl<W: Write> Sender<'_, W> {
    /// Sends what is at a path, with all that is below it and the user's.
    pub fn send(&mut self, tree: BorrowedFd<'_>, path: &Path) -> Result<()> {
        let what = || "cannot read it in the past root";
        let (parent, name) = resolve::split_parent(path.strip_prefix("/").unwrap_or(path))
            .ok_or_else(|| Failure::new("the whole root cannot be restored"))?;
        let parent = resolve::open_directory_path(tree, parent).context(what)?;
        self.node(parent.as_fd(), name, 0).context(what)?;
        let left_out = self.left_out;
        self.answer(&Answer::End { left_out })
    }

    fn answer(&mut self, answer: &Answer) -> Result<()> {
        wire::write_json(self.out, answer).context(|| "cannot send it")
    }

    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> Result<()> {
        let what = || format!("cannot read {}", ebbtide_sys::escape(name.as_bytes()));
        let Some(found) = metadata::metadata_of_entry(parent, name).context(what)? else {
            return Ok(());
        };
        if found.uid != self.uid {
            self.left_out += 1;
            return Ok(());
        }
        match found.kind {
            FileKind::Regular => {
                let file = open(parent, name, OFlags::NONBLOCK, &found).context(what)?;
                let what = NodeKind::File { size: found.size };
                self.head(name, what, &found, Some(&file))?;
                self.content(file, found.size)
            }
            FileKind::Directory if depth == DEPTH => {
                Err(Failure::new(format!("there are more than {DEPTH} directories in one another")))
            }
            FileKind::Directory => {
                let opened = open(parent, name, OFlags::DIRECTORY, &found).context(what)?;
                self.head(name, NodeKind::Directory {}, &found, Some(&opened))?;
                for entry in file::read_directory(opened.as_fd()).context(what)? {
                    self.node(opened.as_fd(), &entry.name, depth + 1)?;
                }
                self.answer(&Answer::Up {})
            }
            FileKind::Symlink => {
                let target = file::read_link(parent, Path::new(name)).context(what)?;
                let target = Bytes::of(target.as_os_str());
                self.head(name, NodeKind::Link { target }, &found, None)
            }
            _ => {
                self.left_out += 1;
                Ok(())
            }
        }
    }

    fn head(
        &mut self,
        name: &OsStr,
        what: NodeKind,
        found: &Metadata,
        opened: Option<&OwnedFd>,
    ) -> Result<()> {
        let attributes = opened.map(|it| xattr::all(it.as_fd())).transpose();
        let attributes = attributes.context(|| "cannot read attributes")?.unwrap_or_default();
        let attributes = attributes.into_iter().filter(|(name, _)| is_for_users(name));
        self.answer(&Answer::Node(Node {
            name: Bytes::of(name),
            what,
            mode: found.mode,
            gid: found.gid,
            accessed: found.accessed,
            modified: found.modified,
            attributes: attributes.map(|(name, it)| (Bytes::of(&name), Bytes(it))).collect(),
        }))
    }

    /// Sends what is in a file, without its holes.
    fn content(&mut self, file: OwnedFd, size: u64) -> Result<()> {
        let what = || "cannot read a file";
        let mut file = File::from(file);
        let mut buffer = vec![0; wire::PIECE];
        let mut offset = 0;
        while offset < size {
            offset = match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
                Ok(data) => data,
                // Nothing but a hole is left.
                Err(rustix::io::Errno::NXIO) => return Ok(()),
                // Not every filesystem tells.
                Err(rustix::io::Errno::INVAL) => offset,
                Err(errno) => return Err(io::Error::from(errno)).context(what),
            };
            file.seek(SeekFrom::Start(offset)).context(what)?;
            let read = file.read(&mut buffer).context(what)?;
            let wanted = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let piece = buffer.get(..read.min(wanted)).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            wire::write_data(self.out, offset, piece).context(|| "cannot send it")?;
            offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
        Ok(())
    }
}

/// Opens what was looked at, and nothing that came in its place.
fn open(parent: BorrowedFd<'_>, name: &OsStr, flags: OFlags, seen: &Metadata) -> Result<OwnedFd> {
    let opened = file::open_quietly(parent, name, flags).context(|| "cannot open it")?;
    let found = metadata::metadata(opened.as_fd()).context(|| "cannot look at it")?;
    let is_same = |a: &Metadata, b: &Metadata| {
        (a.kind, a.uid, a.device, a.inode) == (b.kind, b.uid, b.device, b.inode)
    };
    if is_same(&found, seen) { Ok(opened) } else { Err(Failure::new("it is another one now")) }
}
