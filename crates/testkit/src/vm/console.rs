//! What a machine writes to its serial console, as it comes.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The text of a console, without escape sequences; a thread keeps reading it.
#[derive(Debug, Clone, Default)]
pub(super) struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    ended: bool,
}

/// How waiting for a text ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Seen,
    Ended,
    TimedOut,
}

impl Console {
    /// Adds what comes from `source` until it ends. What came from another one has to have ended.
    pub(super) fn read(&self, mut source: impl Read + Send + 'static) {
        let writer = self.clone();
        writer.state().ended = false;
        thread::spawn(move || {
            let mut filter = EscapeFilter::default();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                let mut state = writer.state();
                filter.pass(&buffer[..count], &mut state.text);
                drop(state);
                writer.shared.changed.notify_all();
            }
            writer.state().ended = true;
            writer.shared.changed.notify_all();
        });
    }

    /// Waits until the source has ended.
    pub(super) fn wait_for_end(&self) {
        let mut state = self.state();
        while !state.ended {
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Returns how much there is, in bytes: a place to look from, later.
    pub(super) fn len(&self) -> usize {
        self.state().text.len()
    }

    /// Returns what came after the first `from` bytes.
    pub(super) fn since(&self, from: usize) -> String {
        let state = self.state();
        String::from_utf8_lossy(state.text.get(from..).unwrap_or_default()).into_owned()
    }

    /// Waits until `pattern` has come after the first `from` bytes.
    pub(super) fn wait_for(&self, pattern: &str, from: usize, timeout: Duration) -> Waited {
        let deadline = Instant::now() + timeout;
        let mut from = from;
        let mut state = self.state();
        loop {
            let new = state.text.get(from..).unwrap_or_default();
            if new.windows(pattern.len()).any(|window| window == pattern.as_bytes()) {
                return Waited::Seen;
            }
            if state.ended {
                return Waited::Ended;
            }
            let now = Instant::now();
            if now >= deadline {
                return Waited::TimedOut;
            }
            // Only a start of the pattern can be in what has been looked at.
            from = from.max((state.text.len() + 1).saturating_sub(pattern.len()));
            state = self
                .shared
                .changed
                .wait_timeout(state, deadline - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The reader leaves nothing half done that would matter.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leaves out carriage returns and what terminals interpret: firmware clears the screen, and
/// systemd colours the very words that are looked for.
#[derive(Debug, Default)]
enum EscapeFilter {
    #[default]
    Text,
    Escape,
    Control,
    Command,
}

impl EscapeFilter {
    fn pass(&mut self, bytes: &[u8], text: &mut Vec<u8>) {
        for &byte in bytes {
            *self = match (&self, byte) {
                (_, 0x1b) | (Self::Escape, 0x20..=0x2f) => Self::Escape,
                (Self::Escape, b'[') | (Self::Control, 0x20..=0x3f) => Self::Control,
                (Self::Escape, b']') | (Self::Command, 0x20..=0xff) => Self::Command,
                (Self::Text, _) => {
                    if byte != b'\r' {
                        text.push(byte);
                    }
                    Self::Text
                }
                (Self::Escape | Self::Control | Self::Command, _) => Self::Text,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_are_left_out() {
        let mut filter = EscapeFilter::default();
        let mut text = Vec::new();
        for part in ["\x1bc\x1b[?7l[\x1b[0;1;3", "1mFAILED\x1b[0m] a\r\n\x1b]0;title\x07b\x1b(Bc"] {
            filter.pass(part.as_bytes(), &mut text);
        }
        assert_eq!(String::from_utf8(text).unwrap(), "[FAILED] a\nbc");
    }

    #[test]
    fn a_pattern_is_found_across_reads_and_only_after_the_mark() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let console = Console::default();
        console.read(reader);
        let write = |writer: &mut std::io::PipeWriter, text: &str| {
            std::io::Write::write_all(writer, text.as_bytes()).unwrap();
        };
        let soon = Duration::from_secs(10);

        write(&mut writer, "first");
        assert_eq!(console.wait_for("first", 0, soon), Waited::Seen);
        let mark = console.len();
        assert_eq!(console.wait_for("first", mark, Duration::ZERO), Waited::TimedOut);

        write(&mut writer, " sec");
        assert_eq!(console.wait_for(" sec", mark, soon), Waited::Seen);
        write(&mut writer, "ond");
        assert_eq!(console.wait_for("second", mark, soon), Waited::Seen);
        assert_eq!(console.since(mark), " second");

        drop(writer);
        assert_eq!(console.wait_for("third", mark, soon), Waited::Ended);
        console.wait_for_end();
        console.read("third".as_bytes());
        assert_eq!(console.wait_for("third", mark, soon), Waited::Seen);
    }
}
