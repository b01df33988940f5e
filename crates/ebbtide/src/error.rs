//! What a command that failed says.

use std::error::Error;
use std::io::{self, Write as _};

use ebbtide_core::failure::Failure;

use crate::status::Status;
use crate::text::printable;

/// What sort of failure it is: decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Something could not be done.
    Failed,
    /// The command line or the declaration is wrong.
    Usage,
    /// The program is wrong.
    Bug,
}

/// Why a command did not do what it was asked: `error:`, `caused by:`, `hint:`.
#[derive(Debug)]
pub struct CommandError {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    hints: Vec<String>,
}

impl CommandError {
    /// An error that is its own cause. The message begins with "cannot", or is a sentence.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hints: Vec::new() }
    }

    /// An error with its chain of causes, and the hints that they carry.
    pub fn from_error(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        let chain: Vec<_> = std::iter::successors(Some(error), |&error| error.source()).collect();
        let advice = |error: &&(dyn Error + 'static)| {
            error.downcast_ref::<Failure>().and_then(Failure::advice).map(str::to_owned)
        };
        Self {
            kind,
            message: error.to_string(),
            causes: chain.iter().skip(1).map(ToString::to_string).collect(),
            hints: chain.iter().filter_map(advice).collect(),
        }
    }

    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Message, causes and hints, for somebody else to tell.
    pub fn into_parts(self) -> (String, Vec<String>, Vec<String>) {
        (self.message, self.causes, self.hints)
    }

    /// The exit status that it leads to.
    pub fn status(&self) -> Status {
        match self.kind {
            Kind::Failed => Status::FAILED,
            Kind::Usage => Status::USAGE,
            Kind::Bug => Status::BUG,
        }
    }

    /// The message and its causes on one line, for a log.
    pub fn line(&self) -> String {
        let causes = self.causes.iter().map(String::as_str);
        std::iter::once(self.message.as_str()).chain(causes).collect::<Vec<_>>().join(": ")
    }

    /// Writes it to standard error. Nobody is left to tell if that fails.
    pub fn print(&self, color: bool) {
        let _ = io::stderr().lock().write_all(self.render(color).as_bytes());
    }

    fn render(&self, color: bool) -> String {
        let line = |style: &str, label: &str, text: &str| {
            let (on, off) = if color { (style, "\u{1b}[0m") } else { ("", "") };
            format!("{on}{label}:{off} {}\n", printable(text))
        };
        let mut text = line("\u{1b}[1;31m", "error", &self.message);
        for cause in &self.causes {
            text += &line("\u{1b}[1m", "caused by", cause);
        }
        for hint in &self.hints {
            text += &line("\u{1b}[1;36m", "hint", hint);
        }
        text
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self::from_error(Kind::Failed, &failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_the_whole_chain_and_nothing_that_a_terminal_would_interpret() {
        let inner = Failure::new("cannot read /a").caused_by("odd\u{1b}[2J").hint("look at /a");
        let outer = Failure::new("cannot reset").caused_by(inner).hint("try again");
        let error = CommandError::from(outer);
        assert_eq!(error.status(), Status::FAILED);
        insta::assert_snapshot!(error.render(false), @r"
        error: cannot reset
        caused by: cannot read /a
        caused by: odd\x1b[2J
        hint: try again
        hint: look at /a
        ");
        assert!(error.render(true).starts_with("\u{1b}[1;31merror:\u{1b}[0m cannot reset\n"));
    }
}
