//! Which paths entries cover.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::compiled::Entry;

/// The paths that are kept, as a tree that a walk goes down along with.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    kept: bool,
    below: BTreeMap<OsString, Kept>,
}

impl Kept {
    /// What these entries keep: each with all that lies below it. The directories on the way to an
    /// entry, where the base has none, are there for it and are no changes either.
    pub fn new(entries: &[Entry]) -> Self {
        entries.iter().map(|entry| entry.path.as_path()).collect()
    }

    /// What is known of an entry of this directory: `None` if no entry is there, or below it.
    pub(super) fn get(&self, name: &OsStr) -> Option<&Self> {
        self.below.get(name)
    }

    /// Whether an entry covers this absolute path: it is the entry's, or below it.
    pub fn covers(&self, path: &Path) -> bool {
        let mut node = self;
        for name in path.strip_prefix("/").unwrap_or(path) {
            if node.kept {
                return true;
            }
            match node.below.get(name) {
                Some(below) => node = below,
                None => return false,
            }
        }
        node.kept
    }

    /// What is kept by one of two.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        self.kept |= other.kept;
        for (name, node) in other.below {
            let mine = self.below.remove(&name).unwrap_or_default();
            self.below.insert(name, mine.or(node));
        }
        self
    }

    /// Whether an entry covers this path; else one lies below it.
    pub(super) fn is_kept(&self) -> bool {
        self.kept
    }
}

/// For a tree that is not the root itself, of paths below its top; the empty path is all of it.
impl<'p> FromIterator<&'p Path> for Kept {
    fn from_iter<T: IntoIterator<Item = &'p Path>>(paths: T) -> Self {
        let mut top = Self::default();
        for path in paths {
            let mut node = &mut top;
            for name in path.strip_prefix("/").unwrap_or(path) {
                node = node.below.entry(name.to_owned()).or_default();
            }
            node.kept = true;
        }
        top
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_covers_itself_and_what_is_below() {
        let of = |paths: &[&str]| paths.iter().map(Path::new).collect::<Kept>();
        let kept = of(&["/var/log", "/etc/a/b"]).or(of(&["/etc/a/c", "/srv"]));
        for path in ["/var/log", "/var/log/x/y", "/etc/a/b", "/etc/a/c/d", "/srv"] {
            assert!(kept.covers(Path::new(path)), "{path}");
        }
        for path in ["/", "/var", "/var/logs", "/etc/a", "/etc/a/d", "/srv2"] {
            assert!(!kept.covers(Path::new(path)), "{path}");
        }
        assert!(of(&["/"]).covers(Path::new("/any")));
    }
}
