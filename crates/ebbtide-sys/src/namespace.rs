//! Namespaces of one's own, and a root of one's own in them.

use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::CWD;
use rustix::mount::UnmountFlags;
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::error::{Error, Result, last_errno};

/// Some of the kinds of namespaces(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces(UnshareFlags);

impl Namespaces {
    /// Mounts.
    pub const MOUNT: Self = Self(UnshareFlags::NEWNS);
    /// Host and domain name.
    pub const UTS: Self = Self(UnshareFlags::NEWUTS);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(UnshareFlags::NEWIPC);
    /// The place in the hierarchy of control groups.
    pub const CGROUP: Self = Self(UnshareFlags::NEWCGROUP);
    /// Interfaces, addresses, ports, and abstract unix sockets.
    pub const NETWORK: Self = Self(UnshareFlags::NEWNET);
    /// Processes: of the children that are made from then on, not of the caller.
    pub const PROCESSES: Self = Self(UnshareFlags::NEWPID);

    fn name(self) -> String {
        let names = [
            (Self::MOUNT, "CLONE_NEWNS"),
            (Self::UTS, "CLONE_NEWUTS"),
            (Self::IPC, "CLONE_NEWIPC"),
            (Self::CGROUP, "CLONE_NEWCGROUP"),
            (Self::NETWORK, "CLONE_NEWNET"),
            (Self::PROCESSES, "CLONE_NEWPID"),
        ];
        let set = names.iter().filter(|(it, _)| self.0.contains(it.0)).map(|(_, name)| *name);
        set.collect::<Vec<_>>().join("|")
    }
}

impl BitOr for Namespaces {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Moves the calling thread to new namespaces. See unshare(2).
///
/// A new mount namespace gets what happens in the old one as before: see
/// [`enter_private_mount_namespace`](crate::mount::enter_private_mount_namespace).
///
/// # Errors
///
/// `EPERM` without the right, also where a container forbids it; `EINVAL` where the kernel has no
/// such namespaces; `ENOSPC` where a limit of them is reached.
pub fn unshare(namespaces: Namespaces) -> Result<()> {
    // SAFETY: only `CLONE_FILES` is a hazard, since descriptors of one thread would mean nothing
    // to another; it can't be among these.
    unsafe { rustix::thread::unshare_unsafe(namespaces.0) }
        .map_err(|e| Error::new("unshare", e).arg(namespaces.name()))
}

/// Lets children be made in the caller's own namespace of processes again, after [`unshare`].
pub fn leave_new_processes() -> Result<()> {
    let path = "/proc/self/ns/pid";
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let own = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(CWD).path(path))?;
    rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))
        .map_err(|e| Error::new("setns", e).fd(own.as_fd()).arg("CLONE_NEWPID"))
}

/// Makes a mounted directory the root of the calling process's mount namespace, and lets go of the
/// old root with all that is mounted on it. See `pivot_root(2)`.
///
/// # Errors
///
/// `EINVAL` if nothing is mounted at the directory, or if its parent mount is shared.
pub fn enter_root(root: BorrowedFd<'_>) -> Result<()> {
    rustix::process::fchdir(root).map_err(|e| Error::new("fchdir", e).fd(root))?;
    // The old root lands on top of the new one, where `.` leads to it until it is unmounted:
    // no directory has to be made for it.
    rustix::process::pivot_root(".", ".")
        .map_err(|e| Error::new("pivot_root", e).path(".").path("."))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)
        .map_err(|e| Error::new("umount2", e).path(".").arg("MNT_DETACH"))?;
    rustix::process::chdir("/").map_err(|e| Error::new("chdir", e).path("/"))
}

/// Whether users have the same numbers here as for the kernel. If not, root is one of a user namespace
/// (`user_namespaces(7)`), with rights over that only.
pub fn has_all_users() -> Result<bool> {
    let map = crate::kernel::read_pseudo_file(std::path::Path::new("/proc/self/uid_map"))?;
    let words = map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    Ok(words.eq([&b"0"[..], b"0", b"4294967295"]))
}

/// Gives the calling process a new session keyring instead of the one it has. See keyctl(2).
pub fn join_new_keyring() -> Result<()> {
    let join = libc::KEYCTL_JOIN_SESSION_KEYRING;
    let unnamed = std::ptr::null::<libc::c_char>();
    // SAFETY: without a name no memory is read.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, join, unnamed) };
    if result >= 0 {
        return Ok(());
    }
    Err(Error::new("keyctl", last_errno()).arg("KEYCTL_JOIN_SESSION_KEYRING"))
}

/// Brings up the loopback interface of the calling thread's network namespace. See netdevice(7).
pub fn bring_up_loopback() -> Result<()> {
    // SAFETY: no memory is involved; the result is checked.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(Error::new("socket", last_errno()).arg("AF_INET, SOCK_DGRAM"));
    }
    // SAFETY: the descriptor was just made, and nobody else has it.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(raw) };
    // SAFETY: all of `ifreq` may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed() as libc::c_char;
    }
    #[expect(clippy::cast_possible_truncation, reason = "both flags are below 128")]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the socket is open, and `request` is a whole `ifreq` with a NUL-terminated name.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::new("ioctl", last_errno()).arg("SIOCSIFFLAGS").path("lo"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::needs_root;

    fn alone<T: Send>(inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }

    #[test]
    fn the_loopback_interface_of_a_new_network_comes_up() {
        needs_root!();
        alone(|| {
            unshare(Namespaces::NETWORK).unwrap();
            let connects =
                || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().connect("127.0.0.1:9");
            assert!(connects().is_err());
            bring_up_loopback().unwrap();
            connects().unwrap();
        });
    }

    #[test]
    fn namespaces_are_named_in_errors() {
        assert_eq!((Namespaces::MOUNT | Namespaces::UTS).name(), "CLONE_NEWNS|CLONE_NEWUTS");
    }
}
