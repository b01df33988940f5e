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
    /// The program did what it must never do.
    pub const BUG: Self = Self(255);
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        status.0.into()
    }
}
