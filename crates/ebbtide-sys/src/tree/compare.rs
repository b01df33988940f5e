//! Whether a copy is what it was copied from, and whether that has changed since.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::content::has_same_content;
use super::open_child;
use super::stack::{DirectoryStack, identity};
use crate::error::{Error, Result};
use crate::file::{open_quietly, read_directory, read_link};
use crate::metadata::{FileKind, Metadata, Time, metadata, statx};
use crate::resolve::{open_directory, open_path, split_parent};

/// Returns the first path, relative to the top, in which a copy made by [`super::copy_tree`] is not
/// its original: `None` if there is none. The top itself is the empty path.
///
/// Compared are type, mode, owner, group and modification time, the size of files, the targets of
/// links, the names in directories, and with `content` every byte. Sockets and mount points, which
/// are not copied, and nested subvolumes that were left out are passed over.
pub fn first_difference(
    original_dir: BorrowedFd<'_>,
    original: &Path,
    copy_dir: BorrowedFd<'_>,
    copy: &Path,
    content: bool,
) -> Result<Option<PathBuf>> {
    let found = metadata(open_path(original_dir, original)?.as_fd())?;
    let copied = match open_path(copy_dir, copy) {
        Ok(copied) => metadata(copied.as_fd())?,
        Err(error) if error.is_not_found() => return Ok(Some(PathBuf::new())),
        Err(error) => return Err(error),
    };
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
            is_same(&found, &copied) && pair.has_same_data(name, copy_name, &found, content)?;
        return Ok((!same).then(PathBuf::new));
    }
    if !is_same(&found, &copied) {
        return Ok(Some(PathBuf::new()));
    }
    let mut walk = Walk { top: found.mount_id, content, ..Walk::default() };
    walk.enter(open_directory(original_dir, original)?, open_directory(copy_dir, copy)?, None)?;
    walk.run()
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
        content: bool,
    ) -> Result<bool> {
        match found.kind {
            FileKind::Symlink => Ok(read_link(self.original, Path::new(name))?
                == read_link(self.copy, Path::new(copy_name))?),
            FileKind::Regular if content => has_same_content(
                open(self.original, name)?.as_fd(),
                open(self.copy, copy_name)?.as_fd(),
            ),
            _ => Ok(true),
        }
    }
}

fn open(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    open_quietly(dir, name, OFlags::NONBLOCK)
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
    content: bool,
    original: DirectoryStack,
    copy: DirectoryStack,
    /// For each open directory: the names to look at, and its own path.
    levels: Vec<(Vec<OsString>, PathBuf)>,
    /// A directory whose copy has another set of names.
    found: Option<PathBuf>,
}

impl Walk {
    fn enter(&mut self, original: OwnedFd, copy: OwnedFd, name: Option<&OsStr>) -> Result<()> {
        let path = match (self.levels.last(), name) {
            (Some((_, above)), Some(name)) => above.join(name),
            _ => PathBuf::new(),
        };
        let names = names_in(original.as_fd())?;
        let extra = names_in(copy.as_fd())?.into_iter().find(|it| !names.contains(it));
        if let Some(extra) = extra {
            self.found = Some(path.join(extra));
        }
        let (a, b) = (metadata(original.as_fd())?, metadata(copy.as_fd())?);
        self.levels.push((names.into_iter().collect(), path));
        self.original.push(original, identity(&a));
        self.copy.push(copy, identity(&b));
        Ok(())
    }

    fn run(&mut self) -> Result<Option<PathBuf>> {
        while self.found.is_none() {
            let Some((names, path)) = self.levels.last_mut() else { return Ok(None) };
            let Some(name) = names.pop() else {
                self.levels.pop();
                self.original.pop()?;
                self.copy.pop()?;
                continue;
            };
            let path = path.join(&name);
            if !self.look(&name)? {
                return Ok(Some(path));
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
        if !is_same(&original, &copy) || !pair.has_same_data(name, name, &original, self.content)? {
            return Ok(false);
        }
        if original.kind == FileKind::Directory {
            let (a, b) = (open_child(pair.original, name)?, open_child(pair.copy, name)?);
            self.enter(a, b, Some(name))?;
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
    let mut levels = vec![(names_in(opened.as_fd())?, PathBuf::new())];
    stack.push(opened, identity(&top));
    while let Some((names_here, above)) = levels.last_mut() {
        let Some(name) = names_here.pop_last() else {
            levels.pop();
            stack.pop()?;
            continue;
        };
        let path = above.join(&name);
        let found = match statx(stack.top()?, &name) {
            Ok(found) if found.mount_id == top.mount_id => found,
            Ok(_) => continue,
            // A name that goes changes its directory, which was looked at before.
            Err(error) if error.is_not_found() => return Ok(Some(path)),
            Err(error) => return Err(error),
        };
        if found.changed > since {
            return Ok(Some(path));
        }
        if found.kind == FileKind::Directory {
            let child = open_child(stack.top()?, &name)?;
            levels.push((names_in(child.as_fd())?, path));
            stack.push(child, identity(&found));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::testing::Scratch;
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

    fn difference(scratch: &Scratch, content: bool) -> Option<PathBuf> {
        let fd = scratch.fd.as_fd();
        first_difference(fd, Path::new("a"), fd, Path::new("b"), content).unwrap()
    }

    #[test]
    fn a_copy_is_what_it_was_copied_from() {
        let scratch = copied();
        assert_eq!(difference(&scratch, true), None);
        let fd = scratch.fd.as_fd();
        let (a, b) = (Path::new("a/one"), Path::new("b/one"));
        assert_eq!(first_difference(fd, a, fd, b, true).unwrap(), None);
        let other = Path::new("b/link");
        assert_eq!(first_difference(fd, a, fd, other, true).unwrap(), Some(PathBuf::new()));
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        type Spoil = fn(&Scratch);
        let cases: [(&str, Spoil); 5] = [
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
        ];
        for (expected, spoil) in cases {
            let scratch = copied();
            spoil(&scratch);
            let found = difference(&scratch, false).unwrap();
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
        assert_eq!(difference(&scratch, false), None);
        assert_eq!(difference(&scratch, true), Some(PathBuf::from("one")));
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
