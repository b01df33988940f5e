//! What units tell unasked: how much the last reset took, and what the next one is about to take.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;
mod program;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use ebbtide_core::boot::Boot;
use ebbtide_core::once::Once;
use ebbtide_core::shutdown;
use machine::{KINDS, Kind, Machine, is_root, read, write};
use program::ebbtide_running as ebbtide;

const KEEP: &str = "[ignore]\npaths = [\"*.o\"]\n[keep]\ndirectories = [\"/var/log\"]\n";
const DECLARATION: &str = "etc/ebbtide/ebbtide.toml";
const LINE: &str = "/run/ebbtide/taken";

fn machine(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    write(&machine.source(), DECLARATION, &machine.toml(KEEP));
    machine.set_up(KEEP);
    machine
}

/// What nobody would miss.
fn nothing(root: &Path) {
    write(root, "etc/.pwd.lock", "");
    write(root, "home/alice/.cache/page", "12345");
    write(root, "srv/a.o", "12345");
    write(root, "var/log/kept.log", "kept");
}

/// Runs the step as its unit does. The mount namespace is that of one boot.
fn taken(boot: &Boot, root: &Path) -> Option<String> {
    let ran = ebbtide(&boot.run, root, &["internal", "taken"]);
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    read(Path::new("/"), LINE)
}

/// Runs the step with no other capabilities than its unit has.
fn with_the_privileges_of_the_unit(root: &Path) {
    let unit = include_str!("../../../systemd/ebbtide-taken.service");
    let bound = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let bound = bound.unwrap().to_lowercase().replace(" cap_", ",+").replace("cap_", "+");
    let ran = Command::new("setpriv")
        .args(["--no-new-privs", "--bounding-set", &format!("-all,{bound}")])
        .args([env!("CARGO_BIN_EXE_ebbtide"), "--sysroot"])
        .arg(root)
        .args(["internal", "taken"])
        .output()
        .unwrap();
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
}

fn end(boot: &Boot, root: &Path) {
    shutdown::mark_clean(boot, root).unwrap();
}

#[test]
fn how_much_the_last_reset_took() {
    if is_root() {
        [KINDS[0], KINDS[1]].into_iter().for_each(how_much);
    }
}

fn how_much(kind: Kind) {
    let machine = machine(kind);
    machine.live("", |root, boot| {
        assert_eq!(taken(boot, root), None, "nothing was ever taken");
        nothing(root);
        write(root, "srv/secret plan\u{1b}[2J", "0123456789");
        fs::remove_file(root.join("etc/group")).unwrap();
        write(root, "home/alice/private/note", "x");
        let private = root.join("home/alice/private");
        chown(&private, Some(1000), Some(1000)).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        write(root, "opt/half", "carried over\n");
        let once = Once::open(boot, root).unwrap();
        once.apply(&once.plan(&["/opt/half".into()]).unwrap()).unwrap();
        end(boot, root);
    });
    machine.live("", |root, boot| {
        let line = taken(boot, root).unwrap();
        let told = "ebbtide: the last reset took away 3 changes, 11 B: `sudo ebbtide diff --boot \
                    last` lists it, `sudo ebbtide restore PATH` brings it back\n";
        assert_eq!(line, told, "{kind:?}");
        assert_eq!(fs::metadata(LINE).unwrap().permissions().mode() & 0o7777, 0o644);
        // What it names tells the same.
        let listed = ebbtide(&boot.run, root, &["diff", "--boot", "last"]);
        assert_eq!(listed.status, 3);
        let listed = listed.text();
        assert!(listed.contains("2 new, 1 deleted: 11 B\n"), "{kind:?}: {listed}");
        assert!(listed.contains("carried over it, once: /opt/half: "), "{kind:?}: {listed}");

        fs::remove_file(LINE).unwrap();
        with_the_privileges_of_the_unit(root);
        assert_eq!(read(Path::new("/"), LINE).as_deref(), Some(told), "{kind:?}");

        let declaration = read(root, DECLARATION).unwrap();
        write(root, DECLARATION, &(declaration.clone() + "[report]\nlogin = false\n"));
        assert_eq!(taken(boot, root), None);
        write(root, DECLARATION, &declaration);
        assert!(taken(boot, root).is_some());
        // Once the past root is gone, it would lead nowhere.
        assert_eq!(ebbtide(&boot.run, root, &["internal", "attention"]).status, 0);
        assert!(Path::new(LINE).exists());
        machine.look(|top| {
            fs::rename(top.join("ebbtide/past/1"), top.join("ebbtide/gc-1")).unwrap();
        });
        assert_eq!(ebbtide(&boot.run, root, &["internal", "attention"]).status, 0);
        assert!(!Path::new(LINE).exists());
        assert_eq!(taken(boot, root), None);
        nothing(root);
        fs::remove_dir_all(root.join("opt")).unwrap();
        end(boot, root);
    });
    machine.live("", |root, boot| {
        assert_eq!(taken(boot, root), None, "{kind:?}: only noise, and what is ignored");
        write(root, "srv/file", "x");
        end(boot, root);
    });
    machine.live("ebbtide=off", |root, boot| {
        assert_eq!(taken(boot, root), None, "no reset");
        end(boot, root);
    });
    // One that was cut off puts the root away, and the next one tells of it.
    machine.cut_after_reset();
    machine.live("", |root, boot| {
        let line = taken(boot, root).unwrap_or_default();
        assert!(line.contains("took away 1 change, 1 B: "), "{kind:?}: {line}");
    });
}

#[test]
fn what_the_next_reset_is_about_to_take() {
    if is_root() {
        [KINDS[0], KINDS[1], KINDS[4]].into_iter().for_each(about_to_go);
    }
}

fn about_to_go(kind: Kind) {
    let machine = machine(kind);
    machine.live("", |root, boot| {
        nothing(root);
        let step = |more: &[&str]| {
            let arguments = [&["--color", "always", "internal", "about-to-go"], more].concat();
            let ran = ebbtide(&boot.run, root, &arguments);
            assert_eq!((ran.status, ran.out), (0, Vec::new()));
            ran.err
        };
        write(root, "srv/plan\u{1b}[2J\n<0>new", "0123456789");
        assert_eq!(step(&[]), "", "nobody asked for it");
        let declaration = read(root, DECLARATION).unwrap();
        write(root, DECLARATION, &(declaration + "[report]\nshutdown = true\n"));
        let after = match kind.filesystem {
            _ if kind == KINDS[4] => "the root is in RAM: it is gone for good then",
            _ => "after that, `ebbtide restore PATH` brings it back from the past root",
        };
        let told = format!(
            "<4>ebbtide: the next reset takes away:\n\
             <4>ebbtide: +     10 B  /srv/plan\\x1b[2J\\n<0>new  new\n\
             <4>ebbtide: 1 new: 10 B\n\
             <4>ebbtide: {after}\n"
        );
        assert_eq!(step(&[]), told, "{kind:?}");
        let late = "<4>ebbtide: what the next reset takes away could not be added up in time\n";
        assert_eq!(step(&["--within", "0"]), late);
        for number in 0..50 {
            write(root, &format!("srv/{number}/file"), "0123456789");
        }
        assert!(step(&[]).lines().count() < 15);
        fs::remove_dir_all(root.join("srv")).unwrap();
        fs::create_dir(root.join("srv")).unwrap();
        assert_eq!(step(&[]), "", "{kind:?}: nothing is taken that anybody would miss");
    });
}

/// Both units are sound, with a program in the place of the one that is not installed here.
#[test]
fn the_units_are_sound() {
    let Ok(version) = Command::new("systemd-analyze").arg("--version").output() else {
        eprintln!("SKIPPED: needs systemd-analyze");
        return;
    };
    assert!(version.status.success());
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
    for name in ["ebbtide-taken.service", "ebbtide-about-to-go.service"] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        assert!(text.contains("/usr/bin/ebbtide internal"), "{name}");
        let path = folder.path().join(name);
        fs::write(&path, text.replace("/usr/bin/ebbtide", "/usr/bin/env")).unwrap();
        let mut verify = Command::new("systemd-analyze");
        let said = verify.args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(!said.contains(name), "{said}");
    }
}
