//! What all commands share: the system they are about and the terminal they talk to.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::error::{CommandError, Kind};
use crate::text::printable;

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set; always if `CLICOLOR_FORCE` is.
    Auto,
    /// Even into a file.
    Always,
    /// Not at all.
    Never,
}

/// What all commands share.
#[derive(Debug)]
pub struct Context {
    /// The root of the system that a command is about.
    pub sysroot: PathBuf,
    color: Color,
    /// How wide the terminal is that results go to; `None` if they go elsewhere.
    columns: Option<usize>,
}

impl Context {
    /// A context for one run.
    pub fn new(sysroot: PathBuf, color: Color) -> Self {
        Self { sysroot, color, columns: None }
    }

    /// The same with lines that fit the terminal on standard output, if it is one.
    #[must_use]
    pub fn fitting(self) -> Self {
        Self { columns: ebbtide_sys::terminal::columns(io::stdout().as_fd()), ..self }
    }

    /// The same on a terminal of so many columns.
    #[cfg(test)]
    pub fn on_terminal(self, columns: usize) -> Self {
        Self { columns: Some(columns), ..self }
    }

    /// How wide lines may be, in columns; `None` where nobody looks at a terminal.
    pub fn columns(&self) -> Option<usize> {
        self.columns
    }

    /// The same for another system.
    pub fn for_sysroot(&self, sysroot: &Path) -> Self {
        Self { sysroot: sysroot.to_owned(), ..*self }
    }

    /// The same without colours, for a log.
    pub fn plain(&self) -> Self {
        Self { sysroot: self.sysroot.clone(), color: Color::Never, columns: self.columns }
    }

    /// The same for a result that goes to standard error.
    pub fn on_standard_error(&self) -> Self {
        let color = if self.color_err() { Color::Always } else { Color::Never };
        let columns = ebbtide_sys::terminal::columns(io::stderr().as_fd());
        Self { sysroot: self.sysroot.clone(), color, columns }
    }

    /// Whether to colour what goes to standard output.
    pub fn color_out(&self) -> bool {
        self.color.wanted(io::stdout().is_terminal())
    }

    /// Whether to colour what goes to standard error.
    pub fn color_err(&self) -> bool {
        self.color.wanted(io::stderr().is_terminal())
    }

    /// Writes a result to standard output. A reader that has seen enough is no failure.
    ///
    /// What comes from outside has to be escaped before: the text may carry colours.
    #[expect(clippy::unused_self, reason = "output belongs to the context")]
    pub fn print(&self, text: &str) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(CommandError::new(Kind::Failed, "cannot write to standard output")
                    .cause(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// Tells a person something beside the result, on standard error, on lines of its own.
    pub fn tell(&self, text: &str) {
        let lines: Vec<_> = text.lines().map(printable).collect();
        self.tell_styled(&lines.join("\n"));
    }

    /// Tells a person something that may carry colours, so that it has been escaped before.
    #[expect(clippy::unused_self, reason = "output belongs to the context")]
    pub fn tell_styled(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}

impl Color {
    fn wanted(self, terminal: bool) -> bool {
        self.decide(terminal, |name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    /// See <https://no-color.org> and <https://bixense.com/clicolors>.
    fn decide(self, terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto if variable("NO_COLOR").is_some() => false,
            Self::Auto if variable("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
            Self::Auto => terminal,
        }
    }
}

impl From<Color> for clap::ColorChoice {
    fn from(color: Color) -> Self {
        match color {
            Color::Auto => Self::Auto,
            Color::Always => Self::Always,
            Color::Never => Self::Never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_decided_as_is_custom() {
        let set = |names: &'static [(&str, &str)]| {
            move |name: &str| names.iter().find(|set| set.0 == name).map(|set| set.1.into())
        };
        let none = set(&[]);
        let no_color = set(&[("NO_COLOR", "0")]);
        let force = set(&[("CLICOLOR_FORCE", "1")]);
        let no_force = set(&[("CLICOLOR_FORCE", "0")]);
        let both = set(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")]);
        assert!(Color::Auto.decide(true, none));
        assert!(!Color::Auto.decide(false, none));
        assert!(!Color::Auto.decide(true, no_color));
        assert!(Color::Auto.decide(false, force));
        assert!(!Color::Auto.decide(false, no_force));
        assert!(!Color::Auto.decide(true, both));
        assert!(Color::Always.decide(false, no_color));
        assert!(!Color::Never.decide(true, force));
    }
}
