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
use ebbtide_core::record::{Outcome, RootIdentity};
use ebbtide_core::shutdown;
use machine::{Booted, Kind, Machine, is_root, read, write};

on_each_disk!(
    after_three_that_failed_only_what_is_required_is_there,
    if_that_fails_too_the_root_that_came_up_is_back,
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
    // One that does not come up either is followed by another, where no root is left that did.
    let boots = if kind.backend == Backend::Tmpfs { 2 } else { 1 };
    for _ in 0..boots {
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

fn if_that_fails_too_the_root_that_came_up_is_back(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(&format!("{KEEP}files = [{{ path = \"/etc/app.conf\", method = \"sync\" }}]\n"));
    machine.look(|top| {
        write(top, "state/etc/extra/unit", "breaks\n");
        write(top, "state/etc/app.conf", "first\n");
    });
    let up = machine.live("", |root, boot| {
        write(root, "etc/app.conf", "second, of the root that came up\n");
        write(root, "etc/of-that-root", "x\n");
        came_up(root, boot);
    });
    for _ in 0..2 {
        cut(&machine);
    }
    machine.live("", |root, _| write(root, "etc/app.conf", "third, of one that did not come up\n"));
    let base = machine.live("", |root, _| assert_eq!(read(root, "etc/of-that-root"), None));
    assert_eq!(base.record.outcome, Outcome::Reset);
    let back = machine.live("", |root, boot| {
        assert_eq!(read(root, "etc/of-that-root").as_deref(), Some("x\n"));
        assert_eq!(read(root, "etc/extra/unit"), None, "it is not required");
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        let status = Machine::status(boot, root);
        assert!(!status.ok && status.problems.len() == 1, "{status:?}");
        assert!(status.brief().unwrap().contains("its root runs again"), "{status:?}");
        write(root, "home/alice/repair", "kept\n");
        write(root, "etc/app.conf", "fourth, too late\n");
    });
    assert_eq!(back.record.outcome, Outcome::Refused);
    assert_eq!(
        back.record.root.as_ref().map(RootIdentity::uuid),
        up.record.root.as_ref().map(RootIdentity::uuid)
    );
    assert_eq!(back.record.fallback, Some(up.record.number));
    assert_eq!(back.record.put_away, Some(base.record.number), "nothing is lost");
    assert_eq!(back.errors().len(), 1, "{:?}", back.errors());

    // That did not come up either: it goes on by turns.
    let base = machine.live("", |root, _| assert_eq!(read(root, "etc/of-that-root"), None));
    assert_eq!(
        (base.record.outcome, base.record.put_away),
        (Outcome::Reset, Some(back.record.number))
    );
    let back = machine.live("", |root, boot| {
        assert_eq!(read(root, "etc/of-that-root").as_deref(), Some("x\n"));
        came_up(root, boot);
    });
    assert_eq!(back.record.outcome, Outcome::Refused);
    let armed = machine.live("", |root, boot| {
        assert_eq!(read(root, "etc/of-that-root"), None);
        assert_eq!(read(root, "home/alice/repair").as_deref(), Some("kept\n"));
        // What is older than the store's, and what was changed in it, is in that root, and nowhere else.
        let third = "third, of one that did not come up\n";
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some(third));
        let status = Machine::status(boot, root);
        assert!(status.proved && status.ok, "{status:?}");
    });
    assert_eq!((armed.record.outcome, armed.record.fallback), (Outcome::Reset, None));
    let of_that_root =
        machine.past(armed.record.put_away.unwrap(), |root| read(root, "etc/app.conf"));
    assert_eq!(of_that_root.as_deref(), Some("fourth, too late\n"));
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
