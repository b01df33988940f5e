//! A shell in a terminal: sizes, interrupts, job control, the end of input.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ebbtide_sys::child::in_new_session;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use crate::harness::{Scratch, needs_root};

/// A program in a terminal, and whoever sits in front of it.
struct Session {
    master: File,
    terminal: OwnedFd,
    child: Child,
    shown: Arc<Mutex<String>>,
    seen: usize,
}

impl Session {
    fn start(scratch: &Scratch, command: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        size(&master, 33, 77);
        let inner = scratch.over_machine().command(command);
        // Whoever runs the tests may ignore some: nohup(1), or a shell that has them in the background.
        let mut program = Command::new("/usr/bin/env");
        program.arg("--default-signal").arg(inner.get_program()).args(inner.get_args());
        program.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        program
            .env("PS1", "> ")
            .env("TERM", "dumb")
            .stdin(Stdio::from(terminal.try_clone().unwrap()))
            .stdout(Stdio::from(terminal.try_clone().unwrap()))
            .stderr(Stdio::from(terminal.try_clone().unwrap()));
        let child =
            in_new_session(&mut program, Some(terminal.try_clone().unwrap())).spawn().unwrap();
        // A copy of the terminal stays with `program` until here.
        drop(program);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut reader, all) = (File::from(master.try_clone().unwrap()), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut piece) {
                all.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..count]));
            }
        });
        Self { master: File::from(master), terminal, child, shown, seen: 0 }
    }

    fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until something is shown that was not shown before.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        let begin = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            if let Some(at) = shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(20), "{text:?} is not in {shown:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

fn size(terminal: &impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).unwrap();
}

#[test]
fn a_shell_has_a_terminal_of_its_own() {
    needs_root!();
    let scratch = Scratch::new();
    let mut it = Session::start(&scratch, &["sh", "-i"]);
    let before = tcgetattr(&it.terminal).unwrap();
    it.shows("> ");
    it.keys("tty; stty size\r");
    it.shows("/dev/pts/0\r\n33 77\r\n");
    size(&it.master, 44, 88);
    std::thread::sleep(Duration::from_millis(200));
    it.keys("stty size\r");
    it.shows("44 88\r\n");
    it.keys("sleep 1000\r");
    it.shows("sleep 1000");
    std::thread::sleep(Duration::from_millis(300));
    it.keys("\x03");
    it.shows("^C");
    it.keys("echo status $?\r");
    it.shows("status 130");
    it.keys("sleep 1000\r");
    it.shows("sleep 1000");
    std::thread::sleep(Duration::from_millis(300));
    it.keys("\x1a");
    it.shows("Stopped");
    it.keys("jobs; kill -9 %1; cat\r");
    it.shows("Stopped");
    std::thread::sleep(Duration::from_millis(300));
    it.keys("echoed\r");
    it.shows("echoed\r\nechoed\r\n");
    it.keys("\x04");
    it.keys("echo to-tty > /dev/tty; exit 7\r");
    it.shows("to-tty\r\n");
    it.shows("nothing was changed");
    let terminal = it.terminal.try_clone().unwrap();
    assert_eq!(it.status(), Some(7));
    let after = tcgetattr(&terminal).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}

#[test]
fn without_a_command_the_shell_of_the_environment_greets() {
    needs_root!();
    let scratch = Scratch::new();
    let mut program = scratch.over_machine().command(&[]);
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
    for _ in 0..1 {
        program.stdin(Stdio::from(terminal.try_clone().unwrap()));
        program.stdout(Stdio::from(terminal.try_clone().unwrap()));
    }
    program.env("SHELL", "/bin/sh").stderr(Stdio::piped());
    let mut child =
        in_new_session(&mut program, Some(terminal.try_clone().unwrap())).spawn().unwrap();
    let mut master = File::from(master);
    master.write_all(b"exit 4\r").unwrap();
    let mut told = String::new();
    child.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(4));
    assert!(told.starts_with("a throw-away root: leave it with `exit`"), "{told}");
}

#[test]
fn what_is_written_last_is_shown() {
    needs_root!();
    let scratch = Scratch::new();
    let mut it = Session::start(
        &scratch,
        &["sh", "-c", "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo -n end"],
    );
    it.shows("line 2999\r\nend");
    assert_eq!(it.status(), Some(0));
}

#[test]
fn a_terminal_that_goes_takes_the_command_along() {
    needs_root!();
    let scratch = Scratch::new();
    let mark = format!("hangup-{}", std::process::id());
    let mut it = Session::start(&scratch, &["env", &format!("MARK={mark}"), "sleep", "1000"]);
    crate::harness::until("the command runs", || !crate::harness::processes_with(&mark).is_empty());
    let pid = rustix::process::Pid::from_raw(it.child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(it.child.wait().unwrap().code(), Some(129));
    assert!(crate::harness::processes_with(&mark).is_empty());
}
