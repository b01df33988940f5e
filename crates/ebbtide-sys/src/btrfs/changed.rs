//! Which inodes of a subvolume changed since a transaction.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::search::{Key, le_u16, le_u64, visit};
use super::{TOP_INODE, nested};
use crate::error::Result;

/// `BTRFS_INODE_ITEM_KEY`
const INODE_ITEM: u32 = 1;
/// `BTRFS_INODE_REF_KEY`: names of an inode (objectid) in one directory (offset).
const INODE_REF: u32 = 12;
/// `BTRFS_INODE_EXTREF_KEY`: names that did not fit; the offset is a hash.
const INODE_EXTREF: u32 = 13;
/// `BTRFS_LAST_FREE_OBJECTID`: the largest number of an inode.
const LAST_INODE: u64 = u64::MAX - 255;

/// The inodes of a subvolume that changed, and the ways that lead to them.
#[derive(Debug, Default)]
pub struct ChangedInodes {
    /// By number, whether it is new.
    inodes: HashMap<u64, bool>,
    /// By directory, the names in it that lead to one.
    names: HashMap<u64, BTreeSet<OsString>>,
}

impl ChangedInodes {
    /// Whether content, metadata or names of an inode changed, or it is new. That of a directory are the
    /// names in it.
    pub fn contains(&self, inode: u64) -> bool {
        self.inodes.contains_key(&inode)
    }

    /// Whether an inode was made after the transaction.
    pub fn is_new(&self, inode: u64) -> bool {
        self.inodes.get(&inode) == Some(&true)
    }

    /// The names in a directory that are those of changed inodes, or of directories that lead to one.
    pub fn on_the_way(&self, directory: u64) -> impl Iterator<Item = &OsStr> {
        self.names.get(&directory).into_iter().flatten().map(OsString::as_os_str)
    }
}

/// Finds what changed in a subvolume after a transaction.
///
/// What was only read counts where access times are kept. Nested subvolumes are not looked into; that
/// one was made or deleted is a change of the directory that it is in.
///
/// Only what was committed is seen: call [`sync_filesystem`](crate::file::sync_filesystem) first.
/// Time and memory follow what changed, not the size of the subvolume. Needs `CAP_SYS_ADMIN`.
pub fn changed_inodes(subvolume: BorrowedFd<'_>, generation: u64) -> Result<ChangedInodes> {
    let key = |objectid, kind, offset| Key { objectid, kind, offset };
    let all = key(TOP_INODE, INODE_ITEM, 0)..=key(LAST_INODE, INODE_EXTREF, u64::MAX);
    let mut changed = ChangedInodes::default();
    let mut incomplete = Vec::new();
    let mut current: Option<Found> = None;
    let mut finish = |found: Option<Found>| {
        let Some(found) = found.filter(|found| found.item.transaction > generation) else { return };
        changed.inodes.insert(found.inode, found.item.made > generation);
        if found.names.len() < found.item.links {
            incomplete.push(found.inode);
        }
        changed.add(found.names);
    };
    visit(subvolume, 0, all, generation.saturating_add(1), |key, item| {
        if key.kind == INODE_ITEM {
            let found = Item::parse(item);
            let found = found.map(|item| Found { inode: key.objectid, item, names: Vec::new() });
            finish(std::mem::replace(&mut current, found));
        } else if let Some(current) = current.as_mut().filter(|it| it.inode == key.objectid) {
            current.names.extend(names_in(key, item));
        }
    })?;
    finish(current);
    // The rest of their names is in a leaf that did not change.
    for inode in incomplete {
        changed.add(names_of(subvolume, inode)?);
    }
    changed.complete(subvolume)?;
    Ok(changed)
}

impl ChangedInodes {
    fn add(&mut self, names: Vec<Name>) {
        for name in names {
            self.names.entry(name.directory).or_default().insert(name.name);
        }
    }

    /// Adds the ways from the top to all directories that have something on the way.
    fn complete(&mut self, subvolume: BorrowedFd<'_>) -> Result<()> {
        let mut done: HashSet<u64> = HashSet::from([TOP_INODE]);
        let mut waiting: Vec<u64> = self.names.keys().copied().collect();
        while let Some(directory) = waiting.pop() {
            // The names of a changed directory are there already, and wait for themselves.
            if !done.insert(directory) || self.contains(directory) {
                continue;
            }
            let names = names_of(subvolume, directory)?;
            waiting.extend(names.iter().map(|name| name.directory));
            self.add(names);
        }
        Ok(())
    }
}

/// One inode, as far as its items were seen.
struct Found {
    inode: u64,
    item: Item,
    names: Vec<Name>,
}

/// What a `btrfs_inode_item` says.
struct Item {
    /// The transaction that made the inode.
    made: u64,
    /// The last one that changed it.
    transaction: u64,
    links: usize,
}

impl Item {
    /// Reads generation, transid, and behind size, nbytes and block group the number of links.
    fn parse(item: &[u8]) -> Option<Self> {
        let links = u32::from_le_bytes(item.get(40..44)?.try_into().ok()?);
        Some(Self {
            made: le_u64(item, 0)?,
            transaction: le_u64(item, 8)?,
            links: usize::try_from(links).ok()?,
        })
    }
}

/// A name of an inode.
#[derive(Debug, PartialEq, Eq)]
struct Name {
    directory: u64,
    name: OsString,
}

fn names_of(subvolume: BorrowedFd<'_>, inode: u64) -> Result<Vec<Name>> {
    let key = |kind, offset| Key { objectid: inode, kind, offset };
    let mut names = Vec::new();
    visit(subvolume, 0, key(INODE_REF, 0)..=key(INODE_EXTREF, u64::MAX), 0, |key, item| {
        names.extend(names_in(key, item));
    })?;
    Ok(names)
}

/// Reads the names of an item: each `btrfs_inode_ref` is an index and a length, and each
/// `btrfs_inode_extref` has the directory before them; then comes the name.
fn names_in(key: Key, mut item: &[u8]) -> Vec<Name> {
    let mut names = Vec::new();
    loop {
        let (directory, head) = match key.kind {
            INODE_REF => (Some(key.offset), 10),
            INODE_EXTREF => (le_u64(item, 0), 18),
            _ => return names,
        };
        let length = le_u16(item, head - 2).map(|length| head + usize::from(length));
        let (Some(directory), Some(end)) = (directory, length) else { return names };
        let Some((this, rest)) = item.split_at_checked(end) else { return names };
        let name = OsString::from_vec(this.get(head..).unwrap_or_default().to_vec());
        names.push(Name { directory, name });
        item = rest;
    }
}

/// Returns the path of a directory of a subvolume; `None` if there is none with that number, or if its
/// path has over 4079 bytes. Needs `CAP_SYS_ADMIN`.
pub fn path_of_directory(subvolume: BorrowedFd<'_>, inode: u64) -> Result<Option<PathBuf>> {
    match nested::directory_path(subvolume, super::SubvolumeId(0), inode) {
        Ok(path) => Ok(Some(path.components().collect())),
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_names_are_in_one_item() {
        let key = |kind| Key { objectid: 300, kind, offset: 256 };
        let mut item = Vec::new();
        for name in ["a", "longer"] {
            item.extend(7_u64.to_le_bytes());
            item.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            item.extend(name.as_bytes());
        }
        let of = |directory, name: &str| Name { directory, name: name.into() };
        assert_eq!(names_in(key(INODE_REF), &item), [of(256, "a"), of(256, "longer")]);
        assert_eq!(names_in(key(INODE_REF), &item[..item.len() - 1]), [of(256, "a")]);
        let mut extended = 999_u64.to_le_bytes().to_vec();
        extended.extend(&item[..11]);
        assert_eq!(names_in(key(INODE_EXTREF), &extended), [of(999, "a")]);
        assert_eq!(names_in(key(INODE_ITEM), &item), []);
    }
}
