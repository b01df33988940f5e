//! What a file is besides its content: owner, mode, ACLs, capabilities, security labels and other
//! attributes come along, with the file and with the directories above it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use ebbtide_core::setup::BaseSource;
use machine::{Kind, Machine, is_root, read, run, write};

on_each_disk!(what_is_written_anew_is_labelled_where_no_policy_is_loaded);

/// Gives a file or directory everything that it can have, told apart by a word.
fn adorn(path: &Path, word: &str, user: u32) {
    let at = path.to_str().unwrap();
    run("chown", &[&format!("{user}:4"), at]);
    run("chmod", &["0750", at]);
    run("setfacl", &["-m", &format!("u:{user}:r-x,g:1000:r--"), at]);
    run("setfattr", &["-n", "security.selinux", "-v", &format!("u:object_r:{word}_t:s0"), at]);
    if path.is_dir() {
        run("setfacl", &["-d", "-m", &format!("u:{user}:rwx"), at]);
    } else {
        run("setcap", &["cap_net_raw=ep", at]);
        run("setfattr", &["-n", "user.note", "-v", word, at]);
        run("setfattr", &["-n", "trusted.note", "-v", word, at]);
    }
}

/// All of that as one text.
fn all(path: &Path) -> String {
    let found = fs::symlink_metadata(path).unwrap_or_else(|it| panic!("{}: {it}", path.display()));
    let mut text = format!("{}:{} {:o}\n", found.uid(), found.gid(), found.mode() & 0o7777);
    let listed =
        run("getfattr", &["--absolute-names", "-d", "-m-", "-ehex", path.to_str().unwrap()]);
    let mut lines: Vec<_> = listed.lines().filter(|line| line.contains('=')).collect();
    lines.sort_unstable();
    text.push_str(&lines.join("\n"));
    text
}

/// What decides about access: all but what programs note for themselves.
fn access(path: &Path) -> String {
    let all = all(path);
    all.lines().filter(|it| !it.starts_with("user.")).collect::<Vec<_>>().join("\n")
}

const KEEP: &str = "[keep]\ndirectories = [\"/var/lib/app\"]\nfiles = [\
    { path = \"/etc/app/app.conf\", method = \"sync\" }, \
    { path = \"/etc/late/new.conf\", method = \"sync\" }, \"/etc/app/tool\"]\n";

#[test]
fn everything_survives_import_copy_and_harvest() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let source = machine.source();
    for file in ["etc/app/app.conf", "etc/app/tool", "var/lib/app/data", "etc/late/other"] {
        write(&source, file, "one\n");
    }
    let adorned = ["etc/app/app.conf", "etc/app/tool", "var/lib/app/data", "var/lib/app"];
    let parents = ["etc/app", "etc/late", "var/lib"];
    for path in adorned.iter().chain(&parents) {
        adorn(&source.join(path), "base", 1000);
    }
    let before = adorned.map(|path| all(&source.join(path)));
    assert!(before[0].contains("security.capability") && before[0].contains("posix_acl_access"));
    assert!(before[3].contains("posix_acl_default"), "{}", before[3]);
    let above = parents.map(|path| access(&source.join(path)));
    machine.set_up(KEEP);
    let look = |top: &Path| adorned.map(|path| all(&top.join(path)));
    assert_eq!(machine.look(|top| look(&top.join("state"))), before, "imported");

    let after = std::sync::Mutex::new(String::new());
    let booted = machine.boot("", |root| {
        assert_eq!(look(root), before, "attached");
        assert_eq!(parents.map(|path| access(&root.join(path))), above);
        // Another program, with a file of its own in the place.
        write(root, "etc/app/.new", "two\n");
        adorn(&root.join("etc/app/.new"), "program", 1);
        *after.lock().unwrap() = all(&root.join("etc/app/.new"));
        fs::rename(root.join("etc/app/.new"), root.join("etc/app/app.conf")).unwrap();
        write(root, "etc/late/new.conf", "new\n");
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    let after = after.into_inner().unwrap();
    assert_ne!(after, before[0]);
    machine.boot("", |root| {
        assert_eq!(read(root, "etc/app/app.conf").as_deref(), Some("two\n"));
        assert_eq!(all(&root.join("etc/app/app.conf")), after, "copied in");
    });
    machine.look(|top| {
        let state = top.join("state");
        assert_eq!(all(&state.join("etc/app/app.conf")), after, "harvested");
        // The directories above were made by import, and those above new.conf by harvest.
        assert_eq!(parents.map(|path| access(&state.join(path))), above);
    });
}

#[test]
fn only_an_attribute_that_changed_is_harvested_too() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    write(&machine.source(), "etc/app/app.conf", "one\n");
    machine.set_up(KEEP);
    machine.boot("", |root| adorn(&root.join("etc/app/app.conf"), "changed", 1000));
    machine.boot("", |root| {
        let now = all(&root.join("etc/app/app.conf"));
        assert!(now.contains("security.capability") && now.contains("1000:4"), "{now}");
        assert_eq!(read(root, "etc/app/app.conf").as_deref(), Some("one\n"));
    });
}

#[test]
fn parents_that_only_the_old_root_knows_are_as_they_were() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("");
    let above = std::sync::Mutex::new(String::new());
    machine.boot("", |root| {
        write(root, "opt/vendor/app/data", "mine\n");
        adorn(&root.join("opt/vendor"), "vendor", 1000);
        *above.lock().unwrap() = access(&root.join("opt/vendor"));
    });
    let above = above.into_inner().unwrap();
    machine.publish("[keep]\ndirectories = [\"/opt/vendor/app\"]\n");
    for _ in 0..2 {
        machine.boot("", |root| {
            assert_eq!(read(root, "opt/vendor/app/data").as_deref(), Some("mine\n"));
            assert_eq!(access(&root.join("opt/vendor")), above);
        });
    }
    machine.look(|top| assert_eq!(access(&top.join("state/opt/vendor")), above));
}

#[test]
fn a_home_begins_closed_whatever_an_old_root_says() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let source = machine.source();
    fs::remove_dir_all(source.join("home/alice")).unwrap();
    machine.set_up_from(BaseSource::Directory(source), "");
    machine.boot("", |root| {
        write(root, "home/alice/notes/one", "mine\n");
        let home = root.join("home/alice");
        run("setfacl", &["-m", "u:4:rwx", home.to_str().unwrap()]);
        run("chmod", &["0777", home.to_str().unwrap()]);
    });
    machine.publish("[users.alice]\ndirectories = [\"notes\"]\n");
    machine.boot("", |root| {
        let home = all(&root.join("home/alice"));
        assert_eq!(home, "1000:1000 700\n", "{home}");
        assert_eq!(read(root, "home/alice/notes/one").as_deref(), Some("mine\n"));
        let notes = fs::metadata(root.join("home/alice/notes")).unwrap().permissions().mode();
        assert_eq!(notes & 0o777, 0o755);
    });
}

/// The type in the label of SELinux that a file has; without one, nothing.
fn selinux_type(path: &Path) -> Option<String> {
    let arguments = ["--absolute-names", "--only-values", "-hn", "security.selinux"];
    let found = std::process::Command::new("getfattr").args(arguments).arg(path).output().unwrap();
    let text = String::from_utf8(found.stdout).unwrap();
    text.trim_end_matches('\0').split(':').nth(2).map(ToOwned::to_owned)
}

fn what_is_written_anew_is_labelled_where_no_policy_is_loaded(kind: Kind) {
    let machine = Machine::of(kind);
    let source = machine.source();
    for (path, word) in [("etc", "etc"), ("etc/fstab", "tab"), ("etc/machine-id", "id")] {
        let (path, label) = (source.join(path), format!("u:object_r:{word}_t:s0"));
        run("setfattr", &["-n", "security.selinux", "-v", &label, path.to_str().unwrap()]);
    }
    machine.set_up(KEEP);
    for _ in 0..2 {
        machine.boot("", |root| {
            for (path, word) in [
                ("etc/fstab", "tab_t"),
                ("etc/machine-id", "id_t"),
                ("etc/ebbtide", "etc_t"),
                ("etc/ebbtide/ebbtide.toml", "etc_t"),
            ] {
                assert_eq!(selinux_type(&root.join(path)).as_deref(), Some(word), "{path}");
            }
        });
    }
}
