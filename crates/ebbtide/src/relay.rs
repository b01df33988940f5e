//! Between this terminal and that of a program in a root of its own: keys one way, output the other.
//!
//! The program never has this terminal itself: through it, it could type commands for the shell outside.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ebbtide_core::failure::{Context as _, Result};
use ebbtide_core::trial::{End, FORWARDED, Running};
use ebbtide_sys::child::wait_for;
use ebbtide_sys::signal::{Signal, Signals};
use ebbtide_sys::terminal::{self, Settings};
use rustix::io::Errno;
use rustix::stdio::{stderr, stdin, stdout};

/// How often to look whether this process has come to the foreground.
const PATIENCE: Duration = Duration::from_millis(300);

/// How much is moved at once, in bytes.
const PIECE: usize = 16 << 10;

/// Which of standard input, output and error are a terminal.
pub fn terminals() -> [bool; 3] {
    [stdin(), stdout(), stderr()].map(terminal::is_terminal)
}

/// Watches the signals that are passed on to the program: from before it starts.
pub fn watch() -> ebbtide_sys::Result<Signals> {
    let mut signals = FORWARDED.to_vec();
    signals.extend([Signal::WINCH, Signal::CONT]);
    Signals::block(&signals)
}

/// Goes between until the program has ended, and all that it started.
pub fn relay(running: Running<'_>, signals: &Signals) -> Result<End> {
    let terminals = terminals();
    let output = if terminals[1] { stdout() } else { stderr() };
    let mut keys = Keys {
        // A program whose output goes elsewhere is no reason to take the terminal out of the hands
        // of whoever reads that output.
        raw: terminals[0] && terminals[1],
        reads: terminals[0] && running.console().is_some(),
        before: None,
        pending: Vec::new(),
    };
    if let Some(console) = running.console() {
        resize(console);
    }
    loop {
        let listens = keys.listens();
        let mut fds = vec![running.ended(), signals.as_fd()];
        fds.extend(running.console());
        if listens {
            fds.push(stdin());
        }
        let limit = (keys.reads && !listens).then_some(PATIENCE);
        let ready = wait_for(&fds, limit).context(|| "cannot wait for the command")?;
        let ready = |index: usize| ready.get(index).copied().unwrap_or(false);
        while let Some(signal) = signals.next() {
            match (signal, running.console()) {
                (Signal::WINCH, Some(console)) => resize(console),
                // Whoever stopped this process may have changed the terminal.
                (Signal::CONT, _) => keys.set_again(),
                (Signal::WINCH, None) => {}
                (signal, _) => {
                    running.child().signal(signal).context(|| "cannot pass a signal on")?;
                }
            }
        }
        if let Some(console) = running.console() {
            if ready(2) {
                show(console, output);
            }
            if listens && ready(3) {
                keys.read();
            }
            keys.pass(console);
        }
        if ready(0) {
            break;
        }
    }
    let console = running.console();
    let end = running.wait();
    // What was written last, before this terminal is again as it was.
    while console.is_some_and(|console| show(console, output)) {}
    drop(keys);
    end
}

fn resize(console: BorrowedFd<'_>) {
    let [input, output, _] = terminals();
    let from = match (output, input) {
        (true, _) => stdout(),
        (_, true) => stdin(),
        _ => stderr(),
    };
    // A terminal without a size has none to give.
    let _ = terminal::copy_size(from, console);
}

/// Moves one piece of output; whether there was one.
fn show(console: BorrowedFd<'_>, output: BorrowedFd<'_>) -> bool {
    let mut piece = [0; PIECE];
    let Ok(count @ 1..) = rustix::io::read(console, &mut piece) else { return false };
    let mut rest = piece.get(..count).unwrap_or_default();
    while !rest.is_empty() {
        match rustix::io::write(output, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(5)),
            // This terminal has gone; the program learns it by a signal.
            Err(_) => break,
        }
    }
    true
}

/// What is typed, and how the terminal was before.
struct Keys {
    raw: bool,
    reads: bool,
    before: Option<Settings>,
    pending: Vec<u8>,
}

impl Keys {
    /// Whether to read keys now: not from the background, where that would stop this process.
    fn listens(&mut self) -> bool {
        if !self.reads || !terminal::is_foreground(stdin()) {
            return false;
        }
        if self.raw && self.before.is_none() {
            self.before = Settings::of(stdin()).ok();
            self.set_again();
        }
        self.pending.len() < PIECE
    }

    fn set_again(&self) {
        if let Some(before) = &self.before
            && terminal::is_foreground(stdin())
        {
            // If it does not work, keys come line by line.
            let _ = before.raw().set(stdin());
        }
    }

    fn read(&mut self) {
        let mut piece = [0; PIECE];
        match rustix::io::read(stdin(), &mut piece) {
            Ok(0) => {
                // The end of input, as a terminal says it.
                self.pending.push(4);
                self.reads = self.raw;
            }
            Ok(count) => self.pending.extend(piece.get(..count).unwrap_or_default()),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // This terminal has gone.
            Err(_) => self.reads = false,
        }
    }

    /// Hands over what the other terminal takes; the rest waits for the next time.
    fn pass(&mut self, console: BorrowedFd<'_>) {
        while !self.pending.is_empty() {
            match rustix::io::write(console, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    std::thread::sleep(Duration::from_millis(5));
                    return;
                }
                Err(_) => self.pending.clear(),
            }
        }
    }
}

impl Drop for Keys {
    /// Also where something panicked.
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && terminal::is_foreground(stdin())
        {
            let _ = before.set(stdin());
        }
    }
}
