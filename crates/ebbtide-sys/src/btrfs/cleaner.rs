//! Waiting for the space of deleted subvolumes.
//!
//! Deleting one takes its name away; a thread of the kernel, the cleaner, frees what it held, later.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use super::search::{Key, ROOT_TREE, visit};
use super::{SubvolumeId, raw};
use crate::error::Result;

/// `BTRFS_ROOT_ITEM_KEY`: a tree. That of a deleted subvolume is there until it is freed.
const ROOT_ITEM: u32 = 132;

/// How often is looked whether the cleaner is done.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the cleaner is woken: it may have been asleep when the last call came.
const AGAIN: Duration = Duration::from_secs(2);

/// Waits until what these deleted subvolumes held is free, as `btrfs subvolume sync` does; false if
/// that was not so within the time. Needs `CAP_SYS_ADMIN`.
///
/// The cleaner is woken and what is pending is committed. A subvolume that was not deleted is waited
/// for in vain.
pub fn wait_until_freed(
    fd: BorrowedFd<'_>,
    subvolumes: &[SubvolumeId],
    limit: Duration,
) -> Result<bool> {
    let start = Instant::now();
    let mut left = subvolumes.to_vec();
    let mut woken = None;
    while !left.is_empty() {
        // Else it works when the next commit is due, half a minute later.
        if woken.is_none_or(|at: Instant| at.elapsed() > AGAIN) {
            raw::sync(fd)?;
            woken = Some(Instant::now());
        }
        let mut there = Vec::new();
        for id in left {
            if exists(fd, id)? {
                there.push(id);
            }
        }
        left = there;
        if left.is_empty() {
            break;
        }
        if start.elapsed() >= limit {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
    }
    // Freed space can be used, and counted, once that is committed.
    raw::sync(fd)?;
    Ok(true)
}

fn exists(fd: BorrowedFd<'_>, id: SubvolumeId) -> Result<bool> {
    let key = |offset| Key { objectid: id.0, kind: ROOT_ITEM, offset };
    let mut found = false;
    visit(fd, ROOT_TREE, key(0)..=key(u64::MAX), 0, |_, _| found = true)?;
    Ok(found)
}
