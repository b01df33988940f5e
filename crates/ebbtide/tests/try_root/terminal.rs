//! A shell in a terminal: sizes, interrupts, job control, the end of input.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use ebbtide_sys::child::in_new_session;
use rustix::termios::tcgetattr;

use crate::harness::{Scratch, needs_root};
use crate::session::{Session, assert_same_settings, resize, terminal};

fn start(scratch: &Scratch, command: &[&str]) -> Session {
    let inner = scratch.over_machine().command(command);
    // Whoever runs the tests may ignore some: nohup(1), or a shell that has them in the background.
    let mut program = Command::new("/usr/bin/env");
    program.arg("--default-signal").arg(inner.get_program()).args(inner.get_args());
    program.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    program.env("PS1", "> ").env("TERM", "dumb");
    Session::start(program, 33, 77)
}

#[test]
fn a_shell_has_a_terminal_of_its_own() {
    needs_root!();
    let scratch = Scratch::new();
    let mut it = start(&scratch, &["sh", "-i"]);
    let before = tcgetattr(&it.terminal).unwrap();
    it.shows("> ");
    it.keys("tty; stty size\r");
    it.shows("/dev/pts/0\r\n33 77\r\n");
    resize(&it.master, 44, 88);
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
    assert_same_settings(&terminal, &before);
}

#[test]
fn without_a_command_the_shell_of_the_environment_greets() {
    needs_root!();
    let scratch = Scratch::new();
    let mut program = scratch.over_machine().command(&[]);
    let (master, terminal) = terminal();
    program.stdin(Stdio::from(terminal.try_clone().unwrap()));
    program.stdout(Stdio::from(terminal.try_clone().unwrap()));
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
    let mut it = start(
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
    let mut it = start(&scratch, &["env", &format!("MARK={mark}"), "sleep", "1000"]);
    crate::harness::until("the command runs", || !crate::harness::processes_with(&mark).is_empty());
    let pid = rustix::process::Pid::from_raw(it.child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    assert_eq!(it.child.wait().unwrap().code(), Some(129));
    assert!(crate::harness::processes_with(&mark).is_empty());
}
