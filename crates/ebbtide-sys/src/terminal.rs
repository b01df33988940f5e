//! Terminals: pseudo-terminals of a devpts of one's own, raw mode, window sizes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};

use crate::error::{Error, Result};
use crate::resolve::open_beneath;

/// Opens a new pseudo-terminal of a mounted devpts: its master, which does not block, and the name
/// (a number) that its other side has in that devpts. See ptmx(4).
pub fn open_pseudo_terminal(devpts: BorrowedFd<'_>) -> Result<(OwnedFd, String)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = open_beneath(devpts, Path::new("ptmx"), flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)
        .map_err(|e| Error::new("ioctl", e).fd(master.as_fd()).arg("TIOCSPTLCK"))?;
    let name = rustix::pty::ptsname(&master, Vec::new())
        .map_err(|e| Error::new("ioctl", e).fd(master.as_fd()).arg("TIOCGPTN"))?;
    let name = name.to_string_lossy();
    let number = name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok((master, number))
}

/// Opens the other side of a pseudo-terminal, without being controlled by it.
pub fn open_terminal(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).path(path).arg("O_RDWR|O_NOCTTY"))
}

/// Whether a descriptor is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    rustix::termios::isatty(fd)
}

/// Whether the caller is in the foreground of a terminal: it may read and change it without being
/// stopped. See termios(3).
pub fn is_foreground(terminal: BorrowedFd<'_>) -> bool {
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// How many columns a terminal has. `None` for what is no terminal, or does not say.
pub fn columns(fd: BorrowedFd<'_>) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(fd).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Gives a terminal the size of another one. What does not say its size is left alone.
pub fn copy_size(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    let size = rustix::termios::tcgetwinsize(from)
        .map_err(|e| Error::new("ioctl", e).fd(from).arg("TIOCGWINSZ"))?;
    if size.ws_row == 0 && size.ws_col == 0 {
        return Ok(());
    }
    rustix::termios::tcsetwinsize(to, size)
        .map_err(|e| Error::new("ioctl", e).fd(to).arg("TIOCSWINSZ"))
}

/// The settings of a terminal, to be set again.
#[derive(Clone, Debug)]
pub struct Settings(Termios);

impl Settings {
    /// Reads the settings of a terminal. See termios(3).
    pub fn of(terminal: BorrowedFd<'_>) -> Result<Self> {
        rustix::termios::tcgetattr(terminal)
            .map(Self)
            .map_err(|e| Error::new("ioctl", e).fd(terminal).arg("TCGETS"))
    }

    /// The same, but every key goes to whoever reads, and nothing is echoed.
    #[must_use]
    pub fn raw(&self) -> Self {
        let mut raw = self.clone();
        raw.0.make_raw();
        raw
    }

    /// Gives a terminal these settings, once what was written to it is out.
    pub fn set(&self, terminal: BorrowedFd<'_>) -> Result<()> {
        loop {
            match rustix::termios::tcsetattr(terminal, OptionalActions::Drain, &self.0) {
                Err(Errno::INTR) => {}
                result => {
                    return result.map_err(|e| Error::new("ioctl", e).fd(terminal).arg("TCSETSW"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mount::{MountAttributes, mount_detached};
    use crate::testing::needs_root;

    #[test]
    fn a_devpts_that_nobody_sees_has_terminals_of_its_own() {
        needs_root!();
        let options = [("ptmxmode", Some("0666"))];
        let devpts = mount_detached("devpts", None, &options, MountAttributes::NONE).unwrap();
        let (master, first) = open_pseudo_terminal(devpts.as_fd()).unwrap();
        assert_eq!(first, "0");
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        let slave = open_beneath(devpts.as_fd(), Path::new(&first), flags, Mode::empty()).unwrap();
        let (other, second) = open_pseudo_terminal(devpts.as_fd()).unwrap();
        assert_eq!(second, "1");
        let size = rustix::termios::Winsize { ws_row: 7, ws_col: 9, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&other, size).unwrap();
        copy_size(other.as_fd(), master.as_fd()).unwrap();
        assert_eq!(columns(slave.as_fd()), Some(9));
        assert_eq!(columns(devpts.as_fd()), None);

        let settings = Settings::of(slave.as_fd()).unwrap();
        settings.raw().set(slave.as_fd()).unwrap();
        rustix::io::write(&master, b"\x03").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&slave, &mut byte).unwrap(), 1);
        assert_eq!(byte, [3]);
        settings.set(slave.as_fd()).unwrap();
        let again = rustix::termios::tcgetattr(&slave).unwrap();
        assert_eq!(again.local_modes, settings.0.local_modes);
    }
}
