//! Reading a file that decides something, only if nobody else could have changed it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::read::{check_regular, read_all};
use crate::error::{Error, Result};
use crate::metadata::{Metadata, metadata};
use crate::resolve::{open_beneath, open_directory_path, open_path};

/// Why others than root could have changed an inode, if they could: for a message.
///
/// The caller's own user counts as root does: what it reads is its own. An ACL that lets somebody
/// write shows in the bits of the group.
pub fn changeable(found: &Metadata) -> Option<String> {
    let own = rustix::process::geteuid().as_raw();
    let foreign = found.uid != 0 && found.uid != own;
    (foreign || found.mode & 0o022 != 0).then(|| {
        format!(
            "it belongs to user {} with mode {:04o}, so that others than root could have changed it",
            found.uid, found.mode
        )
    })
}

/// As [`read_limited`](super::read_limited), and refuses what others than root could have changed: a
/// file, or a directory on the way to it, that belongs to another user or that group or others can
/// write to, and a file with a second name, which may lie anywhere.
///
/// `dir` itself is the caller's to check.
///
/// # Errors
///
/// `EPERM` for those, and those of [`read_limited`](super::read_limited).
pub fn read_trusted(dir: BorrowedFd<'_>, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let refused = |path: &Path, why: String| {
        Error::new("openat2", Errno::PERM).fd(dir).path(path).arg("O_RDONLY").note(why)
    };
    for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
        let directory = open_directory_path(dir, above)?;
        if let Some(why) = changeable(&metadata(directory.as_fd())?) {
            return Err(refused(above, why));
        }
    }
    let check = |file: BorrowedFd<'_>| -> Result<u64> {
        let found = check_regular(file, limit)?;
        if let Some(why) = changeable(&found) {
            return Err(refused(path, why));
        }
        if found.nlink > 1 {
            let why = format!("it has {} names, and should have one", found.nlink);
            return Err(refused(path, why));
        }
        Ok(found.size)
    };
    check(open_path(dir, path)?.as_fd())?;
    let file = open_beneath(dir, path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())?;
    let size = check(file.as_fd())?;
    read_all(file.as_fd(), size, limit)
}
