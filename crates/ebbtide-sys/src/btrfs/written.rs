//! How much data a subvolume got since a transaction.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use super::search::{Key, le_u64, visit};
use crate::error::Result;

/// `BTRFS_EXTENT_DATA_KEY`: a piece of a file's content; the objectid is its inode.
const EXTENT_DATA: u32 = 108;

/// `BTRFS_FILE_EXTENT_INLINE`: content within the tree itself.
const INLINE: u8 = 0;

/// Returns the bytes of file content that a subvolume got after a transaction.
///
/// Counts what extents take on the disk, after compression, each once however many files share it;
/// and the content of small files that is kept in the tree. Preallocated space counts. Content that
/// came by reflink keeps the transaction of its origin. Nested subvolumes are not looked into.
///
/// Only what was committed is seen: call [`sync_filesystem`](crate::file::sync_filesystem) first.
/// The cost follows what changed, not the size of the subvolume. Needs `CAP_SYS_ADMIN`.
pub fn written_since(subvolume: BorrowedFd<'_>, generation: u64) -> Result<u64> {
    let first = Key { objectid: 0, kind: EXTENT_DATA, offset: 0 };
    let last = Key { objectid: u64::MAX, kind: EXTENT_DATA, offset: u64::MAX };
    let mut extents = HashSet::new();
    let mut bytes = 0_u64;
    let since = generation.saturating_add(1);
    visit(subvolume, 0, first..=last, since, |key, item| {
        if key.kind != EXTENT_DATA {
            return;
        }
        if let Some(extent) = parse(item).filter(|extent| extent.generation > generation)
            && extent.address.is_none_or(|address| extents.insert(address))
        {
            bytes = bytes.saturating_add(extent.bytes);
        }
    })?;
    Ok(bytes)
}

struct Extent {
    generation: u64,
    /// Where it is on the disk; none for inline content.
    address: Option<u64>,
    bytes: u64,
}

/// Reads a `btrfs_file_extent_item`; none for a hole.
fn parse(item: &[u8]) -> Option<Extent> {
    let generation = le_u64(item, 0)?;
    if *item.get(20)? == INLINE {
        return Some(Extent { generation, address: None, bytes: le_u64(item, 8)? });
    }
    let address = le_u64(item, 21)?;
    let bytes = le_u64(item, 29)?;
    (address != 0).then_some(Extent { generation, address: Some(address), bytes })
}
