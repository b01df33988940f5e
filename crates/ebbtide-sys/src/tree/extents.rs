//! Whether two files share all their data on the disk. See Documentation/filesystems/fiemap.rst.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

use crate::error::{Error, Result};

/// How many extents are asked for at a time.
const BATCH: usize = 128;

/// `FIEMAP_FLAG_SYNC`: what was written and is not on the disk is written there first. Without it an extent
/// is shown that is about to be replaced.
const SYNC: u32 = 0x1;
/// `FIEMAP_EXTENT_LAST`
const LAST: u32 = 0x1;
/// Where such an extent lies says nothing about its content: `FIEMAP_EXTENT_UNKNOWN`, `DELALLOC`,
/// `NOT_ALIGNED` and `DATA_INLINE`.
const ELSEWHERE: u32 = 0x2 | 0x4 | 0x100 | 0x200;
/// What the filesystem says of the other owners of an extent, `FIEMAP_EXTENT_SHARED`: no part of its
/// content.
const SHARED: u32 = 0x2000;

/// `struct fiemap`, without its extents
#[repr(C)]
struct Header {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap`
#[repr(C)]
struct Map {
    header: Header,
    extents: [Extent; BATCH],
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(size_of::<Extent>() == 56);
    assert!(size_of::<Map>() == 32 + 56 * BATCH);
};

/// The number has the size of the structure without its extents.
const FIEMAP: Opcode = opcode::read_write::<Header>(b'f', 11);

/// Returns whether two files of one filesystem have all of their data in the same places on the disk,
/// and so the same bytes. False also if that can't be told: then their content is to be read.
///
/// What lies inside the filesystem's own structures counts as elsewhere.
pub(super) fn are_same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool> {
    let mut at = 0;
    loop {
        let (Some(left), Some(right)) = (extents(a, at)?, extents(b, at)?) else {
            return Ok(false);
        };
        if left.len() != right.len() {
            return Ok(false);
        }
        for (one, other) in left.iter().zip(&right) {
            let key = |it: &Extent| (it.logical, it.physical, it.length, it.flags & !SHARED);
            if one.flags & ELSEWHERE != 0 || key(one) != key(other) {
                return Ok(false);
            }
        }
        match left.last() {
            Some(last) if last.flags & LAST == 0 && left.len() == BATCH => {
                at = last.logical.saturating_add(last.length);
            }
            _ => return Ok(true),
        }
    }
}

/// The extents from an offset on, at most [`BATCH`]; `None` if the filesystem does not tell.
fn extents(fd: BorrowedFd<'_>, start: u64) -> Result<Option<Vec<Extent>>> {
    let count = u32::try_from(BATCH).unwrap_or(0);
    let length = u64::MAX - start;
    let header = Header { start, length, flags: SYNC, mapped: 0, count, reserved: 0 };
    let mut map = Box::new(Map { header, extents: [Extent::default(); BATCH] });
    // SAFETY: FIEMAP reads the header and writes that and as many extents as the header says there is
    // room for: integers, of which any bytes are valid.
    match unsafe { rustix::ioctl::ioctl(fd, Updater::<FIEMAP, Map>::new(&mut map)) } {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::INVAL | Errno::NOSYS) => return Ok(None),
        Err(errno) => return Err(Error::new("ioctl", errno).fd(fd).arg("FS_IOC_FIEMAP")),
    }
    let mapped = usize::try_from(map.header.mapped).unwrap_or(0).min(BATCH);
    Ok(map.extents.get(..mapped).map(<[Extent]>::to_vec))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::testing::{Filesystem, needs_root};

    #[test]
    fn a_clone_has_the_extents_of_its_original_until_one_is_written_to() {
        needs_root!();
        let volume = Filesystem::new("btrfs");
        let file = |name: &str| {
            File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(volume.path(name))
                .unwrap()
        };
        // Alternating data and holes: more extents than are asked for at a time.
        let original = file("original");
        for index in 0..3 * BATCH as u64 {
            original.write_all_at(&[7; 4096], index * 8192).unwrap();
        }
        original.sync_all().unwrap();
        let clone = file("clone");
        rustix::fs::ioctl_ficlone(&clone, &original).unwrap();
        assert!(are_same(original.as_fd(), clone.as_fd()).unwrap());
        let copy = file("copy");
        copy.write_all_at(&fs::read(volume.path("original")).unwrap(), 0).unwrap();
        copy.sync_all().unwrap();
        assert!(!are_same(original.as_fd(), copy.as_fd()).unwrap(), "a copy of its own");
        let last = (3 * BATCH as u64 - 1) * 8192;
        original.write_all_at(&[8; 4096], last).unwrap();
        assert!(!are_same(original.as_fd(), clone.as_fd()).unwrap(), "written to since");
    }

    #[test]
    fn what_lies_in_no_extent_of_its_own_is_to_be_read() {
        needs_root!();
        let volume = Filesystem::new("btrfs");
        for name in ["a", "b"] {
            fs::write(volume.path(name), name).unwrap();
        }
        crate::file::sync_filesystem(volume.fd()).unwrap();
        let open = |name: &str| File::open(volume.path(name)).unwrap();
        assert!(!are_same(open("a").as_fd(), open("b").as_fd()).unwrap());
        let empty = |name: &str| File::create(volume.path(name)).unwrap();
        assert!(are_same(empty("c").as_fd(), empty("d").as_fd()).unwrap());
    }
}
