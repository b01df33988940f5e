//! Which inodes of a subvolume changed since a transaction.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStringExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::search::{Key, Searcher, le_u16, le_u64};
use super::{TOP_INODE, nested};
use crate::error::Result;
use crate::kernel::processors;
use crate::metadata::{FileKind, Time};

/// `BTRFS_INODE_ITEM_KEY`
const INODE_ITEM: u32 = 1;
/// `BTRFS_INODE_REF_KEY`: names of an inode (objectid) in one directory (offset).
const INODE_REF: u32 = 12;
/// `BTRFS_INODE_EXTREF_KEY`: names that did not fit; the offset is a hash.
const INODE_EXTREF: u32 = 13;
/// `BTRFS_LAST_FREE_OBJECTID`: the largest number of an inode.
const LAST_INODE: u64 = u64::MAX - 255;

/// A directory in which so many names lead to changed inodes may be looked at as a whole.
const MANY: usize = 8;

/// The inodes of a subvolume that changed, and the ways that lead to them.
#[derive(Debug, Default)]
pub struct ChangedInodes {
    /// In order of their numbers.
    inodes: Vec<Run>,
    /// What they are, as far as there was room; in the same order.
    items: Vec<(u64, InodeItem)>,
    /// By directory that did not change itself.
    ways: HashMap<u64, Ways>,
    /// How many names `ways` has.
    names: usize,
    /// How many it may have.
    limit: usize,
}

/// Neighbours by number: files that were made one after the other.
#[derive(Debug)]
struct Run {
    first: u64,
    last: u64,
    is_new: bool,
}

/// What a changed inode is, as the search found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeItem {
    /// The type.
    pub kind: FileKind,
    /// The permission bits with set-uid, set-gid and sticky: at most `0o7777`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
    /// Major and minor number of a device node, else zeros.
    pub rdev: (u32, u32),
    /// When its metadata last changed.
    pub changed: Time,
}

/// The names in a directory that lead to changed inodes.
#[derive(Debug)]
enum Ways {
    These(BTreeMap<OsString, u64>),
    /// Too many to remember.
    Any,
}

/// Which names in a directory that did not change are those of changed inodes, or of directories that lead
/// to one.
#[derive(Clone, Copy, Debug)]
pub enum OnTheWay<'a> {
    /// None of them.
    Nothing,
    /// These, with the numbers of their inodes: what did not change of these is a directory.
    These(&'a BTreeMap<OsString, u64>),
    /// Any of them may be.
    Any,
}

impl ChangedInodes {
    /// Whether content, metadata or names of an inode changed, or it is new. That of a directory are the
    /// names in it.
    pub fn contains(&self, inode: u64) -> bool {
        self.run(inode).is_some()
    }

    /// Whether an inode was made after the transaction.
    pub fn is_new(&self, inode: u64) -> bool {
        self.run(inode).is_some_and(|run| run.is_new)
    }

    /// What a changed inode is; `None` for others, and where there are too many to remember.
    pub fn item(&self, inode: u64) -> Option<&InodeItem> {
        let at = self.items.binary_search_by_key(&inode, |(inode, _)| *inode).ok()?;
        self.items.get(at).map(|(_, item)| item)
    }

    /// The names in a directory that did not change, and that lead to what did.
    pub fn on_the_way(&self, directory: u64) -> OnTheWay<'_> {
        match self.ways.get(&directory) {
            None => OnTheWay::Nothing,
            Some(Ways::These(names)) => OnTheWay::These(names),
            Some(Ways::Any) => OnTheWay::Any,
        }
    }

    fn run(&self, inode: u64) -> Option<&Run> {
        let behind = self.inodes.partition_point(|run| run.first <= inode);
        self.inodes[..behind].last().filter(|run| inode <= run.last)
    }
}

/// How many threads look at once, at most.
const THREADS: usize = 4;

/// How many parts there are for each: what changed is not spread evenly.
const PARTS: usize = 16;

/// Subvolumes with less than so many inode numbers are looked at in one go.
const SMALL: u64 = 10_000;

/// Finds what changed in a subvolume after a transaction.
///
/// What was only read counts where access times are kept. Nested subvolumes are not looked into; that
/// one was made or deleted is a change of the directory that it is in.
///
/// Only what was committed is seen: call [`sync_filesystem`](crate::file::sync_filesystem) first.
/// Time and memory follow what changed, not the size of the subvolume. Of names on the way so many are
/// remembered; where there are more, any name of a directory may be one. Of as many inodes is remembered
/// what they are. Needs `CAP_SYS_ADMIN`.
pub fn changed_inodes(
    subvolume: BorrowedFd<'_>,
    generation: u64,
    names: usize,
) -> Result<ChangedInodes> {
    let mut searcher = Searcher::for_few(subvolume)?;
    let threads = processors().min(THREADS);
    let highest = highest_inode(&mut searcher)?;
    let wanted = if threads > 1 && highest >= SMALL { threads * PARTS } else { 1 };
    let parts = parts(highest, wanted);
    in_parts(subvolume, generation, names, (&parts, threads))
}

/// The same, in parts that so many threads look at.
pub(super) fn in_parts(
    subvolume: BorrowedFd<'_>,
    generation: u64,
    names: usize,
    (parts, threads): (&[RangeInclusive<u64>], usize),
) -> Result<ChangedInodes> {
    let next = AtomicUsize::new(0);
    let room = AtomicUsize::new(names);
    // They share what may be remembered: nobody knows yet who needs it.
    let limit = names / parts.len().max(1);
    let search = || -> Result<Vec<(usize, Part)>> {
        let mut searcher = Searcher::for_many(subvolume)?;
        let mut found = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(inodes) = parts.get(index) else { return Ok(found) };
            let part = Part::search(&mut searcher, inodes.clone(), generation, (limit, &room))?;
            found.push((index, part));
        }
    };
    let mut all = thread::scope(|scope| -> Result<Vec<(usize, Part)>> {
        // Where no other thread can be had, this one does it all.
        let start = |_| thread::Builder::new().spawn_scoped(scope, search).ok();
        let others: Vec<_> = (1..threads.min(parts.len())).filter_map(start).collect();
        let mut all = search()?;
        for other in others {
            all.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok(all)
    })?;
    all.sort_unstable_by_key(|(index, _)| *index);
    let mut changed = ChangedInodes { limit: names, ..ChangedInodes::default() };
    let mut incomplete = Vec::new();
    let (mut inodes, mut ways, mut passed) = (Vec::new(), Vec::new(), HashMap::new());
    for (_, mut part) in all {
        inodes.push(part.changed.inodes);
        changed.items.append(&mut part.changed.items);
        ways.push(part.changed.ways);
        incomplete.extend(part.incomplete);
        passed.extend(part.passed);
    }
    // Which directories changed is known only when all are there.
    changed.inodes = inodes.into_iter().flatten().collect();
    ways.into_iter().flatten().for_each(|(directory, ways)| changed.add_ways(directory, ways));
    let mut searcher = Searcher::for_few(subvolume)?;
    // The rest of their names is in a leaf that did not change.
    for inode in incomplete {
        changed.add(names_of(&mut searcher, inode)?);
    }
    changed.complete(&mut searcher, passed)?;
    Ok(changed)
}

/// Divides inode numbers up to the highest one; behind it, what is made meanwhile.
pub(super) fn parts(highest: u64, wanted: usize) -> Vec<RangeInclusive<u64>> {
    let wanted = wanted.max(1) as u64;
    let length = highest / wanted + 1;
    let part = |part: u64| {
        let first = (part * length).max(TOP_INODE);
        let last = if part + 1 == wanted { LAST_INODE } else { (part + 1) * length - 1 };
        first..=last
    };
    (0..wanted).map(part).filter(|part| !part.is_empty()).collect()
}

/// About the highest inode number of a subvolume: none is higher, and the highest has half of it at least.
fn highest_inode(searcher: &mut Searcher<'_>) -> Result<u64> {
    let key = |objectid, kind| Key { objectid, kind, offset: 0 };
    let (mut none_from, mut bit) = (1 << 8, 8);
    while bit < 62 && searcher.has_any(0, key(none_from, 0)..=key(LAST_INODE, INODE_ITEM))? {
        bit += 1;
        none_from = 1 << bit;
    }
    // One step further, so that no part is empty for want of inodes.
    let middle = none_from / 4 * 3;
    let has_more = searcher.has_any(0, key(middle, 0)..=key(LAST_INODE, INODE_ITEM))?;
    Ok(if has_more { none_from } else { middle })
}

/// What was found in a part of the inodes.
struct Part {
    changed: ChangedInodes,
    /// Those of which not all names were found.
    incomplete: Vec<u64>,
    /// The names of directories that did not change, and lie in a leaf with what did: often they are those on
    /// the way to it.
    passed: HashMap<u64, Vec<Reference>>,
}

impl Part {
    fn search(
        searcher: &mut Searcher<'_>,
        inodes: RangeInclusive<u64>,
        generation: u64,
        (limit, room): (usize, &AtomicUsize),
    ) -> Result<Self> {
        let key = |objectid, kind, offset| Key { objectid, kind, offset };
        let all = key(*inodes.start(), INODE_ITEM, 0)..=key(*inodes.end(), INODE_EXTREF, u64::MAX);
        let mut changed = ChangedInodes { limit, ..ChangedInodes::default() };
        let (mut incomplete, mut passed) = (Vec::new(), HashMap::new());
        let mut current: Option<Found> = None;
        let mut finish = |found: Option<Found>| {
            let Some(found) = found else { return };
            if found.item.transaction <= generation {
                if found.item.is_directory() && !found.names.is_empty() && passed.len() < limit {
                    passed.insert(found.inode, found.names);
                }
                return;
            }
            changed.push(found.inode, found.item.made > generation);
            let less = |room: usize| room.checked_sub(1);
            if room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                changed.items.push((found.inode, found.item.inode));
            }
            if found.names.len() < found.item.links {
                incomplete.push(found.inode);
            }
            changed.add(found.names);
        };
        searcher.visit(0, all, generation.saturating_add(1), |key, item| {
            if key.kind == INODE_ITEM {
                let found = Item::parse(item);
                let found =
                    found.map(|item| Found { inode: key.objectid, item, names: Vec::new() });
                finish(std::mem::replace(&mut current, found));
            } else if let Some(current) = current.as_mut()
                && current.inode == key.objectid
                && (current.item.transaction > generation || current.item.is_directory())
            {
                current.names.extend(names_in(key, item));
            }
        })?;
        finish(current);
        Ok(Self { changed, incomplete, passed })
    }
}

impl ChangedInodes {
    /// Adds an inode behind all others.
    fn push(&mut self, inode: u64, is_new: bool) {
        match self.inodes.last_mut() {
            Some(run) if run.is_new == is_new && run.last + 1 == inode => run.last = inode,
            _ => self.inodes.push(Run { first: inode, last: inode, is_new }),
        }
    }

    /// Remembers the way to an inode, unless the directory changed: all of it is looked at then.
    fn add(&mut self, names: Vec<Reference>) {
        for Reference { directory, name, inode } in names {
            if self.contains(directory) {
                continue;
            }
            let ways = self.ways.entry(directory).or_insert(Ways::These(BTreeMap::new()));
            if let Ways::These(names) = ways {
                self.names += usize::from(names.insert(name, inode).is_none());
            }
            if self.names > self.limit {
                self.forget();
            }
        }
    }

    /// Adds the ways to the inodes of a part, unless their directory changed.
    fn add_ways(&mut self, directory: u64, ways: Ways) {
        if self.contains(directory) {
            return;
        }
        match ways {
            Ways::These(names) => {
                let name = |(name, inode)| Reference { directory, name, inode };
                self.add(names.into_iter().map(name).collect());
            }
            Ways::Any => {
                if let Some(Ways::These(names)) = self.ways.insert(directory, Ways::Any) {
                    self.names -= names.len();
                }
            }
        }
    }

    /// Forgets names: first those of directories that have many, and if that is not enough, all.
    fn forget(&mut self) {
        for at_least in [MANY, 0] {
            for ways in self.ways.values_mut() {
                if let Ways::These(names) = ways
                    && names.len() >= at_least
                {
                    self.names -= names.len();
                    *ways = Ways::Any;
                }
            }
            if self.names <= self.limit / 2 {
                return;
            }
        }
    }

    /// Adds the ways from the top to all directories that have something on the way.
    fn complete(
        &mut self,
        searcher: &mut Searcher<'_>,
        mut passed: HashMap<u64, Vec<Reference>>,
    ) -> Result<()> {
        let mut done: HashSet<u64> = HashSet::from([TOP_INODE]);
        let mut waiting: Vec<u64> = self.ways.keys().copied().collect();
        while let Some(directory) = waiting.pop() {
            // The way to a changed directory is there already, and waits for itself.
            if !done.insert(directory) || self.contains(directory) {
                continue;
            }
            let names = match passed.remove(&directory) {
                Some(names) => names,
                None => names_of(searcher, directory)?,
            };
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
    names: Vec<Reference>,
}

/// What a `btrfs_inode_item` says.
struct Item {
    /// The transaction that made the inode.
    made: u64,
    /// The last one that changed it.
    transaction: u64,
    links: usize,
    inode: InodeItem,
}

impl Item {
    /// Reads generation, transid and size; behind nbytes and block group the number of links, the owners, mode
    /// and device; and behind flags, sequence and what is reserved, and the access time, the change time.
    fn parse(item: &[u8]) -> Option<Self> {
        let number = |at| item.get(at..at + 4)?.try_into().map(u32::from_le_bytes).ok();
        let mode = number(52)?;
        let device = le_u64(item, 56)?;
        Some(Self {
            made: le_u64(item, 0)?,
            transaction: le_u64(item, 8)?,
            links: usize::try_from(number(40)?).ok()?,
            inode: InodeItem {
                kind: FileKind::from_file_type(FileType::from_raw_mode(mode))?,
                mode: mode & 0o7777,
                uid: number(44)?,
                gid: number(48)?,
                size: le_u64(item, 16)?,
                // As the kernel has it in memory: 12 bits and 20.
                rdev: (u32::try_from(device >> 20).ok()?, u32::try_from(device & 0xf_ffff).ok()?),
                changed: (le_u64(item, 124)?.cast_signed(), number(132)?),
            },
        })
    }

    fn is_directory(&self) -> bool {
        self.inode.kind == FileKind::Directory
    }
}

/// A name of an inode.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    directory: u64,
    name: OsString,
    inode: u64,
}

fn names_of(searcher: &mut Searcher<'_>, inode: u64) -> Result<Vec<Reference>> {
    let key = |kind, offset| Key { objectid: inode, kind, offset };
    let mut names = Vec::new();
    let all = key(INODE_REF, 0)..=key(INODE_EXTREF, u64::MAX);
    searcher.visit(0, all, 0, |key, item| names.extend(names_in(key, item)))?;
    Ok(names)
}

/// Reads the names of an item: each `btrfs_inode_ref` is an index and a length, and each
/// `btrfs_inode_extref` has the directory before them; then comes the name.
fn names_in(key: Key, mut item: &[u8]) -> Vec<Reference> {
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
        names.push(Reference { directory, name, inode: key.objectid });
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
    fn neighbours_are_one_run() {
        let mut changed = ChangedInodes::default();
        for (inode, is_new) in [(260, false), (300, true), (301, true), (302, false), (400, true)] {
            changed.push(inode, is_new);
        }
        assert_eq!(changed.inodes.len(), 4);
        let known = |inode| (changed.contains(inode), changed.is_new(inode));
        for (inode, expected) in [
            (259, (false, false)),
            (260, (true, false)),
            (261, (false, false)),
            (300, (true, true)),
            (301, (true, true)),
            (302, (true, false)),
            (303, (false, false)),
            (400, (true, true)),
            (401, (false, false)),
        ] {
            assert_eq!(known(inode), expected, "{inode}");
        }
    }

    #[test]
    fn of_very_many_names_only_the_directories_are_remembered() {
        const NAMES: usize = 5000;
        let name = |directory: u64, name: usize| Reference {
            directory,
            name: name.to_string().into(),
            inode: 1_000_000_000,
        };
        let mut changed = ChangedInodes { limit: NAMES, ..ChangedInodes::default() };
        changed.push(7, false);
        for directory in 1000..1100 {
            changed.add((0..MANY).map(|it| name(directory, it)).collect());
        }
        changed.add((0..NAMES).map(|it| name(7, it)).collect());
        assert_eq!(changed.names, 100 * MANY, "all of a changed directory is looked at anyway");
        changed.add((0..NAMES).map(|it| name(500, it)).collect());
        changed.add(vec![name(501, 0)]);
        assert!(changed.names <= NAMES);
        for directory in [500, 1000, 1099] {
            assert!(matches!(changed.on_the_way(directory), OnTheWay::Any));
        }
        assert!(matches!(changed.on_the_way(501), OnTheWay::These(names) if names.len() == 1));
        assert!(matches!(changed.on_the_way(7), OnTheWay::Nothing));
        for directory in 0..NAMES as u64 {
            changed.add(vec![name(1_000_000 + directory, 0)]);
        }
        assert!(changed.names <= NAMES);
        assert!(matches!(changed.on_the_way(501), OnTheWay::Any));
    }

    #[test]
    fn several_names_are_in_one_item() {
        let key = |kind| Key { objectid: 300, kind, offset: 256 };
        let mut item = Vec::new();
        for name in ["a", "longer"] {
            item.extend(7_u64.to_le_bytes());
            item.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            item.extend(name.as_bytes());
        }
        let of = |directory, name: &str| Reference { directory, name: name.into(), inode: 300 };
        assert_eq!(names_in(key(INODE_REF), &item), [of(256, "a"), of(256, "longer")]);
        assert_eq!(names_in(key(INODE_REF), &item[..item.len() - 1]), [of(256, "a")]);
        let mut extended = 999_u64.to_le_bytes().to_vec();
        extended.extend(&item[..11]);
        assert_eq!(names_in(key(INODE_EXTREF), &extended), [of(999, "a")]);
        assert_eq!(names_in(key(INODE_ITEM), &item), []);
    }
}
