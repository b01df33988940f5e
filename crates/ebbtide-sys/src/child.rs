//! A child process without another program: for the first process of a namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use crate::error::{Error, Result, last_errno};

/// The exit status of a child that panicked.
const PANICKED: i32 = 255;

/// How many milliseconds other threads may take to end.
const PATIENCE: u32 = 500;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By the signal with this number.
    Killed(u8),
}

/// A child process that ends when its parent does.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    process: OwnedFd,
    /// The other end tells the child when its parent has gone.
    _lifeline: OwnedFd,
}

impl Child {
    /// Sends a signal; one that it does not live to see is no error. See `pidfd_send_signal(2)`.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match rustix::process::pidfd_send_signal(&self.process, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => {
                Err(Error::new("pidfd_send_signal", errno).arg(self.pid).arg(format!("{signal:?}")))
            }
        }
    }

    /// Waits until it has ended, with all that it had started if it was the first process of its
    /// namespace.
    pub fn wait(&self) -> Result<Ended> {
        loop {
            match rustix::process::waitid(
                WaitId::PidFd(self.process.as_fd()),
                WaitIdOptions::EXITED,
            ) {
                Ok(Some(status)) => return Ok(ended(&status)),
                Ok(None) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new("waitid", errno).arg(self.pid)),
            }
        }
    }
}

fn ended(status: &rustix::process::WaitIdStatus) -> Ended {
    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(byte(code)),
        (None, signal) => Ended::Killed(byte(signal.unwrap_or_default())),
    }
}

/// Makes a child that runs a function and exits with what it returns.
///
/// The child has no descriptors but the three standard ones and those to keep, so that nothing it
/// starts finds a way out through them: the function must use no other. It gets a descriptor whose
/// other end closes when the parent ends. By then the kernel has killed it, unless it gained
/// privileges since; see `PR_SET_PDEATHSIG(2const)`.
///
/// # Errors
///
/// `EBUSY` while this process has other threads: their locks would stay locked in the child. And
/// those of fork(2).
pub fn fork(keep: &[BorrowedFd<'_>], run: impl FnOnce(BorrowedFd<'_>) -> u8) -> Result<Child> {
    // A thread that was waited for may still be on its way out.
    let alone = || threads() == Some(1);
    if !(0..PATIENCE).any(|_| {
        alone() || {
            std::thread::sleep(Duration::from_millis(1));
            false
        }
    }) {
        return Err(Error::new("fork", Errno::BUSY).note("this process has other threads"));
    }
    let (lifeline, other_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|e| Error::new("pipe2", e).arg("O_CLOEXEC"))?;
    // SAFETY: there is no other thread, so the child may do whatever the parent may.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(Error::new("fork", last_errno()));
    }
    if pid == 0 {
        let status = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let mut all = keep.to_vec();
            all.push(lifeline.as_fd());
            close_others(&all);
            let orphaned = rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
                .is_err()
                || is_closed(lifeline.as_fd());
            if orphaned { PANICKED } else { i32::from(run(lifeline.as_fd())) }
        }));
        // SAFETY: ends the process; nothing of the parent's is dropped or flushed a second time.
        unsafe { libc::_exit(status.unwrap_or(PANICKED)) };
    }
    drop(lifeline);
    // A child that is not waited for keeps its number.
    let process = Pid::from_raw(pid)
        .ok_or(Errno::SRCH)
        .and_then(|pid| Ok((pid, rustix::process::pidfd_open(pid, PidfdFlags::empty())?)));
    let (pid, process) = process.map_err(|e| Error::new("pidfd_open", e).arg(pid))?;
    Ok(Child { pid, process, _lifeline: other_end })
}

fn threads() -> Option<usize> {
    std::fs::read_dir("/proc/self/task").ok().map(Iterator::count)
}

/// Closes all descriptors but the three standard ones and these. See `close_range(2)`.
fn close_others(keep: &[BorrowedFd<'_>]) {
    let mut kept: Vec<_> = keep.iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
    kept.extend([0, 1, 2]);
    kept.sort_unstable();
    kept.dedup();
    let ends = kept.iter().skip(1).map(|next| next.saturating_sub(1)).chain([u32::MAX]);
    for (from, to) in kept.iter().zip(ends) {
        if *from < to {
            // SAFETY: whoever owned these descriptors runs in the parent; in this process nobody
            // is left to use or close them.
            unsafe { libc::syscall(libc::SYS_close_range, from + 1, to, 0) };
        }
    }
}

/// Whether the other end of a pipe has been closed.
pub fn is_closed(pipe: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pipe, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// Waits until one of these has something to read, or has been closed at the other end; says which.
/// With a time limit, possibly none.
pub fn wait_for(fds: &[BorrowedFd<'_>], limit: Option<Duration>) -> Result<Vec<bool>> {
    let mut polled: Vec<_> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    match rustix::event::poll(&mut polled, limit.as_ref()) {
        Ok(_) => Ok(polled.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(Errno::INTR) => Ok(vec![false; fds.len()]),
        Err(errno) => Err(Error::new("poll", errno)),
    }
}

/// Collects the children that have ended, those inherited from others included.
pub fn reap() -> Vec<(u32, Ended)> {
    let mut all = Vec::new();
    // A `Child` of the standard library can't be asked, since its number is gone after this.
    loop {
        // SAFETY: all of `siginfo_t` may be zero; waitid fills it in, and leaves the number 0 if no
        // child has ended.
        let (result, pid, code, status) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG;
            let result = libc::waitid(libc::P_ALL, 0, &raw mut info, options);
            (result, info.si_pid(), info.si_code, info.si_status())
        };
        if result != 0 && last_errno() == Errno::INTR {
            continue;
        }
        let Ok(pid @ 1..) = u32::try_from(pid) else { break };
        let byte = u8::try_from(status & 0xff).unwrap_or(u8::MAX);
        all.push((
            pid,
            if code == libc::CLD_EXITED { Ended::Exited(byte) } else { Ended::Killed(byte) },
        ));
    }
    all
}

/// Lets a program run in a session of its own, with a terminal to control it if there is one, and
/// with no signal blocked. See setsid(2) and `TIOCSCTTY(2const)`.
pub fn in_new_session(command: &mut Command, terminal: Option<OwnedFd>) -> &mut Command {
    let begin = move || {
        rustix::process::setsid()?;
        if let Some(terminal) = &terminal {
            rustix::process::ioctl_tiocsctty(terminal)?;
        }
        crate::signal::unblock_all();
        Ok(())
    };
    // SAFETY: three system calls, which are safe between fork and exec; no memory is allocated.
    unsafe { command.pre_exec(begin) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_other_threads_is_not_forked() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || wait.recv());
        let error = fork(&[], |_| 0).unwrap_err();
        assert_eq!(error.errno(), Errno::BUSY);
        drop(done);
        let _ = other.join().unwrap();
    }

    #[test]
    fn what_is_closed_at_the_other_end_is_seen() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        assert!(!is_closed(read.as_fd()));
        let limit = Some(Duration::ZERO);
        assert_eq!(wait_for(&[read.as_fd()], limit).unwrap(), [false]);
        rustix::io::write(&write, b"x").unwrap();
        assert_eq!(wait_for(&[read.as_fd()], limit).unwrap(), [true]);
        drop(write);
        assert!(is_closed(read.as_fd()));
    }
}
