//! What a directory holds, at a limited cost: no content is read.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use ebbtide_sys::file::{DirectoryEntry, open_quietly, read_directory};
use ebbtide_sys::metadata::{self, FileKind, Time, metadata_of_entry};
use ebbtide_sys::tree::stack::DirectoryStack;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

/// How many entries of a directory are looked at.
const LIMIT: u64 = 50_000;

/// What a directory holds.
#[derive(Debug)]
pub(super) struct Total {
    /// The sizes of all regular files, in bytes.
    pub bytes: u64,
    /// How many entries there are, in any depth.
    pub entries: u64,
    /// The newest time of modification.
    pub newest: Time,
    /// The same for the same names, owners and modes, and the same sizes and times of files.
    pub digest: [u8; 32],
    /// Whether it is all of it.
    pub complete: bool,
}

/// Adds up what is below a directory, in the order of names. Mounts are not entered, no link is followed,
/// and what vanishes meanwhile does not count. `only`: nor does what belongs to others than this user.
pub(super) fn total(top: OwnedFd, only: Option<u32>) -> ebbtide_sys::Result<Total> {
    total_up_to(top, only, LIMIT)
}

fn total_up_to(top: OwnedFd, only: Option<u32>, limit: u64) -> ebbtide_sys::Result<Total> {
    let mount = metadata::metadata(top.as_fd())?.mount_id;
    let mut digest = Sha256::new();
    let (mut bytes, mut entries, mut newest) = (0_u64, 0_u64, (i64::MIN, 0));
    let mut complete = true;
    let mut stack = DirectoryStack::default();
    let mut levels = vec![names(&top)?];
    stack.push(top)?;
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.pop() else {
            levels.pop();
            stack.pop()?;
            digest.update(b"\0");
            continue;
        };
        let parent = stack.top()?;
        let Some(found) = metadata_of_entry(parent, &entry.name)? else { continue };
        if only.is_some_and(|uid| uid != found.uid) {
            continue;
        }
        if entries == limit {
            complete = false;
            break;
        }
        entries += 1;
        let is_file = found.kind == FileKind::Regular;
        digest.update(entry.name.as_bytes());
        digest.update(format!(
            "\0{:?} {:o} {} {} {:?}",
            found.kind, found.mode, found.uid, found.gid, found.rdev
        ));
        // A mount point is what it is, and what is mounted there is another tree.
        if found.mount_id != mount {
            continue;
        }
        newest = newest.max(found.modified);
        if found.kind == FileKind::Directory {
            match open_quietly(parent, &entry.name, OFlags::DIRECTORY) {
                Ok(child) => {
                    levels.push(names(&child)?);
                    stack.push(child)?;
                }
                Err(error)
                    if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        } else {
            digest.update(format!(" {} {:?}", found.size, found.modified));
            bytes = bytes.saturating_add(if is_file { found.size } else { 0 });
        }
    }
    Ok(Total { bytes, entries, newest, digest: digest.finalize().into(), complete })
}

/// Names in an order that does not depend on the filesystem, the first one last.
fn names(directory: &OwnedFd) -> ebbtide_sys::Result<Vec<DirectoryEntry>> {
    let mut names = read_directory(directory.as_fd())?;
    names.sort_unstable_by(|a, b| b.name.cmp(&a.name));
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn of(path: &Path, limit: u64) -> Total {
        total_up_to(fs::File::open(path).unwrap().into(), None, limit).unwrap()
    }

    #[test]
    fn what_is_in_a_directory_decides_and_not_where_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
        for top in ["a", "b"] {
            fs::create_dir_all(path(top).join("deep/er")).unwrap();
            for name in ["deep/er/file", "deep/one", "two"] {
                let file = fs::File::create(path(top).join(name)).unwrap();
                file.set_len(100).unwrap();
                file.set_modified(time).unwrap();
            }
        }
        let first = of(&path("a"), 9);
        assert_eq!((first.bytes, first.entries, first.complete), (300, 5, true));
        assert_eq!(first.digest, of(&path("b"), 9).digest);
        // The same names in another shape.
        fs::rename(path("b/deep/one"), path("b/deep/er/one")).unwrap();
        let moved = of(&path("b"), 9);
        assert_eq!((moved.bytes, moved.entries), (300, 5));
        assert_ne!(first.digest, moved.digest);
        fs::rename(path("b/deep/er/one"), path("b/deep/one")).unwrap();
        let file = fs::File::options().write(true).open(path("b/two")).unwrap();
        file.set_modified(time + std::time::Duration::from_nanos(1)).unwrap();
        assert_ne!(first.digest, of(&path("b"), 9).digest);
        assert!(!of(&path("a"), 4).complete);
        assert!(of(&path("a"), 5).complete);
    }
}
