//! `ebbtide log`, `ebbtide restore` and `ebbtide forget --move-back` as their users run them, on a root that was booted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use ebbtide_core::boot::Boot;
use machine::{KINDS, Kind, Machine, is_root, read, run, write};
use serde_json::Value;

/// Makes the run directory of a boot that of this mount namespace.
fn settle(boot: &Boot) {
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    fs::create_dir("/run/ebbtide").unwrap();
    run("mount", &["--rbind", boot.run.to_str().unwrap(), "/run/ebbtide"]);
}

/// What was typed and what was said, times left out.
#[derive(Default)]
struct Transcript(Mutex<String>);

impl Transcript {
    /// Runs the program.
    fn run(&self, root: &Path, arguments: &[&OsStr]) {
        let top = root.to_str().unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
            .args(["--sysroot", top])
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(top, "");
        let status = output.status.code().unwrap();
        let mut shown = format!("{}{}= {status}\n", text(&output.stdout), text(&output.stderr));
        let hash = shown.split("entries as ").nth(1).and_then(|it| it.split(':').next());
        if let Some(hash) = hash.map(str::to_owned) {
            shown = shown.replace(&hash, "<hash>");
        }
        let typed: Vec<_> = arguments.iter().map(|it| ebbtide_sys::escape(it.as_bytes())).collect();
        let mut all = self.0.lock().unwrap();
        all.extend(["$ ebbtide ", &typed.join(" "), "\n", &timeless(&shown)]);
    }

    fn line(&self, root: &Path, line: &str) {
        let arguments: Vec<_> = line.split(' ').map(OsStr::new).collect();
        self.run(root, &arguments);
    }

    /// All of it. Insta wants to be asked on the test's own thread.
    fn end(self) -> String {
        self.0.into_inner().unwrap()
    }
}

/// Replaces dates and times, which are as long in every run.
fn timeless(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let is_time = |part: &[u8]| {
        let shape: Vec<u8> =
            part.iter().map(|byte| if byte.is_ascii_digit() { b'0' } else { *byte }).collect();
        shape == b"0000-00-00 00:00:00"
    };
    for at in 0..bytes.len().saturating_sub(18) {
        if is_time(&bytes[at..at + 19]) {
            bytes[at..at + 19].copy_from_slice(b"<a date and a time>");
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Runs a test for subvolumes and for an overlay.
fn on_each_disk(test: impl Fn(Kind)) {
    if is_root() {
        insta::allow_duplicates! {
            for kind in [KINDS[0], KINDS[1]] {
                test(kind);
            }
        }
    }
}

#[test]
fn what_was_forgotten_is_found_and_brought_back() {
    on_each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
        machine.boot("", |root| {
            write(root, "etc/issue", "one\n");
            write(root, "srv/app/conf", "one\n");
            fs::write(root.join(OsStr::from_bytes(b"srv/odd\x1b[31m\n\xff")), "odd").unwrap();
        });
        machine.boot("", |_| ());
        let said = Transcript::default();
        machine.live("", |root, boot| {
            settle(boot);
            said.line(root, "log /etc/issue");
            said.line(root, "log /etc/nothing");
            said.line(root, "log /srv/**/c?nf");
            said.line(root, "log /srv/*.nothing");
            said.line(root, "log --grep one /srv");
            said.line(root, "log --search c?nf --grep one");
            said.line(root, "log --grep nothing /srv");
            said.line(root, "log --search c*/onf");
            said.run(root, &["log", "--grep", "", "/srv"].map(OsStr::new));
            fs::create_dir("/run/look").unwrap();
            said.line(root, "boots mount --dry-run 1 /run/look");
            said.line(root, "boots mount 1 /run/look");
            assert_eq!(read(Path::new("/run/look"), "etc/issue").as_deref(), Some("one\n"));
            said.line(root, "boots mount 2 /run/look");
            run("umount", &["/run/look"]);
            said.line(root, "restore --dry-run --force /etc/issue /srv/app/conf");
            assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
            said.line(root, "restore /srv/app/conf /etc/issue");
            assert!(!root.join("srv/app").exists(), "all or nothing");
            said.line(root, "restore --boot 2 /srv/app");
            said.line(root, "restore --force /etc/issue");
            assert_eq!(read(root, "etc/issue").as_deref(), Some("one\n"));
            let odd = OsStr::from_bytes(b"/srv/odd\x1b[31m\n\xff");
            said.run(root, &[OsStr::new("restore"), odd]);
            said.line(root, "restore --dry-run --keep /srv/app");
            said.line(root, "restore --keep /srv/app");
            assert_eq!(read(root, "srv/app/conf").as_deref(), Some("one\n"));
            ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
        });
        machine.boot("", |root| {
            assert_eq!(read(root, "srv/app/conf").as_deref(), Some("one\n"), "it is kept");
            assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
        });
        insta::assert_snapshot!("forgotten_and_brought_back", said.end());
    });
}

#[test]
fn what_is_forgotten_is_moved_back() {
    on_each_disk(|kind| {
        let machine = Machine::of(kind);
        let kept = "[keep]\ndirectories = [\n  \"/var/log\",\n  \"/srv/app\", # the app\n]\n";
        machine.set_up(kept);
        let declared = |root: &Path| read(root, "etc/ebbtide/ebbtide.toml").unwrap();
        let is_declared = |root: &Path| declared(root).contains("/srv/app");
        let large = "x".repeat(1 << 20);
        machine.boot("", |root| write(root, "srv/app/conf", &large));
        let said = Transcript::default();
        machine.live("", |root, boot| {
            settle(boot);
            let dry = Transcript::default();
            dry.line(root, "forget --move-back --dry-run /srv/app");
            let dry = dry.end();
            assert!(
                dry.contains("/srv/app comes back to the root from store state, 1.0 MiB"),
                "{dry}"
            );
            assert!(!dry.contains("its data stays"), "{dry}");
            assert!(is_declared(root));
            let reader = fs::File::open(root.join("srv/app/conf")).unwrap();
            said.line(root, "forget --move-back /srv/app");
            drop(reader);
            assert!(is_declared(root));
            said.line(root, "forget --move-back /srv/app");
            assert!(read(root, "srv/app/conf") == Some(large));
            said.line(root, "forget --move-back /srv/app");
            assert!(!is_declared(root));
            ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
        });
        machine.boot("", |root| assert!(!root.join("srv/app").exists()));
        insta::assert_snapshot!("forgotten_and_moved_back", said.end());
    });
}

#[test]
fn what_no_entry_keeps_is_listed_and_moved() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[0]);
    machine.set_up("[keep]\ndirectories = [\"/var/log\", \"/srv/old\"]\n");
    machine.boot("", |root| write(root, "srv/old/it", &"x".repeat(1 << 20)));
    machine.live("", |root, boot| {
        settle(boot);
        let said = |line: &str| {
            let said = Transcript::default();
            said.line(root, line);
            said.end()
        };
        said("forget /srv/old");
        let told = "store state has data of /srv/old, which no entry keeps any more";
        assert!(said("status").contains(told), "{}", said("status"));
        let note = "-- note: store state has /srv/old (1.0 MiB), and no entry keeps it since boot 2, \
                    <a date and a time> UTC: `ebbtide gc --undeclared` moves it to the trash\n";
        assert!(said("gc --dry-run").contains(note), "{}", said("gc --dry-run"));
        let step =
            "move /srv/old (1.0 MiB), which no entry keeps, to the trash of store state\n";
        let dry = said("gc --dry-run --undeclared");
        assert!(dry.contains(step) && !dry.contains("has /srv/old"), "{dry}");
        let done = said("gc --undeclared");
        assert!(done.contains(step) && done.contains("1 path moved to the trash\n"), "{done}");
        assert!(!said("gc --dry-run --undeclared").contains("/srv/old"));
    });
}

#[test]
fn what_is_printed_as_json_is_as_its_schema_says() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[1]);
    machine.set_up("[keep]\ndirectories = [\"/var/log\", \"/srv/old\"]\n");
    machine.boot("", |root| {
        write(root, "srv/old/it", "old\n");
        write(root, "etc/issue", "one\n");
        write(root, "srv/deep/file", "one\n");
        fs::set_permissions(root.join("srv/deep/file"), fs::Permissions::from_mode(0o4755))
            .unwrap();
    });
    machine.live("", |root, boot| {
        settle(boot);
        let print = |line: &str| -> Value {
            let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
                .args(["--sysroot", root.to_str().unwrap()])
                .args(line.split(' '))
                .output()
                .unwrap();
            serde_json::from_slice(&output.stdout)
                .unwrap_or_else(|_| panic!("{line}: {}", String::from_utf8_lossy(&output.stderr)))
        };
        for (name, line, must_have) in [
            ("log", "log --json --grep one /etc", "/histories/0/runs/0/matches/text"),
            ("log", "log --json /etc/issue", "/histories/0/runs/1/state/present/content"),
            ("restore", "restore --json --dry-run --force /etc/issue", "/restored/0/what/kind"),
            ("restore", "restore --json --to /run /srv/deep", "/restored/0/unprivileged/0"),
            ("restore", "restore --json --force /etc/issue /srv/deep/file", "/restored/0/trash"),
            ("forget", "forget --json /srv/old", "/changes/0/path"),
            ("gc", "gc --json --dry-run", "/undeclared/0/since/boot"),
            ("gc", "gc --json --undeclared", "/done/0/path"),
            ("forget", "forget --json --dry-run --move-back /var/log", "/moved_back/0/bytes"),
            ("forget", "forget --json --move-back /var/log", "/moved_back/0/trash"),
        ] {
            let printed = print(line);
            assert!(printed.pointer(must_have).is_some_and(|it| !it.is_array()), "{printed:#}");
            let schema = print(&format!("schema {name}"));
            let schema = jsonschema::draft202012::new(&schema).unwrap();
            let wrong: Vec<_> = schema.iter_errors(&printed).map(|it| it.to_string()).collect();
            assert!(wrong.is_empty(), "{line}: {wrong:#?} in {printed:#}");
            let mut odd = printed;
            odd["version"] = 2.into();
            assert!(!schema.is_valid(&odd), "{name} accepts another version");
        }
        assert_eq!(read(root, "etc/issue").as_deref(), Some("one\n"));
        assert_eq!(read(root, "srv/deep/file").as_deref(), Some("one\n"));
    });
}
