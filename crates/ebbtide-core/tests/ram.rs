//! Roots in RAM: what is taken out of them before they go with the power.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use ebbtide_core::archive::{self, Archived};
use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::failure::Level;
use ebbtide_core::flush::{self, Flush, Flushed, Pace};
use ebbtide_core::past;
use ebbtide_core::record::{BootNumber, Outcome};
use ebbtide_core::setup::BaseSource;
use ebbtide_sys::mountinfo;
use machine::{Kind, Machine, is_root, read, write};

const RAM: Kind = Kind { backend: Backend::Tmpfs, filesystem: "ext4" };

const KEEP: &str = "[keep]\n\
directories = [\"/home\", { path = \"/var/lib/late\", optional = true, mode = \"0750\" }]\n\
files = [\"/etc/late.conf\", { path = \"/etc/linked\", method = \"symlink\" }, \
{ path = \"/etc/hosts\", method = \"sync\" }]\n";

fn flush(boot: &Boot, root: &Path) -> Flushed {
    let flush = Flush::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
    flush.apply(&mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()))
}

#[test]
fn flush_takes_first_content_from_a_root_in_ram() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        assert_eq!(flush(boot, root), Flushed::default(), "nothing was written");
        write(root, "etc/late.conf", "one\n");
        write(root, "etc/linked", "linked\n");
        write(root, "etc/hosts", "hosts\n");
        write(root, "var/lib/late/deep/file", "one\n");
        fs::set_permissions(root.join("var/lib/late"), fs::Permissions::from_mode(0o777)).unwrap();
        write(root, "home/alice/letter", "mine\n");
        let preview = Flush::open(boot, root).unwrap().preview().unwrap();
        assert!(
            preview.contains(
                &"copy /var/lib/late from the running root to state:/var/lib/late".to_owned()
            ),
            "{preview:?}"
        );
        assert_eq!(preview.len(), 4, "{preview:?}");
        let flushed = flush(boot, root);
        assert_eq!((flushed.updated, flushed.imported), (1, 3), "{:?}", flushed.problems);
        assert_eq!(flush(boot, root), Flushed::default(), "it is there");
        let status = Machine::status(boot, root);
        assert!(status.ok && status.waiting == 3, "{status:?}");

        // It is not in place, so programs go on writing to the root.
        fs::write(root.join("var/lib/late/deep/file"), "two\n").unwrap();
        write(root, "var/lib/late/more", "x");
        write(root, "etc/late.new", "two\n");
        fs::rename(root.join("etc/late.new"), root.join("etc/late.conf")).unwrap();
        assert_eq!(flush(boot, root).imported, 2);
        // What goes from the root stays in the store.
        fs::remove_file(root.join("etc/linked")).unwrap();
        assert_eq!(flush(boot, root), Flushed::default());
    });
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "etc/late.conf").as_deref(), Some("two\n"));
        assert_eq!(read(root, "var/lib/late/deep/file").as_deref(), Some("two\n"));
        assert_eq!(read(root, "var/lib/late/more").as_deref(), Some("x"));
        assert!(fs::symlink_metadata(root.join("etc/linked")).unwrap().is_symlink());
        assert_eq!(read(root, "etc/hosts").as_deref(), Some("hosts\n"));
        let mode = fs::metadata(root.join("var/lib/late")).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o750, "no looser than declared");
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    machine.look(|top| {
        let incoming = fs::read_dir(top.join("state/.ebbtide/incoming")).unwrap();
        assert_eq!(incoming.count(), 0, "no copy is left over");
    });
}

#[test]
fn what_was_declared_while_it_ran_is_taken_too_and_what_a_cut_left_is_removed() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "var/lib/new/data", "made before it was declared\n");
        machine.apply("[keep]\ndirectories = [\"/home\", \"/var/lib/new\"]\n");
        machine.look(|top| write(top, "state/.ebbtide/incoming/import-1-0/half", "x"));
        let flushed = flush(boot, root);
        assert_eq!((flushed.imported, flushed.problems), (1, Vec::new()));
    });
    let booted = machine.boot("", |root| {
        let data = read(root, "var/lib/new/data");
        assert_eq!(data.as_deref(), Some("made before it was declared\n"));
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
    machine.look(|top| {
        assert!(!top.join("state/.ebbtide/incoming/import-1-0").exists());
    });
}

#[test]
fn a_boot_that_changes_no_store_imports_nothing() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up(KEEP);
    machine.live("ebbtide=keep", |root, boot| {
        write(root, "etc/late.conf", "one\n");
        assert_eq!(flush(boot, root).imported, 0);
    });
}

#[test]
fn roots_on_a_disk_leave_it_to_the_next_boot() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(Kind { backend: Backend::Overlay, ..RAM });
    machine.set_up(KEEP);
    machine.live("", |root, boot| {
        write(root, "etc/late.conf", "one\n");
        assert_eq!(flush(boot, root).imported, 0);
    });
}

#[test]
fn the_watcher_takes_changes_back_while_the_system_runs() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up(KEEP);
    let pace = Pace {
        quiet: Duration::from_millis(100),
        limit: Duration::from_secs(1),
        idle: Duration::from_secs(60),
        retry: Duration::from_millis(100),
    };
    machine.live("", |root, boot| {
        // Each change waits for the flush that took the one before.
        let changes: [(&str, &str, (usize, usize)); 6] = [
            ("etc/unrelated", "x", (0, 0)),
            ("etc/hosts", "one\n", (1, 0)),
            ("var/lib/late/file", "one\n", (0, 1)),
            ("var/lib/late/file", "two\n", (0, 1)),
            ("etc/late.conf", "one\n", (0, 1)),
            ("etc/hosts", "two\n", (1, 0)),
        ];
        let mut changes = changes.into_iter();
        let mut expected = (0, 0);
        let mut messages = Vec::new();
        let began = Instant::now();
        let mut go_on = |flushed: &Flushed| {
            if (flushed.updated, flushed.imported) != expected {
                // A flush may come between the pieces of a change, or because of its own import.
                assert_eq!((flushed.updated, flushed.imported), (0, 0));
                return began.elapsed() < Duration::from_secs(50);
            }
            for (path, content, next) in changes.by_ref() {
                expected = next;
                write(root, &format!("{path}.new"), content);
                fs::rename(root.join(format!("{path}.new")), root.join(path)).unwrap();
                if expected != (0, 0) {
                    return true;
                }
            }
            false
        };
        let mut log = |level: Level, text: &str| messages.push((level, text.to_owned()));
        flush::watch(boot, root, pace, &mut log, &mut go_on);
        assert_eq!(changes.next(), None, "each was noticed");
        let grave: Vec<_> = messages.iter().filter(|it| it.0 <= Level::Warning).collect();
        assert!(grave.is_empty(), "{grave:?}");
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "etc/hosts").as_deref(), Some("two\n"));
        assert_eq!(read(root, "var/lib/late/file").as_deref(), Some("two\n"));
        assert_eq!(read(root, "etc/late.conf").as_deref(), Some("one\n"));
    });
}

#[test]
fn the_watcher_survives_what_goes_wrong_and_says_it_once() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up(KEEP);
    let pace = Pace {
        quiet: Duration::from_millis(50),
        limit: Duration::from_millis(200),
        idle: Duration::from_millis(400),
        retry: Duration::from_millis(50),
    };
    machine.live("", |root, boot| {
        let record = fs::read(boot.run.join("boot.json")).unwrap();
        fs::remove_file(boot.run.join("boot.json")).unwrap();
        let mut messages = Vec::new();
        let mut log = |level: Level, text: &str| messages.push((level, text.to_owned()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(700));
                fs::write(boot.run.join("boot.json"), &record).unwrap();
            });
            flush::watch(boot, root, pace, &mut log, &mut |_| false);
        });
        let grave: Vec<_> = messages.iter().filter(|it| it.0 <= Level::Warning).collect();
        assert_eq!(grave.len(), 1, "{grave:?}");
        assert!(grave[0].1.contains("has no record"), "{grave:?}");
    });
}

fn archived(boot: &Boot, root: &Path) -> Archived {
    archive::archive(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()))
}

#[test]
fn an_archived_root_is_a_past_root_like_any_other() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    let source = machine.source();
    write(&source, "usr/share/doc/a", "a\n");
    write(&source, "usr/share/old/b", "b\n");
    machine.set_up_with("archive = \"10M\"\n", KEEP);
    machine.live("", |root, boot| {
        write(root, "stray", "x");
        fs::hard_link(root.join("stray"), root.join("second")).unwrap();
        fs::remove_file(root.join("etc/group")).unwrap();
        fs::rename(root.join("usr/share/doc"), root.join("usr/share/moved")).unwrap();
        fs::remove_dir_all(root.join("usr/share/old")).unwrap();
        write(root, "usr/share/old/c", "c\n");
        write(root, "etc/late.conf", "of the archive\n");
        // A run that was cut off has left half a copy.
        machine.look(|top| write(top, "ebbtide/archive.new/upper/half", "x"));
        assert_eq!(archived(boot, root), Archived::As(BootNumber(1)));
        assert_eq!(archived(boot, root), Archived::As(BootNumber(1)), "it is there");
        let boots = past::boots(&machine.open(), Path::new("ebbtide"), "another").unwrap();
        assert_eq!(boots[0].root.as_deref(), Some(Path::new("ebbtide/past/1")));
        assert!(boots[0].own_bytes.unwrap() > 0);
    });
    machine.look(|top| assert!(!top.join("ebbtide/archive.new").exists()));
    machine.past(BootNumber(1), |past| {
        assert_eq!(read(past, "stray").as_deref(), Some("x"));
        let inode = |path: &str| fs::metadata(past.join(path)).unwrap().ino();
        assert_eq!(inode("stray"), inode("second"), "one file with two names");
        assert!(!past.join("half").exists() && !past.join("etc/group").exists());
        assert_eq!(read(past, "usr/share/moved/a").as_deref(), Some("a\n"), "renamed");
        assert!(!past.join("usr/share/doc").exists());
        assert!(!past.join("usr/share/old/b").exists(), "replaced as a whole");
        assert_eq!(read(past, "usr/share/old/c").as_deref(), Some("c\n"));
        assert_eq!(read(past, "etc/issue").as_deref(), Some("from the base\n"));
    });
    // Nobody flushed it: the next boot takes first content from the past root.
    let booted = machine.boot("", |root| {
        assert_eq!(read(root, "stray"), None);
        assert_eq!(read(root, "etc/late.conf").as_deref(), Some("of the archive\n"));
    });
    assert_eq!(booted.errors(), Vec::<&str>::new());
}

#[test]
fn an_archive_is_limited_asked_for_and_whole() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up_with("archive = \"1M\"\n", KEEP);
    let nothing = || machine.look(|top| fs::read_dir(top.join("ebbtide/past")).unwrap().count());
    machine.live("", |root, boot| {
        fs::write(root.join("much"), vec![1; 2 << 20]).unwrap();
        let Archived::TooLarge { size, limit } = archived(boot, root) else { panic!("it fits") };
        assert!(size > limit && limit == 1 << 20, "{size}");
        assert_eq!(nothing(), 0);
        fs::remove_file(root.join("much")).unwrap();

        // Cut off before it has its name: what is not whole is no past root.
        machine.look(|top| {
            fs::rename(top.join("ebbtide/past"), top.join("ebbtide/elsewhere")).unwrap();
        });
        assert!(archive::archive(boot, root).is_err());
        machine.look(|top| {
            assert!(!top.join("ebbtide/archive.new").exists(), "half a copy is removed");
            fs::rename(top.join("ebbtide/elsewhere"), top.join("ebbtide/past")).unwrap();
        });
        // Without a declaration that asks for it.
        machine.apply(KEEP);
        assert_eq!(archived(boot, root), Archived::NotWanted);
    });
    let on_disk = Machine::of(Kind { backend: Backend::Overlay, ..RAM });
    on_disk.set_up(KEEP);
    on_disk.live("", |root, boot| assert_eq!(archived(boot, root), Archived::NotWanted));
}

#[test]
fn status_says_how_full_the_ram_is_and_of_what() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(RAM);
    machine.set_up_with("size = \"8M\"\n", KEEP);
    machine.live("", |root, boot| {
        let status = Machine::status(boot, root);
        let ram = status.ram.unwrap();
        assert!(status.ok && ram.size == 8 << 20 && ram.percent < 20, "{ram:?}");
        assert_eq!(ram.largest, []);
        fs::create_dir_all(root.join("var/cache/big")).unwrap();
        fs::write(root.join("var/cache/big/data"), vec![1; 6_500_000]).unwrap();
        let status = Machine::status(boot, root);
        let ram = status.ram.unwrap();
        assert_eq!(ram.largest[0].path, Path::new("/var/cache/big"), "{ram:?}");
        assert!(!status.ok && status.problems[0].level == Level::Warning);
        fs::write(root.join("more"), vec![1; 1_400_000]).unwrap();
        let status = Machine::status(boot, root);
        assert_eq!(status.problems[0].level, Level::Error);
        assert!(status.problems[0].message.contains("/var/cache/big"), "{status:?}");
    });
}

#[test]
fn a_blank_base_lives_on_volumes() {
    if !is_root() {
        return;
    }
    for backend in [Backend::Tmpfs, Backend::Overlay] {
        let mut machine = Machine::of(Kind { backend, ..RAM });
        let disk = machine.disk_of("system", "ext4", 64);
        machine.on_disk(&disk, |top| {
            write(top, "system/usr/bin/tool", "tool\n");
            write(top, "nix/store/package", "package\n");
            fs::set_permissions(top.join("nix"), fs::Permissions::from_mode(0o755)).unwrap();
        });
        let mounts = format!(
            "mounts = [\n\
             {{ path = \"/usr\", device = \"{disk}\", directory = \"system/usr\", options = [\"ro\"] }},\n\
             {{ path = \"/nix\", device = \"{disk}\", directory = \"nix\" }},\n\
             {{ path = \"/srv/disk\", device = \"{disk}\" }},\n\
             {{ path = \"/srv/none\", device = \"/dev/ebbtide-none\" }},\n]\n\
             tmpfs = [\"/srv/disk/ram\"]\n"
        );
        machine.on_disk(&disk, |top| fs::create_dir(top.join("ram")).unwrap());
        machine.set_up_all(
            BaseSource::Blank,
            &mounts,
            "[keep]\ndirectories = [\"/home\", \"/nix/var\"]\n",
        );
        for turn in 0..2 {
            let booted = machine.boot("", |root| {
                assert_eq!(read(root, "usr/bin/tool").as_deref(), Some("tool\n"));
                let denied = fs::write(root.join("usr/bin/new"), "x").unwrap_err();
                assert_eq!(denied.raw_os_error(), Some(30));
                assert_eq!(read(root, "nix/store/package").as_deref(), Some("package\n"));
                assert_eq!(read(root, "srv/disk/nix/store/package").as_deref(), Some("package\n"));
                let stays = read(root, "nix/store/stays");
                assert_eq!(stays.as_deref(), (turn > 0).then_some("of the last boot\n"));
                assert_eq!(read(root, "nix/var/data").is_some(), turn > 0, "an entry inside");
                write(root, "nix/store/stays", "of the last boot\n");
                write(root, "nix/var/data", "kept\n");
                write(root, "srv/disk/ram/gone", "x");
                assert_eq!(read(root, "stray"), None);
                write(root, "stray", "x");
                let table = mountinfo::read_self().unwrap();
                let options = |path: &str| {
                    let mount = table.iter().find(|it| it.mount_point == root.join(path)).unwrap();
                    ["ro", "nosuid", "nodev", "noatime"].map(|option| mount.has_option(option))
                };
                assert_eq!(options("usr"), [true, false, true, true], "setuid programs are there");
                assert_eq!(options("nix"), [false, true, true, true]);
            });
            // A volume that is missing stops nothing.
            assert_eq!(booted.errors().len(), 1, "{:?}", booted.errors());
            assert!(booted.errors()[0].contains("/dev/ebbtide-none at /srv/none"));
            assert_eq!(booted.record.outcome, Outcome::Reset);
        }
        machine.on_disk(&disk, |top| assert!(!top.join("ram/gone").exists()));
    }
}
