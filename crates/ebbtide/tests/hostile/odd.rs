//! Odd names and odd kinds of files.

use std::fs;
use std::path::Path;

use crate::harness::{Program, powerful, settle};
use crate::machine::{Kind, Machine, write};
use crate::plant::{POWERFUL, assert_is_secret, plant, write_secret};

on_each_disk!(every_command_copes_with_odd_files);

const KEPT: &str =
    "[keep]\ndirectories = [\"/srv/kept\"]\n[users.alice]\ndirectories = [\"kept\"]\n";
const RETENTION: &str = "keep-boots = { min = 1, count = 1, days = 100, free = \"0%\" }\n";

fn every_command_copes_with_odd_files(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up_with(RETENTION, KEPT);
    let declared = machine.toml_with(RETENTION, KEPT);
    machine.boot("", |root| {
        write_secret(root);
        for place in ["srv/past", "srv/kept/planted", "home/alice/kept/planted"] {
            plant(root, place);
        }
    });
    machine.boot("", |root| plant(root, "srv/past"));
    machine.live("", |root, boot| {
        settle(boot);
        write(root, "etc/ebbtide/ebbtide.toml", &declared);
        write_secret(root);
        for place in ["srv/new", "home/alice/new"] {
            plant(root, place);
        }
        let program = Program { root: root.to_owned() };
        looks(&program);
        let planted = |places: &[&str]| {
            let mut all: Vec<_> = places
                .iter()
                .flat_map(|place| POWERFUL.map(|name| format!("{place}/{name}")))
                .collect();
            all.sort();
            all
        };
        assert_eq!(powerful(root), planted(&["home/alice/new", "srv/new"]));
        fs::create_dir(root.join("copied")).unwrap();
        let copied = root.join("copied");
        program.does(&format!("restore --to {} /srv/past", copied.display()));
        assert_eq!(powerful(root), planted(&["home/alice/new", "srv/new"]), "--to");
        program.does("restore /srv/past");
        assert_eq!(powerful(root), planted(&["home/alice/new", "srv/new", "srv/past"]));
        program.does("forget --move-back /srv/kept /home/alice/kept");
        assert_eq!(powerful(root), planted(&["home/alice/new", "srv/new", "srv/past"]), "back");
        program.does("keep /srv/new /home/alice/new");
        program.does("forget /srv/new");
        program.answered("review /copied", "keep\nquit\ny\n");
        program.answered("keep /copied/past/names", "");
        program.does("apply");
        program.does("flush");
        program.does("gc --undeclared --json");
        program.does("gc --json");
        program.does("status");
        assert_is_secret(root);
        ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", assert_came_up);
}

/// Commands that change nothing.
fn looks(program: &Program) {
    for line in ["status", "diff", "diff --all", "diff --tree", "diff --kept", "diff --boot last"] {
        program.does(line);
        let line = format!("{line} --json");
        if !line.contains("--tree") {
            program.json(&line);
        }
    }
    for line in [
        "diff --content /srv/new",
        "diff --boot 1..2",
        "log /srv/past",
        "log /srv/past/**",
        "log --grep text /srv/past",
        "log --search *e* /srv",
        "boots",
        "boots show 1",
        "gc --dry-run",
        "gc --dry-run --undeclared",
        "keep --dry-run /srv/new",
        "restore --dry-run /srv/past",
        "forget --dry-run --move-back /srv/kept",
        "apply --dry-run",
        "flush --dry-run",
    ] {
        program.does(line);
    }
    for line in
        ["log --json /srv/past/**", "log --json --grep text /srv/past", "boots show --json 1"]
    {
        program.json(line);
    }
    let answers = "view\nskip\n".repeat(200) + "y\n";
    program.answered("review --dry-run", &answers);
    program.answered("review --all --dry-run /srv /home", &answers);
}

fn assert_came_up(root: &Path) {
    assert!(fs::symlink_metadata(root.join("home/alice/new/setuid")).is_ok());
}
