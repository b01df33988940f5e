//! Garbage collection on the real kernel: what goes is gone, what stays is whole.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ebbtide_core::backend;
use ebbtide_core::compiled::{Backend, Store};
use ebbtide_core::gc::{Done, Gc, LastRun, Step, Why};
use ebbtide_core::record::BootNumber;
use ebbtide_core::retention::Share;
use ebbtide_core::{past, shutdown, status, store};
use machine::{KINDS, Kind, Machine, is_root, read, run, write};

const KEEP: &str = "[keep]\ndirectories = [\"/var/log\"]\nfiles = [{ path = \"/etc/hosts\", method = \"sync\" }]\n";

fn policy(min: u32, count: u32, free: &str) -> String {
    format!("keep-boots = {{ min = {min}, count = {count}, days = 100, free = \"{free}\" }}\n")
}

/// Runs gc in a boot, and lets the test look at what it did.
fn gc_in(machine: &Machine, look: impl FnOnce(Done) + Send) {
    machine.live("", |root, boot| {
        let gc = Gc::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
        let preview = gc.preview().unwrap_or_else(|it| panic!("{}", it.chain()));
        let done = gc.apply(&mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
        assert_eq!(preview, done.plan, "what was shown is what was done");
        look(done);
    });
}

fn problems(done: &Done) -> Vec<String> {
    done.problems.iter().map(ToString::to_string).collect()
}

fn past(machine: &Machine) -> Vec<u64> {
    machine.open().numbers("past").unwrap().iter().map(|number| number.0).collect()
}

fn names(top: &Path, path: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(top.join(path))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What makes a tree hard to delete.
fn mess(root: &Path, kind: Kind) {
    write(root, "deep/er/new\nline\u{1b}", "odd\n");
    fs::write(root.join("deep/invalid").join("x"), "").unwrap_err();
    std::os::unix::fs::symlink("/etc", root.join("deep/link")).unwrap();
    fs::remove_file(root.join("etc/issue")).unwrap();
    fs::rename(root.join("etc/ssh"), root.join("etc/ssh.old")).unwrap();
    write(root, "held/log", "x");
    run("chattr", &["+a", root.join("held/log").to_str().unwrap()]);
    run("chattr", &["+i", root.join("held").to_str().unwrap()]);
    if kind.backend == Backend::Btrfs {
        let inner = root.join("var/lib/volumes");
        fs::create_dir_all(inner.parent().unwrap()).unwrap();
        run("btrfs", &["-q", "subvolume", "create", inner.to_str().unwrap()]);
        let second = inner.join("second");
        run("btrfs", &["-q", "subvolume", "create", second.to_str().unwrap()]);
        fs::write(second.join("data"), vec![1; 8 << 20]).unwrap();
        run("btrfs", &["property", "set", second.to_str().unwrap(), "ro", "true"]);
        run("btrfs", &["property", "set", inner.to_str().unwrap(), "ro", "true"]);
    } else {
        fs::write(root.join("data"), vec![1; 8 << 20]).unwrap();
    }
}

fn each_disk(test: impl Fn(Kind)) {
    if !is_root() {
        return;
    }
    for kind in KINDS.into_iter().filter(|kind| kind.backend != Backend::Tmpfs) {
        eprintln!("on {kind:?}");
        test(kind);
    }
}

#[test]
fn more_than_count_go_whatever_is_in_them() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up_with(&policy(1, 2, "0%"), KEEP);
        for boot in 1..=4 {
            machine.boot("", |root| {
                mess(root, kind);
                write(root, "stray", &boot.to_string());
            });
        }
        machine.look(|top| {
            write(top, "ebbtide/past/mine/file", "x");
            write(top, "ebbtide/manifests/00000000-0000-4000-8000-000000000000.json", "{}");
        });
        gc_in(&machine, |done| {
            assert_eq!(problems(&done), [""; 0]);
            let roots: Vec<_> = done
                .done
                .iter()
                .filter_map(|step| match step {
                    Step::Root { boot, why, own_bytes } => Some((boot.0, *why, *own_bytes)),
                    _ => None,
                })
                .collect();
            assert_eq!(roots.iter().map(|(boot, ..)| *boot).collect::<Vec<_>>(), [1, 2]);
            assert!(roots.iter().all(|(_, why, own)| {
                *why == Why::Count(2) && own.is_some_and(|own| own >= 8 << 20)
            }));
            let (before, after) = done.room.unwrap();
            assert!(after.available > before.available + (15 << 20), "{before:?} {after:?}");
            assert!(done.plan.notes.iter().any(|note| note.contains("past/mine")));
        });
        assert_eq!(past(&machine), [3, 4]);
        machine.past(BootNumber(3), |past| {
            assert_eq!(read(past, "stray").as_deref(), Some("3"));
            assert!(past.join("held/log").exists());
        });
        machine.look(|top| {
            assert_eq!(names(top, "ebbtide/gc"), [""; 0]);
            assert_eq!(names(top, "ebbtide/past"), ["3", "4", "mine"]);
            // Those of the roots of boots 3, 4 and 5.
            assert_eq!(names(top, "ebbtide/manifests").len(), 3);
            assert_eq!(names(top, "ebbtide/boots").len(), 5);
        });
        assert_eq!(LastRun::read(&machine.open()).unwrap().unwrap().boot, BootNumber(5));
        let booted = machine.boot("", |root| assert_eq!(read(root, "stray"), None));
        assert_eq!(booted.errors(), [""; 0]);
    });
}

#[test]
fn a_cut_between_taking_out_and_deleting_is_finished() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up_with(&policy(1, 10, "0%"), KEEP);
        for _ in 0..3 {
            machine.boot("", |root| mess(root, kind));
        }
        machine.look(|top| {
            let gc = top.join("ebbtide/gc");
            fs::create_dir(&gc).unwrap();
            // One cut right after the rename, and one in the middle of deleting.
            fs::rename(top.join("ebbtide/past/1"), gc.join("1")).unwrap();
            fs::rename(top.join("ebbtide/past/2"), gc.join("2")).unwrap();
            let data = if kind.backend == Backend::Btrfs { "deep" } else { "upper/deep" };
            fs::remove_dir_all(gc.join("2").join(data)).unwrap();
            fs::write(gc.join("odd\n\u{1b}"), "").unwrap();
        });
        gc_in(&machine, |done| {
            assert_eq!(problems(&done), [""; 0]);
            let finished = done.done.iter().filter(|it| matches!(it, Step::Finish { .. })).count();
            assert_eq!(finished, 3);
            let gone = done.done.iter().filter(|it| matches!(it, Step::Manifest { .. })).count();
            assert_eq!(gone, 2, "their manifests go as well: {:?}", done.done);
        });
        assert_eq!(past(&machine), [3]);
        machine.look(|top| assert_eq!(names(top, "ebbtide/gc"), [""; 0]));
        gc_in(&machine, |done| assert_eq!(done.done, [], "and then there is nothing to do"));
    });
}

#[test]
fn room_is_made_until_there_is_enough() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        // 600 MiB, of which the past roots hold 80 each.
        let free = machine.set_up_and_measure(KEEP);
        for _ in 0..4 {
            machine.boot("", |root| fs::write(root.join("data"), vec![1; 80 << 20]).unwrap());
        }
        // Two of them have to go for that; boot 4 is the newest, and was good.
        let wanted = free - (200 << 20);
        machine.apply_with(&policy(1, 10, &wanted.to_string()), KEEP);
        gc_in(&machine, |done| {
            assert_eq!(problems(&done), [""; 0]);
            assert_eq!(done.plan.steps.iter().filter(|it| is_free(it)).count(), 3);
            assert_eq!(done.done.iter().filter(|it| is_free(it)).count(), 2);
            assert!(done.room.unwrap().1.available >= wanted);
        });
        assert_eq!(past(&machine), [3, 4], "no more than needed");
    });
}

fn is_free(step: &Step) -> bool {
    matches!(step, Step::Root { why: Why::Free(Share::Bytes(_)), .. })
}

#[test]
fn it_stops_when_deleting_frees_nothing() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up_with(&policy(1, 10, "90%"), KEEP);
    for _ in 0..5 {
        machine.boot("", |root| fs::write(root.join("data"), vec![1; 40 << 20]).unwrap());
    }
    machine.look(|top| {
        // A snapshot that somebody made holds the same data.
        for number in 1..=5 {
            let from = top.join(format!("ebbtide/past/{number}"));
            let to = top.join(format!("mine-{number}"));
            if from.exists() {
                run(
                    "btrfs",
                    &["-q", "subvolume", "snapshot", from.to_str().unwrap(), to.to_str().unwrap()],
                );
            }
        }
    });
    gc_in(&machine, |done| {
        assert_eq!(problems(&done).len(), 1);
        assert!(problems(&done)[0].contains("no more are deleted for room"), "{:?}", done.problems);
        assert_eq!(done.done.iter().filter(|step| matches!(step, Step::Root { .. })).count(), 1);
    });
    assert_eq!(past(&machine), [2, 3, 4, 5]);
}

#[test]
fn what_is_mounted_stays() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up_with(&policy(0, 0, "0%"), KEEP);
        for _ in 0..3 {
            machine.boot("", |root| write(root, "stray", "x"));
        }
        machine.live("", |root, boot| {
            let at = boot.run.join("mine");
            fs::create_dir_all(&at).unwrap();
            let top = if kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
            let at = at.to_str().unwrap();
            run("mount", &["-o", top, &machine.device.0, at]);
            let part = boot.run.join("part");
            fs::create_dir_all(&part).unwrap();
            run("mount", &["--bind", &format!("{at}/ebbtide/past/1"), part.to_str().unwrap()]);
            let gc = Gc::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
            let done = gc.apply(&mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
            // Among others, if somebody sets this machine's clock meanwhile.
            let mut notes = done.plan.notes.iter();
            assert!(notes.any(|it| it.contains("past root 1 is mounted")), "{:?}", done.plan);
        });
        assert_eq!(past(&machine), [1, 3], "and the last good one");
    });
}

#[test]
fn trash_goes_oldest_first() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up("");
        machine.apply(&format!("trash = {{ size = \"1M\" }}\n{KEEP}"));
        for _ in 0..5 {
            machine.boot("", |_| ());
        }
        machine.look(|top| {
            for boot in 1..=5 {
                let data = "x".repeat(700 << 10);
                write(top, &format!("state/.ebbtide/trash/{boot}/etc/hosts\n"), &data);
            }
            write(top, "state/.ebbtide/trash/mine/file", "x");
        });
        gc_in(&machine, |done| assert_eq!(problems(&done), [""; 0]));
        machine.look(|top| {
            // Boots 5 and 6 are recent: the reset of this boot put into 5 what the last one had changed.
            assert_eq!(names(top, "state/.ebbtide/trash"), ["5", "mine"]);
        });
    });
}

#[test]
fn the_root_in_ram_keeps_its_manifest() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[4]);
    machine.set_up_with(&policy(0, 0, "0%"), KEEP);
    machine.boot("", |root| write(root, "etc/hosts", "x"));
    gc_in(&machine, |done| assert_eq!(problems(&done), [""; 0]));
    machine.live("", |root, boot| {
        let gc = Gc::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
        gc.apply(&mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
        let uuid = backend::mounted(Backend::Tmpfs, root).unwrap().uuid();
        machine.look(|top| {
            assert_eq!(names(top, "ebbtide/manifests"), [format!("{uuid}.json")]);
        });
    });
}

#[test]
fn a_userspace_that_was_started_anew_is_noticed() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.live("", |root, boot| {
            let status = Machine::status(boot, root);
            assert!(status.ok && status.brief().is_none(), "{:?}", status.problems);
            shutdown::detach(&boot.run, &mut |_, _| ()).unwrap();
            let status = Machine::status(boot, root);
            assert!(!status.ok);
            let says = |what: &str| status.problems.iter().any(|it| it.message.contains(what));
            assert!(says("soft-reboot") && says("/var/log"), "{:?}", status.problems);
            assert!(status.brief().unwrap().starts_with("ebbtide: "));
            assert_eq!(status.brief().unwrap().lines().count(), 1);
        });
        let booted = machine.live("", |root, boot| assert!(Machine::status(boot, root).ok));
        assert_eq!(booted.errors(), [""; 0]);
    });
}

#[test]
fn one_boot_in_full() {
    each_disk(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| write(root, "etc/hosts", "one\n"));
        machine.boot("", |root| write(root, "etc/hosts", "two\n"));
        machine.boot("", |_| ());
        machine.live("", |_, boot| {
            let container = boot.open_container().unwrap();
            let (_, compiled) = status::declaration(boot, &container).unwrap();
            let open = |store: &Store| store::open(store.place(), store.uuid).unwrap();
            let stores: BTreeMap<_, _> =
                compiled.stores.iter().map(|(name, store)| (name.clone(), open(store))).collect();
            let show = |number: u64| {
                let path = Path::new("ebbtide");
                past::show(&container, path, "no boot", &stores, BootNumber(number)).unwrap()
            };
            let second = show(2).unwrap();
            assert_eq!((second.boot.number, second.boot.problems), (BootNumber(2), 0));
            assert_eq!(second.record.unwrap().put_away, Some(BootNumber(1)));
            // What boot 2 replaced in the store.
            let trash: Vec<_> = second.trash.iter().map(|it| (it.files, it.bytes > 0)).collect();
            assert_eq!(trash, [(1, true)]);
            assert_eq!(show(3).unwrap().trash, []);
            assert!(show(99).is_none());
        });
    });
}
