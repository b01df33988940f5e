//! Passwords that a reset takes away: with the last one of them, the root stays.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::{fs, io};

use ebbtide_core::boot::Boot;
use ebbtide_core::failure::Level;
use ebbtide_core::record::Outcome;
use ebbtide_core::setup::BaseSource;
use ebbtide_core::shutdown;
use machine::{Booted, Kind, Machine, read, write};

on_each_disk!(
    the_root_of_the_last_one_who_can_log_in_is_not_reset,
    without_the_rule_it_is_reset_and_said,
    who_has_a_key_in_a_kept_home_has_a_way_in,
    one_account_of_several_is_only_told,
    account_files_that_are_kept_no_more_take_the_last_password_along,
    a_root_that_does_not_come_up_is_not_kept_for_its_password,
    a_planted_link_decides_nothing,
);

const HOME: &str = "[keep]\ndirectories = [\"/home\"]\n";
const ACCOUNTS: &str = "files = [\n\
    { path = \"/etc/passwd\", method = \"sync\" },\n\
    { path = \"/etc/group\", method = \"sync\" },\n\
    { path = \"/etc/shadow\", method = \"sync\" },\n]\n";
const LOCKED: &str = "root:*:19000:0:99999:7:::\nalice:!:19000:0:99999:7:::\n";

/// A machine with these passwords in its base.
fn machine(kind: Kind, shadow: &str, root: &str, keep: &str) -> Machine {
    let machine = Machine::of(kind);
    let source = machine.source();
    write(&source, "etc/shadow", shadow);
    machine.set_up_all(BaseSource::Directory(source), root, keep);
    machine
}

/// What passwd(1) does.
fn set_password(root: &Path) {
    let shadow = read(root, "etc/shadow").unwrap();
    write(root, "etc/shadow.new", &shadow.replace("alice:!:", "alice:$6$salt$hash:"));
    fs::rename(root.join("etc/shadow.new"), root.join("etc/shadow")).unwrap();
    assert!(has_password(root));
}

fn has_password(root: &Path) -> bool {
    read(root, "etc/shadow").unwrap().contains("alice:$6$")
}

/// What `status` says of the next boot.
fn ahead(boot: &Boot, root: &Path) -> Vec<(Level, String)> {
    let all = Machine::status(boot, root).problems.into_iter();
    let ahead = all.filter(|it| it.message.contains("this root has a password"));
    ahead.map(|it| (it.level, it.message)).collect()
}

fn ended(root: &Path, boot: &Boot) {
    shutdown::mark_clean(boot, root).unwrap_or_else(|failure| panic!("{}", failure.chain()));
}

fn refused(booted: &Booted) {
    assert_eq!(booted.record.outcome, Outcome::Refused, "{:?}", booted.messages);
    let [said] = booted.errors()[..] else { panic!("{:?}", booted.messages) };
    assert!(said.contains("a new one: the last one has a password for alice"), "{said}");
    assert!(said.contains("`require-login = false`"), "{said}");
    assert_eq!(booted.record.put_away, None);
}

fn reset(booted: &Booted) {
    assert_eq!(booted.record.outcome, Outcome::Reset, "{:?}", booted.messages);
}

fn the_root_of_the_last_one_who_can_log_in_is_not_reset(kind: Kind) {
    let machine = machine(kind, LOCKED, "", HOME);
    let first = machine.live("", |root, boot| {
        assert!(Machine::status(boot, root).ok);
        set_password(root);
        write(root, "stray", "x");
        let [(Level::Warning, said)] = &ahead(boot, root)[..] else { panic!() };
        assert!(said.starts_with("the next boot will not reset the root"), "{said}");
        ended(root, boot);
    });
    reset(&first);
    assert_eq!(first.errors(), [""; 0]);
    for _ in 0..2 {
        refused(&machine.live("", |root, boot| {
            assert!(has_password(root) && root.join("stray").exists());
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
            let status = Machine::status(boot, root);
            assert!(!status.ok && !status.proved, "{status:?}");
            assert!(status.brief().unwrap().contains("nobody could log in"), "{status:?}");
            ended(root, boot);
        }));
    }
    // The way out.
    refused(&machine.live("", |root, boot| {
        assert_eq!(ahead(boot, root).len(), 1);
        machine.publish(&format!("{HOME}{ACCOUNTS}"));
        assert_eq!(ahead(boot, root), []);
        ended(root, boot);
    }));
    for _ in 0..2 {
        let kept = machine.live("", |root, boot| {
            assert!(has_password(root) && !root.join("stray").exists());
            assert!(Machine::status(boot, root).ok);
            ended(root, boot);
        });
        reset(&kept);
        assert_eq!(kept.errors(), [""; 0]);
    }
}

fn without_the_rule_it_is_reset_and_said(kind: Kind) {
    let machine = machine(kind, LOCKED, "", HOME);
    machine.boot("", set_password);
    refused(&machine.live("", |root, boot| {
        machine.apply_with("require-login = false\n", HOME);
        let [(Level::Warning, said)] = &ahead(boot, root)[..] else { panic!() };
        assert!(said.starts_with("nobody may be able to log in after a reset"), "{said}");
        ended(root, boot);
    }));
    let told = machine.boot("", |root| assert!(!has_password(root)));
    reset(&told);
    let [said] = told.errors()[..] else { panic!("{:?}", told.messages) };
    assert!(said.starts_with("nobody may be able to log in: the last root has"), "{said}");
    assert_eq!(told.record.gravest(), Some(Level::Warning));
    // Once: the root that was put away was the last with a password.
    assert_eq!(machine.boot("", |_| ()).errors(), [""; 0]);
}

fn who_has_a_key_in_a_kept_home_has_a_way_in(kind: Kind) {
    let machine = machine(kind, LOCKED, "", HOME);
    let life = |root: &Path| {
        write(root, "home/alice/.ssh/authorized_keys", "ssh-ed25519 AAAA alice\n");
        set_password(root);
    };
    machine.live("", |root, boot| {
        life(root);
        assert_eq!(ahead(boot, root), []);
        ended(root, boot);
    });
    let booted = machine.boot("", |root| assert!(!has_password(root)));
    reset(&booted);
    assert_eq!(booted.errors(), [""; 0]);
}

fn one_account_of_several_is_only_told(kind: Kind) {
    let shadow = LOCKED.replace("root:*:", "root:$6$salt$hash:");
    let machine = machine(kind, &shadow, "", HOME);
    machine.live("", |root, boot| {
        set_password(root);
        assert!(matches!(&ahead(boot, root)[..], [(Level::Notice, _)]));
        assert!(Machine::status(boot, root).ok);
        ended(root, boot);
    });
    let booted = machine.boot("", |root| assert!(!has_password(root)));
    reset(&booted);
    assert_eq!(
        booted.errors(),
        ["the last root has a password for alice, and base 1 none (keep the account files: add \
          \"accounts\" to `presets` below [keep])"]
    );
}

fn account_files_that_are_kept_no_more_take_the_last_password_along(kind: Kind) {
    let machine = machine(kind, LOCKED, "", &format!("{HOME}{ACCOUNTS}"));
    machine.boot("", set_password);
    machine.boot("", |root| assert!(has_password(root)));
    machine.apply(HOME);
    refused(&machine.boot("", |root| assert!(has_password(root))));
}

fn a_root_that_does_not_come_up_is_not_kept_for_its_password(kind: Kind) {
    let machine = machine(kind, LOCKED, "", HOME);
    machine.live("", |root, boot| {
        assert!(shutdown::came_up(boot, root).unwrap());
        set_password(root);
    });
    for _ in 0..3 {
        refused(&machine.live("", |_, _| ()));
    }
    let fallback = machine.live("", |root, _| assert!(!has_password(root)));
    reset(&fallback);
    assert!(fallback.record.fallback.is_some());
    assert!(fallback.errors().iter().any(|it| it.starts_with("nobody may be able to log in")));
}

fn a_planted_link_decides_nothing(kind: Kind) {
    let machine = machine(kind, LOCKED, "", HOME);
    machine.boot("", |root| {
        set_password(root);
        let plant = || -> io::Result<()> {
            fs::rename(root.join("etc/shadow"), root.join("shadow"))?;
            symlink("../shadow", root.join("etc/shadow"))
        };
        plant().unwrap();
    });
    let booted = machine.boot("", |_| ());
    reset(&booted);
    assert_eq!(booted.errors(), [""; 0]);
}
