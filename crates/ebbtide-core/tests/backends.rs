//! What holds whatever roots are made of: whole boots of each backend, on each filesystem.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use ebbtide_core::compiled::Backend;
use ebbtide_core::flush::Flush;
use ebbtide_core::record::{BootNumber, Ending, Outcome, Switch};
use ebbtide_sys::mountinfo;
use machine::{KINDS, Kind, Machine, is_root, read, run, write};

const KEEP: &str = "[keep]\n\
directories = [\"/var/log\", \"/home\", { path = \"/var/lib/app\", user = \"alice\", group = \"alice\", mode = \"0700\" }]\n\
files = [\"/etc/ssh/ssh_host_ed25519_key\", \"/etc/late.conf\", \
{ path = \"/etc/linked\", method = \"symlink\" }, { path = \"/etc/hosts\", method = \"sync\" }]\n";

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

fn nothing() -> Vec<&'static str> {
    Vec::new()
}

#[test]
fn what_was_not_declared_is_gone_and_what_was_is_there() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        let in_ram = kind.backend == Backend::Tmpfs;
        let first = machine.boot("", |root| {
            let top = fs::metadata(root).unwrap();
            assert_eq!((top.uid(), top.mode() & 0o7777), (0, 0o755));
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
            let app = fs::metadata(root.join("var/lib/app")).unwrap();
            assert_eq!((app.uid(), app.gid(), app.mode() & 0o7777), (1000, 1000, 0o700));
            write(root, "stray", "x");
            fs::write(root.join("etc/issue"), "changed").unwrap();
            fs::remove_file(root.join("etc/group")).unwrap();
            fs::rename(root.join("etc/ssh"), root.join("etc/ssh.old")).unwrap();
            write(root, "var/log/new.log", "after\n");
            write(root, "var/lib/app/data", "kept\n");
            write(root, "etc/late.conf", "made by a program\n");
            write(root, "etc/hosts.new", "replaced\n");
            fs::rename(root.join("etc/hosts.new"), root.join("etc/hosts")).unwrap();
        });
        assert_eq!(first.errors(), nothing());
        assert_eq!((first.record.number.0, first.record.outcome), (1, Outcome::Reset));

        let second = machine.boot("", |root| {
            assert_eq!(read(root, "stray"), None);
            assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
            assert!(root.join("etc/group").exists() && !root.join("etc/ssh.old").exists());
            assert_eq!(read(root, "var/log/new.log").as_deref(), Some("after\n"));
            assert_eq!(read(root, "var/lib/app/data").as_deref(), Some("kept\n"));
            let (late, hosts) = (read(root, "etc/late.conf"), read(root, "etc/hosts"));
            if in_ram {
                // It went with the power, and nobody flushed it.
                assert_eq!((late, hosts), (None, None));
            } else {
                assert_eq!(late.as_deref(), Some("made by a program\n"));
                assert_eq!(hosts.as_deref(), Some("replaced\n"));
            }
        });
        assert_eq!(second.errors(), nothing());
        let ended = machine.open().record(BootNumber(1)).unwrap().unwrap().ended;
        assert_eq!(ended, Some(Ending::Clean));
        if in_ram {
            assert_eq!(second.record.put_away, None);
            return;
        }
        assert_eq!(second.record.put_away, Some(BootNumber(1)));
        machine.past(BootNumber(1), |past| {
            assert_eq!(read(past, "stray").as_deref(), Some("x"), "nothing is lost");
            assert_eq!(read(past, "etc/issue").as_deref(), Some("changed"));
            assert!(!past.join("etc/group").exists() && past.join("etc/ssh.old").is_dir());
            assert!(past.join("etc/passwd").exists(), "what was not changed is there as well");
        });
    });
}

#[test]
fn off_changes_nothing_and_keep_keeps_the_root_once() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        let in_ram = kind.backend == Backend::Tmpfs;
        let stray = (!in_ram).then_some("x");
        machine.boot("", |root| write(root, "stray", "x"));
        let off = machine.live("ebbtide=off", |root, boot| {
            assert_eq!(read(root, "stray").as_deref(), stray);
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
            let status = Machine::status(boot, root);
            let said = status.problems.iter().any(|it| it.message.contains("ebbtide=off was on"));
            assert!(!status.ok && !status.proved && said, "{:?}", status.problems);
        });
        assert_eq!(off.record.outcome, Outcome::Kept(Switch::Off));
        let keep = machine.boot("ebbtide=keep", |root| {
            assert_eq!(read(root, "stray").as_deref(), stray);
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        });
        assert_eq!(keep.record.outcome, Outcome::Kept(Switch::Keep));
        assert_eq!(keep.errors(), nothing());
        let reset = machine.boot("", |root| assert_eq!(read(root, "stray"), None));
        assert_eq!(reset.record.number.0, 4);
        assert_eq!(reset.record.put_away, (!in_ram).then_some(BootNumber(3)));
    });
}

#[test]
fn a_cut_between_the_steps_costs_nothing() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| write(root, "etc/late.conf", "made by a program\n"));
        let cut = machine.cut_after_reset();
        assert_eq!((cut.outcome, cut.number.0), (Outcome::Reset, 2));
        machine.cut_after_reset();
        let booted = machine.boot("", |root| {
            let expected = (kind.backend != Backend::Tmpfs).then_some("made by a program\n");
            assert_eq!(read(root, "etc/late.conf").as_deref(), expected);
        });
        assert_eq!(booted.errors(), nothing());
        assert_eq!(booted.record.number.0, 4);
        // A new root that was made, and not finished or not exchanged.
        if kind.backend == Backend::Overlay {
            machine.look(|top| {
                fs::create_dir(top.join("ebbtide/root.new")).unwrap();
                fs::create_dir(top.join("ebbtide/root.new/upper")).unwrap();
            });
            let booted = machine.boot("", |root| write(root, "stray", "x"));
            assert_eq!(booted.errors(), nothing());
            machine.look(|top| {
                fs::rename(top.join("ebbtide/root"), top.join("ebbtide/root.new")).unwrap();
            });
            let booted = machine.boot("", |root| assert_eq!(read(root, "stray"), None));
            assert_eq!(booted.errors(), nothing());
            machine.past(BootNumber(5), |past| {
                assert_eq!(read(past, "stray").as_deref(), Some("x"));
            });
        }
    });
}

#[test]
fn a_past_root_can_be_put_back_by_hand() {
    each(|kind| {
        if kind.backend == Backend::Tmpfs {
            return;
        }
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        for content in ["1", "2", "3"] {
            machine.boot("", |root| write(root, "stray", content));
        }
        // As docs/how-to/recover.md has it.
        machine.look(|top| {
            let (root, past) = (top.join("ebbtide/root"), top.join("ebbtide/past/1"));
            fs::rename(&root, top.join("root-of-today")).unwrap();
            if kind.backend == Backend::Btrfs {
                let [past, root] = [&past, &root].map(|it| it.to_str().unwrap());
                run("btrfs", &["-q", "subvolume", "snapshot", past, root]);
            } else {
                fs::rename(&past, &root).unwrap();
            }
        });
        let back = machine.boot("ebbtide=off", |root| {
            assert_eq!(read(root, "stray").as_deref(), Some("1"));
            assert_eq!(read(root, "home/alice/letter").as_deref(), Some("dear\n"));
        });
        assert_eq!(back.record.outcome, Outcome::Kept(Switch::Off));
        let reset = machine.boot("", |root| assert_eq!(read(root, "stray"), None));
        assert_eq!(reset.errors(), nothing());
        assert_eq!(reset.record.outcome, Outcome::Reset);
        let away = reset.record.put_away.expect("it was put away, not deleted");
        machine.past(away, |past| assert_eq!(read(past, "stray").as_deref(), Some("1")));
        machine.look(|top| assert!(top.join("root-of-today").is_dir()));
    });
}

#[test]
fn status_believes_the_kernel_and_not_the_record() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.live("", |root, boot| {
            let status = Machine::status(boot, root);
            assert!(status.ok && status.proved, "{:?}", status.problems);
            // Another root of the same kind is mounted over it.
            let record = boot.read_record().unwrap();
            let other = Machine::of(kind);
            other.set_up(KEEP);
            other.live("", |elsewhere, _| {
                let status = Machine::status(boot, elsewhere);
                assert!(!status.proved, "the root of another machine: {:?}", status.problems);
            });
            let mut forged = record;
            forged.outcome = Outcome::Refused;
            let text = serde_json::to_vec(&forged).unwrap();
            fs::write(boot.run.join("boot.json"), text).unwrap();
            assert!(!Machine::status(boot, root).proved);
        });
    });
}

#[test]
fn flush_and_links_and_names_work_on_each() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| {
            symlink("/etc", root.join("home/alice/link")).unwrap();
            write(root, "home/alice/new\nline\u{1b}", "odd\n");
            write(root, "etc/hosts", "first\n");
        });
        let kept = kind.backend != Backend::Tmpfs;
        machine.live("", |root, boot| {
            assert_eq!(read(root, "etc/hosts").as_deref(), kept.then_some("first\n"));
            write(root, "etc/hosts", "second\n");
            let flush = Flush::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
            flush.apply(&mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
        });
        let booted = machine.boot("", |root| {
            assert_eq!(read(root, "etc/hosts").as_deref(), Some("second\n"));
            assert_eq!(read(root, "home/alice/new\nline\u{1b}").as_deref(), Some("odd\n"));
        });
        assert_eq!(booted.errors(), nothing());
    });
}

#[test]
fn options_are_those_that_were_decided() {
    each(|kind| {
        if kind.backend == Backend::Btrfs {
            return;
        }
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| {
            let mounts = mountinfo::read_self().unwrap();
            let mount = mounts.iter().rev().find(|mount| mount.mount_point == root).unwrap();
            assert!(mount.has_option("noatime"), "{mount:?}");
            let says =
                |name: &str| mount.super_option(name).map(|it| String::from_utf8(it).unwrap());
            for (name, value) in [("redirect_dir", "on"), ("index", "on"), ("metacopy", "on")] {
                let expected = (name == "redirect_dir").then_some(value);
                // The kernel says what is not the default of its build.
                let said = says(name);
                assert!(
                    said.is_none() || said.as_deref() == expected || said.as_deref() == Some("off"),
                    "{name}: {said:?}"
                );
            }
            assert!(!says("upperdir").unwrap().contains("volume"));
            // One device number for all of it, and a directory of the base can be renamed.
            let device = |path: &str| fs::metadata(root.join(path)).unwrap().dev();
            write(root, "new", "x");
            assert_eq!(device("new"), device(""));
            assert_eq!(device("etc/passwd"), device(""));
            fs::rename(root.join("etc"), root.join("etc2")).unwrap();
            fs::rename(root.join("etc2"), root.join("etc")).unwrap();
        });
    });
}

#[test]
fn a_read_only_root_takes_writes_only_where_they_were_declared() {
    each(|kind| {
        let machine = Machine::of(kind);
        let options = "writable = false\ntmpfs = [\"/tmp\", { path = \"/var/spool/x\", size = \"1M\", mode = \"0750\" }, \"/var/log/ram\"]\n";
        machine.set_up_with(options, KEEP);
        let booted = machine.boot("", |root| {
            let denied = fs::write(root.join("stray"), "x").unwrap_err();
            assert_eq!(denied.raw_os_error(), Some(30), "{denied}");
            assert!(fs::write(root.join("etc/hosts"), "x").is_err());
            write(root, "var/log/new.log", "kept\n");
            write(root, "tmp/gone", "x");
            write(root, "var/spool/x/gone", "x");
            write(root, "var/log/ram/gone", "x");
            let mode = |path: &str| fs::metadata(root.join(path)).unwrap().mode() & 0o7777;
            assert_eq!((mode("tmp"), mode("var/spool/x")), (0o1777, 0o750));
            let much = vec![0; 2 << 20];
            assert!(fs::write(root.join("var/spool/x/much"), much).is_err(), "it has a limit");
        });
        assert_eq!(booted.errors(), nothing());
        machine.boot("", |root| {
            assert_eq!(read(root, "var/log/new.log").as_deref(), Some("kept\n"));
            assert!(!root.join("tmp/gone").exists() && !root.join("var/log/ram/gone").exists());
        });
        machine.look(|top| assert!(!top.join("state/var/log/ram/gone").exists()));
    });
}

#[test]
fn fstab_has_no_line_that_would_fail() {
    each(|kind| {
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        if kind.backend == Backend::Btrfs {
            return;
        }
        machine.look(|top| {
            // Somebody put it back, or the base was made elsewhere.
            write(
                top,
                "ebbtide/bases/1/etc/fstab",
                "# mine\nUUID=1 / ext4 errors=remount-ro 0 1\n",
            );
            let fstab = top.join("ebbtide/bases/1/etc/fstab");
            fs::set_permissions(fstab, fs::Permissions::from_mode(0o644)).unwrap();
        });
        machine.boot("", |root| {
            assert_eq!(read(root, "etc/fstab").as_deref(), Some("# mine\n"));
        });
    });
}

#[test]
fn a_root_that_cannot_be_mounted_leaves_the_base_to_run() {
    each(|kind| {
        if kind.backend != Backend::Overlay {
            return;
        }
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| write(root, "var/log/new.log", "kept\n"));
        machine.look(|top| {
            // A work directory that is none: the kernel refuses the overlay.
            let work = top.join("ebbtide/root/work");
            fs::remove_dir_all(&work).unwrap();
            fs::write(&work, "").unwrap();
        });
        let booted = machine.live("ebbtide=off", |root, boot| {
            assert_eq!(read(root, "var/log/new.log").as_deref(), Some("kept\n"));
            assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
            write(root, "stray", "x");
            let status = Machine::status(boot, root);
            assert!(!status.ok && !status.proved);
        });
        assert_eq!(booted.record.outcome, Outcome::Refused);
        assert!(
            booted.errors().iter().any(|it| it.contains("written in RAM")),
            "{:?}",
            booted.errors()
        );
        let base = machine.look(|top| Path::exists(&top.join("ebbtide/bases/1/stray")));
        assert!(!base, "a base is never written to");
    });
}

#[test]
fn a_container_that_is_not_ours_is_not_changed_and_its_base_runs() {
    each(|kind| {
        if kind.backend == Backend::Btrfs {
            return;
        }
        let machine = Machine::of(kind);
        machine.set_up(KEEP);
        machine.boot("", |root| write(root, "stray", "x"));
        machine.look(|top| {
            let marker = fs::read_to_string(top.join("ebbtide/marker.json")).unwrap();
            let ours = machine.container.uuid.to_string();
            let other = marker.replace(&ours, "00000000-0000-4000-8000-000000000000");
            assert_ne!(marker, other);
            fs::write(top.join("ebbtide/marker.json"), other).unwrap();
        });
        let listing = |top: &Path| {
            let top = top.join("ebbtide");
            machine::run("find", &[top.to_str().unwrap(), "-printf", "%P %T@ %C@ %s\n"])
        };
        let before = machine.look(listing);
        let booted = machine.live("", |root, _| {
            assert_eq!(read(root, "etc/issue").as_deref(), Some("from the base\n"));
            assert_eq!(read(root, "stray"), None);
            write(root, "etc/issue", "changed in RAM");
        });
        assert_eq!(booted.record.outcome, Outcome::Refused);
        assert!(booted.errors()[0].contains("another container"), "{:?}", booted.errors());
        assert_eq!(machine.look(listing), before);
    });
}
