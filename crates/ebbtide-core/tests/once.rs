//! Paths that are carried over one reset.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::failure::Level;
use ebbtide_core::once::{self, Once};
use ebbtide_core::record::{BootNumber, Outcome, Switch};
use ebbtide_core::shutdown;
use ebbtide_sys::tree;
use machine::{Booted, Kind, Machine, is_root, read, run, write};

on_each_disk!(
    it_is_there_after_one_reset_and_not_after_two,
    a_boot_without_a_reset_is_none,
    what_a_new_root_has_is_not_replaced,
    what_is_gone_or_kept_is_said,
    what_can_not_be_carried_is_refused,
    a_wish_can_be_taken_back,
    a_cut_between_record_and_wish_does_not_do_it_twice,
    a_wish_that_nobody_heard_is_not_fulfilled_later,
    a_wish_waits_for_a_root_that_could_not_be_put_away,
    a_planted_link_is_not_followed,
    a_wish_that_others_could_have_changed_is_none,
);

const KEEP: &str = "[keep]\ndirectories = [\"/var/log\", \"/srv/site/kept\"]\n";

fn ask(boot: &Boot, root: &Path, paths: &[&str]) -> Result<once::Plan, String> {
    let once = Once::open(boot, root).map_err(|it| it.chain())?;
    let _lock = once.lock().unwrap();
    let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
    let plan = once.plan(&paths).map_err(|it| it.chain())?;
    once.apply(&plan).map_err(|it| it.chain())?;
    Ok(plan)
}

fn end(boot: &Boot, root: &Path) {
    shutdown::mark_clean(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
}

/// What a boot says of what is carried: from which boot, what is there, and what is not.
fn carried(booted: &Booted) -> (u64, Vec<String>, Vec<String>) {
    let carried = booted.record.carried.as_ref().unwrap();
    let text = |paths: &[PathBuf]| paths.iter().map(|it| it.display().to_string()).collect();
    (carried.from.0, text(&carried.paths), text(&carried.left))
}

fn wish(machine: &Machine) -> Option<String> {
    machine.look(|top| read(top, "state/.ebbtide/once.json"))
}

/// A machine whose next boot is to carry `/opt/work` over.
fn with_a_wish(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "opt/work", "x\n");
        ask(boot, root, &["/opt/work"]).unwrap();
        end(boot, root);
    });
    machine
}

fn make_work(root: &Path) {
    write(root, "srv/site/work/bin/tool", "#!\n");
    write(root, "srv/site/work/new\nline\u{1b}", "hostile\n");
    write(root, "srv/site/kept/data", "kept\n");
    let work = root.join("srv/site/work");
    fs::hard_link(work.join("bin/tool"), work.join("second")).unwrap();
    symlink("/etc/shadow", work.join("link")).unwrap();
    run("setfattr", &["-n", "user.note", "-v", "x", work.join("bin/tool").to_str().unwrap()]);
    chown(&work, Some(1000), Some(4)).unwrap();
    fs::set_permissions(&work, fs::Permissions::from_mode(0o2770)).unwrap();
    chown(root.join("srv/site"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(root.join("srv/site"), fs::Permissions::from_mode(0o750)).unwrap();
}

fn it_is_there_after_one_reset_and_not_after_two(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        make_work(root);
        write(root, "home/alice/draft", "half\n");
        let plan = ask(boot, root, &["/srv/site/work", "/home/alice/draft"]).unwrap();
        assert_eq!(plan.added.len(), 2);
        let plan = ask(boot, root, &["/srv/site/work/bin", "/srv/site/work"]).unwrap();
        assert_eq!((plan.added.len(), plan.already.len()), (0, 2));
        end(boot, root);
    });
    let mode = machine.look(|top| {
        let found = fs::metadata(top.join("state/.ebbtide/once.json")).unwrap();
        (found.uid(), found.mode() & 0o7777)
    });
    assert_eq!(mode, (0, 0o600));
    let booted = machine.boot("", |root| {
        machine.past(BootNumber(1), |past| {
            let (past, root) = (fs::File::open(past).unwrap(), fs::File::open(root).unwrap());
            let work = Path::new("srv/site/work");
            let different = tree::first_difference(past.as_fd(), work, root.as_fd(), work, true);
            assert_eq!(different.unwrap(), None);
        });
        let work = root.join("srv/site/work");
        let inode = |name: &str| fs::metadata(work.join(name)).unwrap().ino();
        assert_eq!(inode("bin/tool"), inode("second"));
        let tool = work.join("bin/tool");
        assert!(run("getfattr", &["-n", "user.note", tool.to_str().unwrap()]).contains('x'));
        let site = fs::metadata(root.join("srv/site")).unwrap();
        assert_eq!((site.uid(), site.gid(), site.mode() & 0o7777), (1000, 1000, 0o750));
        assert_eq!(read(root, "srv/site/kept/data").as_deref(), Some("kept\n"));
        assert_eq!(read(root, "home/alice/draft").as_deref(), Some("half\n"));
        assert!(!root.join("srv/site/.ebbtide-restore.work").exists());
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    let expected = ["/home/alice/draft", "/srv/site/work"].map(str::to_owned).to_vec();
    assert_eq!(carried(&booted), (1, expected, Vec::new()));
    assert_eq!(wish(&machine), None);
    let booted = machine.boot("", |root| {
        assert!(!root.join("srv/site/work").exists() && !root.join("home/alice/draft").exists());
        assert_eq!(read(root, "srv/site/kept/data").as_deref(), Some("kept\n"));
    });
    assert_eq!((booted.record.carried.as_ref(), booted.errors()), (None, Vec::new()));
}

fn a_boot_without_a_reset_is_none(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "opt/work/file", "one\n");
        ask(boot, root, &["/opt/work"]).unwrap();
        end(boot, root);
    });
    for (number, switch) in [(2, Switch::Off), (3, Switch::Keep)] {
        let word = if switch == Switch::Off { "off" } else { "keep" };
        let booted = machine.boot(&format!("ebbtide={word}"), |root| {
            write(root, "opt/work/file", &format!("{number}\n"));
        });
        assert_eq!(booted.record.outcome, Outcome::Kept(switch));
        assert_eq!(booted.record.carried, None);
        assert!(wish(&machine).is_some(), "{word}");
    }
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "opt/work/file").as_deref(), Some("3\n"), "as it was last");
    });
    assert_eq!(carried(&booted), (3, vec!["/opt/work".to_owned()], Vec::new()));
    assert_eq!(wish(&machine), None);
}

fn what_a_new_root_has_is_not_replaced(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "etc/issue", "mine\n");
        write(root, "etc/app/conf", "mine\n");
        write(root, "opt/work", "mine\n");
        for path in ["/etc/issue", "/etc"] {
            let said = ask(boot, root, &[path]).unwrap_err();
            assert!(said.contains("the base has it"), "{said}");
        }
        // One that is empty in the base gives way.
        write(root, "srv/page", "mine\n");
        ask(boot, root, &["/srv", "/etc/app", "/opt/work"]).unwrap();
        end(boot, root);
    });
    // The base gets one of them meanwhile.
    machine.look(|top| {
        let base = top.join("ebbtide/bases/1");
        if kind.backend == Backend::Btrfs {
            run("btrfs", &["property", "set", "-f", base.to_str().unwrap(), "ro", "false"]);
        }
        write(&base, "etc/app/conf", "the base's\n");
        if kind.backend == Backend::Btrfs {
            run("btrfs", &["property", "set", base.to_str().unwrap(), "ro", "true"]);
        }
    });
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "etc/app/conf").as_deref(), Some("the base's\n"));
        assert_eq!(read(root, "opt/work").as_deref(), Some("mine\n"));
        assert_eq!(read(root, "srv/page").as_deref(), Some("mine\n"));
    });
    let (from, paths, left) = carried(&booted);
    assert_eq!((from, paths.len(), left), (1, 2, vec!["/etc/app".to_owned()]));
    let [problem] = booted.record.problems.as_slice() else { panic!("{:?}", booted.record) };
    assert_eq!(problem.level, Level::Warning);
    assert!(problem.message.ends_with("/etc/app is there already"), "{problem}");
    assert!(problem.hint.as_ref().unwrap().contains("`ebbtide restore --boot 1 /etc/app`"));
    assert_eq!(wish(&machine), None, "it is not tried again");
    machine.past(BootNumber(1), |past| {
        assert_eq!(read(past, "etc/app/conf").as_deref(), Some("mine\n"));
    });
}

fn what_is_gone_or_kept_is_said(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        for path in ["opt/gone", "opt/later/data", "opt/other/linked/data", "opt/work"] {
            write(root, path, "x\n");
        }
        ask(boot, root, &["/opt/gone", "/opt/later", "/opt/other", "/opt/work"]).unwrap();
        fs::remove_file(root.join("opt/gone")).unwrap();
        end(boot, root);
    });
    machine.apply(
        "[keep]\ndirectories = [\"/var/log\", \"/srv/site/kept\", \"/opt/later\", \
         { path = \"/opt/other/linked\", method = \"symlink\" }]\n",
    );
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "opt/later/data").as_deref(), Some("x\n"));
        assert!(root.join("opt/other/linked").is_symlink(), "an entry comes first");
        assert_eq!(read(root, "opt/work").as_deref(), Some("x\n"));
        assert!(!root.join("opt/gone").exists());
    });
    assert!(booted.record.attached.as_ref().unwrap().missing.is_empty());
    let (_, paths, left) = carried(&booted);
    assert_eq!(paths, ["/opt/work"]);
    assert_eq!(left, ["/opt/gone", "/opt/other"]);
    let levels: Vec<_> = booted.record.problems.iter().map(|it| it.level).collect();
    assert_eq!(levels, [Level::Notice, Level::Warning], "{:?}", booted.record.problems);
    assert!(booted.messages.iter().any(|(_, it)| it.contains("/opt/later need not be carried")));
}

fn what_can_not_be_carried_is_refused(kind: Kind) {
    let mut machine = Machine::of(kind);
    machine.import_limit = 1 << 20;
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        fs::create_dir_all(root.join("opt/mnt")).unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", root.join("opt/mnt").to_str().unwrap()]);
        write(root, "opt/mnt/file", "x\n");
        for (path, why) in [
            ("/", "it is the whole root"),
            ("/opt/nothing", "there is nothing"),
            ("/opt/mnt/file", "it is on another filesystem than the root"),
        ] {
            let said = ask(boot, root, &[path]).unwrap_err();
            assert!(said.ends_with(why), "{said}");
        }
        run("umount", &[root.join("opt/mnt").to_str().unwrap()]);
        fs::write(root.join("opt/half"), vec![1; 700_000]).unwrap();
        fs::write(root.join("opt/other"), vec![1; 700_000]).unwrap();
        ask(boot, root, &["/opt/half"]).unwrap();
        match (kind.backend, ask(boot, root, &["/opt/other"])) {
            (Backend::Btrfs, asked) => assert!(asked.is_ok(), "its content is shared"),
            (_, asked) => {
                let said = asked.unwrap_err();
                assert!(said.contains("no more than 1.0 MiB"), "{said}");
            }
        }
        // It grows after it was asked for.
        fs::write(root.join("opt/half"), vec![1; 2_000_000]).unwrap();
        end(boot, root);
    });
    let booted = machine.boot("", |root| {
        assert_eq!(root.join("opt/half").exists(), kind.backend == Backend::Btrfs);
    });
    let (_, paths, left) = carried(&booted);
    match kind.backend {
        Backend::Btrfs => assert_eq!((paths.len(), left.len()), (2, 0)),
        _ => assert_eq!((paths.len(), left), (0, vec!["/opt/half".to_owned()])),
    }
}

fn a_wish_can_be_taken_back(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "opt/a", "x\n");
        write(root, "opt/b/c", "x\n");
        ask(boot, root, &["/opt/a", "/opt/b/c"]).unwrap();
        // All of it, instead of a part.
        ask(boot, root, &["/opt/b"]).unwrap();
        let uuid = ebbtide_core::backend::mounted(kind.backend, root).unwrap().uuid();
        let now = || once::carried(boot, uuid).unwrap().paths;
        assert_eq!(now(), ["/opt/a", "/opt/b"].map(PathBuf::from));
        let once = Once::open(boot, root).unwrap();
        let back = ["/opt/a", "/never"].map(PathBuf::from);
        assert_eq!(once.asked_for(&back).unwrap(), ["/opt/a"].map(PathBuf::from));
        once.take_back(&back).unwrap();
        assert_eq!(now(), ["/opt/b"].map(PathBuf::from));
        once.take_back(&["/opt/b".into()]).unwrap();
        assert_eq!(now(), Vec::<PathBuf>::new());
        end(boot, root);
    });
    assert_eq!(wish(&machine), None);
    let booted = machine.boot("", |root| assert!(!root.join("opt").exists()));
    assert_eq!(booted.record.carried, None);
}

fn a_cut_between_record_and_wish_does_not_do_it_twice(kind: Kind) {
    let machine = with_a_wish(kind);
    let before = wish(&machine).unwrap();
    // Cut off before anything is put in place, twice: it is still to come.
    machine.cut_after_reset();
    machine.cut_after_reset();
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "opt/work").as_deref(), Some("x\n"));
        fs::remove_file(root.join("opt/work")).unwrap();
    });
    assert_eq!(carried(&booted), (1, vec!["/opt/work".to_owned()], Vec::new()));
    // As if it had been cut off after the record: the wish is there again.
    machine.look(|top| write(top, "state/.ebbtide/once.json", &before));
    let booted = machine.boot("", |root| assert!(!root.join("opt/work").exists()));
    assert_eq!((booted.record.carried.as_ref(), booted.errors()), (None, Vec::new()));
    assert_eq!(wish(&machine), None);
}

fn a_wish_that_nobody_heard_is_not_fulfilled_later(kind: Kind) {
    let machine = with_a_wish(kind);
    // The reset of an initramfs that knows no wishes.
    let wish_of_then = wish(&machine).unwrap();
    machine.look(|top| fs::remove_file(top.join("state/.ebbtide/once.json")).unwrap());
    machine.boot("", |_| ());
    machine.look(|top| write(top, "state/.ebbtide/once.json", &wish_of_then));
    let booted = machine.boot("", |root| assert!(!root.join("opt/work").exists()));
    assert_eq!(booted.record.carried, None);
    let [problem] = booted.record.problems.as_slice() else { panic!("{:?}", booted.record) };
    assert!(problem.message.contains("an earlier boot made a new root without it"), "{problem}");
    assert!(problem.hint.as_ref().unwrap().contains("restore --boot 1 /opt/work"), "{problem}");
    assert_eq!(wish(&machine), None);
    // One from nowhere, as in a state store that was restored from a backup.
    let other = wish_of_then.replace(|it: char| it.is_ascii_digit() && it != '1', "0");
    machine.look(|top| write(top, "state/.ebbtide/once.json", &other));
    let booted = machine.boot("", |root| assert!(!root.join("opt/work").exists()));
    assert!(booted.errors()[0].contains("no past root any more"), "{:?}", booted.errors());
    assert_eq!(wish(&machine), None);
}

fn a_wish_waits_for_a_root_that_could_not_be_put_away(kind: Kind) {
    let machine = with_a_wish(kind);
    let protect = |how: &str| {
        machine.look(|top| run("chattr", &[how, top.join("ebbtide/past").to_str().unwrap()]));
    };
    protect("+i");
    let left = machine.boot("", |root| assert!(!root.join("opt/work").exists()));
    protect("-i");
    let problems = &left.record.problems;
    assert!(problems.iter().any(|it| it.message.contains("is not put away yet")), "{problems:?}");
    assert!(wish(&machine).is_some(), "the boot that puts it away says where it is");
    let mended = machine.boot("", |root| assert!(!root.join("opt/work").exists()));
    let [problem] = mended.record.problems.as_slice() else { panic!("{:?}", mended.record) };
    assert!(problem.hint.as_ref().unwrap().contains("restore --boot 1 /opt/work"), "{problem}");
    machine.past(BootNumber(1), |past| assert_eq!(read(past, "opt/work").as_deref(), Some("x\n")));
    assert_eq!(wish(&machine), None);
}

fn a_planted_link_is_not_followed(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "home/alice/a/secret", "hers\n");
        write(root, "home/alice/b", "hers\n");
        ask(boot, root, &["/home/alice/a/secret", "/home/alice/b"]).unwrap();
        // A user leads both elsewhere.
        fs::remove_dir_all(root.join("home/alice/a")).unwrap();
        symlink("/etc", root.join("home/alice/a")).unwrap();
        write(root, "etc/secret", "not hers\n");
        fs::remove_file(root.join("home/alice/b")).unwrap();
        symlink("/etc/ssh", root.join("home/alice/b")).unwrap();
        end(boot, root);
    });
    let booted = machine.boot("", |root| {
        assert!(!root.join("home/alice/a").exists());
        assert!(root.join("home/alice/b").is_symlink(), "a link is carried as one");
        assert!(!root.join("etc/secret").exists());
    });
    let (_, paths, left) = carried(&booted);
    assert_eq!((paths, left), (vec!["/home/alice/b".into()], vec!["/home/alice/a/secret".into()]));
}

fn a_wish_that_others_could_have_changed_is_none(kind: Kind) {
    let machine = with_a_wish(kind);
    let good = wish(&machine).unwrap();
    for (bad, why) in [
        (good.replace("\"version\": 1", "\"version\": 2"), "format version 2"),
        (good.replace("/opt/work", "/opt/../etc"), "no absolute path"),
        (good.replace("/opt/work", "etc"), "no absolute path"),
        ("{".to_owned(), "cannot understand"),
    ] {
        machine.look(|top| write(top, "state/.ebbtide/once.json", &bad));
        let booted = machine.boot("", |root| assert!(!root.join("opt/work").exists()));
        assert_eq!(booted.record.outcome, Outcome::Reset);
        let [problem] = booted.record.problems.as_slice() else { panic!("{:?}", booted.record) };
        assert!(problem.message.contains(why), "{problem}");
        assert_eq!(problem.level, Level::Warning);
        assert!(wish(&machine).is_some(), "it is not removed unread");
    }
}

#[test]
fn a_root_in_ram_is_refused() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(machine::KINDS[4]);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "opt/work", "x\n");
        let said = ask(boot, root, &["/opt/work"]).unwrap_err();
        assert!(said.contains("the root is in RAM"), "{said}");
    });
}
