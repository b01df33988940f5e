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
