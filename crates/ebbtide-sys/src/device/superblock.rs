//! The superblocks of btrfs, ext4 and XFS, in the first bytes of a device.

use uuid::Uuid;

use super::Superblock;

/// How much of the start of a device is needed, in bytes: btrfs's superblock ends there.
pub(super) const START: usize = BTRFS + 4096;

/// Where btrfs has its superblock. See `btrfs_super_block` in `linux/btrfs_tree.h`.
const BTRFS: usize = 64 * 1024;
/// Where ext2, ext3 and ext4 have theirs. See ext4(5) and Documentation/filesystems/ext4.
const EXT4: usize = 1024;

/// A superblock, and which part of a filesystem over several devices it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) superblock: Superblock,
    /// The number of the device within its btrfs.
    pub(super) member: Option<u64>,
}

/// Recognises a filesystem; the error lists several types that it might be.
pub(super) fn recognize(start: &[u8]) -> Result<Option<Found>, Vec<&'static str>> {
    let found: Vec<Found> = [btrfs(start), ext4(start), xfs(start)].into_iter().flatten().collect();
    match <[Found; 1]>::try_from(found) {
        Ok([one]) => Ok(Some(one)),
        Err(none) if none.is_empty() => Ok(None),
        Err(several) => Err(several.iter().map(|found| found.superblock.fstype).collect()),
    }
}

/// The superblock of btrfs, if its signature is there.
fn btrfs_block(start: &[u8]) -> Option<&[u8]> {
    const MAGIC: usize = 0x40;
    let block = start.get(BTRFS..BTRFS + 4096)?;
    (block.get(MAGIC..MAGIC + 8)? == b"_BHRfS_M").then_some(block)
}

/// Whether the content of a superblock of btrfs has the checksum that it says.
fn is_whole(block: &[u8]) -> bool {
    const CSUM_TYPE: usize = 0xc4;
    let is_crc32c = bytes(block, CSUM_TYPE).map(u16::from_le_bytes) == Some(0);
    !is_crc32c || bytes(block, 0).map(u32::from_le_bytes) == Some(crc32c(&block[32..]))
}

/// Returns whether this is a superblock that does not match its checksum: of a filesystem long
/// overwritten, or read while the kernel writes it.
///
/// A mounted btrfs copies its superblock into the page that readers of the device see, and the copy
/// isn't atomic. See `write_dev_supers` in `fs/btrfs/disk-io.c`.
pub(super) fn is_torn(start: &[u8]) -> bool {
    btrfs_block(start).is_some_and(|block| !is_whole(block))
}

fn btrfs(start: &[u8]) -> Option<Found> {
    const ADDRESS: usize = 0x30;
    const DEVICE_ID: usize = 0xc9;
    const LABEL: usize = 0x12b;
    let block = btrfs_block(start)?;
    let address = u64::from_le_bytes(bytes(block, ADDRESS)?);
    // Another filesystem made over an old btrfs may have left its superblock behind, torn.
    if address != BTRFS as u64 || !is_whole(block) {
        return None;
    }
    Some(Found {
        superblock: Superblock {
            fstype: "btrfs",
            uuid: uuid(block, 0x20)?,
            label: text(block.get(LABEL..LABEL + 256)?),
        },
        member: Some(u64::from_le_bytes(bytes(block, DEVICE_ID)?)),
    })
}

fn ext4(start: &[u8]) -> Option<Found> {
    const MAGIC: usize = 0x38;
    const INCOMPATIBLE: usize = 0x60;
    const LABEL: usize = 0x78;
    /// The journal of another filesystem, and nothing to mount.
    const JOURNAL_DEVICE: u32 = 0x8;
    let block = start.get(EXT4..EXT4 + 1024)?;
    let incompatible = u32::from_le_bytes(bytes(block, INCOMPATIBLE)?);
    if bytes(block, MAGIC)? != [0x53, 0xef] || incompatible & JOURNAL_DEVICE != 0 {
        return None;
    }
    Some(Found {
        superblock: Superblock {
            fstype: "ext4",
            uuid: uuid(block, 0x68)?,
            label: text(block.get(LABEL..LABEL + 16)?),
        },
        member: None,
    })
}

/// See `xfs_sb` in the XFS Algorithms & Data Structures guide; XFS is big-endian.
fn xfs(start: &[u8]) -> Option<Found> {
    const LABEL: usize = 108;
    if start.get(..4)? != b"XFSB" {
        return None;
    }
    Some(Found {
        superblock: Superblock {
            fstype: "xfs",
            uuid: uuid(start, 32)?,
            label: text(start.get(LABEL..LABEL + 12)?),
        },
        member: None,
    })
}

/// Returns where members of a Linux RAID keep its superblock: offset and length in bytes.
///
/// Only the formats at the end (0.90 and 1.0) leave a filesystem visible at the start. See md(4).
pub(super) fn raid_locations(size: u64) -> Vec<(u64, usize)> {
    const KIB: u64 = 1024;
    let mut locations = Vec::new();
    if let Some(offset) = (size & !(64 * KIB - 1)).checked_sub(64 * KIB) {
        locations.push((offset, 4));
    }
    if let Some(offset) = size.checked_sub(8 * KIB) {
        locations.push((offset & !(4 * KIB - 1), 4));
    }
    locations
}

/// Returns whether these bytes start a superblock of a Linux RAID, in either byte order.
pub(super) fn is_raid(block: &[u8]) -> bool {
    const MAGIC: u32 = 0xa92b_4efc;
    bytes(block, 0).is_some_and(|magic: [u8; 4]| {
        u32::from_le_bytes(magic) == MAGIC || u32::from_be_bytes(magic) == MAGIC
    })
}

/// CRC-32C (Castagnoli), bit by bit: one block of 4 KiB is all that it is for.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc = (crc >> 1) ^ (0x82f6_3b78 * carry);
        }
    }
    !crc
}

fn bytes<const N: usize>(block: &[u8], at: usize) -> Option<[u8; N]> {
    block.get(at..at + N)?.try_into().ok()
}

fn uuid(block: &[u8], at: usize) -> Option<Uuid> {
    bytes(block, at).map(Uuid::from_bytes)
}

/// Reads a label: up to its NUL.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum() {
        // The check value of the algorithm.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn nothing_is_recognized_in_zeros_and_short_devices() {
        for length in [0, 3, 512, 1024, 2048, START - 1, START] {
            assert_eq!(recognize(&vec![0; length]), Ok(None));
        }
    }

    #[test]
    fn a_torn_btrfs_is_not_one() {
        let mut start = vec![0; START];
        start[BTRFS + 0x40..BTRFS + 0x48].copy_from_slice(b"_BHRfS_M");
        assert_eq!(recognize(&start), Ok(None));
        start[BTRFS + 0x30..BTRFS + 0x38].copy_from_slice(&(BTRFS as u64).to_le_bytes());
        assert_eq!(recognize(&start), Ok(None));
        assert!(is_torn(&start) && !is_torn(&vec![0; START]));
        let csum = crc32c(&start[BTRFS + 32..]);
        start[BTRFS..BTRFS + 4].copy_from_slice(&csum.to_le_bytes());
        assert!(!is_torn(&start));
        assert_eq!(recognize(&start).unwrap().unwrap().superblock.fstype, "btrfs");
        start[..4].copy_from_slice(b"XFSB");
        assert_eq!(recognize(&start), Err(vec!["btrfs", "xfs"]));
    }

    #[test]
    fn a_journal_device_is_not_a_filesystem() {
        let mut start = vec![0; START];
        start[EXT4 + 0x38..EXT4 + 0x3a].copy_from_slice(&[0x53, 0xef]);
        assert_eq!(recognize(&start).unwrap().unwrap().superblock.fstype, "ext4");
        start[EXT4 + 0x60] = 8;
        assert_eq!(recognize(&start), Ok(None));
    }

    #[test]
    fn raid_superblocks_at_the_end() {
        let mib = 1 << 20;
        assert_eq!(raid_locations(mib), [(mib - 65536, 4), (mib - 8192, 4)]);
        assert_eq!(raid_locations(4096), []);
        assert!(is_raid(&[0xfc, 0x4e, 0x2b, 0xa9]) && is_raid(&[0xa9, 0x2b, 0x4e, 0xfc]));
        assert!(!is_raid(&[0; 4]) && !is_raid(&[]));
    }
}
