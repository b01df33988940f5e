//! `ebbtide keep` as its users run it, as far as that needs no container.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A small system, and the state directory of a throw-away root over it.
struct Machine(TempDir);

const DECLARED: &str = "\
version = 1

[keep]
directories = [
  # logs first
  \"/var/log\", # all of them
]
files = []

[users.alice]
";

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for (path, text) in [
            ("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n"),
            ("etc/motd", "hello\n"),
            ("etc/ebbtide/ebbtide.toml", DECLARED),
            ("var/lib/app/db", ""),
            ("usr/share/app", ""),
            ("state/ebbtide.toml", DECLARED),
            ("state/ebbtide/root/upper/srv/new/file", ""),
        ] {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        symlink("lib", machine.path("var/link")).unwrap();
        machine
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.0.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Runs `ebbtide keep`, and shows how it ended and what it said.
    fn keep(&self, arguments: &[&str]) -> String {
        let top = self.0.path().to_str().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
            .args(["keep", "--sysroot", top])
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(top, "");
        let status = output.status.code().unwrap();
        format!("status: {status}\n{}{}", text(&output.stdout), text(&output.stderr))
    }

    /// As [`Self::keep`], for the throw-away root.
    fn keep_there(&self, arguments: &[&str]) -> String {
        let state = self.path("state");
        self.keep(&[&["--state", state.to_str().unwrap()], arguments].concat())
    }
}

#[test]
fn entries_of_a_throw_away_root() {
    let machine = Machine::new();
    let shown = machine.keep_there(&["/srv/new", "/etc/motd", "/var/log/x", "/opt/later/"]);
    insta::assert_snapshot!(shown, @r"
    status: 0
    /var/log/x is kept already within /var/log: /state/ebbtide.toml:6
    + /srv/new is declared: /state/ebbtide.toml
    + /etc/motd is declared: /state/ebbtide.toml
    + /opt/later is declared: /state/ebbtide.toml
    it is attached the next time that `ebbtide try` runs on this state
    ");
    insta::assert_snapshot!(machine.read("state/ebbtide.toml"), @r#"
    version = 1

    [keep]
    directories = [
      # logs first
      "/var/log", # all of them
      "/srv/new",
      "/opt/later",
    ]
    files = ["/etc/motd"]

    [users.alice]
    "#);
    let again = machine.keep_there(&["/srv/new", "/srv/new/file"]);
    insta::assert_snapshot!(again, @r"
    status: 0
    /srv/new is kept already: /state/ebbtide.toml:7
    /srv/new/file is kept already within /srv/new: /state/ebbtide.toml:7
    ");
    assert_eq!(machine.read("etc/ebbtide/ebbtide.toml"), DECLARED);
}

#[test]
fn a_dry_run_writes_nothing() {
    let machine = Machine::new();
    let shown = machine.keep_there(&["--dry-run", "--method", "sync", "/etc/motd"]);
    insta::assert_snapshot!(shown, @r#"
    status: 0
    /state/ebbtide.toml
        "/var/log", # all of them
      ]
    - files = []
    + files = [{ path = "/etc/motd", method = "sync" }]

      [users.alice]
    "#);
    insta::assert_snapshot!(machine.keep_there(&["--dry-run", "--json", "/etc/motd", "/var/log/a"]), @r#"
    status: 0
    {
      "version": 1,
      "dry_run": true,
      "file": "/state/ebbtide.toml",
      "added": [
        {
          "path": "/etc/motd",
          "kind": "file",
          "table": "keep"
        }
      ],
      "kept": [
        {
          "path": "/var/log/a",
          "entry": "/var/log",
          "origin": "/state/ebbtide.toml:6"
        }
      ],
      "changes": []
    }
    "#);
    assert_eq!(machine.read("state/ebbtide.toml"), DECLARED);
}

#[test]
fn what_can_not_be_kept_is_not_written() {
    let machine = Machine::new();
    let mut shown = String::new();
    for arguments in [
        &["/var/link"][..],
        &["/var/link/app"],
        &["/nothing/\u{1b}[31m"],
        &["/usr/share/app"],
        &["/var/lib/app", "--method", "sync"],
        &["/var"],
    ] {
        shown += &machine.keep_there(arguments);
        shown += "----\n";
    }
    insta::assert_snapshot!(shown, @r#"
    status: 2
    error: cannot keep it: /var/link is a symbolic link
    hint: keep what it leads to: /var/lib
    ----
    status: 2
    error: cannot keep it: /var/link/app is reached through the symbolic link /var/link
    hint: name it by where it really is; realpath(1) says that
    ----
    status: 2
    error: cannot keep it: there is nothing at /nothing/\x1b[31m
    hint: with a slash at its end it is taken as a directory that is still to come; a file is declared by hand, in `files`
    ----
    status: 2
    error: `/usr/share/app` cannot be kept
     --> /state/ebbtide.toml:8:10
      |
    8 | files = ["/usr/share/app"]
      |          ^^^^^^^^^^^^^^^^ the base owns this path; keeping it would mix two systems
      |
      = hint: change the base instead; for local programs, keep `/opt`
    error: cannot keep /usr/share/app: nothing was written
    ----
    status: 2
    error: `/var/lib/app` cannot be kept by `sync`
     --> /state/ebbtide.toml:7:37
      |
    7 |   { path = "/var/lib/app", method = "sync" },
      |                                     ^^^^^^
      |
      = hint: `sync` is for single files; a directory is kept by `bind`
    error: cannot keep /var/lib/app: nothing was written
    ----
    status: 2
    error: `/var/log` is already kept by `/var`
     --> /state/ebbtide.toml:6:3
      |
    6 |   "/var/log", # all of them
      |   ^^^^^^^^^^
    7 |   "/var",
      |   ------ keeps all that is below it
      |
      = hint: remove this entry

    warning: `/var` is filled by packages of the base: kept, it grows old
     --> /state/ebbtide.toml:7:3
      |
    7 |   "/var",
      |   ^^^^^^
      |
      = hint: keep what is below it: its package database belongs to the base
    error: cannot keep /var: nothing was written
    ----
    "#);
}

#[test]
fn a_declaration_with_mistakes_is_not_added_to() {
    let machine = Machine::new();
    fs::write(machine.path("state/ebbtide.toml"), "version = 1\n[keep]\nfiles = [\"a\"]\n")
        .unwrap();
    insta::assert_snapshot!(machine.keep_there(&["/etc/motd"]), @r#"
    status: 2
    error: the path is not absolute
     --> /state/ebbtide.toml:3:10
      |
    3 | files = ["a"]
      |          ^^^
      |
      = hint: write "/a"
    error: cannot change the declaration: 1 error in it so far
    "#);
    fs::remove_file(machine.path("state/ebbtide.toml")).unwrap();
    assert!(machine.keep_there(&["/etc/motd"]).starts_with("status: 0\n"));
    assert_eq!(
        machine.read("state/ebbtide.toml"),
        "version = 1\n\n[keep]\nfiles = [\"/etc/motd\"]\n"
    );
}

#[test]
fn on_a_machine_without_a_container_the_file_stays_as_it_was() {
    let machine = Machine::new();
    insta::assert_snapshot!(machine.keep(&["/var/log/app"]), @r"
    status: 0
    /var/log/app is kept already within /var/log: /etc/ebbtide/ebbtide.toml:6
    ");
    let shown = machine.keep(&["/var/lib/app"]);
    assert!(shown.starts_with("status: 1\n"), "{shown}");
    assert_eq!(machine.read("etc/ebbtide/ebbtide.toml"), DECLARED);
    let left = fs::read_dir(machine.path("etc/ebbtide")).unwrap().count();
    assert_eq!(left, 1, "nothing is left beside it");
    assert!(Path::new(&machine.path("etc/motd")).exists());
}
