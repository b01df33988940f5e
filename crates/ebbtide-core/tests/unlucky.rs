//! Boots on machines where something is not as it should be: nothing is lost, nothing is claimed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::path::Path;

use ebbtide_core::compiled::Backend;
use ebbtide_core::record::{Ending, Outcome};
use machine::{Kind, Machine, is_root, read, run, write};

on_each_disk!(
    a_store_that_is_too_small_is_not_filled_with_nothing,
    an_entry_that_moves_to_another_store_takes_its_data_along,
    entries_inside_entries_are_in_place_at_every_boot,
    a_kept_root_loses_no_file_to_a_link,
    odd_objects_in_the_container_take_no_entry_away,
    the_mark_of_a_clean_end_goes_even_if_the_record_is_torn,
    a_mount_that_hides_an_entry_is_found_out,
    a_store_that_was_restored_without_its_marker_is_the_same_after_apply,
    a_declaration_that_could_not_be_read_once_takes_nothing_from_what_it_keeps,
    a_root_that_could_not_be_put_away_has_first_content_all_the_same,
    a_root_without_a_record_does_not_hide_first_content,
    what_only_the_run_directory_says_is_told_and_no_proof,
);

/// A declaration with a store on another disk.
fn with_store(name: &str, disk: &str, keep: &str) -> String {
    format!("[store.{name}]\ndevice = \"{disk}\"\n[keep]\n{keep}")
}

fn a_store_that_is_too_small_is_not_filled_with_nothing(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk_of("small", "ext4", 16);
    machine.set_up("");
    machine.boot("", |root| {
        fs::create_dir_all(root.join("var/lib/pg")).unwrap();
        fs::write(root.join("var/lib/pg/data"), vec![7_u8; 40 << 20]).unwrap();
    });
    machine.apply(&with_store(
        "small",
        &disk,
        "directories = [{ path = \"/var/lib/pg\", store = \"small\" }]",
    ));
    for _ in 0..2 {
        let failed = machine.boot("", |root| {
            // A service makes itself a new database, as services do.
            write(root, "var/lib/pg/data", "empty");
        });
        let attached = failed.record.attached.as_ref().unwrap();
        assert_eq!(attached.missing, [Path::new("/var/lib/pg")]);
        assert!(failed.errors().iter().any(|it| it.contains("ENOSPC")), "{:?}", failed.errors());
    }
    machine.apply("[keep]\ndirectories = [\"/var/lib/pg\"]\n");
    let mended = machine.boot("", |root| {
        assert_eq!(fs::metadata(root.join("var/lib/pg/data")).unwrap().len(), 40 << 20);
    });
    assert_eq!(mended.errors(), Vec::<&str>::new());
}

fn a_declaration_that_could_not_be_read_once_takes_nothing_from_what_it_keeps(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.boot("", |root| write(root, "var/lib/new/data", "first\n"));
    machine.apply("[keep]\ndirectories = [\"/home\", \"/var/lib/new\"]\n");
    let hidden = |hide: bool| {
        machine.look(|top| {
            let place = top.join("state/.ebbtide/declarations");
            let aside = top.join("state/aside");
            if !hide {
                return fs::rename(&aside, place.join(read(top, "name").unwrap())).unwrap();
            }
            let names = fs::read_dir(place).unwrap().map(|entry| entry.unwrap());
            let current = names
                .map(|it| it.path())
                .find(|path| fs::read_to_string(path).unwrap().contains("/var/lib/new"));
            let current = current.unwrap();
            write(top, "name", current.file_name().unwrap().to_str().unwrap());
            fs::rename(current, aside).unwrap();
        });
    };
    hidden(true);
    for _ in 0..2 {
        let previous = machine.boot("", |root| {
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
            // A service makes itself a new database, as services do.
            write(root, "var/lib/new/data", "empty\n");
        });
        assert!(previous.errors()[0].contains("the previous one is used"));
        assert!(previous.record.attached.unwrap().partial);
    }
    hidden(false);
    let mended = machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/new/data").as_deref(), Some("first\n"));
    });
    assert_eq!(mended.errors(), Vec::<&str>::new());
    assert!(!mended.record.attached.unwrap().partial);
}

fn a_root_that_could_not_be_put_away_has_first_content_all_the_same(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.boot("", |root| write(root, "var/lib/new/data", "first\n"));
    machine.apply("[keep]\ndirectories = [\"/home\", \"/var/lib/new\"]\n");
    let protect = |how: &str| {
        machine.look(|top| {
            run("chattr", &[how, top.join("ebbtide/past").to_str().unwrap()]);
        });
    };
    protect("+i");
    let left = machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/new/data").as_deref(), Some("first\n"));
    });
    assert_eq!(left.record.outcome, Outcome::Reset);
    assert!(left.errors()[0].contains("cannot put the old root away"), "{:?}", left.errors());
    protect("-i");
    let mended = machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/new/data").as_deref(), Some("first\n"));
    });
    assert_eq!(mended.errors(), Vec::<&str>::new());
    let first = machine.past(left.record.number, |root| root.join("home").is_dir());
    assert!(first, "the root of that boot is a past root");
}

fn a_root_without_a_record_does_not_hide_first_content(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.boot("", |root| write(root, "var/lib/new/data", "first\n"));
    machine.apply("[keep]\ndirectories = [\"/home\", \"/var/lib/new\"]\n");
    machine.cut_after_reset();
    // As after a boot that made a root, could not mount it, and ran in RAM.
    machine.look(|top| {
        fs::remove_file(top.join("ebbtide/boots/2.json")).unwrap();
        let upper = if kind.backend == Backend::Btrfs { "" } else { "upper" };
        write(&top.join("ebbtide/root").join(upper), "stray", "x\n");
    });
    let next = machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/new/data").as_deref(), Some("first\n"));
    });
    assert_eq!(next.errors(), Vec::<&str>::new());
}

fn what_only_the_run_directory_says_is_told_and_no_proof(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.live("", |root, boot| {
        machine.look(|top| fs::remove_file(top.join("ebbtide/boots/1.json")).unwrap());
        let status = Machine::status(boot, root);
        assert!(!status.proved && !status.ok);
        assert_eq!((status.boot.map(|it| it.0), status.outcome), (Some(1), Some(Outcome::Reset)));
        let [problem, ..] = status.problems.as_slice() else { panic!("no problem") };
        assert!(problem.message.contains("boot.json has one"), "{problem}");
        fs::remove_file(boot.run.join("boot.json")).unwrap();
        let status = Machine::status(boot, root);
        assert_eq!((status.boot, status.outcome), (None, None));
        assert!(status.problems.iter().any(|it| it.message.contains("did not run Ebbtide")));
    });
}

fn an_entry_that_moves_to_another_store_takes_its_data_along(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk("other", "ext4");
    machine
        .set_up("[keep]\ndirectories = [\"/home\"]\nfiles = [\"/etc/ssh/ssh_host_ed25519_key\"]\n");
    machine.boot("", |_| ());
    machine.apply(&with_store(
        "other",
        &disk,
        "directories = [\"/home\", { path = \"/home/alice\", store = \"other\" }]\n\
         files = [{ path = \"/etc/ssh/ssh_host_ed25519_key\", store = \"other\" }]\n",
    ));
    let moved = machine.boot("", |root| {
        assert_eq!(read(root, "etc/ssh/ssh_host_ed25519_key").as_deref(), Some("PRIVATE\n"));
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        write(root, "home/alice/letter", "dear all\n");
    });
    assert_eq!(moved.errors(), Vec::<&str>::new());
    machine.boot("", |root| {
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear all\n"));
    });
}

fn entries_inside_entries_are_in_place_at_every_boot(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk("big", "ext4");
    machine.set_up(&with_store(
        "big",
        &disk,
        "directories = [\"/home\", { path = \"/home/alice/.cache\", store = \"big\" }]\n\
         files = [{ path = \"/home/alice/.netrc\", store = \"big\" }]\n",
    ));
    machine.boot("", |root| {
        write(root, "home/alice/.cache/x", "cached\n");
        write(root, "home/alice/.netrc", "machine\n");
    });
    for command_line in ["", "", "ebbtide=off", "ebbtide=keep", ""] {
        let booted = machine.boot(command_line, |root| {
            assert_eq!(read(root, "home/alice/.cache/x").as_deref(), Some("cached\n"));
            assert_eq!(read(root, "home/alice/.netrc").as_deref(), Some("machine\n"));
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        });
        assert_eq!(booted.errors(), Vec::<&str>::new(), "{command_line}");
    }
}

#[test]
fn a_subvolume_in_what_is_imported_comes_along() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("");
    machine.boot("", |root| {
        fs::create_dir_all(root.join("var/lib/machines")).unwrap();
        run(
            "btrfs",
            &["-q", "subvolume", "create", root.join("var/lib/machines/one").to_str().unwrap()],
        );
        write(root, "var/lib/machines/one/etc/hostname", "one\n");
    });
    machine.apply("[keep]\ndirectories = [\"/var/lib/machines\"]\n");
    machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/machines/one/etc/hostname").as_deref(), Some("one\n"));
    });
}

fn a_kept_root_loses_no_file_to_a_link(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\nfiles = [{ path = \"/etc/issue\", method = \"symlink\" }]\n");
    machine.boot("", |root| {
        // A program that replaces its file by rename replaces the link.
        fs::write(root.join("etc/.new"), "precious\n").unwrap();
        fs::rename(root.join("etc/.new"), root.join("etc/issue")).unwrap();
    });
    let kept = machine.boot("ebbtide=keep", |root| {
        assert_eq!(read(root, "etc/issue.ebbtide-replaced").as_deref(), Some("precious\n"));
    });
    assert!(kept.errors()[0].contains("/etc/issue"), "{:?}", kept.errors());
}

fn odd_objects_in_the_container_take_no_entry_away(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.boot("", |root| write(root, "stray", "x"));
    machine.look(|top| {
        fs::write(top.join("ebbtide/past/9.json"), "{}").unwrap();
        fs::write(top.join("ebbtide/past/4"), "").unwrap();
        fs::write(top.join("ebbtide/past/18446744073709551615"), "").unwrap();
        fs::write(top.join("ebbtide/boots/1.json"), "{ torn").unwrap();
    });
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        assert_eq!(read(root, "stray"), None);
    });
    assert_eq!(booted.record.outcome, Outcome::Reset);
    assert!(booted.record.number.0 < 10, "{}", booted.record.number);
    machine.look(|top| {
        assert!(!top.join("ebbtide/root/stray").exists());
    });
}

fn the_mark_of_a_clean_end_goes_even_if_the_record_is_torn(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("");
    machine.boot("", |_| ());
    assert!(machine.open().clean_mark().is_some());
    machine.look(|top| fs::write(top.join("ebbtide/boots/1.json"), "{ torn").unwrap());
    let cut = machine.live("", |_, _| ());
    assert!(machine.open().clean_mark().is_none());
    machine.boot("", |_| ());
    let ended = machine.open().record(cut.record.number).unwrap().unwrap().ended;
    assert_eq!(ended, Some(Ending::Unclean));
}

fn a_mount_that_hides_an_entry_is_found_out(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    machine.live("", |root, boot| {
        assert!(Machine::status(boot, root).ok);
        run("mount", &["-t", "tmpfs", "none", root.join("var").to_str().unwrap()]);
        let hidden = Machine::status(boot, root);
        assert!(hidden.problems.iter().any(|it| it.message.contains("/var/log")), "{hidden:#?}");
    });
}

fn a_store_that_was_restored_without_its_marker_is_the_same_after_apply(kind: Kind) {
    let mut machine = Machine::of(kind);
    let disk = machine.disk("big", "ext4");
    let keep = with_store("big", &disk, "directories = [{ path = \"/srv\", store = \"big\" }]\n");
    machine.set_up(&keep);
    machine.boot("", |root| write(root, "srv/data", "big\n"));
    machine.on_disk(&disk, |top| fs::remove_file(top.join(".ebbtide/store.json")).unwrap());
    let refused = machine.boot("", |_| ());
    assert_eq!(refused.record.outcome, Outcome::Refused);
    machine.publish(&keep);
    let mended =
        machine.boot("", |root| assert_eq!(read(root, "srv/data").as_deref(), Some("big\n")));
    assert_eq!(mended.record.outcome, Outcome::Reset);
}

#[test]
fn a_past_root_that_somebody_looks_at_stays_what_it_is() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.boot("", |root| write(root, "stray", "x"));
    machine.boot("", |_| ());
    let visit = machine.live("rootflags=subvol=ebbtide/past/1", |root, boot| {
        assert_eq!(read(root, "stray").as_deref(), Some("x"));
        assert!(!Machine::status(boot, root).proved);
    });
    assert_eq!(visit.record.outcome, Outcome::Refused);
    let next = machine.live("", |root, boot| {
        let status = Machine::status(boot, root);
        assert!(status.ok, "{:#?}", status.problems);
    });
    assert_eq!(next.record.outcome, Outcome::Reset);
}
