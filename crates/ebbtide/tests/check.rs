//! `ebbtide check` on machines that run, in loop images.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;
mod program;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use machine::{KINDS, Kind, Machine, is_root, write};
use program::{Ran, ebbtide_running as ebbtide, unlike_its_schema};

const KEEP: &str = r#"
[store.keys]
PLACE = "keys"
class = "secret"
[keep]
presets = ["redis"]
directories = [
  "/var/lib/ngnix",
  "/var/lib/used",
  "/var/lib/later",
  "/var/lib/was",
  { path = "/var/keys", store = "keys" },
  { path = "/root", mode = "0700" },
]
files = ["/etc/app.cnf", "/etc/bound.conf", "/etc/fresh.conf"]
"#;

fn keep(machine: &Machine) -> String {
    KEEP.replace("PLACE", machine.place_of_stores())
}

fn mode(root: &Path, path: &str, mode: u32) {
    fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
}

/// The declaration where the machine has it, and its name out of what is said.
fn check(machine: &Machine, run: &Path, root: &Path, more: &[&str]) -> Ran {
    write(root, "/etc/ebbtide/ebbtide.toml", &machine.toml(&keep(machine)));
    let arguments: Vec<_> = ["check", "--color", "never"].iter().chain(more).copied().collect();
    ebbtide(run, root, &arguments)
}

/// The same on a machine whose journal says this. There is none in a loop image.
fn with_journal(machine: &Machine, root: &Path, said: &str) -> Ran {
    let programs = tempfile::tempdir().unwrap();
    let journalctl = programs.path().join("journalctl");
    fs::write(&journalctl, format!("#!/bin/sh\necho \"{said}\"\n")).unwrap();
    fs::set_permissions(&journalctl, fs::Permissions::from_mode(0o755)).unwrap();
    write(root, "/etc/ebbtide/ebbtide.toml", &machine.toml(&keep(machine)));
    let path = format!("{}:/usr/bin:/bin", programs.path().display());
    let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
        .args(["--sysroot", root.to_str().unwrap(), "check", "--json"])
        .env_clear()
        .env("PATH", path)
        .output()
        .unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    Ran { status: output.status.code().unwrap(), out: output.stdout, err }
}

/// Severity, message and hint of each problem.
fn told(ran: &Ran) -> Vec<String> {
    let json = ran.json();
    assert_eq!(unlike_its_schema("check", &json), [""; 0]);
    assert_eq!(json["machine"]["done"], true, "{json}");
    let problems = json["problems"].as_array().unwrap().iter();
    problems
        .map(|it| {
            let text = |key: &str| it[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}\n  {}", text("severity"), text("message"), text("hint"))
        })
        .collect()
}

#[test]
fn what_only_the_running_machine_shows() {
    if is_root() {
        [KINDS[0], KINDS[1], KINDS[4]].into_iter().for_each(on);
    }
}

fn on(kind: Kind) {
    let machine = Machine::of(kind);
    let source = machine.source();
    write(&source, "/etc/bound.conf", "bound\n");
    write(&source, "/var/lib/was/x", "in the base once\n");
    machine.set_up(&keep(&machine));
    let mess = |root: &Path| {
        write(root, "/var/lib/nginx/cache", "x");
        write(root, "/etc/app.conf", "x");
        write(root, "/var/lib/used/db", "x");
    };
    machine.boot("", |root| {
        mess(root);
        // It is empty ever after, and was not always.
        write(root, "/var/lib/later/x", "x");
        fs::remove_file(root.join("var/lib/later/x")).unwrap();
        fs::remove_file(root.join("var/lib/was/x")).unwrap();
        write(root, "/var/keys/a", "x");
        mode(root, "var/keys/a", 0o644);
        mode(root, "var/keys", 0o755);
        write(root, "/root/.ssh/id_ed25519", "x");
        mode(root, "root/.ssh", 0o755);
    });
    machine.live("", |root, boot| {
        mess(root);
        let early = told(&check(&machine, &boot.run, root, &["--json"])).join("\n");
        assert!(!early.contains("in 2 boots") && early.contains("`/var/keys/a`"), "{early}");
    });
    machine.live("", |root, boot| {
        mess(root);
        let problems = told(&check(&machine, &boot.run, root, &["--json"]));
        insta::allow_duplicates! { insta::assert_snapshot!(problems.join("\n")); }
        let text = check(&machine, &boot.run, root, &[]).text();
        let place = "  --> /etc/ebbtide/ebbtide.toml:";
        let at = text.find("`/var/lib/ngnix` was always empty").unwrap();
        assert!(text[at..].lines().nth(1).unwrap().contains(place.trim()), "{text}");
        assert!(text[at..].contains("\"/var/lib/ngnix\",\n"), "{text}");

        // Who may enter the directory, may read the key in it.
        mode(root, "root", 0o755);
        let open = told(&check(&machine, &boot.run, root, &["--json"])).join("\n");
        assert!(open.contains("`/root/.ssh/id_ed25519` is secret, and everyone can read it"), "{open}");
        mode(root, "var/keys/a", 0o600);
        mode(root, "root/.ssh", 0o700);
        let closed = told(&check(&machine, &boot.run, root, &["--json"])).join("\n");
        assert!(!closed.contains("is secret"), "{closed}");

        assert!(!closed.contains("tried to replace"), "{closed}");
        let said = "mv: cannot move '/etc/x' to '/etc/bound.conf': Device or resource busy";
        let journal = told(&with_journal(&machine, root, said)).join("\n");
        assert!(journal.contains("the journal has `mv: cannot move '/etc/x'"), "{journal}");
        let slow = with_journal(&machine, root, &format!("{said}\"; exec sleep 60; echo \""));
        assert!(!told(&slow).join("\n").contains("tried to replace"));

        // What a program does that replaces a file.
        write(root, "/etc/bound.conf.tmp", "new\n");
        let failed = fs::rename(root.join("etc/bound.conf.tmp"), root.join("etc/bound.conf"));
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(16));
        let replaced = told(&check(&machine, &boot.run, root, &["--json"])).join("\n");
        let sign = "warning `/etc/bound.conf` is mounted, and something tried to replace it, which fails \
                    on a mount: `/etc/bound.conf.tmp` was left beside it in this boot\n  use `method = \
                    \"sync\"`";
        assert!(replaced.contains(sign), "{replaced}");

        // Of a file that is not in force, only the words are checked.
        let file = root.join("etc/ebbtide/ebbtide.toml");
        let alone = check(&machine, &boot.run, root, &["--json", "--config", file.to_str().unwrap()]);
        assert!(alone.json()["machine"].is_null());
        // Nor on a root that is not the one that runs.
        let other = program::ebbtide(&source, &["check", "--json"]);
        assert!(other.status == 2 || other.json()["machine"].is_null(), "{}", other.err);
    });
}
