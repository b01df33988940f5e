//! Whether a copy is what it was copied from, and whether that has changed since.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::content::has_same_content;
use super::stack::DirectoryStack;
use super::{extents, open_child};
use crate::error::{Error, Result};
use crate::file::{open_quietly, read_directory, read_link};
use crate::metadata::{FileKind, Metadata, Time, metadata, statx};
use crate::resolve::{open_directory, open_path, split_parent};
use crate::xattr::is_copy;

/// Returns the first path, relative to the top, in which a copy made by [`super::copy_tree`] is not
/// its original: `None` if there is none. The top itself is the empty path.
///
/// Compared are type, mode, owner, group, modification time and extended attributes with ACLs, the size
/// of files, the targets of links, the names in directories, and every byte. With `shared`, which is
/// for two trees on one filesystem, a file whose data lies in the same places on the disk as that of its
/// copy is not read. Sockets and mount points, which are not copied, and nested subvolumes that were
/// left out are passed over.
pub fn first_difference(
    original_dir: BorrowedFd<'_>,
    original: &Path,
    copy_dir: BorrowedFd<'_>,
    copy: &Path,
    shared: bool,
) -> Result<Option<PathBuf>> {
    let opened = open_path(original_dir, original)?;
    let found = metadata(opened.as_fd())?;
    let opened_copy = match open_path(copy_dir, copy) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => return Ok(Some(PathBuf::new())),
        Err(error) => return Err(error),
    };
    let copied = metadata(opened_copy.as_fd())?;
    if found.kind != FileKind::Directory {
        let (Some((above, name)), Some((copy_above, copy_name))) =
            (split_parent(original), split_parent(copy))
        else {
            return Err(Error::new("openat", Errno::NOTDIR).fd(original_dir).path(original));
        };
        let above = open_directory(original_dir, above)?;
        let copy_above = open_directory(copy_dir, copy_above)?;
        let pair = Pair { original: above.as_fd(), copy: copy_above.as_fd() };
        let same =
            is_same(&found, &copied) && pair.has_same_data(name, copy_name, &found, shared)?;
        return Ok((!same).then(PathBuf::new));
    }
    if !is_same(&found, &copied) || !is_copy(opened.as_fd(), opened_copy.as_fd())? {
        return Ok(Some(PathBuf::new()));
    }
    let mut walk = Walk { top: found.mount_id, shared, goes_down: true, ..Walk::default() };
    walk.enter(open_directory(original_dir, original)?, open_directory(copy_dir, copy)?)?;
    walk.run()
}

/// Compares the directory at `inner` below the top with its copy, as [`first_difference`] does, but not what
/// lies in those that are in it. `mount` is that of the original's top.
pub(super) fn directory_difference(
    original: BorrowedFd<'_>,
    copy: BorrowedFd<'_>,
    inner: &Path,
    mount: u64,
    shared: bool,
) -> Result<Option<PathBuf>> {
    let mut walk = Walk { top: mount, shared, path: inner.to_owned(), ..Walk::default() };
    let opened =
        open_directory(original, inner).and_then(|it| Ok((it, open_directory(copy, inner)?)));
    let (original, copy) = match opened {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => return Ok(Some(inner.to_owned())),
        Err(error) => return Err(error),
    };
    walk.enter(original, copy)?;
    walk.run()
}

/// Whether two opened directories have the same metadata.
pub(super) fn is_same_directory(original: BorrowedFd<'_>, copy: BorrowedFd<'_>) -> Result<bool> {
    Ok(is_same(&metadata(original)?, &metadata(copy)?) && is_copy(original, copy)?)
}

/// Two directories that should have the same entries.
struct Pair<'a> {
    original: BorrowedFd<'a>,
    copy: BorrowedFd<'a>,
}

impl Pair<'_> {
    fn has_same_data(
        &self,
        name: &OsStr,
        copy_name: &OsStr,
        found: &Metadata,
        shared: bool,
    ) -> Result<bool> {
        let (name, copy_name) = (Path::new(name), Path::new(copy_name));
        if found.kind == FileKind::Regular {
            let original = open(self.original, name)?;
            let copy = open(self.copy, copy_name)?;
            let (original, copy) = (original.as_fd(), copy.as_fd());
            return Ok(is_copy(original, copy)?
                && ((shared && extents::are_same(original, copy)?)
                    || has_same_content(original, copy)?));
        }
        if found.kind == FileKind::Symlink
            && read_link(self.original, name)? != read_link(self.copy, copy_name)?
        {
            return Ok(false);
        }
        is_copy(open_path(self.original, name)?.as_fd(), open_path(self.copy, copy_name)?.as_fd())
    }
}

fn open(dir: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd> {
    open_quietly(dir, name.as_os_str(), OFlags::NONBLOCK)
}

fn is_same(original: &Metadata, copy: &Metadata) -> bool {
    let data = match original.kind {
        FileKind::Regular => original.size == copy.size,
        FileKind::CharDevice | FileKind::BlockDevice => original.rdev == copy.rdev,
        _ => true,
    };
    data && (original.kind, original.mode, original.uid, original.gid, original.modified)
        == (copy.kind, copy.mode, copy.uid, copy.gid, copy.modified)
}

/// Both trees, walked side by side.
#[derive(Default)]
struct Walk {
    top: u64,
    shared: bool,
    /// Whether directories that are found are entered.
    goes_down: bool,
    original: DirectoryStack,
    copy: DirectoryStack,
    /// For each open directory: the names to look at.
    levels: Vec<Vec<OsString>>,
    /// The last of them. One path, and not one for each: a tree can be so deep that these fill the memory.
    path: PathBuf,
    /// A directory whose copy has another set of names.
    found: Option<PathBuf>,
}

impl Walk {
    /// Enters the directory at `path`.
    fn enter(&mut self, original: OwnedFd, copy: OwnedFd) -> Result<()> {
        let names = names_in(original.as_fd())?;
        let extra = names_in(copy.as_fd())?.into_iter().find(|it| !names.contains(it));
        if let Some(extra) = extra {
            self.found = Some(self.path.join(extra));
        }
        self.levels.push(names.into_iter().collect());
        self.original.push(original)?;
        self.copy.push(copy)?;
        Ok(())
    }

    fn run(&mut self) -> Result<Option<PathBuf>> {
        while self.found.is_none() {
            let Some(names) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = names.pop() else {
                self.levels.pop();
                self.original.pop()?;
                self.copy.pop()?;
                self.path.pop();
                continue;
            };
            if !self.look(&name)? {
                return Ok(Some(self.path.join(name)));
            }
        }
        Ok(self.found.take())
    }

    fn look(&mut self, name: &OsStr) -> Result<bool> {
        let pair = Pair { original: self.original.top()?, copy: self.copy.top()? };
        let original = statx(pair.original, name)?;
        if original.mount_id != self.top || original.kind == FileKind::Socket {
            return Ok(true);
        }
        let copy = match statx(pair.copy, name) {
            Ok(copy) => copy,
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        };
        if !is_same(&original, &copy) || !pair.has_same_data(name, name, &original, self.shared)? {
            return Ok(false);
        }
        if original.kind == FileKind::Directory && self.goes_down {
            let (a, b) = (open_child(pair.original, name)?, open_child(pair.copy, name)?);
            self.path.push(name);
            self.enter(a, b)?;
        }
        Ok(true)
    }
}

fn names_in(dir: BorrowedFd<'_>) -> Result<BTreeSet<OsString>> {
    Ok(read_directory(dir)?.into_iter().map(|entry| entry.name).collect())
}

/// Returns the first path below `path` (the empty one is itself) whose content or metadata changed
/// after a point in time, as the inode's change time tells (statx(2), `stx_ctime`), which programs
/// cannot set. Mounts are not entered.
///
/// The kernel stamps with the time of its last tick: take `since` some milliseconds early.
pub fn changed_since(dir: BorrowedFd<'_>, path: &Path, since: Time) -> Result<Option<PathBuf>> {
    let top = metadata(open_path(dir, path)?.as_fd())?;
    if top.changed > since {
        return Ok(Some(PathBuf::new()));
    }
    if top.kind != FileKind::Directory {
        return Ok(None);
    }
    let mut stack = DirectoryStack::default();
    let opened = open_directory(dir, path)?;
    let mut levels = vec![names_in(opened.as_fd())?];
    let mut above = PathBuf::new();
    stack.push(opened)?;
    while let Some(names_here) = levels.last_mut() {
        let Some(name) = names_here.pop_last() else {
            levels.pop();
            stack.pop()?;
            above.pop();
            continue;
        };
        let found = match statx(stack.top()?, &name) {
            Ok(found) if found.mount_id == top.mount_id => found,
            Ok(_) => continue,
            // A name that goes changes its directory, which was looked at before.
            Err(error) if error.is_not_found() => return Ok(Some(above.join(name))),
            Err(error) => return Err(error),
        };
        if found.changed > since {
            return Ok(Some(above.join(name)));
        }
        if found.kind == FileKind::Directory {
            let child = open_child(stack.top()?, &name)?;
            levels.push(names_in(child.as_fd())?);
            stack.push(child)?;
            above.push(name);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::testing::{Filesystem, Scratch, needs_root};
    use crate::tree::{CopyOptions, copy_tree};

    fn copied() -> Scratch {
        let scratch = Scratch::new();
        let path = |name: &str| scratch.path(name);
        fs::create_dir_all(path("a/deep/er")).unwrap();
        fs::write(path("a/deep/er/file"), "some content").unwrap();
        fs::write(path("a/one"), "1").unwrap();
        symlink("one", path("a/link")).unwrap();
        let fd = scratch.fd.as_fd();
        copy_tree(fd, Path::new("a"), fd, OsStr::new("b"), CopyOptions::default()).unwrap();
        scratch
    }

    fn difference(scratch: &Scratch) -> Option<PathBuf> {
        let fd = scratch.fd.as_fd();
        let found = first_difference(fd, Path::new("a"), fd, Path::new("b"), false).unwrap();
        let shared = first_difference(fd, Path::new("a"), fd, Path::new("b"), true).unwrap();
        assert_eq!(found, shared);
        found
    }

    #[test]
    fn a_copy_is_what_it_was_copied_from() {
        let scratch = copied();
        assert_eq!(difference(&scratch), None);
        let fd = scratch.fd.as_fd();
        let (a, b) = (Path::new("a/one"), Path::new("b/one"));
        assert_eq!(first_difference(fd, a, fd, b, true).unwrap(), None);
        let other = Path::new("b/link");
        assert_eq!(first_difference(fd, a, fd, other, true).unwrap(), Some(PathBuf::new()));
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        type Spoil = fn(&Scratch);
        let cases: [(&str, Spoil); 7] = [
            ("extra", |it| fs::write(it.path("b/extra"), "").unwrap()),
            ("deep/er/file", |it| fs::remove_file(it.path("b/deep/er/file")).unwrap()),
            ("one", |it| fs::write(it.path("b/one"), "11").unwrap()),
            ("link", |it| {
                fs::remove_file(it.path("b/link")).unwrap();
                symlink("other", it.path("b/link")).unwrap();
            }),
            ("deep", |it| {
                fs::set_permissions(it.path("b/deep"), fs::Permissions::from_mode(0o700)).unwrap();
            }),
            ("deep/er", |it| {
                let original = open_path(it.fd.as_fd(), Path::new("a/deep/er")).unwrap();
                crate::xattr::set(original.as_fd(), OsStr::new("user.note"), b"1").unwrap();
                let copy = open_path(it.fd.as_fd(), Path::new("b/deep/er")).unwrap();
                crate::xattr::set(copy.as_fd(), OsStr::new("user.note"), b"2").unwrap();
            }),
            ("one", |it| {
                let copy = open_path(it.fd.as_fd(), Path::new("b/one")).unwrap();
                // Version 2, and the entries of an ACL: owner, user 1, group, mask, others.
                let mut acl = vec![2, 0, 0, 0];
                for (tag, bits, id) in [
                    (1_u16, 6_u16, u32::MAX),
                    (2, 4, 1),
                    (4, 4, u32::MAX),
                    (16, 4, u32::MAX),
                    (32, 4, u32::MAX),
                ] {
                    acl.extend(tag.to_le_bytes());
                    acl.extend(bits.to_le_bytes());
                    acl.extend(id.to_le_bytes());
                }
                let name = OsStr::new("system.posix_acl_access");
                crate::xattr::set(copy.as_fd(), name, &acl).unwrap();
            }),
        ];
        for (expected, spoil) in cases {
            let scratch = copied();
            spoil(&scratch);
            let found = difference(&scratch).unwrap();
            // A change of the names in the top also changes the time of the top.
            let top = found.as_os_str().is_empty();
            assert!(top || Path::new(expected).starts_with(&found), "{expected}: {found:?}");
        }
    }

    #[test]
    fn the_same_size_and_time_do_not_hide_another_content() {
        let scratch = copied();
        let found = crate::metadata::metadata_beneath(scratch.fd.as_fd(), Path::new("a/one"));
        let found = found.unwrap().unwrap();
        fs::write(scratch.path("b/one"), "2").unwrap();
        let copy = open_path(scratch.fd.as_fd(), Path::new("b/one")).unwrap();
        crate::metadata::set_times(copy.as_fd(), found.accessed, found.modified).unwrap();
        assert_eq!(difference(&scratch), Some(PathBuf::from("one")));
    }

    #[test]
    fn one_clone_does_not_vouch_for_another_file() {
        needs_root!();
        let volume = Filesystem::new("btrfs");
        fs::create_dir(volume.path("a")).unwrap();
        for name in ["one", "other"] {
            fs::write(volume.path("a").join(name), vec![b'x'; 20_000]).unwrap();
        }
        let (a, b) = (Path::new("a"), Path::new("b"));
        let options = CopyOptions::default();
        let report = copy_tree(volume.fd(), a, volume.fd(), b.as_os_str(), options).unwrap();
        assert_eq!(report.reflinked, 2);
        let difference = || first_difference(volume.fd(), a, volume.fd(), b, true).unwrap();
        assert_eq!(difference(), None);
        let path = Path::new("b/other");
        let copy = open_path(volume.fd(), path).unwrap();
        let found = metadata(copy.as_fd()).unwrap();
        let write = |byte| {
            fs::write(volume.path("b/other"), vec![byte; 20_000]).unwrap();
            crate::metadata::set_times(copy.as_fd(), found.accessed, found.modified).unwrap();
        };
        write(b'y');
        assert_eq!(difference(), Some(PathBuf::from("other")));
        write(b'x');
        assert_eq!(difference(), None, "the same bytes in a place of their own");
    }

    #[test]
    fn a_change_is_seen_by_its_time() {
        let scratch = copied();
        let fd = scratch.fd.as_fd();
        let newest = |path: &str| {
            crate::metadata::metadata_beneath(fd, Path::new(path)).unwrap().unwrap().changed
        };
        let since = ["a", "a/one", "a/link", "a/deep", "a/deep/er", "a/deep/er/file"]
            .map(newest)
            .into_iter()
            .max()
            .unwrap();
        assert_eq!(changed_since(fd, Path::new("a"), since).unwrap(), None);
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::write(scratch.path("a/deep/er/file"), "other content").unwrap();
        let changed = changed_since(fd, Path::new("a"), since).unwrap();
        assert_eq!(changed, Some(PathBuf::from("deep/er/file")));
    }
}
