//! What is at a path in one tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_sys::file::open_quietly;
use ebbtide_sys::metadata::{self, FileKind, Metadata, Time};
use ebbtide_sys::{Error, escape, file, resolve, xattr};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::total::{self, Total};
use crate::compiled::StoreName;
use crate::failure::{Context, Failure, Result};

/// Of a longer file the content is not read, in bytes: size and times stand for it.
pub const CONTENT_LIMIT: u64 = 256 << 20;

/// The extended attributes in which overlayfs keeps its own notes.
const PRIVATE: &[u8] = b"trusted.overlay.";

/// What is at a path in one tree, or that nothing is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// This.
    Present(Version),
    /// Nothing, and an older version is there: it was deleted.
    Deleted,
    /// Nothing, and nothing before.
    Absent,
    /// Not in the root: it was mounted from this store.
    Kept(StoreName),
    /// It can't be looked at, and why.
    Unknown(String),
}

/// What a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory, with all that is below it in the same tree.
    Directory,
    /// A symbolic link.
    Link,
    /// A pipe, a socket or a device.
    Special,
}

impl Kind {
    fn of(kind: FileKind) -> Self {
        match kind {
            FileKind::Regular => Self::File,
            FileKind::Directory => Self::Directory,
            FileKind::Symlink => Self::Link,
            _ => Self::Special,
        }
    }
}

/// One version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Version {
    /// What it is.
    pub kind: Kind,
    /// The size of a file in bytes; of a directory, that of all files below it.
    pub bytes: u64,
    /// When it was last modified, in seconds since 1970; of a directory, the newest time below it.
    pub modified: i64,
    /// Its owner's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// Its permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// The SHA-256 of a file's content; none if that was too much to read.
    pub content: Option<String>,
    /// Where a symbolic link leads, escaped.
    pub target: Option<String>,
    /// How many entries are below a directory.
    pub entries: Option<u64>,
    /// Whether all of it was looked at: of a very large directory, only the beginning is.
    pub complete: bool,
    /// What is the same in the same version, times left out.
    #[serde(skip)]
    pub identity: Identity,
}

/// A hash of all that makes a version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Identity(pub(super) [u8; 32]);

impl Version {
    /// Whether it is known to be the same as another: content, owner, mode and extended attributes.
    pub fn is_same(&self, other: &Self) -> bool {
        self.complete && other.complete && self.identity == other.identity
    }
}

/// Files that were read already. The same inode number and the same times to the nanosecond, in
/// snapshots of one tree, are the same file, with its metadata; its change time is not for programs to set.
#[derive(Debug, Default)]
pub struct Contents {
    known: HashMap<Key, Version>,
    /// Whose it has to be: what others have counts as not there.
    pub(super) only: Option<u32>,
}

/// Inode number, size, and when content and metadata changed last.
type Key = (u64, u64, Time, Time);

fn key(found: &Metadata) -> Key {
    (found.inode, found.size, found.modified, found.changed)
}

impl Contents {
    /// Looks only at what belongs to a user.
    pub fn of(uid: u32) -> Self {
        Self { only: Some(uid), ..Self::default() }
    }
}

/// Looks at a path in a tree. No link is followed, neither on the way nor at the end.
pub fn look(tree: BorrowedFd<'_>, path: &Path, contents: &mut Contents) -> State {
    match found(tree, path, contents) {
        Ok(Some(version)) => State::Present(version),
        Ok(None) => State::Absent,
        Err(failure) => State::Unknown(failure.chain()),
    }
}

fn found(tree: BorrowedFd<'_>, path: &Path, contents: &mut Contents) -> Result<Option<Version>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let opened = match resolve::open_path(tree, relative) {
        Ok(opened) => opened,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(explain(tree, relative, error)),
    };
    let what = || format!("cannot look at {}", escape(path.as_os_str().as_bytes()));
    let found = metadata::metadata(opened.as_fd()).context(what)?;
    if found.kind == FileKind::Regular
        && let Some(known) = contents.known.get(&key(&found))
    {
        return Ok(Some(known.clone()));
    }
    let mut version = Version {
        kind: Kind::of(found.kind),
        bytes: if found.kind == FileKind::Regular { found.size } else { 0 },
        modified: found.modified.0,
        uid: found.uid,
        gid: found.gid,
        mode: found.mode,
        content: None,
        target: None,
        entries: None,
        complete: true,
        identity: Identity::default(),
    };
    let mut is_settled = false;
    let mut identity = Sha256::new();
    identity.update([version.kind as u8]);
    for number in [found.mode, found.uid, found.gid, found.rdev.0, found.rdev.1] {
        identity.update(number.to_le_bytes());
    }
    for (name, value) in xattr::all(opened.as_fd()).context(what)? {
        if !name.as_bytes().starts_with(PRIVATE) {
            part(&mut identity, name.as_bytes());
            part(&mut identity, &value);
        }
    }
    match version.kind {
        Kind::File if found.size > CONTENT_LIMIT => {
            identity.update(format!("{} {:?} {:?}", found.size, found.modified, found.changed));
        }
        Kind::File => {
            let hash;
            (hash, is_settled) = content(tree, relative, &found).context(what)?;
            identity.update(&hash);
            version.content = Some(hash);
        }
        Kind::Directory => {
            let directory = resolve::open_directory(tree, relative).context(what)?;
            let Total { bytes, entries, newest, digest, complete } =
                total::total(directory, contents.only).context(what)?;
            version.bytes = bytes;
            version.entries = Some(entries);
            version.modified = newest.0.max(found.modified.0);
            version.complete = complete;
            identity.update(digest);
        }
        Kind::Link => {
            let target = file::read_link(tree, relative).context(what)?;
            part(&mut identity, target.as_os_str().as_bytes());
            version.target = Some(escape(target.as_os_str().as_bytes()));
        }
        Kind::Special => {}
    }
    version.identity = Identity(identity.finalize().into());
    if is_settled {
        contents.known.insert(key(&found), version.clone());
    }
    Ok(Some(version))
}

/// What has a length does not run into what comes next.
fn part(identity: &mut Sha256, bytes: &[u8]) {
    identity.update(bytes.len().to_le_bytes());
    identity.update(bytes);
}

/// Nothing, or a file where a directory would have to be.
pub(crate) fn is_absent(error: &Error) -> bool {
    matches!(error.errno(), Errno::NOENT | Errno::NOTDIR)
}

/// Says which link is in the way.
pub(crate) fn explain(tree: BorrowedFd<'_>, relative: &Path, error: Error) -> Failure {
    let mut way: Vec<_> = relative.ancestors().skip(1).collect();
    way.reverse();
    let is_link = |above: &&&Path| {
        matches!(metadata::metadata_beneath(tree, above),
            Ok(Some(found)) if found.kind == FileKind::Symlink)
    };
    match way.iter().find(is_link) {
        Some(link) => {
            let target = file::read_link(tree, link).unwrap_or_default();
            Failure::new(format!(
                "/{} is a symbolic link to {}, and no link is followed",
                escape(link.as_os_str().as_bytes()),
                escape(target.as_os_str().as_bytes())
            ))
        }
        None => Failure::new("it cannot be opened").caused_by(error),
    }
}

/// The SHA-256 of a regular file, and whether it is the one that was seen, as it was then.
fn content(tree: BorrowedFd<'_>, relative: &Path, seen: &Metadata) -> Result<(String, bool)> {
    let (file, _) = open_regular(tree, relative)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match rustix::io::read(&file, &mut buffer) {
            Ok(0) => break,
            Ok(count) => hash.update(buffer.get(..count).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot read it"),
        }
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        use std::fmt::Write as _;
        let _ = write!(text, "{byte:02x}");
    }
    // What is written to meanwhile has other times afterwards.
    let is_settled = metadata::metadata(file.as_fd()).is_ok_and(|after| key(&after) == key(seen));
    Ok((text, is_settled))
}

/// Opens a regular file without a trace in its times.
pub(crate) fn open_regular(tree: BorrowedFd<'_>, relative: &Path) -> Result<(OwnedFd, Metadata)> {
    let (parent, name) = resolve::split_parent(relative).unwrap_or((relative, OsStr::new("")));
    let parent = resolve::open_directory(tree, parent).context(|| "cannot open its directory")?;
    let file = open_quietly(parent.as_fd(), name, OFlags::NONBLOCK)
        .context(|| "cannot open it for reading")?;
    let found = metadata::metadata(file.as_fd()).context(|| "cannot look at it")?;
    if found.kind != FileKind::Regular {
        return Err(Failure::new("it became something else meanwhile"));
    }
    Ok((file, found))
}
