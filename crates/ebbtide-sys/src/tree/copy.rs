//! The walk of a copy: which entries are entered, and where directories get their metadata.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, IFlags};
use rustix::io::Errno;

use super::stack::{DirectoryStack, Identity, identity};
use super::{CopyOptions, CopyReport, node, open_child};
use crate::btrfs::{Border, border};
use crate::descriptor::{magic_link, reopen_directory};
use crate::error::{Error, Result};
use crate::file::{
    DirectoryEntry, create_directory, create_file, create_private_file, read_directory,
};
use crate::metadata::{FileKind, Metadata, metadata, set_mode, set_owner, set_times, statx};
use crate::resolve::open_path;
use crate::xattr::copy_xattrs;

/// Copies a directory into an empty one. `whole` is told of each directory that has all of its content and
/// metadata, relative to the top, and how many files share their content with the source so far.
pub(super) fn directory(
    source: OwnedFd,
    target: OwnedFd,
    options: CopyOptions<'_>,
    whole: &mut dyn FnMut(&Path, u64),
) -> Result<CopyReport> {
    let mut copy = Copy::new(source.as_fd(), options)?;
    copy.target = Some(reopen_directory(target.as_fd())?);
    copy.forbidden = Some(identity(&metadata(target.as_fd())?));
    let mut way = Way::default();
    let found = metadata(source.as_fd())?;
    let entries = read_directory(source.as_fd())?;
    copy.enter(&mut way, source, target, Level { entries, metadata: found })?;
    while let Some(level) = way.levels.last_mut() {
        match level.entries.pop() {
            Some(entry) => {
                let depth = way.levels.len();
                copy.path.push(&entry.name);
                if !(copy.options.skip)(&copy.path) {
                    copy.entry(&mut way, &entry.name)?;
                }
                // The name of a directory that was entered stays until it is left.
                if way.levels.len() == depth {
                    copy.path.pop();
                }
            }
            None => copy.leave(&mut way, whole)?,
        }
    }
    Ok(copy.report)
}

/// Copies one entry that is not a directory.
pub(super) fn single(
    source_dir: BorrowedFd<'_>,
    name: &OsStr,
    target_dir: BorrowedFd<'_>,
    target_name: &OsStr,
    options: CopyOptions<'_>,
) -> Result<CopyReport> {
    let mut copy = Copy::new(source_dir, options)?;
    let found = statx(source_dir, name)?;
    copy.node(source_dir, name, &found, target_dir, target_name)?;
    if copy.report.vanished > 0 {
        return Err(Error::new("openat", Errno::NOENT).fd(source_dir).path(name));
    }
    Ok(copy.report)
}

struct Copy<'a> {
    options: CopyOptions<'a>,
    report: CopyReport,
    /// Where the walk is, relative to the copied root.
    path: PathBuf,
    /// The top of the copy, if a directory is copied.
    target: Option<OwnedFd>,
    /// The same, which must not turn up in the source.
    forbidden: Option<Identity>,
    mount_id: u64,
    /// Whether the source has btrfs's inode flags.
    has_flags: bool,
    links: HashMap<Identity, Link>,
}

/// The way down to the directory that is being copied, in both trees.
#[derive(Default)]
struct Way {
    source: DirectoryStack,
    target: DirectoryStack,
    levels: Vec<Level>,
}

/// A directory that is being copied: what is left to do in it, and what it was like.
struct Level {
    entries: Vec<DirectoryEntry>,
    metadata: Metadata,
}

/// The first copy of a file with several names.
struct Link {
    path: PathBuf,
    names_left: u32,
}

impl<'a> Copy<'a> {
    fn new(source: BorrowedFd<'_>, options: CopyOptions<'a>) -> Result<Self> {
        Ok(Self {
            options,
            report: CopyReport::default(),
            path: PathBuf::new(),
            target: None,
            forbidden: None,
            mount_id: metadata(source)?.mount_id,
            has_flags: crate::btrfs::is_btrfs(source)?,
            links: HashMap::new(),
        })
    }

    /// Copies an entry of the current directory, or enters it.
    fn entry(&mut self, way: &mut Way, name: &OsStr) -> Result<()> {
        let found = match statx(way.source.top()?, name) {
            Ok(found) => found,
            Err(error) if error.is_not_found() => {
                self.report.vanished += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if found.mount_id != self.mount_id {
            self.report.mounts_skipped.push(self.path.clone());
            return placeholder(way.target.top()?, name, &found);
        }
        if found.kind == FileKind::Directory {
            return self.child(way, name, &found);
        }
        self.node(way.source.top()?, name, &found, way.target.top()?, name)
    }

    /// Copies or enters a directory.
    fn child(&mut self, way: &mut Way, name: &OsStr, seen: &Metadata) -> Result<()> {
        let is_subvolume = way
            .levels
            .last()
            .is_some_and(|parent| border(&parent.metadata, seen) == Border::Subvolume);
        if is_subvolume && !self.options.cross_subvolumes {
            self.report.subvolumes_skipped.push(self.path.clone());
            return placeholder(way.target.top()?, name, seen);
        }
        let source = match open_child(way.source.top()?, name) {
            Ok(source) => source,
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.report.vanished += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let found = metadata(source.as_fd())?;
        if identity(&found) != identity(seen) || found.mount_id != self.mount_id {
            self.report.vanished += 1;
            return Ok(());
        }
        if self.forbidden == Some(identity(&found)) {
            return Err(Error::new("mkdirat", Errno::INVAL)
                .fd(source.as_fd())
                .note("a directory can't be copied into itself"));
        }
        let entries = match read_directory(source.as_fd()) {
            Ok(entries) => entries,
            Err(error) if error.is_not_found() => {
                self.report.vanished += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if is_subvolume {
            self.report.subvolumes_copied.push(self.path.clone());
        }
        let target = create_directory(way.target.top()?, name, 0o700)?;
        self.enter(way, source, target, Level { entries, metadata: found })
    }

    fn enter(&self, way: &mut Way, source: OwnedFd, target: OwnedFd, level: Level) -> Result<()> {
        self.copy_flags(source.as_fd(), target.as_fd());
        way.source.push(source)?;
        way.target.push(target)?;
        way.levels.push(level);
        Ok(())
    }

    /// Gives the current directory its metadata, last since making entries changes its times.
    fn leave(&mut self, way: &mut Way, whole: &mut dyn FnMut(&Path, u64)) -> Result<()> {
        let (source, target) = (way.source.pop()?, way.target.pop()?);
        if let (Some(level), Some(source), Some(target)) = (way.levels.pop(), source, target) {
            apply(source.as_fd(), target.as_fd(), &level.metadata)?;
        }
        whole(&self.path, self.report.reflinked);
        self.path.pop();
        Ok(())
    }

    /// Copies an entry that is not a directory.
    fn node(
        &mut self,
        source_dir: BorrowedFd<'_>,
        name: &OsStr,
        found: &Metadata,
        target_dir: BorrowedFd<'_>,
        target_name: &OsStr,
    ) -> Result<()> {
        if found.kind == FileKind::Socket {
            self.report.sockets_skipped.push(self.path.clone());
            return Ok(());
        }
        let may_link = self.options.keep_hard_links && found.nlink > 1;
        if may_link && self.link(found, target_dir, target_name)? {
            self.report.files += 1;
            return Ok(());
        }
        let copied = if found.kind == FileKind::Regular {
            self.regular(source_dir, name, target_dir, target_name)?
        } else {
            node::copy_special(source_dir, name, found.kind, target_dir, target_name)?
        };
        let Some(copied) = copied else {
            self.report.vanished += 1;
            return Ok(());
        };
        self.report.files += 1;
        // What was copied may be another file than the one that was looked at.
        if may_link && copied.nlink > 1 {
            let link = Link { path: self.path.clone(), names_left: copied.nlink - 1 };
            self.links.insert(identity(&copied), link);
        }
        Ok(())
    }

    fn regular(
        &mut self,
        source_dir: BorrowedFd<'_>,
        name: &OsStr,
        target_dir: BorrowedFd<'_>,
        target_name: &OsStr,
    ) -> Result<Option<Metadata>> {
        let Some((source, found)) = node::open_regular(source_dir, name)? else {
            return Ok(None);
        };
        let target = create_private_file(target_dir, target_name)?;
        self.copy_flags(source.as_fd(), target.as_fd());
        let before = self.report.bytes;
        let progress = &mut self.options.progress;
        let mut tell = |bytes: u64| {
            if let Some(progress) = progress {
                progress(before + bytes);
            }
        };
        let content = super::data::copy(source.as_fd(), target.as_fd(), found.size, &mut tell)?;
        self.report.bytes += content.bytes;
        self.report.reflinked += u64::from(content.shared);
        apply(source.as_fd(), target.as_fd(), &found)?;
        Ok(Some(found))
    }

    /// Gives the copy of a file another name, if the file was copied before.
    fn link(&mut self, found: &Metadata, dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
        let (Some(root), Some(link)) = (&self.target, self.links.get_mut(&identity(found))) else {
            return Ok(false);
        };
        let first = open_path(root.as_fd(), &link.path)?;
        let result = match rustix::fs::linkat(&first, "", dir, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH only this way is open. See linkat(2).
            Err(Errno::NOENT) => rustix::fs::linkat(
                rustix::fs::CWD,
                magic_link(first.as_fd()),
                dir,
                name,
                AtFlags::SYMLINK_FOLLOW,
            ),
            result => result,
        };
        match result {
            Ok(()) => {}
            Err(Errno::MLINK) => return Ok(false),
            Err(e) => {
                return Err(Error::new("linkat", e).fd(first.as_fd()).path("").fd(dir).path(name));
            }
        }
        link.names_left -= 1;
        if link.names_left == 0 {
            self.links.remove(&identity(found));
        }
        Ok(true)
    }

    /// Keeps btrfs's no-copy-on-write, which must be set while a file is empty.
    ///
    /// Without it content can't be shared either. A target that has no such flag does without.
    fn copy_flags(&self, source: BorrowedFd<'_>, target: BorrowedFd<'_>) {
        if !self.has_flags {
            return;
        }
        if let (Ok(from), Ok(to)) =
            (rustix::fs::ioctl_getflags(source), rustix::fs::ioctl_getflags(target))
        {
            let wanted = (to - IFlags::NOCOW) | (from & IFlags::NOCOW);
            if wanted != to {
                let _ = rustix::fs::ioctl_setflags(target, wanted);
            }
        }
    }
}

/// Sets owner, mode, extended attributes and times, in the order in which they don't undo another.
pub(super) fn apply(
    source: BorrowedFd<'_>,
    target: BorrowedFd<'_>,
    found: &Metadata,
) -> Result<()> {
    set_owner(target, found.uid, found.gid)?;
    if found.kind != FileKind::Symlink {
        set_mode(target, found.mode)?;
    }
    copy_xattrs(source, target)?;
    set_times(target, found.accessed, found.modified)
}

/// Leaves an empty directory or file where something is not copied.
fn placeholder(dir: BorrowedFd<'_>, name: &OsStr, found: &Metadata) -> Result<()> {
    let made = if found.kind == FileKind::Directory {
        create_directory(dir, name, 0o700)?
    } else {
        create_file(dir, name, 0o600)?
    };
    set_owner(made.as_fd(), found.uid, found.gid)?;
    set_mode(made.as_fd(), found.mode)
}
