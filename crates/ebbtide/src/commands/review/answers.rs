//! Where answers come from: single keys of a terminal, or lines of anything else.

use std::os::fd::AsFd;

use ebbtide_sys::child::wait_for;
use ebbtide_sys::signal::{Signal, Signals};
use ebbtide_sys::terminal::{Settings, is_terminal};
use rustix::io::Errno;
use rustix::stdio::stdin;

use crate::error::{CommandError, Kind};

/// How much is read at once, in bytes: one key of a terminal sends less.
const PIECE: usize = 1024;

/// The longest line that is taken, in bytes.
const LIMIT: usize = 16 << 10;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A key, or a line.
    Text(String),
    /// There are no more answers.
    End,
    /// Somebody wants this program to end.
    Signal(Signal),
}

/// What answers are read from.
#[derive(Debug)]
pub struct Answers {
    terminal: bool,
    read: Vec<u8>,
}

impl Answers {
    /// Reads from standard input.
    pub fn of_standard_input() -> Self {
        Self { terminal: is_terminal(stdin()), read: Vec::new() }
    }

    /// Whether a person types them.
    pub fn are_typed(&self) -> bool {
        self.terminal
    }

    /// The next decision: one key, or one line.
    pub fn key(&mut self) -> Result<Answer, CommandError> {
        if !self.terminal {
            return self.line();
        }
        if self.read.is_empty() {
            match self.wait_for_key()? {
                None => {}
                Some(answer) => return Ok(answer),
            }
        }
        // What begins with an escape is one key that has no letter, such as an arrow.
        if self.read.first() == Some(&0x1b) {
            self.read.clear();
            return Ok(Answer::Text("\u{1b}".to_owned()));
        }
        let key = self.read.remove(0);
        Ok(match key {
            3 => Answer::Signal(Signal::INT),
            4 => Answer::End,
            key => Answer::Text(char::from(key).to_string()),
        })
    }

    /// The next line, as it was typed.
    pub fn line(&mut self) -> Result<Answer, CommandError> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                let line = std::mem::replace(&mut self.read, rest);
                return text(line.strip_suffix(b"\n").unwrap_or(&line));
            }
            if self.read.len() > LIMIT {
                return Err(CommandError::new(Kind::Usage, "cannot take an answer of this length"));
            }
            if !self.more()? {
                let last = std::mem::take(&mut self.read);
                return if last.is_empty() { Ok(Answer::End) } else { text(&last) };
            }
        }
    }

    /// Reads one more piece; whether there was one.
    fn more(&mut self) -> Result<bool, CommandError> {
        let mut piece = [0; PIECE];
        loop {
            match rustix::io::read(stdin(), &mut piece) {
                Ok(count) => {
                    let read = piece.get(..count).unwrap_or_default();
                    // In raw mode the return key is one.
                    let terminal = self.terminal;
                    let line = |byte: &u8| if terminal && *byte == b'\r' { b'\n' } else { *byte };
                    self.read.extend(read.iter().map(line));
                    return Ok(count > 0);
                }
                Err(Errno::INTR) => {}
                // The terminal has gone.
                Err(Errno::IO) if self.terminal => return Ok(false),
                Err(errno) => return Err(failed(&errno)),
            }
        }
    }

    /// Waits in raw mode. However that ends, the terminal is as it was before.
    fn wait_for_key(&mut self) -> Result<Option<Answer>, CommandError> {
        let watched = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
        let signals = Signals::block(&watched).map_err(|error| failed(&error))?;
        let raw = Raw::set()?;
        let ended = loop {
            let ready = wait_for(&[signals.as_fd(), stdin()], None).map_err(|it| failed(&it))?;
            if let Some(signal) = signals.next() {
                break Some(Answer::Signal(signal));
            }
            if ready.get(1) == Some(&true) {
                break if self.more()? { None } else { Some(Answer::End) };
            }
        };
        drop(raw);
        Ok(ended)
    }
}

fn text(line: &[u8]) -> Result<Answer, CommandError> {
    let text = str::from_utf8(line).map_err(|error| {
        CommandError::new(Kind::Usage, "cannot understand an answer").cause(error.to_string())
    })?;
    Ok(Answer::Text(text.to_owned()))
}

fn failed(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::new(Kind::Failed, "cannot read an answer").cause(error.to_string())
}

/// A terminal that hands over single keys, until this is dropped.
struct Raw(Settings);

impl Raw {
    fn set() -> Result<Self, CommandError> {
        let before = Settings::of(stdin()).map_err(|error| failed(&error))?;
        let raw = Self(before);
        raw.0.raw().set(stdin()).map_err(|error| failed(&error))?;
        Ok(raw)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.0.set(stdin());
    }
}
