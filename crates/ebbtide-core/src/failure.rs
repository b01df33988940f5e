//! What went wrong, why, and what to do about it.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A failed operation: `cannot …`, its cause, and a hint where there is something to do.
#[derive(Debug)]
pub struct Failure {
    what: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
    hint: Option<String>,
}

/// The result of an operation of this crate.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure that is its own cause. `what` completes the sentence "cannot …" or stands alone.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error that caused it.
    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What to do about it, if anything.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The whole chain on one line, as a record or a log shows it.
    pub fn chain(&self) -> String {
        let mut line = self.what.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as _)
    }
}

/// Adds what was being done to an error.
pub trait Context<T> {
    /// Turns an error into a [`Failure`] with this sentence; it is only built when needed.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|error| Failure::new(what()).caused_by(error))
    }
}

/// How much a problem matters. The numbers are those of syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something declared is not so.
    Error = 3,
    /// Something should be looked at.
    Warning = 4,
    /// A thing worth knowing.
    Notice = 5,
    /// Progress.
    Info = 6,
    /// For `ebbtide=debug`.
    Debug = 7,
}

/// A problem as the record of a boot keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Problem {
    /// How much it matters.
    pub level: Level,
    /// What and why, on one line.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(level: Level, message: impl Into<String>) -> Self {
        Self { level, message: message.into(), hint: None }
    }

    /// A failure at a level.
    pub fn from_failure(level: Level, failure: &Failure) -> Self {
        Self { level, message: failure.chain(), hint: failure.hint.clone() }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::from_failure(Level::Error, &failure)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// Where messages of a running operation go; the caller decides how they look.
pub type Log<'a> = dyn FnMut(Level, &str) + 'a;
