//! Whole boots on a real btrfs, without a kernel of their own.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ebbtide_core::failure::Level;
use ebbtide_core::record::{Ending, Outcome, Switch};
use ebbtide_core::setup::BaseSource;
use machine::{Kind, Machine, is_root, read, run, write};

on_each_disk!(
    a_link_into_the_store_takes_over_what_the_base_has,
    metadata_survives,
    a_looser_mode_is_tightened_and_said,
    a_file_with_another_name_is_not_given_away,
    an_unclean_end_is_noted_and_the_mark_never_outlives_a_boot,
    a_broken_declaration_falls_back_to_the_previous_one,
    a_missing_store_keeps_the_root_and_takes_only_its_own_entries_with_it,
    a_base_without_modules_for_this_kernel_is_refused,
    hostile_places_are_refused_one_by_one,
    a_blank_base_gives_an_empty_root_with_its_entries,
    users_have_their_own_in_ephemeral_homes,
    private_state_lies_in_a_private_directory,
);

const KEEP: &str = "[keep]\n\
directories = [\"/var/log\", \"/home\", { path = \"/var/lib/app\", user = \"alice\", group = \"alice\", mode = \"0700\" }]\n\
files = [\"/etc/ssh/ssh_host_ed25519_key\", \"/etc/late.conf\", { path = \"/etc/linked\", method = \"symlink\" }]\n";

#[test]
fn what_was_not_declared_is_gone_and_what_was_is_there() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEEP);
    let first = machine.boot("", |root| {
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        assert_eq!(read(root, "var/log/old.log").as_deref(), Some("before\n"));
        assert_eq!(read(root, "etc/ssh/ssh_host_ed25519_key").as_deref(), Some("PRIVATE\n"));
        assert_eq!(
            read(root, "etc/machine-id").as_deref(),
            Some("0123456789abcdef0123456789abcdef\n")
        );
        let app = fs::metadata(root.join("var/lib/app")).unwrap();
        assert_eq!((app.uid(), app.gid(), app.mode() & 0o7777), (1000, 1000, 0o700));
        write(root, "stray", "x");
        write(root, "etc/cron.d/evil", "x");
        fs::write(root.join("etc/issue"), "changed").unwrap();
        write(root, "var/log/new.log", "after\n");
        write(root, "var/lib/app/data", "kept\n");
        write(root, "etc/late.conf", "made by a program\n");
    });
    assert_eq!(first.errors(), Vec::<&str>::new());
    assert_eq!(first.record.number.0, 1);
    assert_eq!(first.record.outcome, Outcome::Reset);
    assert_eq!(first.record.put_away, None, "the first root was pristine");

    let second = machine.boot("", |root| {
        assert_eq!(read(root, "stray"), None);
        assert_eq!(read(root, "etc/cron.d/evil"), None);
        assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
        assert_eq!(read(root, "var/log/new.log").as_deref(), Some("after\n"));
        assert_eq!(read(root, "var/lib/app/data").as_deref(), Some("kept\n"));
        assert_eq!(
            read(root, "etc/late.conf").as_deref(),
            Some("made by a program\n"),
            "what was declared before it existed comes from the old root"
        );
        assert!(!root.join("etc/linked").exists());
    });
    assert_eq!(second.errors(), Vec::<&str>::new());
    assert_eq!(second.record.put_away.map(|number| number.0), Some(1));
    machine.look(|top| {
        assert_eq!(read(top, "ebbtide/past/1/stray").as_deref(), Some("x"), "nothing is lost");
        assert_eq!(read(top, "ebbtide/past/1/etc/issue").as_deref(), Some("changed"));
    });
    assert_eq!(
        machine.open().record(first.record.number).unwrap().unwrap().ended,
        Some(Ending::Clean)
    );
}

#[test]
fn what_was_to_be_taken_from_the_old_root_is_taken_after_a_cut_as_well() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEEP);
    machine.boot("", |root| write(root, "etc/late.conf", "made by a program\n"));
    let cut = machine.cut_after_reset();
    assert_eq!((cut.outcome, cut.number.0), (Outcome::Reset, 2));
    machine.cut_after_reset();
    // A root that was being attached is not pristine any more, and no system ever ran on it.
    machine.look(|top| write(top, "ebbtide/root/half-attached", "x"));
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "etc/late.conf").as_deref(), Some("made by a program\n"));
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    machine.look(|top| assert!(top.join("ebbtide/past/3/half-attached").exists()));
}

#[test]
fn the_base_keeps_no_identity_and_no_home() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEEP);
    machine.look(|top| {
        let base = top.join("ebbtide/bases/1");
        assert_eq!(read(&base, "etc/machine-id").as_deref(), Some(""));
        assert_eq!(read(&base, "etc/ssh/ssh_host_ed25519_key"), None);
        assert_eq!(read(&base, "var/log/old.log"), None);
        assert_eq!(read(&base, "home/alice/letter"), None);
        assert!(base.join("home").is_dir());
        let fstab = read(&base, "etc/fstab").unwrap();
        assert!(fstab.contains(" / btrfs subvol=ebbtide/root,noatime 0 0\n"), "{fstab}");
        assert!(!fstab.contains("subvolid"));
        let container = fs::metadata(top.join("ebbtide")).unwrap();
        assert_eq!(container.mode() & 0o7777, 0o700);
    });
}

#[test]
fn entries_without_data_are_not_listed_by_the_hundred() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    let files: Vec<_> = (0..100).map(|it| format!("\"/etc/later/{it}.conf\"")).collect();
    let rest = format!("[keep]\nfiles = [{}]\n", files.join(", "));
    let said = machine.set_up_from(BaseSource::Directory(machine.source()), &rest);
    let named = said.iter().filter(|line| line.contains("is not there yet")).count();
    assert_eq!(named, 5, "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("and 95 more entries")), "{said:?}");
}

fn a_link_into_the_store_takes_over_what_the_base_has(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\nfiles = [{ path = \"/etc/issue\", method = \"symlink\" }]\n");
    machine.boot("", |root| {
        let link = fs::read_link(root.join("etc/issue")).unwrap();
        assert!(link.ends_with("stores/state/etc/issue"), "{}", link.display());
        assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
        write(root, "etc/issue", "mine\n");
    });
    machine.boot("", |root| assert_eq!(read(root, "etc/issue").as_deref(), Some("mine\n")));
}

fn metadata_survives(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/srv\"]\n");
    machine.boot("", |root| {
        write(root, "srv/tool", "#!/bin/sh\n");
        let tool = root.join("srv/tool");
        let path = tool.to_str().unwrap();
        run("chown", &["1000:4", path]);
        run("chmod", &["2750", path]);
        run("setfattr", &["-n", "user.note", "-v", "hello", path]);
        run("setfacl", &["-m", "u:1234:rx", path]);
        run("setcap", &["cap_net_raw+ep", path]);
        symlink("tool", root.join("srv/link")).unwrap();
    });
    machine.boot("", |root| {
        let tool = root.join("srv/tool");
        let path = tool.to_str().unwrap();
        let found = fs::metadata(&tool).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (1000, 4, 0o2750));
        assert!(run("getfattr", &["-n", "user.note", path]).contains("hello"));
        assert!(run("getfacl", &["-n", path]).contains("user:1234:r-x"));
        assert!(run("getcap", &[path]).contains("cap_net_raw=ep"));
        assert_eq!(fs::read_link(root.join("srv/link")).unwrap(), Path::new("tool"));
    });
}

fn a_looser_mode_is_tightened_and_said(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.boot("", |root| {
        let app = root.join("var/lib/app");
        fs::set_permissions(app, fs::Permissions::from_mode(0o755)).unwrap();
    });
    let booted = machine.boot("", |root| {
        let app = fs::metadata(root.join("var/lib/app")).unwrap();
        assert_eq!(app.mode() & 0o7777, 0o700);
    });
    let said = booted.record.problems.iter().any(|it| it.message.contains("/var/lib/app"));
    assert!(said, "{:?}", booted.record.problems);
}

fn a_file_with_another_name_is_not_given_away(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[users.alice]\nfiles = [\"letter\"]\n");
    machine.boot("", |root| assert!(root.join("home/alice/letter").is_file()));
    machine.look(|top| {
        write(&top.join("state"), "roots", "root's\n");
        let letter = top.join("state/home/alice/letter");
        fs::remove_file(&letter).unwrap();
        fs::hard_link(top.join("state/roots"), letter).unwrap();
    });
    let booted = machine.boot("", |_| ());
    machine.look(|top| {
        let found = fs::metadata(top.join("state/roots")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.nlink()), (0, 0, 2));
    });
    let said = |it: &ebbtide_core::failure::Problem| it.message.contains("a file of 2 names");
    assert!(booted.record.problems.iter().any(said), "{:?}", booted.record.problems);
}

#[test]
fn off_changes_nothing_and_keep_keeps_the_root_once() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEEP);
    machine.boot("", |root| write(root, "stray", "x"));
    let off = machine.boot("quiet ebbtide=off", |root| {
        assert_eq!(read(root, "stray").as_deref(), Some("x"));
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
    });
    assert_eq!(off.record.outcome, Outcome::Kept(Switch::Off));
    assert_eq!(off.record.number.0, 2);
    let keep = machine.boot("ebbtide=keep", |root| {
        assert_eq!(read(root, "stray").as_deref(), Some("x"));
    });
    assert_eq!(keep.record.outcome, Outcome::Kept(Switch::Keep));
    assert_eq!(keep.errors(), Vec::<&str>::new());
    let reset = machine.boot("", |root| assert_eq!(read(root, "stray"), None));
    assert_eq!(reset.record.number.0, 4);
    assert_eq!(
        reset.record.put_away.map(|number| number.0),
        Some(3),
        "a root that several boots ran on goes by the last of them"
    );
}

fn an_unclean_end_is_noted_and_the_mark_never_outlives_a_boot(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    let cut = machine.live("", |_, _| ());
    machine.boot("ebbtide=off", |_| ());
    assert!(machine.open().clean_mark().is_some());
    machine.live("ebbtide=off", |_, _| ());
    assert!(machine.open().clean_mark().is_none(), "removed by off as well");
    let container = machine.open();
    assert_eq!(container.record(cut.record.number).unwrap().unwrap().ended, Some(Ending::Unclean));
}

fn a_broken_declaration_falls_back_to_the_previous_one(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.apply("[keep]\ndirectories = [\"/home\"]\n");
    let pins = machine.open().pins().unwrap().unwrap();
    machine.look(|top| {
        let file = format!("state/.ebbtide/declarations/{}.json", pins.current);
        let text = fs::read_to_string(top.join(&file)).unwrap();
        fs::write(top.join(&file), text.replace("/home", "/evil")).unwrap();
    });
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        assert!(!root.join("evil").exists());
    });
    assert_eq!(booted.record.outcome, Outcome::Reset);
    assert_eq!(booted.record.declaration, pins.previous);
    assert!(booted.errors()[0].contains("the previous one is used"), "{:?}", booted.errors());

    let previous = pins.previous.unwrap();
    machine.look(|top| {
        fs::write(top.join(format!("state/.ebbtide/declarations/{previous}.json")), "{}").unwrap();
    });
    machine.boot("", |root| write(root, "stray", "x"));
    let refused = machine.boot("", |root| assert_eq!(read(root, "stray").as_deref(), Some("x")));
    assert_eq!(refused.record.outcome, Outcome::Refused);
}

fn a_missing_store_keeps_the_root_and_takes_only_its_own_entries_with_it(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk("big", "ext4");
    let keep = format!("[store.big]\ndevice = \"{disk}\"\n{KEEP}")
        .replace("\"/var/log\",", "\"/var/log\", { path = \"/srv\", store = \"big\" },");
    machine.set_up(&keep);
    machine.boot("", |root| {
        write(root, "srv/data", "big\n");
        write(root, "stray", "x");
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "srv/data").as_deref(), Some("big\n"));
        assert_eq!(read(root, "stray"), None);
        write(root, "stray", "y");
    });
    machine.detach_disk(&disk);
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "stray").as_deref(), Some("y"), "not reset");
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        assert_eq!(read(root, "srv/data"), None);
    });
    assert_eq!(booted.record.outcome, Outcome::Refused);
    assert!(booted.errors()[0].contains("store big is not there"), "{:?}", booted.errors());
}

#[test]
fn a_volume_without_the_right_marker_is_never_touched() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEEP);
    machine.boot("", |root| write(root, "stray", "x"));
    let marker = machine.look(|top| {
        let marker = fs::read_to_string(top.join("ebbtide/marker.json")).unwrap();
        fs::write(
            top.join("ebbtide/marker.json"),
            "{\"version\":1,\"uuid\":\"00000000-0000-4000-8000-000000000000\"}",
        )
        .unwrap();
        marker
    });
    let listing = |top: &Path| {
        run(
            "find",
            &[top.join("ebbtide").to_str().unwrap(), "-maxdepth", "2", "-printf", "%P %T@\n"],
        )
    };
    let before = machine.look(listing);
    let booted = machine.live("", |root, _| {
        assert_eq!(read(root, "stray").as_deref(), Some("x"), "the last root runs on");
    });
    assert_eq!(booted.record.outcome, Outcome::Refused);
    assert!(booted.errors()[0].contains("another container"), "{:?}", booted.errors());
    assert_eq!(machine.look(listing), before);
    machine.look(|top| fs::write(top.join("ebbtide/marker.json"), marker).unwrap());
    let booted = machine.boot("", |root| assert_eq!(read(root, "stray"), None));
    assert_eq!(booted.record.outcome, Outcome::Reset);
}

fn a_base_without_modules_for_this_kernel_is_refused(kind: Kind) {
    let machine = Machine::of(kind);
    let source = machine.source();
    fs::create_dir_all(source.join("usr/lib/modules/0.0.1-other")).unwrap();
    machine.set_up_from(BaseSource::Directory(source), KEEP);
    let booted = machine.boot("", |_| ());
    if Path::new("/proc/modules").exists() {
        assert_eq!(booted.record.outcome, Outcome::Refused);
        assert!(booted.errors()[0].contains("no modules"), "{:?}", booted.errors());
    } else {
        assert_eq!(booted.record.outcome, Outcome::Reset, "this kernel has no modules at all");
    }
}

#[test]
fn status_believes_the_kernel_and_not_the_record() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEEP);
    machine.boot("", |root| write(root, "stray", "x"));
    machine.live("", |root, boot| {
        let good = Machine::status(boot, root);
        assert!(good.ok && good.proved, "{:#?}", good.problems);
        assert_eq!((good.waiting, good.in_place + 2), (2, good.declared));

        let record = fs::read_to_string(boot.run.join("boot.json")).unwrap();
        fs::write(boot.run.join("boot.json"), record.replace("\"number\": 2", "\"number\": 3"))
            .unwrap();
        let forged = Machine::status(boot, root);
        assert!(!forged.proved && !forged.ok);
        fs::write(boot.run.join("boot.json"), record).unwrap();
        assert!(Machine::status(boot, root).ok);

        // The mount table has the root's path without detours.
        let name = root.file_name().unwrap();
        let detour = Machine::status(boot, &root.join("etc/../..").join(name));
        assert!(detour.ok, "{:#?}", detour.problems);

        let (_, compiled) = ebbtide_core::status::declaration(boot, &machine.open()).unwrap();
        let (plan, _) = ebbtide_core::status::observe(&compiled, root, &boot.run).unwrap();
        assert!(plan.is_empty(), "planning after applying: {}", plan.render(&compiled.entries));

        run("umount", &[root.join("var/log").to_str().unwrap()]);
        let torn = Machine::status(boot, root);
        assert!(torn.proved && !torn.ok);
        assert!(torn.problems.iter().any(|it| it.message.contains("/var/log")), "{torn:#?}");

        // A past root in the place of the root of this boot.
        let device = &machine.device.0;
        let other = root.with_file_name("other");
        fs::create_dir(&other).unwrap();
        run("mount", &["-o", "subvol=ebbtide/past/1", device, other.to_str().unwrap()]);
        let past = Machine::status(boot, &other);
        assert!(!past.proved, "{:#?}", past.problems);
    });
}

fn hostile_places_are_refused_one_by_one(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/srv/a\", \"/srv/b/c\", \"/srv/d\"]\n");
    machine.boot("", |_| ());
    machine.look(|top| {
        // Whoever owns a directory of a store can put anything there.
        fs::remove_dir(top.join("state/srv/a")).unwrap();
        symlink("/etc", top.join("state/srv/a")).unwrap();
        fs::remove_dir_all(top.join("state/srv/b")).unwrap();
        symlink("/etc", top.join("state/srv/b")).unwrap();
    });
    let booted = machine.boot("", |root| {
        assert!(root.join("srv/d").is_dir());
        assert!(!root.join("srv/a/passwd").exists());
        assert!(!root.join("srv/b/c/passwd").exists());
    });
    let attached = booted.record.attached.unwrap();
    assert_eq!(attached.missing, [Path::new("/srv/a"), Path::new("/srv/b/c")]);
    assert_eq!(booted.messages.iter().filter(|(level, _)| *level == Level::Error).count(), 2);
    machine.look(|top| assert!(!top.join("state/etc/c").exists()));
}

#[test]
fn set_up_refuses_what_it_did_not_make() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.look(|top| {
        fs::create_dir(top.join("ebbtide")).unwrap();
        fs::write(top.join("ebbtide/mine"), "x").unwrap();
    });
    let refused = machine.plan(BaseSource::Blank, KEEP).unwrap_err();
    assert_eq!(refused, "ebbtide exists already and is no container");
    machine.look(|top| fs::remove_dir_all(top.join("ebbtide")).unwrap());
    machine.set_up_from(BaseSource::Blank, KEEP);
    let again = machine.plan(BaseSource::Blank, KEEP).unwrap_err();
    assert!(again.starts_with("ebbtide is a container already"), "{again}");
}

fn a_blank_base_gives_an_empty_root_with_its_entries(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up_from(BaseSource::Blank, "[keep]\ndirectories = [\"/var/lib/x\"]\n");
    let booted = machine.boot("", |root| {
        assert!(root.join("proc").is_dir());
        assert!(root.join("var/lib/x").is_dir());
        let id = read(root, "etc/machine-id").unwrap();
        assert_eq!(id.trim().len(), 32);
        write(root, "etc/note", &id);
        write(root, "var/lib/x/id", &id);
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    machine.boot("", |root| {
        assert_eq!(read(root, "etc/note"), None);
        assert_eq!(read(root, "var/lib/x/id"), read(root, "etc/machine-id"), "the same machine");
    });
}

#[test]
fn a_subvolume_inside_the_source_is_copied_into_the_base() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.look(|top| {
        let path = |name: &str| top.join(name).to_str().unwrap().to_owned();
        run("btrfs", &["subvolume", "create", &path("@")]);
        fs::create_dir_all(top.join("@/var")).unwrap();
        run("btrfs", &["subvolume", "create", &path("@/var/lib")]);
        write(top, "@/var/lib/dpkg/status", "installed\n");
        write(top, "@/etc/issue", "old\n");
    });
    machine.set_up_from(BaseSource::Subvolume("@".into()), "");
    machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/dpkg/status").as_deref(), Some("installed\n"));
        assert_eq!(read(root, "etc/issue").as_deref(), Some("old\n"));
    });
}

/// Two users with the same relative paths, in homes that are not kept.
const USERS: &str = "[users.alice]\ndirectories = [\"Documents\", \".config/app\"]\nfiles = [\".gitconfig\"]\n\
    [users.bob]\ndirectories = [\"Documents\", \".config/app\"]\n\
    [keep]\nfiles = [{ path = \"/etc/passwd\", method = \"sync\" }, { path = \"/etc/group\", method = \"sync\" }]\n";

fn owner_and_mode(root: &Path, path: &str) -> (u32, u32, u32) {
    let found = fs::symlink_metadata(root.join(path)).unwrap();
    (found.uid(), found.gid(), found.mode() & 0o7777)
}

fn users_have_their_own_in_ephemeral_homes(kind: Kind) {
    let machine = Machine::of(kind);
    let source = machine.source();
    // The base has a home that is open to others; it is not alice's business how open.
    fs::remove_dir_all(source.join("home/alice")).unwrap();
    machine.set_up_from(BaseSource::Directory(source), USERS);
    let booted = machine.boot("", |root| {
        for (file, line) in
            [("passwd", "bob:x:1001:1007::/home/bob:/bin/sh\n"), ("group", "bob:x:1007:\n")]
        {
            let path = root.join("etc").join(file);
            fs::write(&path, fs::read_to_string(&path).unwrap() + line).unwrap();
        }
        assert_eq!(owner_and_mode(root, "home/alice"), (1000, 1000, 0o700));
        assert_eq!(owner_and_mode(root, "home/alice/.config"), (1000, 1000, 0o700));
        assert_eq!(owner_and_mode(root, "home/alice/.config/app"), (1000, 1000, 0o700));
        assert!(!root.join("home/bob").exists(), "nobody's home is made for root");
        write(root, "home/alice/Documents/letter", "of alice");
        write(root, "home/alice/.gitconfig", "name = alice");
        write(root, "home/alice/stray", "x");
    });
    let about_bob: Vec<_> =
        booted.errors().into_iter().filter(|it| it.contains("bob")).map(str::to_owned).collect();
    assert_eq!(about_bob.len(), 2, "{:?}", booted.errors());
    let booted = machine.boot("", |root| {
        assert_eq!(owner_and_mode(root, "home"), (0, 0, 0o755));
        assert_eq!(owner_and_mode(root, "home/bob"), (1001, 1007, 0o700));
        assert_eq!(owner_and_mode(root, "home/bob/Documents"), (1001, 1007, 0o700));
        assert_eq!(read(root, "home/alice/Documents/letter").as_deref(), Some("of alice"));
        assert_eq!(read(root, "home/alice/.gitconfig").as_deref(), Some("name = alice"));
        assert!(!root.join("home/alice/stray").exists());
        write(root, "home/bob/Documents/letter", "of bob");
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    machine.boot("", |root| {
        assert_eq!(read(root, "home/alice/Documents/letter").as_deref(), Some("of alice"));
        assert_eq!(read(root, "home/bob/Documents/letter").as_deref(), Some("of bob"));
    });
    machine.look(|top| {
        assert_eq!(owner_and_mode(top, "state/home/bob"), (1001, 1007, 0o700));
        assert_eq!(owner_and_mode(top, "state/home/alice"), (1000, 1000, 0o700));
    });
}

#[test]
fn links_in_a_home_lead_nowhere() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n[store.cache]\nsubvolume = \"cache\"\nclass = \"cache\"\n");
    machine.boot("", |root| {
        let _ = fs::remove_dir_all(root.join("home/alice/.cache"));
        symlink("/etc", root.join("home/alice/.cache")).unwrap();
        symlink("/etc/shadow", root.join("home/alice/.history")).unwrap();
    });
    machine.publish(
        "[keep]\ndirectories = [\"/home\"]\n[store.cache]\nsubvolume = \"cache\"\nclass = \"cache\"\n\
         [users.alice]\ndirectories = [{ path = \".cache/app\", store = \"cache\" }]\n\
         files = [{ path = \".history\", method = \"bind\", store = \"cache\" }]\n",
    );
    let booted = machine.boot("", |root| {
        assert!(!root.join("etc/app").exists(), "nothing is made where a link of a user leads");
        assert_eq!(fs::read_link(root.join("home/alice/.cache")).unwrap(), Path::new("/etc"));
    });
    assert!(booted.errors().iter().any(|it| it.contains(".cache/app")), "{:?}", booted.errors());
    machine.look(|top| assert!(!top.join("cache/home/alice/.history").exists()));
}

fn private_state_lies_in_a_private_directory(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [{ path = \"/var/lib/private/app\", user = 61184, group = 61184, mode = \"0700\" }]\n");
    for _ in 0..2 {
        machine.boot("", |root| {
            assert_eq!(owner_and_mode(root, "var/lib/private"), (0, 0, 0o700));
            assert_eq!(owner_and_mode(root, "var/lib/private/app"), (61184, 61184, 0o700));
        });
    }
    machine.look(|top| assert_eq!(owner_and_mode(top, "state/var/lib/private"), (0, 0, 0o700)));
}
