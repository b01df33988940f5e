//! Signals as something to read, instead of something that interrupts. See signalfd(2).

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
pub use rustix::process::Signal;

use crate::error::{Error, Result, last_errno};

/// Signals that the calling thread, and what it forks, does not get by interruption but reads here.
/// When this is dropped, they interrupt again; those that have arrived by then are forgotten.
pub struct Signals {
    fd: OwnedFd,
    set: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals, and opens what they are read from. They are blocked in programs that are
    /// started, too, unless with [`in_new_session`](crate::child::in_new_session).
    pub fn block(signals: &[Signal]) -> Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that sigaddset and the others then use; all of
        // them get valid pointers, and signal numbers that come from rustix.
        let (raw, set) = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            for signal in signals {
                libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            (libc::signalfd(-1, set.as_ptr(), flags), set.assume_init())
        };
        if raw < 0 {
            return Err(Error::new("signalfd", last_errno()));
        }
        // SAFETY: the descriptor was just made, and nobody else has it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) }, set })
    }

    /// The next signal that has arrived; none if there is none.
    pub fn next(&self) -> Option<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        loop {
            match rustix::io::read(&self.fd, &mut info) {
                Ok(count) if count == info.len() => {
                    // `ssi_signo` is the first field.
                    let number = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
                    return Signal::from_named_raw(number.cast_signed());
                }
                Err(Errno::INTR) => {}
                _ => return None,
            }
        }
    }
}

impl std::fmt::Debug for Signals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signals").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        while self.next().is_some() {}
        // SAFETY: the set is initialised, and nothing is written.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.set, std::ptr::null_mut());
        }
    }
}

/// Lets all signals through again.
pub(crate) fn unblock_all() {
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that pthread_sigmask then reads.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Sends a signal to a process and its group, if there still is such a group. See kill(2).
pub fn send_to_group(pid: u32, signal: Signal) {
    if let Some(group) = pid.try_into().ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read() {
        std::thread::spawn(|| {
            let signals = Signals::block(&[Signal::USR1]).unwrap();
            assert!(signals.next().is_none());
            // SAFETY: a signal to the calling thread itself, which has it blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
            assert_eq!(signals.next(), Some(Signal::USR1));
            assert!(signals.next().is_none());
            let blocked = || {
                let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
                status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap().to_owned()
            };
            assert!(blocked().ends_with("200"), "{}", blocked());
            drop(signals);
            assert!(blocked().ends_with("000"), "{}", blocked());
        })
        .join()
        .unwrap();
    }
}
