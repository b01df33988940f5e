//! `ebbtide rehearse` as its users run it: as root, on a machine in a loop image.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "try_root/harness.rs"]
#[allow(dead_code, reason = "shared")]
mod harness;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use harness::{needs_root, small_system};
use serde_json::Value;
use testkit::mount::{Filesystem, Volume};

const KEEP: &str = "\
[keep]
directories = [\"/var/log\", { path = \"/var/lib/app\", mode = \"0700\" }]
files = [{ path = \"/etc/hosts\", method = \"sync\" }]
";

/// A machine that is set up and has not booted yet, seen from outside.
struct Machine {
    volume: Volume,
    directory: tempfile::TempDir,
}

impl Machine {
    fn new(filesystem: Filesystem) -> Self {
        let volume = Volume::new(filesystem, 400 << 20).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        small_system(&tree);
        fs::create_dir_all(tree.join("var/log")).unwrap();
        fs::write(tree.join("var/log/old"), "before\n").unwrap();
        fs::write(tree.join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(tree.join("etc/fstab"), "UUID=old / btrfs subvolid=257 0 1\n").unwrap();
        let device = volume.device().unwrap();
        let (backend, place) = match filesystem {
            Filesystem::Btrfs => ("btrfs", "subvolume"),
            _ => ("overlay", "directory"),
        };
        let text = format!(
            "version = 1\n[root]\nbackend = \"{backend}\"\ndevice = \"{}\"\n\
             ephemeral = [\"/home\", \"/root\", \"/srv\"]\n\
             [store.state]\n{place} = \"state\"\n{KEEP}",
            device.display()
        );
        fs::write(directory.path().join("ebbtide.toml"), text).unwrap();
        let machine = Self { volume, directory };
        let base = tree.to_str().unwrap().to_owned();
        let config = machine.directory.path().join("ebbtide.toml").display().to_string();
        let device = device.display().to_string();
        let made = Machine::ebbtide(&[
            "init",
            "--yes",
            "--updaters",
            "keep",
            "--device",
            &device,
            "--base-directory",
            &base,
            "--config",
            &config,
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        machine
    }

    /// Runs the program where nothing of this machine's own Ebbtide can be seen.
    fn ebbtide(arguments: &[&str]) -> Output {
        Command::new("unshare")
            .args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$@\"", "sh"])
            .arg(env!("CARGO_BIN_EXE_ebbtide"))
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn rehearse(&self, options: &[&str], command: &[&str]) -> Output {
        let config = self.volume.path().join("state/etc/ebbtide/ebbtide.toml");
        let mut arguments = vec!["rehearse", "--config", config.to_str().unwrap()];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(command);
        Self::ebbtide(&arguments)
    }

    /// All names, owners, modes, times and contents.
    fn everything(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![self.volume.path().to_owned()];
        while let Some(path) = pending.pop() {
            let seen = fs::symlink_metadata(&path).unwrap();
            if seen.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            }
            let content = if seen.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let times = (seen.ctime(), seen.ctime_nsec());
            let owner = (seen.uid(), seen.gid(), seen.mode());
            found.push(format!("{} {owner:?} {times:?} {content:?}", path.display()));
        }
        found.sort();
        found
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn each(test: impl Fn(Machine)) {
    needs_root!();
    for filesystem in [Filesystem::Btrfs, Filesystem::Ext4] {
        eprintln!("on {filesystem:?}");
        test(Machine::new(filesystem));
    }
}

#[test]
fn root_inside_reaches_nothing_of_the_machine() {
    each(|machine| {
        let before = machine.everything();
        let hostile = "set -e\n\
            cat /var/log/old; stat -c %a /var/lib/app\n\
            echo bad >/var/log/old; echo bad >/var/log/new; mv /var/log/new /var/log/other\n\
            echo bad >>/etc/hosts; rm -r /etc/issue /srv; mv /var/lib/app /var/lib/other || true\n\
            chmod 777 /var/log; rm -rf /run/ebbtide/stores/state/* \n\
            mount -o remount,rw,bind /var/log\n\
            mount -o remount,rw / && echo bad >/bad\n\
            for it in /dev/*; do if test -b $it; then echo a disk: $it; fi; done\n\
            test -z \"$(ls /run/ebbtide/stores/state)\"; echo done";
        let ran = machine.rehearse(&["--no-network"], &["sh", "-c", hostile]);
        assert!(ran.status.success(), "{}", text(&ran.stderr));
        assert_eq!(text(&ran.stdout), "before\n700\ndone\n");
        let said = text(&ran.stderr);
        assert!(said.contains("ok boot 1 would start from base 1 with"), "{said}");
        assert!(before.len() > 30, "something was compared");
        assert_eq!(before, machine.everything());
    });
}

#[test]
fn its_status_is_that_of_the_command() {
    each(|machine| {
        let status = |command: &[&str]| machine.rehearse(&[], command).status.code().unwrap();
        assert_eq!(status(&["sh", "-c", "exit 7"]), 7);
        assert_eq!(status(&["sh", "-c", "kill -TERM $$"]), 128 + 15);
        assert_eq!(status(&["/no/such/command"]), 127);
        assert_eq!(status(&["/etc/hosts"]), 126);
        let failed = Machine::ebbtide(&["rehearse", "--config", "/no/such/file", "--", "true"]);
        assert_eq!(failed.status.code(), Some(125), "{}", text(&failed.stderr));
        let usage = Machine::ebbtide(&["rehearse", "--no-such-option"]);
        assert_eq!(usage.status.code(), Some(125));
    });
}

#[test]
fn what_is_printed_is_as_its_schema_says() {
    each(|machine| {
        let place = machine.directory.path().join("report.json");
        let option = format!("--json={}", place.display());
        let ran = machine.rehearse(&[&option], &["sh", "-c", "exit 4"]);
        assert_eq!(ran.status.code(), Some(4), "{}", text(&ran.stderr));
        assert_eq!(text(&ran.stderr), "", "what is written to a file is not told");
        let printed: Value = serde_json::from_slice(&fs::read(&place).unwrap()).unwrap();
        assert_eq!(printed["command"]["exited"], 4);
        assert_eq!(printed["boot"], 1);
        assert_eq!(printed["entries"]["missing"], Value::Array(Vec::new()), "{printed:#}");
        let in_place = printed["entries"]["in_place"].as_u64().unwrap();
        assert!(in_place >= 3, "{printed:#}");
        is_as_its_schema_says(&printed);
    });
}

/// Fails unless the schema accepts what was printed, and refuses another version.
fn is_as_its_schema_says(printed: &Value) {
    let schema = Command::new(env!("CARGO_BIN_EXE_ebbtide")).args(["schema", "rehearse"]).output();
    let schema: Value = serde_json::from_slice(&schema.unwrap().stdout).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    let wrong: Vec<_> = schema.iter_errors(printed).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?} in {printed:#}");
    let mut odd = printed.clone();
    odd["version"] = 2.into();
    assert!(!schema.is_valid(&odd), "it accepts another version");
}

#[test]
fn an_entry_that_is_missing_is_named() {
    each(|machine| {
        // A link in the way of an entry: in the store, where nothing may lead out of it.
        let entry = machine.volume.path().join("state/var/lib/app");
        fs::create_dir_all(entry.parent().unwrap()).unwrap();
        if entry.exists() {
            fs::remove_dir_all(&entry).unwrap();
        }
        std::os::unix::fs::symlink("/etc", &entry).unwrap();
        let ran = machine.rehearse(&["--json"], &["true"]);
        let printed: Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(printed["entries"]["missing"][0], "/var/lib/app", "{printed:#}");
        assert!(!printed["problems"].as_array().unwrap().is_empty());
        is_as_its_schema_says(&printed);
        let told = text(&machine.rehearse(&[], &["true"]).stderr);
        assert!(told.contains("!! boot 1 would start from base 1"), "{told}");
        assert!(told.contains("without /var/lib/app"), "{told}");
    });
}

#[test]
fn processes_and_mounts_go_with_it() {
    each(|machine| {
        let mark = format!("ebbtide-rehearsal-{}", std::process::id());
        let leave = format!("MARK={mark} sleep 1000 & echo started");
        let ran = machine.rehearse(&[], &["sh", "-c", &leave]);
        assert_eq!(text(&ran.stdout), "started\n", "{}", text(&ran.stderr));
        assert_eq!(harness::processes_with(&mark), Vec::<u32>::new());
        let rest: Vec<PathBuf> = mounts_with("rehearsal");
        assert_eq!(rest, Vec::<PathBuf>::new());
    });
}

fn mounts_with(word: &str) -> Vec<PathBuf> {
    let all = fs::read_to_string("/proc/self/mounts").unwrap();
    let places = all.lines().filter_map(|line| line.split(' ').nth(1));
    places.filter(|place| place.contains(word)).map(|it| Path::new(it).to_owned()).collect()
}
