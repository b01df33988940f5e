//! The method `sync` over whole boots: copied in, harvested back, and nothing lost in between.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use ebbtide_core::failure::Level;
use ebbtide_core::flush::Flush;
use ebbtide_core::record::Outcome;
use machine::{BTRFS, Booted, Kind, Machine, is_root, read, run, write};

on_each_disk!(
    files_that_are_replaced_by_rename_keep_their_new_content,
    a_deletion_counts_after_a_clean_end_only,
    after_a_power_cut_empty_and_torn_sets_are_not_believed,
    off_and_keep_go_by_the_manifest_of_their_root,
    what_can_not_be_synced_is_refused_with_advice,
    flush_harvests_a_running_root_and_only_once,
    a_user_who_was_added_owns_entries_from_the_next_boot_on,
    account_files_are_put_on_a_root_all_or_none,
    a_store_that_was_away_in_a_kept_boot_gets_its_files_all_the_same,
);

const KEEP: &str = "[keep]\ndirectories = [\"/home\"]\nfiles = [\n\
    { path = \"/etc/app.conf\", method = \"sync\" },\n\
    { path = \"/etc/new.conf\", method = \"sync\" },\n\
    { path = \"/etc/passwd\", method = \"sync\" },\n\
    { path = \"/etc/group\", method = \"sync\" },\n]\n";

fn machine(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    let source = machine.source();
    write(&source, "etc/app.conf", "one\n");
    fs::set_permissions(source.join("etc/app.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    machine.set_up(KEEP);
    machine
}

/// Replaces a file as careful programs do.
fn replace(root: &Path, path: &str, content: &str) {
    let target = root.join(path);
    let beside = target.with_extension("tmp");
    fs::write(&beside, content).unwrap();
    fs::rename(beside, target).unwrap();
}

fn warnings(booted: &Booted) -> Vec<&str> {
    let grave = booted.messages.iter().filter(|(level, _)| *level <= Level::Warning);
    grave.map(|(_, text)| text.as_str()).collect()
}

fn files_that_are_replaced_by_rename_keep_their_new_content(kind: Kind) {
    let machine = machine(kind);
    let first = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("one\n"));
        replace(root, "etc/app.conf", "two\n");
        run("chown", &["1000:4", root.join("etc/app.conf").to_str().unwrap()]);
        run(
            "setfattr",
            &["-n", "user.note", "-v", "x", root.join("etc/app.conf").to_str().unwrap()],
        );
        write(root, "etc/new.conf", "fresh\n");
        write(root, "etc/stray", "x");
    });
    assert_eq!(warnings(&first), Vec::<&str>::new());
    let second = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("two\n"));
        let found = fs::metadata(root.join("etc/app.conf")).unwrap();
        assert_eq!((found.uid(), found.gid()), (1000, 4));
        run("getfattr", &["-n", "user.note", root.join("etc/app.conf").to_str().unwrap()]);
        assert_eq!(read(root, "etc/new.conf").as_deref(), Some("fresh\n"));
        assert_eq!(read(root, "etc/stray"), None);
    });
    assert_eq!(second.record.outcome, Outcome::Reset);
    machine.look(|top| {
        assert_eq!(read(top, "state/.ebbtide/trash/1/etc/app.conf").as_deref(), Some("one\n"));
    });
}

fn a_deletion_counts_after_a_clean_end_only(kind: Kind) {
    let machine = machine(kind);
    machine.live("", |root, _| fs::remove_file(root.join("etc/app.conf")).unwrap());
    let after_cut = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("one\n"), "the store's copy stays");
        fs::remove_file(root.join("etc/app.conf")).unwrap();
    });
    assert!(warnings(&after_cut)[0].contains("gone after an unclean end"));
    machine.boot("", |root| assert_eq!(read(root, "etc/app.conf"), None, "deleted for good"));
    machine.look(|top| {
        assert_eq!(read(top, "state/.ebbtide/trash/2/etc/app.conf").as_deref(), Some("one\n"));
    });
}

/// What is changed below a root that is an overlay changes that root: there, another base has to be
/// another base.
#[test]
fn a_deleted_file_does_not_come_back_with_a_base_that_has_one() {
    if !is_root() {
        return;
    }
    let machine = machine(BTRFS);
    machine.boot("", |root| write(root, "etc/new.conf", "mine\n"));
    machine.boot("", |root| fs::remove_file(root.join("etc/new.conf")).unwrap());
    machine.look(|top| {
        let base = top.join("ebbtide/bases/1");
        let base = base.to_str().unwrap();
        run("btrfs", &["property", "set", "-f", base, "ro", "false"]);
        write(Path::new(base), "etc/new.conf", "of the base\n");
        run("btrfs", &["property", "set", base, "ro", "true"]);
    });
    for _ in 0..2 {
        let booted = machine.boot("", |root| assert_eq!(read(root, "etc/new.conf"), None));
        assert_eq!(booted.record.outcome, Outcome::Reset);
    }
}

fn after_a_power_cut_empty_and_torn_sets_are_not_believed(kind: Kind) {
    let machine = machine(kind);
    let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
    machine.live("", |root, _| {
        fs::write(root.join("etc/app.conf"), "").unwrap();
        replace(root, "etc/passwd", "bob:x:1:1::/:/bin/sh\n");
        fs::write(root.join("etc/group"), "").unwrap();
    });
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("one\n"));
        assert_eq!(read(root, "etc/passwd").as_deref(), Some(passwd), "all of the set or none");
    });
    assert_eq!(warnings(&booted).len(), 3, "{:?}", booted.messages);
    machine.look(|top| {
        let candidate = read(top, "state/.ebbtide/trash/1/etc/passwd");
        assert_eq!(candidate.as_deref(), Some("bob:x:1:1::/:/bin/sh\n"), "and nothing is lost");
    });
}

fn off_and_keep_go_by_the_manifest_of_their_root(kind: Kind) {
    let machine = machine(kind);
    machine.boot("", |root| replace(root, "etc/app.conf", "two\n"));
    // A clean end, then a boot that changes nothing, in which a file is written, and a cut.
    machine.live("ebbtide=off", |root, _| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("two\n"));
        replace(root, "etc/app.conf", "three\n");
        fs::remove_file(root.join("etc/passwd")).unwrap();
    });
    let kept = machine.boot("ebbtide=keep", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("three\n"));
        assert!(read(root, "etc/passwd").is_some(), "a deletion before a cut is not believed");
    });
    assert!(kept.errors()[0].contains("/etc/passwd"), "{:?}", kept.errors());
    machine.boot("", |root| assert_eq!(read(root, "etc/app.conf").as_deref(), Some("three\n")));
}

fn what_can_not_be_synced_is_refused_with_advice(kind: Kind) {
    let machine = machine(kind);
    machine.boot("", |root| {
        write(root, "etc/app.conf", "SQLite format 3\0and so on");
        fs::hard_link(root.join("etc/passwd"), root.join("etc/passwd-")).unwrap();
        fs::remove_file(root.join("etc/group")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", root.join("etc/group")).unwrap();
        fs::write(root.join("etc/new.conf"), vec![b'x'; (16 << 20) + 1]).unwrap();
    });
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("one\n"));
        assert!(root.join("etc/group").is_file());
    });
    let said = warnings(&booted).join("\n");
    machine.look(|top| assert!(!top.join("state/etc/new.conf").exists()));
    for words in
        ["larger than 16 MiB", "it is a database", "more than one name", "not a regular file"]
    {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}

fn flush_harvests_a_running_root_and_only_once(kind: Kind) {
    let machine = machine(kind);
    machine.live("", |root, boot| {
        replace(root, "etc/app.conf", "two\n");
        let flush = Flush::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
        assert_eq!(flush.preview().unwrap(), ["take /etc/app.conf back into store state"]);
        assert_eq!(flush.apply(&mut |_, _| ()).unwrap().updated, 1);
        let again = Flush::open(boot, root).unwrap();
        assert_eq!(again.preview().unwrap(), Vec::<String>::new());
        assert_eq!(again.apply(&mut |_, _| ()).unwrap().updated, 0);
        assert_eq!(
            fs::read_to_string(boot.run.join("stores/state/etc/app.conf")).unwrap(),
            "two\n"
        );
        assert!(Machine::status(boot, root).ok, "{:?}", Machine::status(boot, root).problems);
    });
    machine.boot("", |root| assert_eq!(read(root, "etc/app.conf").as_deref(), Some("two\n")));
}

const ACCOUNTS: &str = "[keep]\nfiles = [\n{ path = \"/etc/passwd\", method = \"sync\" },\n\
    { path = \"/etc/group\", method = \"sync\" },\n]\ndirectories = [\"/var/log\",\n\
    { path = \"/var/lib/app\", user = \"bob\", group = \"bob\", mode = \"0750\" }]\n";

/// Adds bob as useradd(8) does: to a new file, which takes the place of the old one.
fn add_bob(root: &Path) {
    for (file, line) in [("passwd", "bob:x:1234:1235::/:/bin/sh\n"), ("group", "bob:x:1235:\n")] {
        let path = root.join("etc").join(file);
        let new = root.join("etc").join(format!("{file}+"));
        fs::write(&new, fs::read_to_string(&path).unwrap() + line).unwrap();
        fs::rename(new, path).unwrap();
    }
}

fn a_user_who_was_added_owns_entries_from_the_next_boot_on(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(ACCOUNTS);
    let first = machine.boot("", add_bob);
    assert!(first.errors().iter().any(|it| it.contains("bob")), "{:?}", first.errors());
    let second = machine.boot("", |root| {
        let found = fs::metadata(root.join("var/lib/app")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1234, 1235, 0o750));
        assert!(read(root, "/etc/passwd").unwrap().contains("bob"));
    });
    assert_eq!(second.errors(), Vec::<&str>::new());
}

fn account_files_are_put_on_a_root_all_or_none(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(ACCOUNTS);
    machine.boot("", |_| ());
    machine.boot("", add_bob);
    machine.boot("", |_| ());
    machine.look(|top| {
        fs::remove_file(top.join("state/etc/group")).unwrap();
        std::os::unix::fs::symlink("/etc/shadow", top.join("state/etc/group")).unwrap();
    });
    let booted = machine.boot("", |root| {
        assert!(!read(root, "/etc/passwd").unwrap().contains("bob"));
        assert!(!read(root, "/etc/group").unwrap().contains("bob"));
        assert!(!root.join("etc/.ebbtide-new.passwd").exists());
    });
    assert!(
        booted.errors().iter().any(|it| it.contains("the account files are those of the base")),
        "{:?}",
        booted.errors()
    );
}

fn a_store_that_was_away_in_a_kept_boot_gets_its_files_all_the_same(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk("big", "ext4");
    write(&machine.source(), "etc/app.conf", "one\n");
    machine.set_up(&format!(
        "[store.big]\ndevice = \"{disk}\"\n[keep]\nfiles = [\n\
         {{ path = \"/etc/app.conf\", method = \"sync\", store = \"big\" }},\n\
         {{ path = \"/etc/issue\", method = \"sync\" }},\n]\n"
    ));
    machine.boot("", |root| {
        replace(root, "etc/app.conf", "two\n");
        replace(root, "etc/issue", "two\n");
    });
    let away = |from: &str, to: &str| {
        machine.on_disk(&disk, |top| fs::rename(top.join(from), top.join(to)).unwrap());
    };
    away(".ebbtide", ".away");
    let kept = machine.boot("ebbtide=keep", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("two\n"));
        assert_eq!(read(root, "etc/issue").as_deref(), Some("two\n"));
        assert!(!root.join("etc/issue.ebbtide-replaced").exists());
    });
    assert_eq!(kept.record.attached.unwrap().missing, [Path::new("/etc/app.conf")]);
    machine.look(|top| assert_eq!(read(top, "state/etc/issue").as_deref(), Some("two\n")));
    away(".away", ".ebbtide");
    let reset = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app.conf").as_deref(), Some("two\n"));
        assert_eq!(read(root, "etc/issue").as_deref(), Some("two\n"));
    });
    assert_eq!(reset.record.outcome, Outcome::Reset);
    assert_eq!(reset.errors(), Vec::<&str>::new());
}
