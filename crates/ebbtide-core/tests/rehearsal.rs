//! A rehearsal is the next boot, and the machine does not notice.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::{Backend, RamSize};
use ebbtide_core::failure::Level;
use ebbtide_core::once::Once;
use ebbtide_core::record::BootNumber;
use ebbtide_core::rehearsal::{Rehearsal, SIZE};
use ebbtide_core::shutdown;
use machine::{KINDS, Kind, Machine, is_root, read, run, write};

const KEEP: &str = "[keep]\n\
directories = [\"/var/log\", { path = \"/var/lib/app\", user = \"alice\", group = \"alice\", mode = \"0700\" }]\n\
files = [{ path = \"/etc/linked\", method = \"symlink\" }, { path = \"/etc/hosts\", method = \"sync\" }, \
\"/etc/late.conf\"]\n";

/// Runs a test for each kind of machine, one after the other.
fn each(test: impl Fn(Kind)) {
    if !is_root() {
        return;
    }
    for kind in KINDS {
        eprintln!("on {kind:?}");
        test(kind);
    }
}

/// Everything that a tree has: names, owners, modes, times of change, content.
fn everything(tree: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![tree.to_owned()];
    while let Some(path) = pending.pop() {
        let seen = fs::symlink_metadata(&path).unwrap();
        let content = if seen.is_file() {
            fs::read(&path).unwrap()
        } else if seen.is_symlink() {
            fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            if seen.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            }
            Vec::new()
        };
        let line = format!(
            "{:o} {}:{} {} {}.{} {:?}",
            seen.mode(),
            seen.uid(),
            seen.gid(),
            seen.nlink(),
            seen.ctime(),
            seen.ctime_nsec(),
            String::from_utf8_lossy(&content)
        );
        found.insert(path.strip_prefix(tree).unwrap().to_owned(), line);
    }
    found
}

/// What the volume has, seen from its top level.
fn volume(machine: &Machine) -> BTreeMap<PathBuf, String> {
    machine.look(everything)
}

fn rehearse<T>(boot: &Boot, root: &Path, look: impl FnOnce(&Rehearsal, &Path) -> T + Send) -> T
where
    T: Send,
{
    // A thread has the mount namespace of the rehearsal for itself.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let rehearsal = Rehearsal::make(boot, root, SIZE, &mut |_, _| ())
                .unwrap_or_else(|it| panic!("{}", it.chain()));
            look(&rehearsal, &rehearsal.root())
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn what_is_carried_once_is_carried_there_and_is_still_to_come() {
    each(|kind| {
        if kind.backend == Backend::Tmpfs {
            return;
        }
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.live("", |root, boot| {
            write(root, "srv/half/draft", "half\n");
            let once = Once::open(boot, root).unwrap();
            once.apply(&once.plan(&["/srv/half".into()]).unwrap()).unwrap();
            rehearse(boot, root, |rehearsal, root| {
                assert_eq!(read(root, "srv/half/draft").as_deref(), Some("half\n"), "{kind:?}");
                assert_eq!(grave(rehearsal), Vec::<String>::new(), "{kind:?}");
            });
            shutdown::mark_clean(boot, root).unwrap();
        });
        let booted = machine.boot("", |root| assert!(root.join("srv/half/draft").exists()));
        assert_eq!(booted.errors(), Vec::<&str>::new(), "{kind:?}");
    });
}

/// What went wrong: an entry that has no data yet is none of it.
fn grave(rehearsal: &Rehearsal) -> Vec<String> {
    let problems = rehearsal.record().problems.iter().chain(rehearsal.notes());
    problems.filter(|it| it.level <= Level::Warning).map(ToString::to_string).collect()
}

#[test]
fn what_was_not_declared_is_gone_and_what_was_is_there() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| write(root, "stray", "x"));
        machine.live("", |root, boot| {
            write(root, "stray", "x");
            fs::write(root.join("etc/issue"), "changed").unwrap();
            fs::remove_file(root.join("etc/group")).unwrap();
            write(root, "var/log/new.log", "after\n");
            write(root, "var/lib/app/data", "kept\n");
            // Not in its store before the next shutdown or boot.
            write(root, "etc/late.conf", "made by a program\n");
            write(root, "etc/hosts.new", "replaced\n");
            fs::rename(root.join("etc/hosts.new"), root.join("etc/hosts")).unwrap();
            rehearse(boot, root, |rehearsal, root| {
                assert_eq!(read(root, "stray"), None);
                assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
                assert!(root.join("etc/group").exists());
                assert_eq!(read(root, "var/log/old.log").as_deref(), Some("before\n"));
                assert_eq!(read(root, "var/log/new.log").as_deref(), Some("after\n"));
                assert_eq!(read(root, "var/lib/app/data").as_deref(), Some("kept\n"));
                let app = fs::metadata(root.join("var/lib/app")).unwrap();
                assert_eq!((app.uid(), app.gid(), app.mode() & 0o7777), (1000, 1000, 0o700));
                assert_eq!(read(root, "etc/late.conf").as_deref(), Some("made by a program\n"));
                assert_eq!(read(root, "etc/hosts").as_deref(), Some("replaced\n"));
                let record = rehearsal.record();
                assert_eq!(record.number, BootNumber(3));
                let attached = record.attached.as_ref().unwrap();
                assert_eq!(attached.missing, Vec::<PathBuf>::new(), "{:?}", record.problems);
                assert_eq!(grave(rehearsal), Vec::<String>::new());
            });
        });
    });
}

#[test]
fn nothing_that_happens_in_it_reaches_the_machine() {
    each(|kind| {
        let mut machine = Machine::of(kind);
        let disk = machine.disk("cache", "ext4");
        let keep = KEEP.replace(
            "\"/var/log\"",
            "\"/var/log\", { path = \"/var/cache/app\", store = \"cache\" }",
        );
        let keep = format!("[store.cache]\ndevice = \"{disk}\"\nclass = \"cache\"\n{keep}");
        machine.set_up(&keep);
        machine.boot("", |root| {
            write(root, "var/cache/app/a", "cached\n");
            write(root, "var/log/deep/er/log", "line\n");
            write(root, "etc/hosts", "first\n");
        });
        machine.live("", |root, boot| {
            write(root, "etc/hosts", "second\n");
            write(root, "var/lib/app/data", "kept\n");
            let before = (volume(&machine), machine.on_disk(&disk, everything), everything(root));
            rehearse(boot, root, |rehearsal, root| {
                assert_eq!(grave(rehearsal), Vec::<String>::new());
                for path in ["var/log", "var/lib/app", "var/cache/app"] {
                    let entry = root.join(path);
                    write(&entry, "new", "hostile\n");
                    fs::rename(entry.join("new"), entry.join("renamed")).unwrap();
                    std::os::unix::fs::chown(&entry, Some(4), Some(4)).unwrap();
                    fs::set_permissions(&entry, fs::Permissions::from_mode(0o777)).unwrap();
                }
                fs::write(root.join("var/log/old.log"), "hostile\n").unwrap();
                fs::rename(root.join("var/log/deep"), root.join("var/log/moved")).unwrap();
                fs::remove_dir_all(root.join("var/log/moved")).unwrap();
                fs::write(root.join("var/cache/app/a"), "hostile\n").unwrap();
                fs::remove_file(root.join("var/lib/app/data")).unwrap();
                fs::remove_dir_all(root.join("usr")).unwrap();
                fs::write(root.join("etc/hosts"), "hostile\n").unwrap();
                // Stores themselves, as root finds them in /run.
                for store in fs::read_dir(rehearsal.run().join("stores")).unwrap() {
                    let store = store.unwrap().path();
                    for inside in fs::read_dir(&store).unwrap() {
                        let inside = inside.unwrap().path();
                        let _ = run("rm", &["-rf", "--", inside.to_str().unwrap()]);
                    }
                    assert_eq!(fs::read_dir(&store).unwrap().count(), 0);
                }
            });
            let after = (volume(&machine), machine.on_disk(&disk, everything), everything(root));
            assert!(before.0.len() > 20 && before.1.len() > 2, "something was compared");
            assert_eq!(before, after);
        });
        // And the machine goes on.
        let next = machine.boot("", |root| {
            assert_eq!(read(root, "var/log/deep/er/log").as_deref(), Some("line\n"));
            assert_eq!(read(root, "var/cache/app/a").as_deref(), Some("cached\n"));
        });
        assert_eq!((next.errors(), next.record.number.0), (Vec::new(), 3));
    });
}

#[test]
fn first_content_comes_as_the_next_boot_would_take_it() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up("");
        machine.live("", |root, boot| {
            write(root, "srv/site/index", "from today's root\n");
            machine.apply("[keep]\ndirectories = [\"/srv/site\", \"/home/alice\"]\n");
            let before = volume(&machine);
            rehearse(boot, root, |rehearsal, root| {
                assert_eq!(grave(rehearsal), Vec::<String>::new());
                assert_eq!(read(root, "srv/site/index").as_deref(), Some("from today's root\n"));
                assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
                fs::remove_file(root.join("srv/site/index")).unwrap();
            });
            assert_eq!(before, volume(&machine));
            assert!(root.join("srv/site/index").exists());
        });
    });
}

#[test]
fn a_machine_that_is_off_can_be_rehearsed_from_outside() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| {
            write(root, "var/log/new.log", "after\n");
            write(root, "stray", "x");
        });
        let work = tempfile::tempdir().unwrap();
        let boot = machine.boot_with(&work.path().join("run"), "");
        let before = volume(&machine);
        rehearse(&boot, Path::new("/"), |rehearsal, root| {
            assert_eq!(grave(rehearsal), Vec::<String>::new());
            assert_eq!(read(root, "var/log/new.log").as_deref(), Some("after\n"));
            assert_eq!(read(root, "stray"), None);
        });
        assert_eq!(before, volume(&machine));
    });
}

#[test]
fn what_the_next_boot_would_refuse_is_refused_with_its_reason() {
    each(|kind| {
        let mut machine = Machine::of(kind);
        let disk = machine.disk("cache", "ext4");
        machine.set_up(&format!(
            "[store.cache]\ndevice = \"{disk}\"\n\
             [keep]\ndirectories = [{{ path = \"/var/cache/app\", store = \"cache\" }}]\n"
        ));
        machine.boot("", |_| ());
        machine.detach_disk(&disk);
        let work = tempfile::tempdir().unwrap();
        let boot = machine.boot_with(&work.path().join("run"), "");
        let failure = std::thread::scope(|scope| {
            let made = scope.spawn(|| Rehearsal::make(&boot, Path::new("/"), SIZE, &mut |_, _| ()));
            made.join().unwrap().unwrap_err()
        });
        let said = failure.chain();
        assert!(said.contains("would not make a new root: store cache is not there"), "{said}");
        assert!(said.contains(&disk), "the disk is named, and not its cover: {said}");
    });
}

#[test]
fn what_is_written_takes_no_more_ram_than_it_may() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| write(root, "var/log/kept", "here\n"));
        let work = tempfile::tempdir().unwrap();
        let boot = machine.boot_with(&work.path().join("run"), "");
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let size = RamSize::Bytes(8 << 20);
                let made = Rehearsal::make(&boot, Path::new("/"), size, &mut |_, _| ()).unwrap();
                let root = made.root();
                for path in ["var/log/large", "large"] {
                    let error = fs::write(root.join(path), vec![1; 9 << 20]).unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{path}");
                    fs::remove_file(root.join(path)).unwrap();
                }
                assert_eq!(read(&root, "var/log/kept").as_deref(), Some("here\n"));
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    });
}
