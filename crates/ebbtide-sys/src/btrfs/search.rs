//! Searching btrfs's trees: `BTRFS_IOC_TREE_SEARCH_V2`. Needs `CAP_SYS_ADMIN`.

use std::ffi::c_void;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};

use super::SubvolumeId;
use crate::descriptor::{Usable, usable};
use crate::error::{Error, Result};

/// The tree of all trees, `BTRFS_ROOT_TREE_OBJECTID`.
pub(super) const ROOT_TREE: u64 = 1;

/// `BTRFS_ROOT_TREE_DIR_OBJECTID`, the directory in the root tree that has the entry "default".
const ROOT_TREE_DIR: u64 = 6;

/// `BTRFS_DIR_ITEM_KEY`
const DIR_ITEM: u32 = 84;

/// `struct btrfs_ioctl_search_args_v2` without its buffer: 13 words of key, and the buffer's size.
type Head = [u64; HEAD];
const HEAD: usize = 14;
const _: () = assert!(size_of::<Head>() == 112);

const TREE_SEARCH_V2: Opcode = opcode::read_write::<Head>(0x94, 17);

/// The size of the buffer for found items in bytes: the largest item fits several times.
const BUFFER: usize = 256 * 1024;

/// The size of the largest item with its header in bytes: no leaf is larger than 64 KiB.
const LARGEST: usize = 64 * 1024 + HEADER;

/// `struct btrfs_ioctl_search_header`: transid, objectid, offset, type and length.
const HEADER: usize = 32;

/// The key of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) objectid: u64,
    pub(super) kind: u32,
    pub(super) offset: u64,
}

impl Key {
    /// Returns the next possible key; none after the last.
    fn next(self) -> Option<Self> {
        if let Some(offset) = self.offset.checked_add(1) {
            Some(Self { offset, ..self })
        } else if self.kind < 255 {
            Some(Self { kind: self.kind + 1, offset: 0, ..self })
        } else {
            let objectid = self.objectid.checked_add(1)?;
            Some(Self { objectid, kind: 0, offset: 0 })
        }
    }
}

/// Visits all items of a tree in a range of keys, in order of their keys.
///
/// `tree` 0 is the subvolume that `fd` is in. Leaves that were last written before the transaction
/// `since` are left out, and what they hold is older as well.
pub(super) fn visit(
    fd: BorrowedFd<'_>,
    tree: u64,
    range: RangeInclusive<Key>,
    since: u64,
    item: impl FnMut(Key, &[u8]),
) -> Result<()> {
    Searcher::for_many(fd)?.visit(tree, range, since, item)
}

/// Searches trees again and again, with the same buffer.
pub(super) struct Searcher<'f> {
    fd: Usable<'f>,
    args: Vec<u8>,
}

impl<'f> Searcher<'f> {
    /// For few small items at a time.
    pub(super) fn for_few(fd: BorrowedFd<'f>) -> Result<Self> {
        Self::new(fd, LARGEST + LARGEST / 4)
    }

    /// For many items at a time.
    pub(super) fn for_many(fd: BorrowedFd<'f>) -> Result<Self> {
        Self::new(fd, BUFFER)
    }

    fn new(fd: BorrowedFd<'f>, buffer: usize) -> Result<Self> {
        Ok(Self { fd: usable(fd)?, args: vec![0; size_of::<Head>() + buffer] })
    }

    /// Whether a tree has any item in a range of keys.
    pub(super) fn has_any(&mut self, tree: u64, range: RangeInclusive<Key>) -> Result<bool> {
        Ok(self.search(tree, range, 0, 1)? > 0)
    }

    /// Asks once for as many items as fit, or this many; returns how many the buffer has.
    fn search(
        &mut self,
        tree: u64,
        range: RangeInclusive<Key>,
        since: u64,
        most: u32,
    ) -> Result<u32> {
        let fd = self.fd.as_fd();
        let args = &mut self.args;
        let buffer = args.len() - size_of::<Head>();
        let (first, last) = (range.start(), range.end());
        let head: Head = [
            tree,
            first.objectid,
            last.objectid,
            first.offset,
            last.offset,
            since,
            u64::MAX,
            two_u32(first.kind, last.kind),
            two_u32(most, 0),
            0,
            0,
            0,
            0,
            buffer as u64,
        ];
        for (field, value) in args.chunks_exact_mut(8).zip(head) {
            field.copy_from_slice(&value.to_ne_bytes());
        }
        // SAFETY: the ioctl reads the head, writes it, and writes at most as many bytes behind it
        // as its last word says, which is how many follow; any bytes are valid.
        unsafe { rustix::ioctl::ioctl(fd, Search { args }) }
            .map_err(|e| Error::new("ioctl", e).fd(fd).arg("BTRFS_IOC_TREE_SEARCH_V2").arg(tree))?;
        // The kernel left the number of items where the largest number was.
        Ok(field(args, 8 * 8).map_or(0, u32::from_ne_bytes))
    }

    /// As [`visit`].
    pub(super) fn visit(
        &mut self,
        tree: u64,
        range: RangeInclusive<Key>,
        since: u64,
        mut item: impl FnMut(Key, &[u8]),
    ) -> Result<()> {
        let last = *range.end();
        let mut first = *range.start();
        loop {
            let count = self.search(tree, first..=last, since, u32::MAX)?;
            if count == 0 {
                return Ok(());
            }
            let fd = self.fd.as_fd();
            let bytes = &self.args[size_of::<Head>()..];
            let (reached, room) = walk_items(bytes, count, &range, &mut item)
                .ok_or_else(|| Error::new("ioctl", Errno::IO).fd(fd).note("a malformed answer"))?;
            // The kernel stops at an item that does not fit, and any would have fitted.
            if room >= LARGEST {
                return Ok(());
            }
            match reached.next() {
                Some(next) if next <= last => first = next,
                _ => return Ok(()),
            }
        }
    }
}

/// Hands out the items of one answer; returns the key of the last one, and how much room is behind it.
fn walk_items(
    mut bytes: &[u8],
    count: u32,
    range: &RangeInclusive<Key>,
    item: &mut impl FnMut(Key, &[u8]),
) -> Option<(Key, usize)> {
    let mut reached = None;
    for _ in 0..count {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let key = Key {
            objectid: u64::from_ne_bytes(field(header, 8)?),
            offset: u64::from_ne_bytes(field(header, 16)?),
            kind: u32::from_ne_bytes(field(header, 24)?),
        };
        let length = u32::from_ne_bytes(field(header, 28)?);
        let (data, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        bytes = rest;
        reached = Some(key);
        // The kernel compares keys as a whole; other types in between are not ours.
        if range.contains(&key) {
            item(key, data);
        }
    }
    Some((reached?, bytes.len()))
}

/// The ioctl on a head with its buffer. The kernel does not mind how they are aligned.
struct Search<'a> {
    args: &'a mut [u8],
}

// SAFETY: the opcode is that of `BTRFS_IOC_TREE_SEARCH_V2`, the pointer is to the structure that it
// reads and writes, and the output is not derived from it.
unsafe impl Ioctl for Search<'_> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        TREE_SEARCH_V2
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.args.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Lays out two `__u32` as they are in memory.
fn two_u32(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// Reads a little-endian number of an item, which is as it is on the disk.
pub(super) fn le_u64(item: &[u8], at: usize) -> Option<u64> {
    field(item, at).map(u64::from_le_bytes)
}

/// Reads a little-endian number of an item.
pub(super) fn le_u16(item: &[u8], at: usize) -> Option<u16> {
    field(item, at).map(u16::from_le_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// Returns the subvolume that is mounted if none is named. Needs `CAP_SYS_ADMIN`.
///
/// The root tree has a directory with one entry, "default"; without it, it is the top level.
pub fn default_subvolume(fd: BorrowedFd<'_>) -> Result<SubvolumeId> {
    let all = |offset| Key { objectid: ROOT_TREE_DIR, kind: DIR_ITEM, offset };
    let mut found = SubvolumeId::TOP_LEVEL;
    visit(fd, ROOT_TREE, all(0)..=all(u64::MAX), 0, |_, item| {
        if let Some(id) = default_of(item) {
            found = id;
        }
    })?;
    Ok(found)
}

/// Reads a `btrfs_dir_item`: location (key of 17 bytes), transid, lengths, type; then the name.
fn default_of(item: &[u8]) -> Option<SubvolumeId> {
    const NAME: usize = 30;
    let length = usize::from(le_u16(item, 27)?);
    let name = item.get(NAME..NAME + length)?;
    (name == b"default").then_some(SubvolumeId(le_u64(item, 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(objectid: u64, kind: u32, offset: u64) -> Key {
        Key { objectid, kind, offset }
    }

    #[test]
    fn the_next_key() {
        let max = u64::MAX;
        assert_eq!(key(1, 2, 3).next(), Some(key(1, 2, 4)));
        assert_eq!(key(1, 2, max).next(), Some(key(1, 3, 0)));
        assert_eq!(key(1, 255, max).next(), Some(key(2, 0, 0)));
        assert_eq!(key(max, 255, max).next(), None);
    }

    #[test]
    fn a_truncated_answer_is_refused() {
        let all = key(0, 0, 0)..=key(u64::MAX, 255, u64::MAX);
        let mut header = vec![0; HEADER];
        header[8] = 7;
        header[28] = 4;
        assert_eq!(walk_items(&header, 1, &all, &mut |_, _| {}), None);
        header.extend_from_slice(b"data");
        let mut seen = Vec::new();
        let reached = walk_items(&header, 1, &all, &mut |_, data| seen.push(data.to_vec()));
        assert_eq!(reached, Some((key(7, 0, 0), 0)));
        assert_eq!(seen, [b"data"]);
        assert_eq!(walk_items(&header, 2, &all, &mut |_, _| {}), None);
    }
}
