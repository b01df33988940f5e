//! `ebbtide review` as its users run it, on the roots of machines in loop images.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;
mod session;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ebbtide_core::boot::Boot;
use machine::{KINDS, Machine, is_root, read, run, write};
use rustix::termios::tcgetattr;
use session::Session;

const KEPT: &str = "[keep]\ndirectories = [\n  \"/var/log\", # all of them\n]\n";
const FILE: &str = "/etc/ebbtide/ebbtide.toml";

/// Makes the run directory of a boot that of this mount namespace, and something to review.
fn settle(machine: &Machine, root: &Path, boot: &Boot) {
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    fs::create_dir("/run/ebbtide").unwrap();
    run("mount", &["--rbind", boot.run.to_str().unwrap(), "/run/ebbtide"]);
    write(root, FILE, &machine.toml(KEPT));
    write(root, "/var/lib/app/db", &"0123456789".repeat(90));
    write(root, "/var/lib/app/log", &"x".repeat(700));
    write(root, "/opt/tool/a.pyc", &"y".repeat(500));
    write(root, "/opt/tool/src", &"z".repeat(400));
    write(root, "/opt/tool/sub/b.pyc", &"y".repeat(300));
    write(root, "/etc/issue", "another one\n\u{1b}[2J\n");
    fs::remove_file(root.join("etc/group")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"srv/*\x1b[2J\xff")), "bad").unwrap();
    write(root, "/home/bob/.cache/thumbnails/1", "12345");
    fs::create_dir(root.join("home/eve")).unwrap();
}

fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide"));
    command.args(["review", "--color", "never", "--sort", "biggest", "--sysroot"]).arg(root);
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Gives answers, and shows how it ended and what was said.
fn review(root: &Path, arguments: &[&str], answers: &str) -> String {
    let mut child = command(root, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have ended before it reads all of them.
    let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec()).unwrap().replace(root.to_str().unwrap(), "")
    };
    let status = output.status.code().unwrap();
    format!("{}{}= {status}\n", text(&output.stdout), text(&output.stderr))
}

/// Times and hashes are those of the run.
fn same_in_every_run(shown: &str) -> String {
    let mut lines: Vec<String> = shown.lines().map(str::to_owned).collect();
    for line in &mut lines {
        if line.starts_with("changed 20") {
            "changed <a date and a time>".clone_into(line);
        } else if let Some((before, hash)) = line.split_once("entries as ") {
            let (_, after) = hash.split_once(':').unwrap();
            *line = format!("{before}entries as <hash>:{after}");
        }
    }
    lines.join("\n")
}

fn status_of(shown: &str) -> i32 {
    shown.trim_end().rsplit("= ").next().unwrap().parse().unwrap()
}

#[test]
fn what_is_decided_is_done_in_one_go() {
    if !is_root() {
        return;
    }
    let said = Mutex::new(String::new());
    let written = Mutex::new(String::new());
    let left = Mutex::new(String::new());
    let machine = Machine::of(KINDS[0]);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        settle(&machine, root, boot);
        let before = read(root, FILE);
        let dry = review(root, &["--dry-run", "--lines", "5"], "k\nI *.pyc\nq\n");
        assert_eq!(status_of(&dry), 0, "{dry}");
        assert!(
            dry.contains("+   \"/var/lib/app\",") && dry.contains("+ paths = [\"*.pyc\"]"),
            "{dry}"
        );
        assert_eq!(read(root, FILE), before);

        let answers = "view\nopen\nkeep\nskip\nI\n*.pyc\nview\nskip\nopen\nview\nignore\nback\ni\nskip\n\
                       I /srv/[*]*\nskip\ny\n";
        let shown = review(root, &["--lines", "5"], answers);
        *said.lock().unwrap() = same_in_every_run(&shown);
        *written.lock().unwrap() =
            read(root, FILE).unwrap().replace(&before.unwrap(), "<as it was>");
        *left.lock().unwrap() = review(root, &[], "q\n");
    });
    let end = |text: Mutex<String>| text.into_inner().unwrap();
    insta::assert_snapshot!("decided", end(said));
    insta::assert_snapshot!("written", end(written));
    insta::assert_snapshot!("left", end(left));
    machine.live("", |root, _| {
        assert_eq!(read(root, "/var/lib/app/db"), Some("0123456789".repeat(90)));
        assert_eq!(read(root, "/var/lib/app/log"), None);
    });
}

#[test]
fn nothing_is_written_without_a_yes() {
    if !is_root() {
        return;
    }
    for kind in KINDS {
        let machine = Machine::of(kind);
        machine.set_up(KEPT);
        machine.live("", |root, boot| {
            settle(&machine, root, boot);
            let before = read(root, FILE);
            for (answers, status, expected) in [
                ("", 1, "the answers ended"),
                ("k\n", 1, "the answers ended"),
                ("k\nq\n", 1, "the answers ended"),
                ("k\nI\n", 1, "the answers ended"),
                ("k\nq\nn\n", 0, "nothing was written"),
                ("k\nq\n\n", 0, "nothing was written"),
                ("q\n", 0, "nothing is to be done"),
                ("k\nx\nq\ny\n", 2, "cannot understand the answer x"),
                ("k\n\nq\ny\n", 2, "cannot understand the answer"),
                ("b\nq\ny\n", 2, "cannot go back"),
                ("I /elsewhere\nq\ny\n", 2, "/elsewhere describes nothing of it"),
                ("I **\nq\ny\n", 2, "the pattern ignores everything"),
                ("\u{1b}[2J\n", 2, "cannot understand the answer \\x1b[2J"),
            ] {
                let shown = review(root, &[], answers);
                assert_eq!(status_of(&shown), status, "{answers:?}: {shown}");
                assert!(shown.contains(expected), "{answers:?}: {shown}");
                assert!(!shown.contains('\u{1b}'), "{shown:?}");
                assert_eq!(read(root, FILE), before, "{answers:?}");
            }
            for (path, answer, expected) in [
                ("/etc/group", "k", "it was deleted"),
                ("/srv", "i", "not UTF-8"),
                ("/srv", "k", "not UTF-8"),
                ("/etc/issue", "o", "cannot tell it apart"),
            ] {
                let shown = review(root, &[path], &format!("{answer}\nq\ny\n"));
                assert_eq!(status_of(&shown), 2, "{shown}");
                assert!(
                    shown.contains(expected) && shown.contains("nothing was written"),
                    "{shown}"
                );
            }
            // A script that ends it says so, too, where everything has been decided by then.
            let shown = review(root, &["/etc/issue"], "k\nq\ny\n");
            assert!(shown.contains("/etc/issue is declared"), "{shown}");
            assert_eq!(review(root, &[], "k\nq\nq\ny\n").matches("declared").count(), 0);
            let before = read(root, FILE);
            let nothing = review(root, &["/usr"], "");
            assert!(nothing.starts_with("nothing was changed"), "{nothing}");
            assert_eq!((status_of(&nothing), read(root, FILE)), (0, before));
        });
    }
}

/// Runs it in a terminal, lets somebody type there, and checks that the terminal is as it was before.
/// Returns the status.
fn typed(root: &Path, type_there: impl FnOnce(&mut Session, u32)) -> Option<i32> {
    let (_master, fresh) = session::terminal();
    let before = tcgetattr(&fresh).unwrap();
    let mut session = Session::start(command(root, &["--lines", "5"]), 24, 100);
    let pid = session.child.id();
    type_there(&mut session, pid);
    let terminal = session.terminal.try_clone().unwrap();
    let status = session.status();
    session::assert_same_settings(&terminal, &before);
    status
}

#[test]
fn single_keys_of_a_terminal() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[0]);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        settle(&machine, root, boot);
        let before = read(root, FILE);
        let interrupted = typed(root, |it, _| {
            it.shows("k  keep it");
            it.shows("? > ");
            it.keys("k");
            it.shows("keep /var/lib/app\r\n");
            it.shows("? > ");
            it.keys("\x03");
            it.shows("nothing was written");
        });
        assert_eq!(interrupted, Some(130));
        let ended = typed(root, |it, pid| {
            it.shows("? > ");
            it.keys("\x1b[A");
            it.shows("cannot understand the answer \\x1b");
            it.shows("? > ");
            // Until it waits in raw mode.
            std::thread::sleep(Duration::from_millis(300));
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
            it.shows("nothing was written");
        });
        assert_eq!(ended, Some(143));
        assert_eq!(read(root, FILE), before);
        let done = typed(root, |it, _| {
            it.shows("? > ");
            it.keys("x");
            it.shows("error: cannot understand the answer x");
            it.shows("? > ");
            it.keys("s");
            it.shows("skip");
            it.shows("? > ");
            it.keys("I");
            it.shows("pattern: ");
            it.keys("*.py\x7f\x7fpyc\r");
            it.shows("/opt/tool/");
            it.shows("? > ");
            // Typed ahead.
            it.keys("sq");
            it.shows("ignore  *.pyc\r\n");
            it.shows("do this? [y/N] ");
            it.keys("y");
            it.shows("yes");
            it.shows("*.pyc is ignored: /etc/ebbtide/ebbtide.toml");
        });
        assert_eq!(done, Some(0));
        assert!(read(root, FILE).unwrap().ends_with("\n[ignore]\npaths = [\"*.pyc\"]\n"));
    });
}

#[test]
fn a_terminal_that_goes_ends_it() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[0]);
    machine.set_up(KEPT);
    machine.live("", |root, boot| {
        settle(&machine, root, boot);
        let before = read(root, FILE);
        let (master, terminal) = session::terminal();
        let mut child = session::spawn_in(&terminal, command(root, &[]));
        drop(terminal);
        let (mut master, mut shown) = (File::from(master), String::new());
        let mut piece = [0; 4096];
        while !shown.contains("? > ") {
            let count = master.read(&mut piece).unwrap();
            shown.push_str(&String::from_utf8_lossy(&piece[..count]));
        }
        drop(master);
        let begin = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begin.elapsed() > Duration::from_secs(20) {
                child.kill().unwrap();
                panic!("it waits for a terminal that has gone");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(!status.success(), "{status}");
        assert_eq!(read(root, FILE), before);
    });
}
