//! Block devices: which filesystem is on them, and which one a specification means.
//!
//! An initramfs may have neither blkid nor a finished udev, so superblocks are read here.

mod find;
pub mod hibernation;
mod superblock;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::error::{Error, Result};

pub use find::{FindError, find};

/// The filesystem on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// `btrfs`, `ext4` (for ext2 and ext3 too, which the ext4 driver mounts) or `xfs`.
    pub fstype: &'static str,
    /// The UUID, as in `UUID=`.
    pub uuid: Uuid,
    /// The label, as in `LABEL=`; empty if there is none. Invalid UTF-8 is replaced.
    pub label: String,
}

/// Reads the superblock of a device or image file; `None` if there is no known filesystem.
///
/// Members of a Linux software RAID are not filesystems, even if they look like one.
///
/// # Errors
///
/// Those of open(2) and read(2), such as `ENOMEDIUM`; `ENOTUNIQ` if there are signatures of several
/// filesystems.
pub fn probe(device: &Path) -> Result<Option<Superblock>> {
    Ok(probe_member(device)?.map(|found| found.superblock))
}

/// As [`probe`], with the number of the device within a btrfs.
fn probe_member(path: &Path) -> Result<Option<superblock::Found>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(CWD).path(path).arg("O_RDONLY|O_NONBLOCK"))?;
    let start = read_start(&device)?;
    let size = rustix::fs::seek(&device, rustix::fs::SeekFrom::End(0))
        .map_err(|e| Error::new("lseek", e).fd(device.as_fd()).arg("SEEK_END"))?;
    for (offset, length) in superblock::raid_locations(size) {
        if superblock::is_raid(&read_at(&device, offset, length)?) {
            return Ok(None);
        }
    }
    superblock::recognize(&start).map_err(|types| {
        Error::new("read", Errno::NOTUNIQ)
            .path(path)
            .note(format!("signatures of several filesystems: {}", types.join(", ")))
    })
}

/// Reads the start, once more if it was just being written: that takes the kernel microseconds.
fn read_start(device: &OwnedFd) -> Result<Vec<u8>> {
    const ATTEMPTS: u32 = 8;
    let mut start = read_at(device, 0, superblock::START)?;
    for attempt in 0..ATTEMPTS {
        if !superblock::is_torn(&start) {
            break;
        }
        std::thread::sleep(Duration::from_micros(100 << attempt));
        start = read_at(device, 0, superblock::START)?;
    }
    Ok(start)
}

/// Reads up to `length` bytes; fewer at the end.
fn read_at(device: &OwnedFd, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut content = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match rustix::io::pread(device, &mut content[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("pread64", errno).fd(device.as_fd()).arg(offset)),
        }
    }
    content.truncate(filled);
    Ok(content)
}
