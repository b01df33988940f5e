//! The error of a failed system call, worded as strace words it.

mod names;

use std::fmt;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::io::Errno;

use crate::text::{escape, quote};

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A system call that failed: its name, its arguments, its errno.
///
/// Displayed like a line of strace(1), with the path of each descriptor as the kernel knew it when
/// the error was made: `openat2(4 </persist>, "var", O_PATH) failed: ENOENT (No such file or
/// directory)`. Bytes that a terminal would interpret are escaped.
pub struct Error(Box<Inner>);

struct Inner {
    call: &'static str,
    arguments: String,
    errno: Errno,
    note: Option<String>,
}

impl Error {
    pub(crate) fn new(call: &'static str, errno: Errno) -> Self {
        Self(Box::new(Inner { call, arguments: String::new(), errno, note: None }))
    }

    /// Adds a descriptor to the arguments, with the path that it refers to.
    pub(crate) fn fd(self, fd: BorrowedFd<'_>) -> Self {
        let raw = fd.as_raw_fd();
        if raw == rustix::fs::CWD.as_raw_fd() {
            return self.arg("AT_FDCWD");
        }
        match crate::descriptor::path_of(fd) {
            Some(path) => self.arg(format_args!("{raw} <{}>", escape(&path))),
            None => self.arg(raw),
        }
    }

    /// Adds a path or a name to the arguments, quoted.
    pub(crate) fn path(self, path: impl AsRef<Path>) -> Self {
        let quoted = quote(path.as_ref().as_os_str().as_encoded_bytes());
        self.arg(quoted)
    }

    /// Adds an argument as it is: it must not contain foreign bytes.
    pub(crate) fn arg(mut self, argument: impl fmt::Display) -> Self {
        let arguments = &mut self.0.arguments;
        if !arguments.is_empty() {
            arguments.push_str(", ");
        }
        let _ = write!(arguments, "{argument}");
        self
    }

    /// Adds an explanation, which follows the errno.
    pub(crate) fn note(mut self, note: impl Into<String>) -> Self {
        self.0.note = Some(note.into());
        self
    }

    /// Returns the errno of the call.
    pub fn errno(&self) -> Errno {
        self.0.errno
    }

    /// Returns the name of the system call, such as `openat2`.
    pub fn call(&self) -> &'static str {
        self.0.call
    }

    /// Returns whether something does not exist (`ENOENT`).
    pub fn is_not_found(&self) -> bool {
        self.0.errno == Errno::NOENT
    }
}

/// Returns the errno that the C library's last failed call left.
pub(crate) fn last_errno() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { call, arguments, errno, note } = &*self.0;
        write!(f, "{call}({arguments}) failed: ")?;
        match names::name(*errno) {
            Some(name) => write!(f, "{name} ({})", names::message(*errno))?,
            None => write!(f, "errno {}", errno.raw_os_error())?,
        }
        match note {
            Some(note) => write!(f, ": {note}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags};

    #[test]
    fn reads_like_strace() {
        let error = Error::new("openat2", Errno::NOENT).fd(CWD).path("a\x1b[31m\nb").arg("O_PATH");
        assert_eq!(
            error.to_string(),
            r#"openat2(AT_FDCWD, "a\x1b[31m\nb", O_PATH) failed: ENOENT (No such file or directory)"#
        );
        assert!(error.is_not_found());
        assert_eq!(error.call(), "openat2");
    }

    #[test]
    fn shows_the_path_of_a_descriptor_and_the_note() {
        let fd = rustix::fs::open("/usr", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let text = Error::new("x", Errno::INVAL).fd(std::os::fd::AsFd::as_fd(&fd)).note("why");
        let raw = fd.as_raw_fd();
        let expected = format!("x({raw} </usr>) failed: EINVAL (Invalid argument): why");
        assert_eq!(text.to_string(), expected);
    }

    #[test]
    fn an_unknown_errno_is_a_number() {
        let text = Error::new("x", Errno::from_raw_os_error(4000)).to_string();
        assert_eq!(text, "x() failed: errno 4000");
    }

    #[test]
    fn is_small_and_can_be_sent() {
        fn sendable<T: Send + Sync + std::error::Error + 'static>() {}
        sendable::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
