//! Versions of a path over several boots, and bringing them back.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ebbtide_core::archive;
use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::gc::{self, Gc};
use ebbtide_core::past::grep::Grep;
use ebbtide_core::past::history::{History, history, matching};
use ebbtide_core::past::mounted;
use ebbtide_core::past::sources::{Place, Sources};
use ebbtide_core::past::version::{Contents, Kind as What, State};
use ebbtide_core::record::BootNumber;
use ebbtide_sys::mountinfo;
use machine::{Kind, Machine, is_root, write};

on_each_disk!(
    every_version_is_told_once,
    what_was_mounted_is_told_as_kept,
    no_link_is_followed_in_any_root,
    directories_are_totals,
    a_past_root_is_mounted_for_reading,
    versions_that_have_a_text_in_them,
    what_left_a_store_is_told_as_long_as_it_is_in_the_trash,
);

const KEEP: &str = "[keep]\ndirectories = [\"/var/log\"]\n\
files = [{ path = \"/etc/hosts\", method = \"sync\" }]\n";

fn sources(boot: &Boot, root: &Path) -> Sources {
    let container = boot.open_container().unwrap();
    Sources::open(boot, &container, root).unwrap_or_else(|it| panic!("{}", it.chain()))
}

fn find(boot: &Boot, root: &Path, path: &Path) -> History {
    history(&sources(boot, root), path, &mut Contents::default())
}

/// The runs of a history in short.
fn shown(history: &History) -> Vec<String> {
    let place = |place: &Place| match place {
        Place::Now => "now".to_owned(),
        Place::Store(name) => format!("store {name}"),
        Place::Boot(number) => number.to_string(),
        Place::Base(number) => format!("base {number}"),
        Place::Trash { store, boot } => format!("trash {store} {boot}"),
    };
    let state = |state: &State| match state {
        State::Present(it) => match it.kind {
            What::Directory => format!("{} in {}", it.bytes, it.entries.unwrap()),
            What::Link => format!("-> {}", it.target.as_ref().unwrap()),
            _ => format!("{} bytes {:o} {}:{}", it.bytes, it.mode, it.uid, it.gid),
        },
        State::Deleted => "deleted".to_owned(),
        State::Absent => "absent".to_owned(),
        State::Kept(store) => format!("kept in {store}"),
        State::Unknown(why) => why.clone(),
    };
    let runs = history.runs.iter().map(|run| {
        let places: Vec<_> = run.places.iter().map(place).collect();
        format!("{}: {}", places.join(", "), state(&run.state))
    });
    runs.collect()
}

fn every_version_is_told_once(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.boot("", |root| write(root, "etc/issue", "one\n"));
    machine.boot("", |_| ());
    machine.boot("", |root| fs::remove_file(root.join("etc/issue")).unwrap());
    for _ in 0..2 {
        // Twice the same, at other times.
        machine.boot("", |root| write(root, "etc/issue", "four\n"));
    }
    machine.boot("", |root| {
        fs::set_permissions(root.join("etc/issue"), fs::Permissions::from_mode(0o600)).unwrap();
    });
    machine.live("", |root, boot| {
        let issue = find(boot, root, Path::new("/etc/issue"));
        assert_eq!(
            shown(&issue),
            [
                "now: 14 bytes 644 0:0",
                "6: 14 bytes 600 0:0",
                "5, 4: 5 bytes 644 0:0",
                "3: deleted",
                "2: 14 bytes 644 0:0",
                "1: 4 bytes 644 0:0",
                "base 1: 14 bytes 644 0:0",
            ]
        );
        assert!(issue.is_known() && issue.kept.is_none());
        let State::Present(now) = &issue.runs[0].state else { panic!() };
        let State::Present(base) = &issue.runs[6].state else { panic!() };
        assert_eq!(now.content, base.content);
        let expected = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        write(root, "hello", "hello");
        let hello = find(boot, root, Path::new("/hello"));
        let State::Present(version) = &hello.runs[0].state else { panic!() };
        assert_eq!(version.content.as_deref(), Some(expected));
        assert_eq!(shown(&hello)[1..], ["6, 5, 4, 3, 2, 1, base 1: absent"]);
        let nowhere = find(boot, root, Path::new("/etc/issue/not/there"));
        assert!(!nowhere.is_known());
        assert_eq!(shown(&nowhere), ["now, 6, 5, 4, 3, 2, 1, base 1: absent"]);
        let odd = find(boot, root, Path::new(OsStr::from_bytes(b"/odd\n\xff")));
        assert_eq!(odd.path, r"/odd\n\xff");
    });
}

/// The runs that have a text in them: where, how often, and its first line.
fn grepped(boot: &Boot, root: &Path, text: &str, path: &str) -> Vec<String> {
    let mut grep = Grep::new(text.as_bytes()).unwrap();
    let sources = sources(boot, root).with_trash();
    let found = matching(&sources, Path::new(path), &mut grep, &mut Contents::default());
    let Some(history) = found else { return Vec::new() };
    let places = shown(&history);
    let one = |(run, place): (&_, &String)| {
        let run: &ebbtide_core::past::history::Run = run;
        let matches = run.matches.as_ref().unwrap();
        let place = place.split(": ").next().unwrap();
        format!("{place}: {} {} {:?}", matches.count, matches.line, matches.text)
    };
    history.runs.iter().zip(&places).map(one).collect()
}

fn versions_that_have_a_text_in_them(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    machine.boot("", |root| write(root, "etc/issue", "one\nneedle and needle\n"));
    machine.boot("", |root| write(root, "etc/issue", "one\nneedle and needle\n"));
    machine.boot("", |root| write(root, "etc/issue", "nothing\n"));
    machine.boot("", |root| {
        fs::write(root.join("etc/issue"), b"\0needle\x1b\n").unwrap();
        write(root, "var/log/app.log", "needle\n");
        write(root, "var/log/none", "");
    });
    machine.live("", |root, boot| {
        write(root, "etc/issue", "a needle of today\n");
        symlink("issue", root.join("etc/link")).unwrap();
        assert_eq!(
            grepped(boot, root, "needle", "/etc/issue"),
            [
                r#"now: 1 1 Some("a needle of today")"#,
                "4: 1 1 None",
                r#"2, 1: 2 2 Some("needle and needle")"#,
            ]
        );
        let kept = [r#"now, store state: 1 1 Some("needle")"#];
        assert_eq!(grepped(boot, root, "needle", "/var/log/app.log"), kept);
        for path in ["/etc/link", "/var/log/none", "/var/log", "/nowhere", "/etc/issue/below"] {
            assert_eq!(grepped(boot, root, "needle", path), [""; 0], "{path}");
        }
        assert_eq!(grepped(boot, root, "nowhere", "/etc/issue"), [""; 0]);
        assert!(Grep::new(b"").is_none());
        // What is too long to be read is counted, once for the same file.
        let long = fs::File::create(root.join("etc/long")).unwrap();
        long.set_len(ebbtide_core::past::version::CONTENT_LIMIT + 1).unwrap();
        let mut grep = Grep::new(b"needle").unwrap();
        let sources = sources(boot, root);
        for _ in 0..2 {
            let long = Path::new("/etc/long");
            assert!(matching(&sources, long, &mut grep, &mut Contents::default()).is_none());
        }
        assert_eq!((grep.skipped, grep.failed), (1, 0));
    });
}

fn what_left_a_store_is_told_as_long_as_it_is_in_the_trash(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(KEEP);
    for text in ["one\n", "second\n", "third\n"] {
        machine.boot("", |root| write(root, "etc/hosts", text));
    }
    machine.live("", |root, boot| {
        let path = Path::new("/etc/hosts");
        let sources = sources(boot, root).with_trash();
        let hosts = shown(&history(&sources, path, &mut Contents::default()));
        let all = [
            "now, store state, 3: 6 bytes 644 0:0",
            "trash state 3, 2: 7 bytes 644 0:0",
            "trash state 2, 1: 4 bytes 644 0:0",
            "base 1: absent",
        ];
        assert_eq!(hosts, all);
        assert!(!shown(&find(boot, root, path)).iter().any(|run| run.contains("trash")));
        let one = [r#"trash state 2, 1: 1 1 Some("one")"#];
        assert_eq!(grepped(boot, root, "one", "/etc/hosts"), one);
        let other = shown(&history(&sources, Path::new("/etc/issue"), &mut Contents::default()));
        assert!(!other.iter().any(|run| run.contains("trash")), "{other:?}");
    });
}

fn what_was_mounted_is_told_as_kept(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| write(root, "var/log/app.log", "before it was kept\n"));
    machine.apply(KEEP);
    machine.boot("", |root| {
        write(root, "var/log/app.log", "kept\n");
        write(root, "etc/hosts", "a file of the root\n");
    });
    machine.live("", |root, boot| {
        let log = find(boot, root, Path::new("/var/log/app.log"));
        let kept = log.kept.as_ref().unwrap();
        assert_eq!((kept.entry.as_str(), kept.method.as_str()), ("/var/log", "bind"));
        assert_eq!(
            shown(&log),
            [
                "now, store state: 5 bytes 644 0:0",
                "2: kept in state",
                "1: 19 bytes 644 0:0",
                "base 1: absent",
            ]
        );
        let hosts = find(boot, root, Path::new("/etc/hosts"));
        assert_eq!(shown(&hosts), ["now, store state, 2: 19 bytes 644 0:0", "1, base 1: absent"]);
        write(root, "etc/hosts", "not taken back yet\n");
        let hosts = find(boot, root, Path::new("/etc/hosts"));
        assert_eq!(shown(&hosts)[1], "store state, 2: 19 bytes 644 0:0");
    });
}

fn no_link_is_followed_in_any_root(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    machine.boot("", |root| {
        write(root, "secret/key", "of this root\n");
        symlink("/secret", root.join("planted")).unwrap();
        symlink("../../../../etc", root.join("up")).unwrap();
    });
    machine.live("", |root, boot| {
        let planted = find(boot, root, Path::new("/planted/key"));
        assert_eq!(
            shown(&planted),
            [
                "now: absent",
                "1: /planted is a symbolic link to /secret, and no link is followed",
                "base 1: absent",
            ]
        );
        assert!(!planted.is_known());
        let up = find(boot, root, Path::new("/up/passwd"));
        assert!(shown(&up)[1].starts_with("1: /up is a symbolic link"), "{:?}", shown(&up));
        let link = find(boot, root, Path::new("/planted"));
        assert_eq!(shown(&link)[1], "1: -> /secret");
    });
}

fn directories_are_totals(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = []\n");
    let app = |root: &Path| {
        for (name, text) in [("a", "1234"), ("deep/b", "123456"), ("deep/er/c", "")] {
            write(root, &format!("srv/app/{name}"), text);
            let file = fs::File::options().write(true).open(root.join("srv/app").join(name));
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
            file.unwrap().set_modified(time).unwrap();
        }
    };
    machine.boot("", app);
    machine.boot("", app);
    machine.boot("", |root| {
        app(root);
        fs::write(root.join("srv/app/a"), "4321").unwrap();
    });
    machine.boot("", |root| fs::create_dir(root.join("srv/app")).unwrap());
    machine.live("", |root, boot| {
        let found = find(boot, root, Path::new("/srv/app"));
        assert_eq!(
            shown(&found),
            ["now: deleted", "4: 0 in 0", "3: 10 in 5", "2, 1: 10 in 5", "base 1: absent"]
        );
        let State::Present(changed) = &found.runs[2].state else { panic!() };
        assert!(changed.modified > 1_000_000, "the newest below it");
        // The whole root is a directory as well; what is mounted on it is not in it.
        let top = find(boot, root, Path::new("/"));
        assert!(top.is_known(), "{:?}", shown(&top));
    });
}

#[test]
fn archives_of_roots_in_ram_are_looked_at_like_any_other() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(Kind { backend: Backend::Tmpfs, filesystem: "ext4" });
    machine.set_up_with("archive = \"10M\"\n", KEEP);
    machine.live("", |root, boot| {
        write(root, "etc/issue", "archived\n");
        fs::remove_file(root.join("etc/group")).unwrap();
        archive::archive(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()));
    });
    machine.live("", |root, boot| {
        let issue = find(boot, root, Path::new("/etc/issue"));
        assert_eq!(
            shown(&issue),
            ["now: 14 bytes 644 0:0", "1: 9 bytes 644 0:0", "base 1: 14 bytes 644 0:0"]
        );
        let group = find(boot, root, Path::new("/etc/group"));
        assert_eq!(shown(&group)[1], "1: deleted");
    });
}

fn a_past_root_is_mounted_for_reading(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up_with("keep-boots = { min = 1, count = 1, days = 1, free = \"0%\" }\n", KEEP);
    machine.boot("", |root| {
        write(root, "etc/issue", "one\n");
        fs::remove_file(root.join("etc/group")).unwrap();
    });
    for _ in 0..2 {
        machine.boot("", |_| ());
    }
    machine.live("", |root, boot| {
        let at = boot.run.join("look");
        fs::create_dir(&at).unwrap();
        let container = boot.open_container().unwrap();
        let mount = |number, at: &Path| {
            mounted::mount(boot, &container, BootNumber(number), at).map_err(|it| it.chain())
        };
        let going = || -> Vec<u64> {
            let plan = Gc::open(boot, root).unwrap().preview().unwrap();
            let number = |step: &gc::Step| match step {
                gc::Step::Root { boot, .. } => Some(boot.0),
                _ => None,
            };
            plan.steps.iter().filter_map(number).collect()
        };
        assert!(going().contains(&1), "{:?}", going());
        mount(1, &at).unwrap();
        assert_eq!(machine::read(&at, "etc/issue").as_deref(), Some("one\n"));
        assert!(at.join("etc/passwd").exists() && !at.join("etc/group").exists());
        let denied = fs::write(at.join("etc/issue"), "changed").unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let options = mountinfo::read_self().unwrap();
        let options = options.iter().find(|mount| mount.mount_point == at).unwrap();
        let has = |wanted: &str| options.has_option(wanted);
        assert!(has("ro") && has("nosuid") && has("nodev"), "{options:?}");
        assert!(!going().contains(&1), "what is mounted stays");
        // The running root is written to as before.
        write(root, "etc/issue", "now\n");
        let said = mount(1, &at).unwrap_err();
        assert!(said.ends_with("something is mounted there"), "{said}");
        machine::run("umount", &[at.to_str().unwrap()]);
        assert!(going().contains(&1));
        fs::write(at.join("file"), "").unwrap();
        let said = mount(1, &at).unwrap_err();
        assert!(said.ends_with("the directory is not empty"), "{said}");
        symlink(&at, boot.run.join("link")).unwrap();
        mount(1, &boot.run.join("link")).unwrap_err();
        fs::remove_file(at.join("file")).unwrap();
        let said = mount(9, &at).unwrap_err();
        assert!(said.ends_with("there is no such past root"), "{said}");
        assert!(fs::read_dir(&at).unwrap().next().is_none());
    });
}
