//! Trees that are thousands of directories deep.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, linkat, mkdirat, openat};

use crate::harness::{Program, settle};
use crate::machine::{Kind, Machine, write};

on_each_disk!(every_command_copes_with_deep_trees);

const DEPTH: usize = 4000;
const KEPT: &str = "[keep]\ndirectories = [\"/srv/kept\"]\n";
const RETENTION: &str = "keep-boots = { min = 1, count = 1, days = 100, free = \"0%\" }\n";

/// Makes directories in directories, and in the last one a file of two names.
fn dig(root: &Path, place: &str) {
    fs::create_dir_all(root.join(place)).unwrap();
    let mut at: OwnedFd = File::open(root.join(place)).unwrap().into();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    for _ in 0..DEPTH {
        mkdirat(&at, "d", Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, "d", flags, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&at, "one", flags, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&file, b"text\n").unwrap();
    linkat(&at, "one", &at, "other", AtFlags::empty()).unwrap();
}

fn every_command_copes_with_deep_trees(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up_with(RETENTION, KEPT);
    let declared = machine.toml_with(RETENTION, KEPT);
    machine.boot("", |root| {
        dig(root, "srv/past");
        dig(root, "srv/kept");
    });
    machine.boot("", |root| dig(root, "srv/other"));
    machine.live("", |root, boot| {
        settle(boot);
        write(root, "etc/ebbtide/ebbtide.toml", &declared);
        dig(root, "srv/new");
        let program = Program { root: root.to_owned() };
        for line in [
            "restore --to /run /srv/past",
            "restore /srv/past",
            "keep /srv/new",
            "forget --move-back /srv/kept",
            "forget /srv/new",
            "apply",
            "flush",
            "diff",
            "diff --kept",
            "diff --boot 1..2",
            "log /srv/past",
            "boots show 1",
            "gc --undeclared",
            "gc",
            "status",
        ] {
            program.does(line);
        }
        // What lies too deep for it is told of.
        for line in ["log --search one /srv", "log --grep text /srv/past"] {
            assert!(
                program.line(line).err.contains("warning: what is more than 100 directories deep"),
                "{line}"
            );
        }
        ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |_| ());
}
