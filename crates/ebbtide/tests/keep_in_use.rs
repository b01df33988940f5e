//! `ebbtide keep` of what a process uses, as its users run it, on a root that was booted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
#[macro_use]
mod machine;
mod program;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ebbtide_core::shutdown;
use ebbtide_sys::mountinfo;
use machine::{Kind, Machine, read, run, write};
use program::{Ran, ebbtide_running, unlike_its_schema};

on_each_disk!(what_is_in_use_is_named_and_comes_with_the_next_boot);

const KEPT: &str = "[keep]\ndirectories = [\"/var/log\"]\n";

/// A program with a hostile name, until it is dropped.
struct Process(Child);

impl Process {
    /// What is written to its input goes to the end of this file.
    fn appending(root: &Path, file: &str) -> Self {
        let file = File::options().append(true).open(root.join(file)).unwrap();
        Self::new(root, root, file.into())
    }

    fn at(root: &Path, directory: &str) -> Self {
        Self::new(root, &root.join(directory), Stdio::null())
    }

    fn new(root: &Path, directory: &Path, out: Stdio) -> Self {
        let program = root.join("c\u{1b}t");
        if !program.exists() {
            // By cp(1): a child that another test forks meanwhile would have it open for writing for a moment.
            run("cp", &["/bin/cat", program.to_str().unwrap()]);
        }
        let mut command = Command::new(program);
        Self(command.current_dir(directory).stdin(Stdio::piped()).stdout(out).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// Runs it on a terminal, on which this is typed.
fn on_a_terminal(root: &Path, command: &str, typed: &str) -> (i32, String) {
    let command =
        format!("{} --sysroot {} {command}", env!("CARGO_BIN_EXE_ebbtide"), root.display());
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn is_mounted(path: &Path) -> bool {
    mountinfo::read_self().unwrap().iter().any(|mount| mount.mount_point == path)
}

fn what_is_in_use_is_named_and_comes_with_the_next_boot(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEPT);
    let declared = machine.toml(KEPT);
    machine.live("", |root, boot| {
        write(root, "etc/ebbtide/ebbtide.toml", &declared);
        for path in ["srv/db/data", "srv/two/data", "srv/free/data"] {
            write(root, path, "one\n");
        }
        let mut writer = Process::appending(root, "srv/db/data");
        let there = Process::at(root, "srv/two");
        let keep = |arguments: &[&str]| -> Ran {
            ebbtide_running(&boot.run, root, &[&["keep"], arguments].concat())
        };
        let is_as_it_was = || {
            assert_eq!(read(root, "etc/ebbtide/ebbtide.toml").as_deref(), Some(declared.as_str()));
            assert!(!is_mounted(&root.join("srv/db")) && !is_mounted(&root.join("srv/free")));
            assert!(!boot.run.join("stores/state/srv").exists());
        };

        let refused = keep(&["/srv/db", "/srv/free"]);
        assert_eq!((refused.status, refused.out.as_slice()), (1, &b""[..]), "{}", refused.err);
        let named = format!("c\\x1bt ({}) uses {}/srv/db/data", writer.0.id(), root.display());
        assert!(refused.err.contains(&named), "{}", refused.err);
        assert!(refused.err.contains("ebbtide keep --next-boot PATH"), "{}", refused.err);
        is_as_it_was();
        let (status, said) = on_a_terminal(root, "keep /srv/db", "no\n");
        assert_eq!(status, 1, "{said}");
        assert!(
            said.contains(&named) && said.contains("from the next boot on? (yes/no)"),
            "{said}"
        );
        is_as_it_was();
        let planned = keep(&["--dry-run", "--json", "/srv/db"]).json();
        let users = planned["changes"][0]["users"].as_array().unwrap();
        assert_eq!((users.len(), &users[0]["pid"]), (1, &writer.0.id().into()), "{planned}");
        assert_eq!(unlike_its_schema("keep", &planned), Vec::<String>::new());
        is_as_it_was();

        let kept = keep(&["--next-boot", "/srv/db", "/srv/free"]);
        assert_eq!(kept.status, 0, "{}", kept.err);
        let out = String::from_utf8(kept.out).unwrap();
        assert!(out.contains("/srv/db (next boot: "), "{out}");
        assert!(is_mounted(&root.join("srv/free")), "what is not in use comes at once: {out}");
        assert!(!is_mounted(&root.join("srv/db")));
        let (status, said) = on_a_terminal(root, "keep /srv/two", "yes\n");
        assert_eq!(status, 0, "{said}");
        assert!(read(root, "etc/ebbtide/ebbtide.toml").unwrap().contains("\"/srv/two\""));
        assert!(!is_mounted(&root.join("srv/two")));

        writer.0.stdin.as_mut().unwrap().write_all(b"two\n").unwrap();
        drop((writer, there));
        assert_eq!(read(root, "srv/db/data").as_deref(), Some("one\ntwo\n"));
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| {
        for (path, content) in
            [("srv/db", "one\ntwo\n"), ("srv/two", "one\n"), ("srv/free", "one\n")]
        {
            assert!(is_mounted(&root.join(path)), "{path}");
            assert_eq!(read(root, &format!("{path}/data")).as_deref(), Some(content));
        }
    });
}
