//! Exit status.

use std::process::ExitCode;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(u8);

impl Status {
    /// It is done.
    pub const DONE: Self = Self(0);
    /// It could not be done.
    pub const FAILED: Self = Self(1);
    /// The command line or the declaration is wrong.
    pub const USAGE: Self = Self(2);
    /// Something was found that should be looked at.
    pub const FOUND: Self = Self(3);
    /// `try` or `rehearse` itself failed, and not the command that it ran.
    pub const NOT_TRIED: Self = Self(125);
    /// The program did what it must never do.
    pub const BUG: Self = Self(255);
}

impl Status {
    /// The status of a command, passed on.
    pub const fn of_command(status: u8) -> Self {
        Self(status)
    }

    /// The status that shells give to a command that a signal has killed.
    pub const fn of_signal(signal: u8) -> Self {
        Self(signal.saturating_add(128))
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        status.0.into()
    }
}
