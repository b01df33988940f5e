//! Boots that do not come up, and the one that falls back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::record::Outcome;
use ebbtide_core::shutdown;
use machine::{Booted, Kind, Machine, is_root, read, write};

on_each_disk!(
    after_three_that_failed_only_what_is_required_is_there,
    without_a_boot_that_came_up_nothing_is_counted,
);

const KEEP: &str = "[keep]\n\
directories = [\"/home\", { path = \"/etc/extra\", optional = true }]\n";

fn came_up(root: &Path, boot: &Boot) {
    let noted = shutdown::came_up(boot, root);
    assert!(noted.unwrap_or_else(|failure| panic!("{}", failure.chain())));
    // Nothing is noted of another root, and it is no failure.
    assert!(!shutdown::came_up(boot, Path::new("/")).unwrap());
}

fn cut(machine: &Machine) -> Booted {
    machine.live("", |root, _| {
        assert_eq!(read(root, "etc/extra/unit").as_deref(), Some("breaks\n"));
    })
}

/// Comes up once, with an entry that is not required.
fn set_up(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.look(|top| write(top, "state/etc/extra/unit", "breaks\n"));
    machine
}

fn after_three_that_failed_only_what_is_required_is_there(kind: Kind) {
    let machine = set_up(kind);
    let up = machine.live("", came_up);
    cut(&machine);
    cut(&machine);
    // An orderly end, and what somebody asked for, is no failed boot.
    machine.boot("", |_| ());
    cut(&machine);
    cut(&machine);
    machine.live("ebbtide=keep", |_, _| ());
    let third = cut(&machine);
    assert_eq!(third.errors(), Vec::<&str>::new());
    for _ in 0..2 {
        // One that does not come up either is followed by another.
        let fallback = machine.live("", |root, boot| {
            assert_eq!(read(root, "etc/extra/unit"), None, "it is not required");
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
            let status = Machine::status(boot, root);
            assert!(status.proved && !status.ok, "{status:?}");
            assert_eq!(status.problems.len(), 1, "{status:?}");
            assert!(status.brief().unwrap().contains("came up"), "{status:?}");
        });
        assert_eq!(fallback.record.outcome, Outcome::Reset);
        assert_eq!(fallback.record.fallback, Some(up.record.number));
        assert!(fallback.errors()[0].contains("only the base and required entries"));
    }
    machine.live("", |root, boot| {
        assert_eq!(read(root, "etc/extra/unit"), None);
        write(root, "home/alice/repair", "kept\n");
        came_up(root, boot);
    });
    for _ in 0..3 {
        let again = cut(&machine);
        assert_eq!((again.record.fallback, again.errors()), (None, Vec::new()), "armed afresh");
    }
    let fallback = machine.live("", |root, _| {
        assert_eq!(read(root, "home/alice/repair").as_deref(), Some("kept\n"));
    });
    assert!(fallback.record.fallback.is_some());
    if kind.backend != Backend::Tmpfs {
        assert!(fallback.record.put_away.is_some(), "the root of the failed boot stays");
    }
}

fn without_a_boot_that_came_up_nothing_is_counted(kind: Kind) {
    let machine = set_up(kind);
    for _ in 0..5 {
        assert_eq!(cut(&machine).record.fallback, None);
    }
}

#[test]
fn on_roots_in_ram_too() {
    if is_root() {
        let kind = || Kind { backend: Backend::Tmpfs, filesystem: "ext4" };
        after_three_that_failed_only_what_is_required_is_there(kind());
    }
}

/// The mark pulls the target in that waits for what waits for the target that pulls the mark in.
#[test]
fn the_units_wait_for_nothing_in_a_circle() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs systemd-analyze");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
    for (name, wanted) in [
        ("ebbtide-up.service", "boot-complete.target.requires"),
        ("ebbtide-came-up.service", "multi-user.target.wants"),
    ] {
        let text = fs::read_to_string(units.join(name)).unwrap();
        let text = text.replace("/usr/bin/ebbtide", "/usr/bin/env");
        fs::write(folder.path().join(name), text).unwrap();
        fs::create_dir(folder.path().join(wanted)).unwrap();
        symlink(Path::new("..").join(name), folder.path().join(wanted).join(name)).unwrap();
    }
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "multi-user.target", "boot-complete.target"]);
    // The colon adds the usual folders.
    verify.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()));
    let said = String::from_utf8_lossy(&verify.output().unwrap().stderr).into_owned();
    assert!(!said.contains("ebbtide"), "{said}");
}
