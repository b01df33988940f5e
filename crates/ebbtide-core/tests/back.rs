//! Moving what entries keep back to the root, on loop images.

#![allow(clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ebbtide_core::boot::Boot;
use ebbtide_core::failure::{Failure, Level};
use ebbtide_core::live::{Back, How, Live, Step};
use ebbtide_core::{shutdown, status};
use ebbtide_sys::mountinfo;
use machine::{KINDS, Kind, Machine, is_root, read, run, write};

on_each_disk!(
    what_is_kept_comes_back_as_it_is,
    what_the_store_allows_keeps_its_privileges,
    a_cut_after_any_step_loses_nothing,
    what_is_in_use_stays,
    what_is_written_meanwhile_is_not_lost,
    what_is_taken_back_later_is_not_any_more,
    if_it_stays_declared_it_is_mounted_again,
    what_cannot_be_moved_says_why,
);

const ALL: &str = "[keep]\ndirectories = [\"/var/log\", \"/srv/site\"]\nfiles = [\"/etc/motd\", \
                   { path = \"/etc/issue\", method = \"sync\" }]\n";
const LOG: &str = "[keep]\ndirectories = [\"/var/log\"]\n";

fn live(machine: &Machine, boot: &Boot, root: &Path) -> Live {
    let (_, compiled) = status::declaration(boot, &machine.open()).unwrap();
    Live::open(boot, root, &compiled, None).unwrap().unwrap()
}

fn paths(paths: &[&str]) -> Vec<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

/// As `ebbtide forget --move-back`, with this declaration after it.
fn forget(machine: &Machine, boot: &Boot, root: &Path, these: &[&str], rest: &str) -> Vec<Back> {
    let before = live(machine, boot, root);
    let moved = before
        .move_back(&paths(these), &mut |_| Ok(()))
        .unwrap_or_else(|it| panic!("{}", it.chain()));
    assert!(moved.problems.is_empty(), "{:?}", moved.problems);
    machine.publish(rest);
    let (hash, compiled) = status::declaration(boot, &machine.open()).unwrap();
    let after = Live::open(boot, root, &compiled, None).unwrap().unwrap();
    let mut log = |_: Level, _: &str| ();
    after.apply(&hash, &mut log).unwrap_or_else(|it| panic!("{}", it.chain()));
    let (backs, problems) = moved.finish(&before, boot, &mut |_| Ok(())).unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    backs
}

fn refused(machine: &Machine, boot: &Boot, root: &Path, path: &str) -> String {
    let live = live(machine, boot, root);
    let failure = live.move_back(&paths(&[path]), &mut |_| Ok(())).unwrap_err();
    let why = live.plan_back(&paths(&[path])).unwrap_err();
    assert_eq!(failure.chain(), why.chain(), "it is known before");
    format!("{} ({})", failure.chain(), failure.advice().unwrap_or_default())
}

fn is_mounted(root: &Path, path: &str) -> bool {
    let at = root.join(path.trim_start_matches('/'));
    mountinfo::read_self().unwrap().iter().any(|mount| mount.mount_point == at)
}

/// All files with this text, in the root and in the store.
fn holders(machine: &Machine, root: &Path, text: &str) -> usize {
    fn count(top: &Path, text: &str) -> usize {
        let Ok(entries) = fs::read_dir(top) else { return 0 };
        let one = |path: PathBuf| {
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                return count(&path, text);
            }
            usize::from(found.is_file() && fs::read_to_string(&path).is_ok_and(|it| it == text))
        };
        entries.map(|entry| one(entry.unwrap().path())).sum()
    }
    let on_root: usize =
        ["srv", "etc", ".ebbtide"].iter().map(|top| count(&root.join(top), text)).sum();
    on_root + machine.look(|top| count(&top.join("state"), text))
}

/// What is kept: a site, and a file.
fn fill(root: &Path) {
    write(root, "srv/site/index", "hello\n");
    write(root, "srv/site/deep/page", "deep\n");
    write(root, "etc/motd", "welcome\n");
    let page = root.join("srv/site/deep/page");
    fs::set_permissions(&page, fs::Permissions::from_mode(0o4750)).unwrap();
    std::os::unix::fs::chown(root.join("srv/site"), Some(1000), Some(1000)).unwrap();
    symlink("deep/page", root.join("srv/site/link")).unwrap();
}

fn machine_with_data(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    machine.set_up(LOG);
    machine.boot("", fill);
    machine.apply(ALL);
    // The first content of what is declared now comes from the last root.
    machine.boot("", |root| {
        assert_eq!(read(root, "srv/site/index").as_deref(), Some("hello\n"));
        assert!(is_mounted(root, "/srv/site") && is_mounted(root, "/etc/motd"));
    });
    machine
}

fn what_is_kept_comes_back_as_it_is(kind: Kind) {
    let machine = machine_with_data(kind);
    let booted = machine.live("", |root, boot| {
        let backs = forget(&machine, boot, root, &["/srv/site", "/etc/motd"], LOG);
        let how: Vec<_> = backs.iter().map(|it| (it.how, it.trash.clone().unwrap())).collect();
        let trash = |path: &str| PathBuf::from(format!(".ebbtide/trash/3/{path}"));
        assert_eq!(how, [(How::Copied, trash("srv/site")), (How::Copied, trash("etc/motd"))]);
        assert!(!is_mounted(root, "/srv/site") && !is_mounted(root, "/etc/motd"));
        assert_eq!(read(root, "srv/site/index").as_deref(), Some("hello\n"));
        assert_eq!(read(root, "etc/motd").as_deref(), Some("welcome\n"));
        let page = fs::metadata(root.join("srv/site/deep/page")).unwrap();
        // In the store set-user-id had no effect, and whoever could write there gains none.
        assert_eq!((page.mode() & 0o7777, page.uid()), (0o750, 0));
        assert_eq!(backs[0].unprivileged, ["deep/page"]);
        assert_eq!(fs::metadata(root.join("srv/site")).unwrap().uid(), 1000);
        assert_eq!(fs::read_link(root.join("srv/site/link")).unwrap(), Path::new("deep/page"));
        let beside: Vec<_> =
            fs::read_dir(root.join("srv")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(beside, ["site"], "nothing is left beside it");
        machine.look(|top| {
            let store = top.join("state");
            assert!(!store.join("srv/site").exists() && !store.join("etc/motd").exists());
            assert!(store.join("var/log/old.log").exists());
            let trash = store.join(".ebbtide/trash/3/srv/site");
            assert_eq!(read(&trash, "index").as_deref(), Some("hello\n"));
            let page = fs::metadata(trash.join("deep/page")).unwrap();
            assert_eq!(page.mode() & 0o7777, 0o4750, "the store's own is as it was");
        });
        let status = Machine::status(boot, root);
        assert!(status.ok, "{:?}", status.problems);
        write(root, "srv/site/index", "until the next reset\n");
        shutdown::mark_clean(boot, root).unwrap();
    });
    assert!(booted.errors().is_empty(), "{:?}", booted.errors());
    machine.boot("", |root| assert!(!root.join("srv/site").exists(), "it was forgotten"));
    machine.past(booted.record.number, |past| {
        assert_eq!(read(past, "srv/site/index").as_deref(), Some("until the next reset\n"));
    });
    // Declared again it comes from the last root that had it, or not at all: not from a note of before.
    machine.live("", |root, boot| {
        write(root, "srv/site/index", "anew\n");
        machine.publish(ALL);
        let (hash, compiled) = status::declaration(boot, &machine.open()).unwrap();
        let live = Live::open(boot, root, &compiled, None).unwrap().unwrap();
        live.apply(&hash, &mut |_, _| ()).unwrap();
        assert!(is_mounted(root, "/srv/site"));
        assert_eq!(read(root, "srv/site/index").as_deref(), Some("anew\n"));
    });
}

/// Only what had no effect in the store is taken away.
fn what_the_store_allows_keeps_its_privileges(kind: Kind) {
    let machine = Machine::of(kind);
    let options = "options = [\"suid\"]\n";
    let (all, log) = (format!("{options}{ALL}"), format!("{options}{LOG}"));
    machine.set_up(&all);
    machine.boot("", |root| {
        fill(root);
        run("mknod", &[root.join("srv/site/null").to_str().unwrap(), "c", "1", "3"]);
    });
    machine.live("", |root, boot| {
        let backs = forget(&machine, boot, root, &["/srv/site"], &log);
        assert_eq!(backs[0].unprivileged, ["null"]);
        let page = fs::metadata(root.join("srv/site/deep/page")).unwrap();
        assert_eq!(page.mode() & 0o7777, 0o4750);
        assert!(!root.join("srv/site/null").exists());
    });
}

fn a_cut_after_any_step_loses_nothing(kind: Kind) {
    for step in [Step::Copied, Step::Detached, Step::Placed, Step::Trashed] {
        let machine = machine_with_data(kind);
        let booted = machine.live("", |root, boot| {
            let before = live(&machine, boot, root);
            let mut cut = |done: Step| {
                for text in ["hello\n", "welcome\n"] {
                    assert!(holders(&machine, root, text) > 0, "{text} is nowhere after {done:?}");
                }
                if done == step { Err(Failure::new("cut")) } else { Ok(()) }
            };
            let these = paths(&["/srv/site", "/etc/motd"]);
            match before.move_back(&these, &mut cut) {
                Err(failure) => assert_eq!(failure.chain(), "cut"),
                Ok(moved) => {
                    // What is on the root is looked for there, by `ebbtide log` and `restore`.
                    let record = boot.read_record().unwrap().number;
                    let record = machine.open().record(record).unwrap().unwrap();
                    let mounted: Vec<_> = record.attached.unwrap().mounted.into_keys().collect();
                    assert_eq!(mounted, paths(&["/etc/ebbtide", "/var/log"]));
                    machine.publish(LOG);
                    moved.finish(&before, boot, &mut cut).unwrap_err();
                }
            }
        });
        assert!(booted.errors().is_empty());
        // What is declared still is in place; what is not is in the past root, or in the store.
        machine.live("", |root, _| {
            let kept = step != Step::Trashed;
            assert_eq!(read(root, "srv/site/index").is_some(), kept, "{step:?}");
            assert_eq!(read(root, "etc/motd").as_deref() == Some("welcome\n"), kept, "{step:?}");
        });
        let store = machine.look(|top| {
            let store = top.join("state");
            let find = |path: &str| read(&store, path);
            (find("srv/site/index"), find(".ebbtide/trash/3/srv/site/index"), find("etc/motd"))
        });
        let hello = || Some("hello\n".to_owned());
        let whole = match step {
            Step::Trashed => (None, hello(), Some("welcome\n".to_owned())),
            _ => (hello(), None, Some("welcome\n".to_owned())),
        };
        assert_eq!(store, whole, "{step:?}");
    }
}

/// A process that has a file open for writing, until it is dropped.
struct Writer(Child);

impl Writer {
    fn to(file: &Path) -> Self {
        let file = fs::OpenOptions::new().append(true).open(file).unwrap();
        let child =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::from(file)).spawn().unwrap();
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

fn what_is_in_use_stays(kind: Kind) {
    let machine = machine_with_data(kind);
    machine.live("", |root, boot| {
        let writer = Writer::to(&root.join("srv/site/index"));
        let said = refused(&machine, boot, root, "/srv/site");
        assert!(said.contains(&format!("cat ({}) uses it", writer.0.id())), "{said}");
        drop(writer);
        // Who only reads is found when it is unmounted.
        let reader = fs::File::open(root.join("srv/site/index")).unwrap();
        let failed = live(&machine, boot, root)
            .move_back(&paths(&["/etc/motd", "/srv/site"]), &mut |_| Ok(()))
            .unwrap_err();
        assert!(failed.chain().ends_with("something uses it"), "{}", failed.chain());
        drop(reader);
        // All of it is as it was, and of what came before it too.
        assert!(is_mounted(root, "/srv/site") && is_mounted(root, "/etc/motd"));
        let beside = |path: &str| fs::read_dir(root.join(path)).unwrap().count();
        assert_eq!(beside("srv"), 1);
        let status = Machine::status(boot, root);
        assert!(status.ok, "{:?}", status.problems);
        forget(&machine, boot, root, &["/etc/motd", "/srv/site"], LOG);
    });
}

fn what_is_written_meanwhile_is_not_lost(kind: Kind) {
    let machine = machine_with_data(kind);
    machine.live("", |root, boot| {
        let live = live(&machine, boot, root);
        let mut late = |step: Step| {
            if step == Step::Copied {
                write(root, "srv/site/index", "late\n");
            }
            Ok(())
        };
        let failed = live.move_back(&paths(&["/srv/site"]), &mut late).unwrap_err();
        assert!(
            failed.chain().contains("/srv/site/index was written to meanwhile"),
            "{}",
            failed.chain()
        );
        assert!(is_mounted(root, "/srv/site"), "it is mounted again");
        assert_eq!(read(root, "srv/site/index").as_deref(), Some("late\n"));
        assert_eq!(fs::read_dir(root.join("srv")).unwrap().count(), 1);
    });
}

fn what_is_taken_back_later_is_not_any_more(kind: Kind) {
    let machine = machine_with_data(kind);
    machine.boot("", |root| write(root, "etc/issue", "in the store\n"));
    machine.live("", |root, boot| {
        write(root, "etc/issue", "on the root\n");
        let backs = forget(&machine, boot, root, &["/etc/issue"], LOG);
        assert_eq!(backs[0].how, How::InPlace);
        assert_eq!(read(root, "etc/issue").as_deref(), Some("on the root\n"));
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
    });
    machine.look(|top| {
        let store = top.join("state");
        assert_eq!(read(&store, "etc/issue"), None, "it was taken back all the same");
        let trash = read(&store, ".ebbtide/trash/4/etc/issue");
        assert_eq!(trash.as_deref(), Some("in the store\n"));
    });
}

fn if_it_stays_declared_it_is_mounted_again(kind: Kind) {
    let machine = machine_with_data(kind);
    machine.live("", |root, boot| {
        let live = live(&machine, boot, root);
        let these = paths(&["/srv/site", "/etc/motd"]);
        let moved = live.move_back(&these, &mut |_| Ok(())).unwrap();
        assert!(!is_mounted(root, "/srv/site"));
        // What is written to meanwhile is not hidden.
        std::thread::sleep(std::time::Duration::from_millis(30));
        fs::write(root.join("etc/motd"), "mine\n").unwrap();
        let problems = moved.undo(&live);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("/etc/motd is on the root"), "{problems:?}");
        assert!(is_mounted(root, "/srv/site") && !is_mounted(root, "/etc/motd"));
        assert_eq!(read(root, "etc/motd").as_deref(), Some("mine\n"));
        // As long as it is declared, nothing leaves its store.
        let moved = live.move_back(&paths(&["/srv/site"]), &mut |_| Ok(())).unwrap();
        let (backs, problems) = moved.finish(&live, boot, &mut |_| Ok(())).unwrap();
        assert_eq!(backs[0].trash, None);
        assert!(problems[0].message.contains("/srv/site is declared"), "{problems:?}");
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "srv/site/index").as_deref(), Some("hello\n"));
    });
}

fn what_cannot_be_moved_says_why(kind: Kind) {
    let machine = machine_with_data(kind);
    machine.publish(&format!(
        "[store.cache]\n{} = \"cache\"\n[keep]\ndirectories = [\"/var/log\", {{ path = \"/var/log/app\", \
         store = \"cache\" }}, {{ path = \"/opt/l\", method = \"symlink\" }}]\nfiles = \
         [\"/etc/machine-id\", {{ path = \"/etc/issue\", method = \"sync\" }}]\n",
        machine.place_of_stores()
    ));
    let mut said = String::new();
    machine.live("", |root, boot| {
        for path in ["/var/log", "/var/log/app", "/opt/l", "/etc/machine-id"] {
            said += &refused(&machine, boot, root, path);
            said.push('\n');
        }
        fs::remove_file(root.join("etc/issue")).unwrap();
        said += &refused(&machine, boot, root, "/etc/issue");
        assert_eq!(live(&machine, boot, root).plan_back(&paths(&["/nothing"])).unwrap(), []);
    });
    insta::allow_duplicates! {
        insta::assert_snapshot!(said, @r#"
        cannot move /var/log back to the root: /var/log/app, which lies in it, is kept by itself (forget that first)
        cannot move /var/log/app back to the root: it lies in /var/log, which is kept: it would not be on the root (without `--move-back` the data stay in the store)
        cannot move /opt/l back to the root: it is a symbolic link into store state (copy it yourself from /run/ebbtide/stores, then forget it without `--move-back`)
        cannot move /etc/machine-id back to the root: every boot puts it there ()
        cannot move /etc/issue back to the root: it was deleted in this boot (without `--move-back` the data stay in the store)
        "#);
    }
}

#[test]
fn a_root_in_ram_takes_what_there_is_room_for() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[4]);
    let both = "[keep]\ndirectories = [\"/srv/site\", \"/srv/big\"]\n";
    machine.set_up_with("size = \"8M\"\n", both);
    machine.boot("", |root| {
        write(root, "srv/site/index", "hello\n");
        write(root, "srv/big/file", &"x".repeat(5 << 20));
    });
    let back = |path: &str| {
        machine.live("", |root, boot| {
            let live = live(&machine, boot, root);
            let moved = live.move_back(&paths(&[path]), &mut |_| Ok(()));
            assert_eq!(moved.is_ok(), path == "/srv/site");
            if let Err(failure) = moved {
                let said = failure.chain();
                assert!(said.contains("MiB, and the root is in RAM"), "{said}");
            }
            assert_eq!(read(root, "srv/site/index").as_deref(), Some("hello\n"));
            assert_eq!(is_mounted(root, path), path != "/srv/site");
        });
    };
    back("/srv/big");
    back("/srv/site");
}
