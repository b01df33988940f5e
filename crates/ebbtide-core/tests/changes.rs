//! What the next reset takes away, on the roots of a machine in a loop image.

#![allow(clippy::unwrap_used, clippy::panic)]

mod machine;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use ebbtide_core::boot::Boot;
use ebbtide_core::changes::{self, Kept};
use ebbtide_core::status;
use machine::{Machine, is_root, write};

/// The changes of a running root, one on a line.
fn changes_of(machine: &Machine, boot: &Boot, root: &Path) -> String {
    let container = machine.open();
    let (_, compiled) = status::declaration(boot, &container).unwrap();
    let base = container.open_directory(Path::new("bases/1")).unwrap();
    let mut text = String::new();
    let mut visit = |change: changes::Change| {
        let _ = writeln!(text, "{} {}", change.what.name(), change.path.display());
    };
    let root = File::open(root).unwrap();
    changes::reference(root.as_fd(), base.as_fd(), &Kept::new(&compiled.entries), &mut visit)
        .unwrap_or_else(|it| panic!("{}", it.chain()));
    text
}

#[test]
fn a_root_that_nobody_used_has_no_changes() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(
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
        assert_eq!(changes_of(&machine, boot, root), "");

        write(root, "/var/log/kept.log", "");
        write(root, "/srv/data/not-kept", "");
        write(root, "/etc/fstab", "# other\n");
        fs::remove_file(root.join("etc/group")).unwrap();
        insta::assert_snapshot!(changes_of(&machine, boot, root), @r"
        changed /etc/fstab
        deleted /etc/group
        added /srv/data/not-kept
        ");
    });
}
