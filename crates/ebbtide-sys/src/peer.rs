//! Who is at the other end of a Unix socket, and becoming that user, for good.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use crate::error::{Error, Result, last_errno};

/// The most groups that a process can have: `NGROUPS_MAX`.
const GROUPS: usize = 65_536;

/// A user as the kernel noted them when the other end was connected: not what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The effective user id.
    pub uid: u32,
    /// The effective group id.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

/// Asks who connected a Unix socket. See `SO_PEERCRED` and `SO_PEERGROUPS` in unix(7).
///
/// # Errors
///
/// Among others for what is no connected Unix socket.
pub fn peer(socket: BorrowedFd<'_>) -> Result<Peer> {
    let failed = |errno, option| Error::new("getsockopt", errno).fd(socket).arg(option);
    let found = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|errno| failed(errno, "SO_PEERCRED"))?;
    let mut groups: Vec<libc::gid_t> = vec![0; GROUPS];
    let size = groups.len() * size_of::<libc::gid_t>();
    let mut length = libc::socklen_t::try_from(size).unwrap_or(libc::socklen_t::MAX);
    // SAFETY: the buffer is as long as is said, and both pointers live until the call returns.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(failed(last_errno(), "SO_PEERGROUPS"));
    }
    groups.truncate(usize::try_from(length).unwrap_or(0) / size_of::<libc::gid_t>());
    Ok(Peer { uid: found.uid.as_raw(), gid: found.gid.as_raw(), groups })
}

/// Becomes that user in all threads of this process: its groups and ids, no capability, no new
/// privileges, and no look into it for other processes of that user (ptrace(2), `/proc/PID/fd`), because
/// it may have descriptors that they must not have. There is no way back, which is tried.
///
/// # Errors
///
/// `EINVAL` for root. After an error the process may be something between the two: it has to end.
pub fn become_peer(peer: &Peer) -> Result<()> {
    if peer.uid == 0 || peer.uid == u32::MAX || peer.gid == u32::MAX {
        return Err(Error::new("setresuid", Errno::INVAL).arg(peer.uid));
    }
    rustix::thread::set_no_new_privs(true)
        .map_err(|errno| Error::new("prctl", errno).arg("PR_SET_NO_NEW_PRIVS"))?;
    // SAFETY: the pointer and the length are those of one slice, which is only read.
    if unsafe { libc::setgroups(peer.groups.len(), peer.groups.as_ptr()) } != 0 {
        return Err(Error::new("setgroups", last_errno()).arg(peer.groups.len()));
    }
    // SAFETY: takes numbers only.
    if unsafe { libc::setresgid(peer.gid, peer.gid, peer.gid) } != 0 {
        return Err(Error::new("setresgid", last_errno()).arg(peer.gid));
    }
    // SAFETY: takes numbers only.
    if unsafe { libc::setresuid(peer.uid, peer.uid, peer.uid) } != 0 {
        return Err(Error::new("setresuid", last_errno()).arg(peer.uid));
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(|errno| Error::new("capset", errno))?;
    let not = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(not)
        .map_err(|errno| Error::new("prctl", errno).arg("PR_SET_DUMPABLE"))?;
    let left = capabilities(None).map_err(|errno| Error::new("capget", errno))?;
    // SAFETY: takes a number only.
    let back = unsafe { libc::setresuid(u32::MAX, 0, u32::MAX) } == 0;
    let is_peer = rustix::process::getuid().as_raw() == peer.uid
        && rustix::process::geteuid().as_raw() == peer.uid
        && rustix::process::getegid().as_raw() == peer.gid;
    if back || !is_peer || !left.permitted.is_empty() || !left.effective.is_empty() {
        return Err(Error::new("setresuid", Errno::PERM).arg(peer.uid).note("it was not for good"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_kernel_says_who_it_is() {
        let (one, other) = UnixStream::pair().unwrap();
        let found = peer(one.as_fd()).unwrap();
        assert_eq!(found, peer(other.as_fd()).unwrap());
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
        assert_eq!(found.gid, rustix::process::getegid().as_raw());
        let mut own: Vec<_> =
            rustix::process::getgroups().unwrap().iter().map(|it| it.as_raw()).collect();
        let mut told = found.groups;
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }

    #[test]
    fn what_is_no_socket_has_no_peer_and_nobody_becomes_root() {
        let file = std::fs::File::open("/").unwrap();
        assert_eq!(peer(file.as_fd()).unwrap_err().errno(), Errno::NOTSOCK);
        for uid in [0, u32::MAX] {
            let root = Peer { uid, gid: 1, groups: Vec::new() };
            assert_eq!(become_peer(&root).unwrap_err().errno(), Errno::INVAL);
        }
    }
}
