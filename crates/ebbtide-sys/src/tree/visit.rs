//! Looking at everything in a tree that somebody else may change meanwhile.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::open_child;
use super::stack::DirectoryStack;
use crate::error::Result;
use crate::file::{DirectoryEntry, read_directory};
use crate::metadata::{FileKind, Metadata, metadata, statx};
use crate::resolve::open_directory;

/// What a walk came to.
#[derive(Debug)]
pub struct Visited<'a> {
    /// The directory that it is in.
    pub directory: BorrowedFd<'a>,
    /// Its name there.
    pub name: &'a OsStr,
    /// The path of that directory, below the top.
    pub above: &'a Path,
    /// What it was a moment ago.
    pub found: &'a Metadata,
}

/// Calls `look` with everything below a directory that is no directory itself; it may remove it. It stops
/// the walk by returning false.
///
/// No link is followed, and neither mounts nor nested btrfs subvolumes are entered. `skip` is asked with
/// each path below the top: what it returns true for is passed over, with all below it. What vanishes
/// meanwhile is passed over too.
///
/// # Errors
///
/// `ESTALE` if directories of a deep tree are moved about meanwhile, those of the calls in this crate, and
/// those of `look`.
pub fn visit(
    dir: BorrowedFd<'_>,
    path: &Path,
    skip: &dyn Fn(&Path) -> bool,
    look: &mut dyn FnMut(&Visited<'_>) -> Result<bool>,
) -> Result<()> {
    let opened = open_directory(dir, path)?;
    let top = metadata(opened.as_fd())?;
    let (mut stack, mut levels) = (DirectoryStack::default(), Vec::new());
    // One path, and not one for each level: a tree can be so deep that these fill the memory.
    let mut above = PathBuf::new();
    enter(opened, &mut stack, &mut levels)?;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.entries.pop() else {
            levels.pop();
            stack.pop()?;
            above.pop();
            continue;
        };
        let inner = above.join(&entry.name);
        if skip(&inner) {
            continue;
        }
        let directory = stack.top()?;
        let here = |found: &Metadata| (found.mount_id, found.device) == (top.mount_id, top.device);
        let found = match statx(directory, &entry.name) {
            Ok(found) if here(&found) => found,
            Ok(_) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        if found.kind != FileKind::Directory {
            let name = &entry.name;
            if !look(&Visited { directory, name, above: &above, found: &found })? {
                return Ok(());
            }
            continue;
        }
        match open_child(directory, &entry.name) {
            Ok(child) => {
                // It may be another one than the one that was looked at.
                let found = metadata(child.as_fd())?;
                if here(&found) {
                    enter(child, &mut stack, &mut levels)?;
                    above = inner;
                }
            }
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

struct Level {
    /// What is still to be looked at.
    entries: Vec<DirectoryEntry>,
}

fn enter(directory: OwnedFd, stack: &mut DirectoryStack, levels: &mut Vec<Level>) -> Result<()> {
    let entries = read_directory(directory.as_fd())?;
    levels.push(Level { entries });
    stack.push(directory)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::testing::{Filesystem, Scratch, needs_root};

    fn paths(dir: BorrowedFd<'_>, path: &str, skip: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let skip = |path: &Path| path == Path::new(skip);
        visit(dir, Path::new(path), &skip, &mut |it| {
            found.push(it.above.join(it.name));
            Ok(true)
        })
        .unwrap();
        found.sort();
        found
    }

    #[test]
    fn everything_but_directories_links_targets_and_what_is_skipped() {
        let scratch = Scratch::new();
        for path in ["a/one", "a/deep/er/two", "a/left/three", "b/four"] {
            fs::create_dir_all(scratch.path(path).parent().unwrap()).unwrap();
            fs::write(scratch.path(path), "").unwrap();
        }
        symlink("../b", scratch.path("a/link")).unwrap();
        let fd = scratch.fd.as_fd();
        let path = |text: &str| PathBuf::from(text);
        let most = [path("deep/er/two"), path("link"), path("one")];
        assert_eq!(paths(fd, "a", "left"), most);
        assert_eq!(paths(fd, "a", "").len(), 4);
        let mut count = 0;
        visit(fd, Path::new("a"), &|_| false, &mut |_| {
            count += 1;
            Ok(count < 2)
        })
        .unwrap();
        assert_eq!(count, 2, "it stops when it is told to");
    }

    #[test]
    fn other_filesystems_and_subvolumes_are_not_entered() {
        needs_root!();
        let volume = Filesystem::new("btrfs");
        fs::write(volume.path("file"), "").unwrap();
        crate::btrfs::create_subvolume(volume.fd(), OsStr::new("nested")).unwrap();
        fs::write(volume.path("nested/file"), "").unwrap();
        assert_eq!(paths(volume.fd(), "", ""), [PathBuf::from("file")]);
    }

    #[test]
    fn an_attacker_who_swaps_a_directory_for_a_link_leads_nowhere() {
        needs_root!();
        let scratch = Scratch::new();
        for name in ["inside/a", "outside"] {
            fs::create_dir_all(scratch.path(name)).unwrap();
        }
        for index in 0..50 {
            fs::write(scratch.path("inside/a").join(format!("in-{index}")), "").unwrap();
            fs::write(scratch.path("outside").join(format!("out-{index}")), "").unwrap();
        }
        symlink("../outside", scratch.path("inside/b")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let top = crate::testing::open(scratch.path("inside"));
                let name = OsStr::new;
                while !stop.load(Ordering::Relaxed) {
                    let _ = crate::file::exchange(top.as_fd(), name("a"), top.as_fd(), name("b"));
                }
            });
            let mut entered = 0;
            for _ in 0..2000 {
                visit(scratch.fd.as_fd(), Path::new("inside"), &|_| false, &mut |it| {
                    assert!(!it.name.to_str().unwrap().starts_with("out"), "{it:?}");
                    entered += usize::from(it.name.to_str().unwrap().starts_with("in"));
                    Ok(true)
                })
                .unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            assert!(entered > 0);
        });
    }
}
