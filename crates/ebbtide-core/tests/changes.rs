//! What the next reset takes away, on the roots of machines in loop images.

#![allow(clippy::unwrap_used, clippy::panic)]

mod machine;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ebbtide_core::boot::Boot;
use ebbtide_core::diff::Diff;
use machine::{KINDS, Kind, Machine, is_root, write};

/// The changes of a running root, one on a line.
fn changes_of(boot: &Boot, root: &Path) -> String {
    let mut text = String::new();
    let diff = Diff::of_running(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
    diff.each(&mut |change| {
        let _ = writeln!(text, "{} {}", change.what.name(), change.path.display());
    })
    .unwrap_or_else(|it| panic!("{}", it.chain()));
    text
}

#[test]
fn a_root_that_nobody_used_has_no_changes() {
    if is_root() {
        KINDS.into_iter().for_each(unused);
    }
}

fn unused(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up_with(
        "tmpfs = [\"/srv/ram\"]\n",
        "[keep]\ndirectories = [\"/var/log\", \"/srv/data/deep\", \"/opt/app\", \
         { path = \"/srv/link\", method = \"symlink\" }]\n\
         files = [\"/etc/issue\", \"/etc/app/conf\", { path = \"/etc/hosts\", method = \"sync\" }]\n\
         [users.alice]\ndirectories = [\"letters\"]\n",
    );
    machine.boot("", |root| {
        write(root, "/etc/hosts", "127.0.0.1 localhost\n");
        write(root, "/etc/app/conf", "x");
    });
    machine.live("", |root, boot| {
        // Mount points, links, copies and the directories on the way to them are there.
        assert!(root.join("srv/data/deep").is_dir() && root.join("srv/link").is_symlink());
        assert_eq!(changes_of(boot, root), "", "{kind:?}");

        write(root, "/var/log/kept.log", "");
        write(root, "/etc/hosts", "127.0.0.1 elsewhere\n");
        write(root, "/srv/ram/x", "gone anyway");
        write(root, "/srv/data/not-kept", "");
        write(root, "/etc/fstab", "# other\n");
        fs::remove_file(root.join("etc/group")).unwrap();
        let expected =
            "changed /etc/fstab\ndeleted /etc/group\nadded /srv/data/not-kept\n".to_owned();
        assert_eq!(changes_of(boot, root), expected, "{kind:?}");
        // What is written below a mount is not on the root.
        machine::run("mount", &["-t", "tmpfs", "none", root.join("home").to_str().unwrap()]);
        write(root, "/home/on-another", "");
        assert_eq!(changes_of(boot, root), expected, "{kind:?}");
    });
}

#[test]
fn what_should_be_kept_and_was_not_in_place_is_told() {
    if !is_root() {
        return;
    }
    let mut machine = Machine::new();
    let other = machine.disk("other", "ext4");
    machine.set_up(&format!(
        "[store.other]\ndevice = \"{other}\"\n[keep]\ndirectories = [\"/var/log\", \
         {{ path = \"/srv/app\", store = \"other\", optional = true }}]\n"
    ));
    machine.detach_disk(&other);
    machine.live("", |root, boot| {
        write(root, "/srv/app/written", "nowhere else");
        write(root, "/var/log/kept.log", "");
        let diff = Diff::of_running(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
        assert_eq!(diff.about.uncovered, [Path::new("/srv/app")]);
        let told = changes_of(boot, root);
        assert!(told.contains("added /srv/app/written\n") && !told.contains("/var/log"), "{told}");
    });
}

#[test]
fn only_a_root_of_this_container_is_compared() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("");
    machine.live("", |root, boot| {
        let failure = Diff::of_running(boot, Path::new("/tmp")).unwrap_err();
        assert!(failure.chain().contains("is not a root of Ebbtide"), "{}", failure.chain());
        let mut renamed = machine.boot_with(&boot.run, "");
        renamed.run.clone_from(&boot.run);
        machine
            .look(|top| fs::rename(top.join("ebbtide/root"), top.join("ebbtide/other")).unwrap());
        let failure = Diff::of_running(&renamed, root).unwrap_err();
        assert!(
            failure.chain().contains("not the root that the next reset"),
            "{}",
            failure.chain()
        );
    });
}
