//! `ebbtide forget` as its users run it, as far as that needs no container.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const DECLARED: &str = "\
version = 1

[keep]
presets = [\"ssh-host-keys\"]
directories = [
  # logs first
  \"/var/log\", # all of them
  \"/srv/data\",
  { path = \"/opt/app\", mode = \"0700\" }, # the app
]
files = [\"/etc/motd\"]

[users.alice]
directories = [\".config/app\"]
";

/// A small system, and the state directory of a throw-away root over it.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let accounts = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        for (path, text) in [
            ("etc/passwd", accounts),
            ("etc/ebbtide/ebbtide.toml", "version = 1\n"),
            ("usr/lib/ebbtide/app.toml", "version = 1\n[keep]\nfiles = [\"/etc/of-a-package\"]\n"),
            ("state/ebbtide.toml", DECLARED),
        ] {
            let path = machine.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        machine
    }

    /// Shows how it ended and what it said.
    fn forget(&self, arguments: &[&str]) -> String {
        let top = self.0.path().to_str().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
            .args(["forget", "--sysroot", top])
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(top, "");
        let status = output.status.code().unwrap();
        format!("status: {status}\n{}{}", text(&output.stdout), text(&output.stderr))
    }

    /// As [`Self::forget`], for the throw-away root.
    fn forget_there(&self, arguments: &[&str]) -> String {
        let state = self.0.path().join("state");
        self.forget(&[&["--state", state.to_str().unwrap()], arguments].concat())
    }

    fn declared(&self) -> String {
        fs::read_to_string(self.0.path().join("state/ebbtide.toml")).unwrap()
    }
}

#[test]
fn entries_go_and_the_rest_stays_as_it_is_written() {
    let machine = Machine::new();
    let shown =
        machine.forget_there(&["/opt/app", "/home/alice/.config/app/", "/etc/motd", "/never"]);
    insta::assert_snapshot!(shown, @r#"
    status: 0
    /never is not kept
    - /opt/app is not declared any more: /state/ebbtide.toml:9
    - /home/alice/.config/app is not declared any more: /state/ebbtide.toml:14
    - /etc/motd is not declared any more: /state/ebbtide.toml:11
    its data stay in the store of this state; the next `ebbtide try` begins without
    "#);
    insta::assert_snapshot!(machine.declared(), @r#"
    version = 1

    [keep]
    presets = ["ssh-host-keys"]
    directories = [
      # logs first
      "/var/log", # all of them
      "/srv/data",
    ]
    files = []

    [users.alice]
    directories = []
    "#);
}

#[test]
fn a_dry_run_writes_nothing() {
    let machine = Machine::new();
    insta::assert_snapshot!(machine.forget_there(&["--dry-run", "/srv/data"]), @r#"
    status: 0
    /state/ebbtide.toml
        # logs first
        "/var/log", # all of them
    -   "/srv/data",
        { path = "/opt/app", mode = "0700" }, # the app
      ]
    "#);
    insta::assert_snapshot!(machine.forget_there(&["--dry-run", "--json", "/srv/data", "/x"]), @r#"
    status: 0
    {
      "version": 1,
      "dry_run": true,
      "files": [
        "/state/ebbtide.toml"
      ],
      "forgotten": [
        {
          "path": "/srv/data",
          "origin": "/state/ebbtide.toml:8"
        }
      ],
      "not_kept": [
        "/x"
      ],
      "not_carried": [],
      "changes": [],
      "moved_back": []
    }
    "#);
    assert_eq!(machine.declared(), DECLARED);
}

#[test]
fn what_can_not_be_forgotten_by_itself() {
    let machine = Machine::new();
    let mut shown = String::new();
    for path in ["/var/log/app", "/etc/ebbtide", "/etc/ssh/ssh_host_rsa_key", "/bad\u{1b}[31m"] {
        shown += &machine.forget_there(&[path]);
    }
    shown += &machine.forget(&["/etc/of-a-package"]);
    insta::assert_snapshot!(shown, @r#"
    status: 2
    error: cannot forget it: /var/log/app is kept within /var/log: /state/ebbtide.toml:7
    hint: keep what should stay of /var/log by itself, and forget that
    status: 2
    error: cannot forget it: /etc/ebbtide is always kept
    status: 2
    error: cannot forget it: /etc/ssh/ssh_host_rsa_key comes with a preset: preset ssh-host-keys:39
    hint: take the preset out of `presets`, and keep the others of its paths by themselves
    status: 0
    /bad\x1b[31m is not kept
    status: 2
    error: cannot forget it: /usr/lib/ebbtide/app.toml belongs to a package, and keeps it
    hint: what a package declares goes with the package
    "#);
    assert_eq!(machine.declared(), DECLARED);
}
