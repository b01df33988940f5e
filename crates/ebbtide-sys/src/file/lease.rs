//! Whether anybody else has a file open: leases, `F_SETLEASE` of fcntl(2).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::error::{Error, Result, last_errno};

/// `F_SETSIG` of fcntl(2), which is the same on all architectures.
const F_SETSIG: libc::c_int = 10;

/// Takes a write lease on a regular file that this descriptor has open for reading; false if anybody else
/// has it open, runs it or maps it, in whatever namespace. As long as the descriptor is open, nobody else
/// comes to open the file: they wait.
///
/// # Errors
///
/// `EINVAL` where the filesystem has no leases, `EACCES` without `CAP_LEASE` for the file of another user,
/// and those of fcntl(2).
pub fn take_lease(file: BorrowedFd<'_>) -> Result<bool> {
    let fd = file.as_raw_fd();
    // Whoever wants to open it makes the kernel send a signal, which by default would end this process;
    // this one is ignored by default.
    // SAFETY: neither call takes a pointer, and the descriptor is open.
    if unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } < 0 {
        return Err(Error::new("fcntl", last_errno()).fd(file).arg("F_SETSIG"));
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) } == 0 {
        return Ok(true);
    }
    match last_errno() {
        Errno::AGAIN => Ok(false),
        errno => Err(Error::new("fcntl", errno).fd(file).arg("F_SETLEASE").arg("F_WRLCK")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::testing::{Filesystem, needs_root};

    /// A child that another test forks has what is open here open, too, until it becomes its program.
    fn soon(alone: impl Fn() -> bool) -> bool {
        (0..200).any(|_| {
            let is_alone = alone();
            if !is_alone {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            is_alone
        })
    }

    #[test]
    fn only_who_is_alone_gets_it() {
        needs_root!();
        for fstype in ["btrfs", "ext4", "xfs"] {
            let volume = Filesystem::new(fstype);
            let path = volume.path("file");
            let copied = Command::new("cp").args(["/bin/sleep".as_ref(), path.as_path()]).status();
            assert!(copied.unwrap().success());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
            let alone = || take_lease(OwnedFd::from(File::open(&path).unwrap()).as_fd()).unwrap();
            assert!(soon(alone), "{fstype}");
            assert!(soon(alone), "{fstype}: it goes with its descriptor");
            {
                let _reader = File::open(&path).unwrap();
                assert!(!alone(), "{fstype}: it is read");
            }
            {
                let _writer = File::options().append(true).open(&path).unwrap();
                assert!(!alone(), "{fstype}: it is written");
            }
            {
                let file = File::open(&path).unwrap();
                let (read, flags) = (libc::PROT_READ, libc::MAP_PRIVATE);
                // SAFETY: the mapping is never looked at, and removed below.
                let map = unsafe {
                    libc::mmap(std::ptr::null_mut(), 4096, read, flags, file.as_raw_fd(), 0)
                };
                assert_ne!(map, libc::MAP_FAILED);
                drop(file);
                assert!(!alone(), "{fstype}: it is mapped");
                // SAFETY: it was mapped above.
                unsafe { libc::munmap(map, 4096) };
            }
            let mut child = Command::new(&path).arg("60").stdin(Stdio::null()).spawn().unwrap();
            assert!(!alone(), "{fstype}: it runs");
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(soon(alone), "{fstype}");
        }
    }

    #[test]
    fn whoever_opens_it_meanwhile_waits_and_nobody_dies() {
        let scratch = crate::testing::Scratch::new();
        fs::write(scratch.path("file"), "x").unwrap();
        let held = File::open(scratch.path("file")).unwrap();
        assert!(soon(|| take_lease(held.as_fd()).unwrap()));
        let path = scratch.path("file");
        let other = std::thread::spawn(move || fs::read_to_string(path).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(!other.is_finished());
        fs::remove_file(scratch.path("file")).unwrap();
        drop(held);
        assert_eq!(other.join().unwrap(), "x", "what it had found is what it gets");
    }
}
