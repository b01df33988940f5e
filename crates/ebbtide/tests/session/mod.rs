//! A program in a terminal, and whoever sits in front of it.

#![allow(dead_code)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ebbtide_sys::child::in_new_session;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// A program that runs in a terminal.
pub struct Session {
    /// Whoever sits in front of it.
    pub master: File,
    /// The terminal itself: as long as it is open here, it does not go.
    pub terminal: OwnedFd,
    pub child: Child,
    shown: Arc<Mutex<String>>,
    seen: usize,
}

/// Opens a terminal: the side in front of it, and itself. The program gets neither: with the other end in
/// its own hands, it would not notice that the terminal goes.
pub fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
    (master, terminal)
}

/// Runs a program in a terminal, in a session of its own. What it has of the terminal goes with it.
pub fn spawn_in(terminal: &OwnedFd, mut program: Command) -> Child {
    let other = || Stdio::from(terminal.try_clone().unwrap());
    program.stdin(other()).stdout(other()).stderr(other());
    in_new_session(&mut program, Some(terminal.try_clone().unwrap())).spawn().unwrap()
}

/// Gives a terminal a size.
pub fn resize(terminal: &impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

/// Asserts that a terminal has the settings that it had.
#[track_caller]
pub fn assert_same_settings(terminal: &OwnedFd, before: &Termios) {
    let after = tcgetattr(terminal).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}

impl Session {
    /// Runs a program in a new terminal of this size.
    pub fn start(program: Command, rows: u16, columns: u16) -> Self {
        let (master, terminal) = terminal();
        resize(&master, rows, columns);
        let child = spawn_in(&terminal, program);
        let shown = Arc::new(Mutex::new(String::new()));
        let master = File::from(master);
        let (mut reader, all) = (master.try_clone().unwrap(), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        Self { master, terminal, child, shown, seen: 0 }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something is shown that was not shown before.
    #[track_caller]
    pub fn shows(&mut self, text: &str) {
        let begin = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if let Some(at) = shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{text:?} is not in {shown:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// All that was shown so far.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap().clone()
    }

    /// Waits for the end.
    pub fn status(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}
