//! Patterns of paths, looked for in a tree.

use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::file::{open_quietly, read_directory};
use ebbtide_sys::metadata::{FileKind, metadata, metadata_of_entry};
use ebbtide_sys::resolve;
use rustix::fs::OFlags;

use crate::pattern::{ANY_DEPTH, is_special, matches_name};

/// How many names are looked at in one tree.
const LIMIT: usize = 500_000;
/// How deep `**` goes.
const DEPTH: usize = 100;

/// A pattern: bytes, as names are.
#[derive(Debug)]
pub struct Glob {
    /// The directories before the first name that is none.
    prefix: PathBuf,
    parts: Vec<Vec<u8>>,
}

impl Glob {
    /// Reads an absolute path as a pattern; `None` if it is an ordinary path.
    pub fn new(path: &Path) -> Option<Self> {
        let names: Vec<&[u8]> =
            path.strip_prefix("/").unwrap_or(path).iter().map(OsStrExt::as_bytes).collect();
        let first = names.iter().position(|name| is_special(name))?;
        let (before, after) = names.split_at_checked(first)?;
        let prefix = before.iter().map(|name| std::ffi::OsStr::from_bytes(name)).collect();
        Some(Self { prefix, parts: after.iter().map(|name| name.to_vec()).collect() })
    }

    /// Adds what a tree has of it, as absolute paths, as long as there are fewer than `limit`. No link is
    /// followed, and what is mounted below the first special name is not entered. Returns why that is not
    /// all of it; nothing if it is.
    pub fn find(
        &self,
        tree: BorrowedFd<'_>,
        limit: usize,
        found: &mut BTreeSet<PathBuf>,
    ) -> ebbtide_sys::Result<BTreeSet<Unseen>> {
        let unseen = BTreeSet::new();
        // Else there is nothing of it, a file, or a link in the way.
        let Ok(top) = resolve::open_directory(tree, &self.prefix) else { return Ok(unseen) };
        let mount = metadata(top.as_fd())?.mount_id;
        let mut walk = Walk { mount, limit, left: LIMIT, found, unseen };
        walk.directory(&top, &Path::new("/").join(&self.prefix), &self.parts, 0)?;
        Ok(walk.unseen)
    }
}

/// What was not looked at. In words it is what a tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unseen {
    /// There are at least as many paths as were asked for.
    Paths(usize),
    /// There are too many names in a tree.
    Names,
    /// Directories are too deep.
    Deep,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Paths(limit) => {
                write!(f, "there is more of it than the {limit} paths that are looked at")
            }
            Self::Names => {
                write!(f, "there are more than the {LIMIT} names that are looked at in a tree")
            }
            Self::Deep => write!(f, "what is more than {DEPTH} directories deep is not looked at"),
        }
    }
}

struct Walk<'f> {
    mount: u64,
    limit: usize,
    left: usize,
    found: &'f mut BTreeSet<PathBuf>,
    unseen: BTreeSet<Unseen>,
}

impl Walk<'_> {
    fn directory(
        &mut self,
        directory: &OwnedFd,
        path: &Path,
        parts: &[Vec<u8>],
        depth: usize,
    ) -> ebbtide_sys::Result<()> {
        let Some((part, rest)) = parts.split_first() else { return Ok(()) };
        if depth > DEPTH {
            self.unseen.insert(Unseen::Deep);
            return Ok(());
        }
        let any_depth = part == ANY_DEPTH;
        if any_depth && !rest.is_empty() {
            self.directory(directory, path, rest, depth)?;
        }
        for entry in read_directory(directory.as_fd())? {
            let too_many = match (self.left, self.found.len()) {
                (0, _) => Some(Unseen::Names),
                (_, found) if found >= self.limit => Some(Unseen::Paths(self.limit)),
                _ => None,
            };
            if let Some(unseen) = too_many {
                self.unseen.insert(unseen);
                return Ok(());
            }
            self.left -= 1;
            if !any_depth && !matches_name(part, entry.name.as_bytes()) {
                continue;
            }
            let inner = path.join(&entry.name);
            if rest.is_empty() {
                self.found.insert(inner.clone());
            }
            let Some(seen) = metadata_of_entry(directory.as_fd(), &entry.name)? else { continue };
            if seen.kind != FileKind::Directory || seen.mount_id != self.mount {
                continue;
            }
            let next = if any_depth { parts } else { rest };
            if !next.is_empty()
                && let Ok(child) = open_quietly(directory.as_fd(), &entry.name, OFlags::DIRECTORY)
            {
                self.directory(&child, &inner, next, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_are_found_in_any_depth_and_behind_no_link() {
        let scratch = tempfile::tempdir().unwrap();
        for path in ["etc/a.conf", "etc/b/c.conf", "etc/b/d/e.conf", "etc/b/f", "out/g.conf"] {
            let path = scratch.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        symlink("../out", scratch.path().join("etc/link")).unwrap();
        let tree = fs::File::open(scratch.path()).unwrap();
        let find = |pattern: &str, limit: usize| {
            let mut found = BTreeSet::new();
            let glob = Glob::new(Path::new(pattern)).unwrap();
            let unseen = glob.find(tree.as_fd(), limit, &mut found).unwrap();
            let found: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
            (found.join(" "), unseen)
        };
        let all = |found: &str| (found.to_owned(), BTreeSet::new());
        assert_eq!(find("/etc/*.conf", 9), all("/etc/a.conf"));
        assert_eq!(find("/etc/**/*.conf", 9), all("/etc/a.conf /etc/b/c.conf /etc/b/d/e.conf"));
        assert_eq!(find("/*/b/?", 9), all("/etc/b/d /etc/b/f"));
        assert_eq!(find("/etc/b/**", 9), all("/etc/b/c.conf /etc/b/d /etc/b/d/e.conf /etc/b/f"));
        assert_eq!(find("/etc/link/*", 9), all(""));
        assert_eq!(find("/nowhere/*", 9), all(""));
        assert_eq!(find("/etc/**/*.conf", 2).1, [Unseen::Paths(2)].into());
        let deep = "d/".repeat(DEPTH + 2);
        fs::create_dir_all(scratch.path().join(&deep)).unwrap();
        let (found, unseen) = find("/d/**", 1000);
        assert_eq!((found.split(' ').count(), unseen), (DEPTH + 1, [Unseen::Deep].into()));
        assert!(Glob::new(Path::new("/etc/plain")).is_none());
    }
}
