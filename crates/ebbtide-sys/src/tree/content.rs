//! Whether two files have the same bytes.

use std::os::fd::BorrowedFd;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The size of the buffers that content is compared with, in bytes: most files are small, and large ones need
/// few calls. In between they grow: to clear them takes longer than to read a file of a few pages.
const FIRST: usize = 4 * 1024;
const BUFFER: usize = 128 * 1024;

/// Returns whether two regular files, open for reading, have the same bytes and the same length.
///
/// What is a hole in both is not read, so that large sparse images cost what they hold.
pub fn has_same_content(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Result<bool> {
    let mut left = vec![0; FIRST];
    let mut right = vec![0; FIRST];
    let mut at = 0;
    loop {
        let (n, m) = (fill(a, &mut left, at)?, fill(b, &mut right, at)?);
        if left[..n] != right[..m] {
            return Ok(false);
        }
        // Both ended there.
        if n < left.len() {
            return Ok(true);
        }
        at += n as u64;
        at = match (next_data(a, at)?, next_data(b, at)?) {
            // Holes to the end of both: only the lengths are left to compare.
            (None, None) => return Ok(length(a)? == length(b)?),
            (Some(one), Some(other)) => one.min(other),
            (Some(one), None) | (None, Some(one)) => one,
        };
        let next = (left.len() * 2).min(BUFFER);
        left.resize(next, 0);
        right.resize(next, 0);
    }
}

/// Where the next data is, at an offset or behind it; `None` if only a hole is left, or nothing.
fn next_data(fd: BorrowedFd<'_>, offset: u64) -> Result<Option<u64>> {
    match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
        Ok(start) => Ok(Some(start)),
        Err(Errno::NXIO) => Ok(None),
        // A filesystem that does not tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
        Err(errno) => Err(Error::new("lseek", errno).fd(fd).arg("SEEK_DATA")),
    }
}

fn length(fd: BorrowedFd<'_>) -> Result<u64> {
    rustix::fs::seek(fd, SeekFrom::End(0))
        .map_err(|errno| Error::new("lseek", errno).fd(fd).arg("SEEK_END"))
}

/// Reads until the buffer is full or the file ends.
fn fill(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::new("pread64", errno).fd(fd).arg(offset)),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::testing::Scratch;

    fn same(scratch: &Scratch) -> bool {
        let open = |name: &str| File::open(scratch.path(name)).unwrap();
        let (a, b) = (open("a"), open("b"));
        let same = has_same_content(a.as_fd(), b.as_fd()).unwrap();
        assert_eq!(same, has_same_content(b.as_fd(), a.as_fd()).unwrap());
        same
    }

    #[test]
    fn bytes_and_length_count() {
        let scratch = Scratch::new();
        let long = vec![7; 3 * BUFFER + 5];
        let mut other = long.clone();
        other[3 * BUFFER + 4] = 8;
        let cases: [(&[u8], &[u8], bool); 6] = [
            (b"", b"", true),
            (b"", b"a", false),
            (b"a", b"a", true),
            (b"a", b"ab", false),
            (&long, &long, true),
            (&long, &other, false),
        ];
        for (a, b, expected) in cases {
            fs::write(scratch.path("a"), a).unwrap();
            fs::write(scratch.path("b"), b).unwrap();
            assert_eq!(same(&scratch), expected, "{} {}", a.len(), b.len());
        }
    }

    #[test]
    fn a_hole_is_as_good_as_zeros() {
        let scratch = Scratch::new();
        let make = |name: &str, length: u64| {
            let file = File::create(scratch.path(name)).unwrap();
            file.set_len(length).unwrap();
            file
        };
        // A terabyte of nothing is not read.
        let (a, b) = (make("a", 1 << 40), make("b", 1 << 40));
        assert!(same(&scratch));
        a.write_all_at(b"x", 1 << 39).unwrap();
        assert!(!same(&scratch));
        b.write_all_at(b"x", 1 << 39).unwrap();
        assert!(same(&scratch));
        b.write_all_at(&[0; 9], 1 << 20).unwrap();
        assert!(same(&scratch), "zeros in one are a hole in the other");
        b.set_len((1 << 40) + 1).unwrap();
        assert!(!same(&scratch));
    }
}
