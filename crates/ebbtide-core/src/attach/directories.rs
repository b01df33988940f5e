//! Directories that were opened on the way to entries: siblings don't resolve the same path again.
//!
//! What is remembered is a descriptor, so no link can be put in its way later. But its directory can be
//! renamed, by whoever may write above it, and then the descriptor leads to where it is now: still below
//! the same mount, because rename(2) leaves none, and no further than the same rename would have led a
//! moment after a path was resolved. So descriptors are kept for one look at a set of entries and for
//! what is done about them, and verifying begins with none: what it compares is where paths lead then.
//! Nor may something be mounted on what is remembered meanwhile. Entries inside entries are looked at
//! after those (see [`super::waves`]), with new ones.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::rc::Rc;

use ebbtide_sys::{Result, resolve};

use super::plan::Node;

/// How many are open at a time. Where there are more, all are closed and those that are needed opened
/// again: entries are sorted, so that is no more often than once for each.
const LIMIT: usize = 256;

/// Open directories of some trees, which stay open as long.
#[derive(Debug, Default)]
pub struct Directories<'t> {
    // The number stands for a tree as long as that is open: `'t`.
    trees: RefCell<HashMap<RawFd, Tree>>,
    _trees: PhantomData<BorrowedFd<'t>>,
}

#[derive(Debug, Default)]
struct Tree {
    // By their bytes: entries are spelled in one way only, and paths are slow to hash. Another spelling
    // is only looked at once more.
    open: HashMap<OsString, Rc<OwnedFd>>,
    /// What was seen above entries, and where nothing is.
    seen: HashMap<OsString, Node>,
}

impl<'t> Directories<'t> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the directory that holds a path, and splits off the name. No link is followed.
    ///
    /// # Errors
    ///
    /// As [`resolve::open_beneath`]; `EINVAL` for the tree itself, which has no name.
    pub fn parent<'p>(
        &self,
        tree: BorrowedFd<'t>,
        path: &'p Path,
    ) -> Result<(Rc<OwnedFd>, &'p OsStr)> {
        let Some((parent, name)) = resolve::split_parent(path) else {
            // Refused with all that an error says.
            return resolve::open_path(tree, &path.join(".."))
                .map(|fd| (Rc::new(fd), OsStr::new("")));
        };
        let mut trees = self.trees.borrow_mut();
        let Tree { open, .. } = trees.entry(tree.as_raw_fd()).or_default();
        if let Some(opened) = open.get(parent.as_os_str()) {
            return Ok((Rc::clone(opened), name));
        }
        let opened = Rc::new(resolve::open_directory_path(tree, parent)?);
        if open.len() >= LIMIT {
            open.clear();
        }
        open.insert(parent.as_os_str().to_owned(), Rc::clone(&opened));
        Ok((opened, name))
    }

    /// What was seen at a path, if that was noted.
    pub(super) fn seen(&self, tree: BorrowedFd<'t>, path: &Path) -> Option<Node> {
        self.trees.borrow().get(&tree.as_raw_fd())?.seen.get(path.as_os_str()).cloned()
    }

    /// Notes what was seen at a path above an entry.
    pub(super) fn note(&self, tree: BorrowedFd<'t>, path: &Path, node: &Node) {
        let mut trees = self.trees.borrow_mut();
        let Tree { seen, .. } = trees.entry(tree.as_raw_fd()).or_default();
        seen.insert(path.as_os_str().to_owned(), node.clone());
    }

    /// Whether the directory that would hold a path is known not to be there.
    pub(super) fn has_no_parent(&self, tree: BorrowedFd<'t>, path: &Path) -> bool {
        let Some(parent) = path.parent() else { return false };
        let trees = self.trees.borrow();
        let seen = trees.get(&tree.as_raw_fd()).and_then(|tree| tree.seen.get(parent.as_os_str()));
        seen == Some(&Node::Absent)
    }

    /// Forgets what was seen, because it is going to change.
    pub(super) fn forget_seen(&self) {
        for tree in self.trees.borrow_mut().values_mut() {
            tree.seen.clear();
        }
    }
}
