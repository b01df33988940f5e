//! `ebbtide ignore` as its users run it: it needs no container.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const DECLARED: &str = "\
version = 1

[keep]
directories = [\"/var/log\"]

[ignore] # not worth a word
paths = [
  \"/srv/build\", # made again
]

[users.alice]
";

/// A small system, and the state directory of a throw-away root over it.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let accounts = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        for (path, text) in [
            ("etc/passwd", accounts),
            ("etc/ebbtide/ebbtide.toml", DECLARED),
            ("usr/lib/ebbtide/app.toml", "version = 1\n[ignore]\npaths = [\"/var/lib/app\"]\n"),
            ("state/ebbtide.toml", "version = 1\n[keep]\n"),
        ] {
            let path = machine.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        machine
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.path().join(path)).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ebbtide"));
        command.args(["ignore", "--sysroot", self.0.path().to_str().unwrap()]);
        command.args(arguments).env_clear().stdin(Stdio::null());
        command
    }

    /// Shows how it ended and what it said.
    fn ignore(&self, arguments: &[&str]) -> String {
        self.shown(self.command(arguments))
    }

    fn shown(&self, mut command: Command) -> String {
        let top = self.0.path().to_str().unwrap();
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(top, "");
        let status = output.status.code().unwrap();
        format!("status: {status}\n{}{}", text(&output.stdout), text(&output.stderr))
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

#[test]
fn patterns_are_added_and_taken_out_again() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let patterns = ["/var/lib/new/", "*.pyc", "**/node_modules", "/home/alice/x/*.o"];
    insta::assert_snapshot!(machine.ignore(&patterns), @r"
    status: 0
    + /var/lib/new is ignored: /etc/ebbtide/ebbtide.toml
    + *.pyc is ignored: /etc/ebbtide/ebbtide.toml
    + node_modules is ignored: /etc/ebbtide/ebbtide.toml
    + /home/alice/x/*.o is ignored: /etc/ebbtide/ebbtide.toml
    ");
    insta::assert_snapshot!(machine.read("etc/ebbtide/ebbtide.toml"), @r#"
    version = 1

    [keep]
    directories = ["/var/log"]

    [ignore] # not worth a word
    paths = [
      "/srv/build", # made again
      "/var/lib/new",
      "*.pyc",
      "node_modules",
    ]

    [users.alice]
    ignore = ["x/*.o"]
    "#);
    insta::assert_snapshot!(machine.ignore(&[]), @r"
    status: 0
    /var/lib/app       /usr/lib/ebbtide/app.toml:3
    /srv/build         /etc/ebbtide/ebbtide.toml:8
    /var/lib/new       /etc/ebbtide/ebbtide.toml:9
    *.pyc              /etc/ebbtide/ebbtide.toml:10
    node_modules       /etc/ebbtide/ebbtide.toml:11
    /home/alice/x/*.o  /etc/ebbtide/ebbtide.toml:15
    ");
    let again = ["/var/lib/new/below", "*.pyc", "/var/log/x", "/tmp/x", "/var/lib/app"];
    insta::assert_snapshot!(machine.ignore(&again), @r"
    status: 0
    /var/lib/new/below is ignored already by /var/lib/new: /etc/ebbtide/ebbtide.toml:9
    *.pyc is ignored already: /etc/ebbtide/ebbtide.toml:10
    /tmp/x is only counted anyway, as caches, locks and the like are
    /var/lib/app is ignored already: /usr/lib/ebbtide/app.toml:3
    /var/log/x is kept within /var/log, so it is not told: /etc/ebbtide/ebbtide.toml:4
    ");
    let undone = machine.ignore(&[&["--undo", "/other"], &patterns[..]].concat());
    insta::assert_snapshot!(undone, @r"
    status: 0
    /other is not ignored
    - /var/lib/new is not ignored any more: /etc/ebbtide/ebbtide.toml:9
    - *.pyc is not ignored any more: /etc/ebbtide/ebbtide.toml:10
    - node_modules is not ignored any more: /etc/ebbtide/ebbtide.toml:11
    - /home/alice/x/*.o is not ignored any more: /etc/ebbtide/ebbtide.toml:15
    ");
    let expected = DECLARED.to_owned() + "ignore = []\n";
    assert_eq!(machine.read("etc/ebbtide/ebbtide.toml"), expected);
}

#[test]
fn a_dry_run_writes_nothing() {
    let machine = Machine::new();
    insta::assert_snapshot!(machine.ignore(&["--dry-run", "/opt/a\u{1b}[2J"]), @r#"
    status: 0
    /etc/ebbtide/ebbtide.toml
      paths = [
        "/srv/build", # made again
    +   "/opt/a\U0000001B[2J",
      ]
    "#);
    insta::assert_snapshot!(machine.ignore(&["--dry-run", "--undo", "/srv/build"]), @r#"
    status: 0
    /etc/ebbtide/ebbtide.toml
      [ignore] # not worth a word
      paths = [
    -   "/srv/build", # made again
      ]
    "#);
    assert_eq!(machine.read("etc/ebbtide/ebbtide.toml"), DECLARED);
}

#[test]
fn what_is_no_pattern_is_refused() {
    let machine = Machine::new();
    for (arguments, expected) in [
        (&["/"][..], "the pattern ignores everything"),
        (&["**"], "the pattern ignores everything"),
        (&["--undo"], "required"),
        (&["--undo", "/var/lib/app"], "is ignored by a package"),
        (&["--undo", "/srv/build/x"], "is ignored by /srv/build"),
    ] {
        let shown = machine.ignore(arguments);
        assert!(shown.starts_with("status: 2\n") && shown.contains(expected), "{shown}");
    }
    let mut command = machine.command(&[]);
    command.arg(std::ffi::OsStr::from_bytes(b"/srv/\xff"));
    let shown = machine.shown(command);
    assert!(shown.contains("not UTF-8") && shown.contains(r"/srv/\xff"), "{shown}");
    fs::write(machine.0.path().join("etc/ebbtide/ebbtide.toml"), "version = 1\nodd = 1\n").unwrap();
    let shown = machine.ignore(&["/srv/x"]);
    assert!(shown.starts_with("status: 2\n"), "{shown}");
    assert!(shown.contains("cannot change the declaration"), "{shown}");
    assert_eq!(machine.read("etc/ebbtide/ebbtide.toml"), "version = 1\nodd = 1\n");
}

/// A working directory whose name looks like a pattern.
#[test]
fn relative_ones_are_taken_from_the_working_directory() {
    let machine = Machine::new();
    let odd = machine.0.path().join("odd[a]");
    fs::create_dir(&odd).unwrap();
    let mut command = machine.command(&["--dry-run", "--json", "x", "../y/*.o", "*.o"]);
    let output = command.current_dir(&odd).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let patterns = |key: &str| -> Vec<String> {
        let list = json[key].as_array().unwrap().iter();
        list.map(|it| it["pattern"].as_str().unwrap().to_owned()).collect()
    };
    let top = machine.0.path().to_str().unwrap();
    // What lies in /tmp is only counted anyway.
    assert_eq!(patterns("ignored"), [format!("{top}/odd[[]a]/x"), format!("{top}/y/*.o")]);
    assert_eq!(patterns("added"), ["/**/*.o"]);
}

#[test]
fn what_it_prints_is_as_its_schema_says() {
    let machine = Machine::new();
    let schema = Command::new(env!("CARGO_BIN_EXE_ebbtide")).args(["schema", "ignore"]).output();
    let schema: Value = serde_json::from_slice(&schema.unwrap().stdout).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let asked = ["--dry-run", "--json", "/srv/x", "/srv/build/y", "/tmp/z", "/var/log/z"];
    for arguments in
        [&asked[..], &["--json"], &["--dry-run", "--json", "--undo", "/srv/build", "/x"]]
    {
        let output = machine.command(arguments).output().unwrap();
        let printed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let wrong: Vec<_> = schema.iter_errors(&printed).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:#?} in {printed:#}");
        let count = |key: &str| printed[key].as_array().unwrap().len();
        let counts = ["added", "ignored", "kept", "removed", "not_ignored", "rules"].map(count);
        let expected = match arguments.len() {
            1 => [0, 0, 0, 0, 0, 2],
            5 => [0, 0, 0, 1, 1, 1],
            _ => [1, 2, 1, 0, 0, 3],
        };
        assert_eq!(counts, expected, "{printed:#}");
    }
}

#[test]
fn that_of_a_throw_away_root() {
    let machine = Machine::new();
    let state = machine.0.path().join("state");
    let shown = machine.ignore(&["--state", state.to_str().unwrap(), "*.o"]);
    assert_eq!(shown, "status: 0\n+ *.o is ignored: /state/ebbtide.toml\n");
    let text = "version = 1\n[keep]\n\n[ignore]\npaths = [\"*.o\"]\n";
    assert_eq!(machine.read("state/ebbtide.toml"), text);
    assert_eq!(machine.read("etc/ebbtide/ebbtide.toml"), DECLARED);
}

#[test]
fn where_etc_is_read_only_it_is_the_machines_own() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let own = machine.0.path().join("run/ebbtide/stores/state/.ebbtide");
    fs::create_dir_all(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    let etc = machine.0.path().join("etc");
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let in_namespace = |arguments: &[&str]| {
        let inner = machine.command(arguments);
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c", script]).arg(&etc);
        command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        machine.shown(command)
    };
    let shown = in_namespace(&["*.o"]);
    assert!(shown.contains("is ignored: /run/ebbtide/stores/state/.ebbtide/keep.toml"), "{shown}");
    let text = machine.read("run/ebbtide/stores/state/.ebbtide/keep.toml");
    assert_eq!(text, "version = 1\n\n[ignore]\npaths = [\"*.o\"]\n");
    let shown = in_namespace(&["--undo", "*.o", "/srv/build"]);
    assert!(shown.starts_with("status: 2\n") && shown.contains("it is read-only"), "{shown}");
    assert_eq!(machine.read("run/ebbtide/stores/state/.ebbtide/keep.toml"), text);
    let shown = in_namespace(&["--undo", "*.o"]);
    assert!(shown.starts_with("status: 0\n- *.o is not ignored any more"), "{shown}");
}
