//! `ebbtide diff` as its users run it, on the roots of machines in loop images.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;
mod program;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_core::compiled::Backend;
use machine::{KINDS, Kind, Machine, is_root, write};
use program::{Ran, ebbtide_running as ebbtide};

/// What was changed, on any backend.
fn mess(root: &Path) {
    write(root, "/var/lib/app/db", "0123456789");
    write(root, "/var/lib/app/log/1", "x");
    write(root, "/etc/issue", "another one\n");
    fs::remove_file(root.join("etc/group")).unwrap();
    fs::remove_dir_all(root.join("home/alice")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"srv/\x1b[2J\n\xff")), "bad").unwrap();
    write(root, "/var/log/kept.log", "kept");
    write(root, "/home/bob/.cache/thumbnails/1", "12345");
    write(root, "/etc/.pwd.lock", "");
}

#[test]
fn what_the_next_reset_takes_away() {
    if is_root() {
        KINDS.into_iter().for_each(on);
    }
}

fn on(kind: Kind) {
    let machine = Machine::of(kind);
    let list = "/.\n/var\n/var/lib\n/var/lib/app\n";
    write(&machine.source(), "/var/lib/dpkg/info/app:amd64.list", list);
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    machine.live("", |root, boot| {
        let nothing = ebbtide(&boot.run, root, &["diff"]);
        assert_eq!(
            nothing.text(),
            "nothing was changed that the next reset takes away\n",
            "{kind:?}"
        );
        assert_eq!(nothing.status, 0);

        mess(root);
        let told = ebbtide(&boot.run, root, &["diff", "--sort", "biggest", "--color", "never"]);
        assert_eq!(told.status, 3);
        insta::allow_duplicates! { insta::assert_snapshot!(told.text(), @r"
        the next reset takes away:
        package app: 2 new, 11 B
          +     10 B  /var/lib/app/db     new
          +      1 B  /var/lib/app/log/1  new
        preset accounts: 1 deleted
          -           /etc/group  deleted
        of no known application: 1 new, 1 changed, 1 deleted, 15 B
          ~     12 B  /etc/issue          changed
          +      3 B  /srv/\x1b[2J\n\xff  new
          -           /home/alice/        deleted
        3 new, 1 changed, 2 deleted: 26 B
        besides, 2 caches, locks and the like of 5 B: --all lists them
        to keep some of it: ebbtide keep PATH…
        to keep all that a preset names: put its name into `presets` of [keep]
        "); }
        let tree = ebbtide(&boot.run, root, &["diff", "--sort", "biggest", "--tree"]);
        assert_eq!(tree.status, 3);
        insta::allow_duplicates! { insta::assert_snapshot!(tree.text(), @r"
        the next reset takes away:
        ~     12 B  /etc/  1 changed, 1 deleted
        ~     12 B    issue  changed
        -             group  deleted
        +     11 B  /var/lib/app/  2 new
        +     10 B    db  new
        +      1 B    log/1  new
        +      3 B  /srv/\x1b[2J\n\xff  new
        -           /home/alice/  deleted
        3 new, 1 changed, 2 deleted: 26 B
        besides, 2 caches, locks and the like of 5 B: --all lists them
        to keep some of it: ebbtide keep PATH…
        "); }

        let all = ebbtide(&boot.run, root, &["diff", "--all", "--sort", "biggest"]);
        assert!(all.text().contains("  /home/bob/"), "{}", all.text());
        assert!(all.text().contains("/etc/.pwd.lock") && !all.text().contains("besides"));
        let named = ebbtide(&boot.run, root, &["diff", "/home/bob/.cache"]);
        assert_eq!(named.status, 3);

        let none = ebbtide(&boot.run, root, &["diff", "/usr", "/var/log"]);
        assert_eq!((none.status, none.text().lines().count()), (0, 1));
        let one = ebbtide(&boot.run, root, &["diff", "/etc/../etc/issue"]);
        assert_eq!(one.status, 3);
        assert!(
            one.text().contains("/etc/issue") && !one.text().contains("/var"),
            "{}",
            one.text()
        );

        let raw = ebbtide(&boot.run, root, &["diff", "-0"]);
        assert_eq!((raw.status, raw.err.as_str()), (3, ""));
        let paths: BTreeSet<&[u8]> = raw.out.split(|byte| *byte == 0).collect();
        let expected: [&[u8]; 6] = [
            b"",
            b"/etc/issue",
            b"/srv/\x1b[2J\n\xff",
            b"/var/lib/app",
            b"/var/lib/app/db",
            b"/var/lib/app/log",
        ];
        assert!(paths.is_superset(&expected.into_iter().collect()), "{paths:?}");
        assert_eq!(paths.len(), 7, "{paths:?}");

        as_its_schema_says(&ebbtide(&boot.run, root, &["diff", "--json"]));
    });
    told_of_the_past(&machine, kind);
}

fn told_of_the_past(machine: &Machine, kind: Kind) {
    // After the reset nothing of it is left, and the past root tells the same.
    machine.live("", |root, boot| {
        assert_eq!(ebbtide(&boot.run, root, &["diff"]).status, 0);
        if kind.backend == Backend::Tmpfs {
            // It went with the power.
            let none = ebbtide(&boot.run, root, &["diff", "--boot", "last"]);
            assert_eq!(none.status, 1);
            assert!(none.err.contains("there is no past root"), "{}", none.err);
            return;
        }
        let arguments = ["diff", "--boot", "last", "--sort", "biggest", "--color", "never"];
        let told = ebbtide(&boot.run, root, &arguments);
        assert_eq!(told.status, 3, "{}", told.err);
        insta::allow_duplicates! { insta::assert_snapshot!(told.text(), @r"
        the reset after boot 1 took away:
        package app: 2 new, 11 B
          +     10 B  /var/lib/app/db     new
          +      1 B  /var/lib/app/log/1  new
        preset accounts: 1 deleted
          -           /etc/group  deleted
        of no known application: 1 new, 1 changed, 1 deleted, 15 B
          ~     12 B  /etc/issue          changed
          +      3 B  /srv/\x1b[2J\n\xff  new
          -           /home/alice/        deleted
        3 new, 1 changed, 2 deleted: 26 B
        besides, 2 caches, locks and the like of 5 B: --all lists them
        to bring some of it back: ebbtide restore --boot 1 PATH…
        "); }
        let same = ebbtide(&boot.run, root, &["diff", "--boot", "1", "--sort", "biggest"]);
        assert_eq!(same.text(), told.text());
        let json = ebbtide(&boot.run, root, &["diff", "--boot", "1", "--json"]);
        assert!(json.text().contains("\"past\": true"), "{}", json.text());
        as_its_schema_says(&json);
        let show = |name| ebbtide(&boot.run, root, &["boots", "show", "--json", name]);
        let shown = |name| show(name).text();
        assert_eq!(shown("last"), shown("1"));
        let restore = ["restore", "--dry-run", "--boot", "last", "/var/lib/app/db"];
        let restored = ebbtide(&boot.run, root, &restore).text();
        assert!(restored.contains("/var/lib/app/db from boot 1"), "{restored}");
        let mount = ["boots", "mount", "--dry-run", "last", "/run/mnt"];
        fs::create_dir_all("/run/mnt").unwrap();
        assert_eq!(
            ebbtide(&boot.run, root, &mount).text(),
            "mount the root of boot 1 at /run/mnt\n"
        );
        let none = ebbtide(&boot.run, root, &["diff", "--boot", "9"]);
        assert_eq!(none.status, 1);
        assert!(none.err.contains("there is no past root of boot 9"), "{}", none.err);
    });
}

#[test]
fn what_is_ignored_is_only_counted() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[0]);
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    machine.live("", |root, boot| {
        mess(root);
        write(
            root,
            "/etc/ebbtide/ebbtide.toml",
            "version = 1\n[ignore]\npaths = [\"/var/lib/app\", \"/**/[gi]*\"]\n",
        );
        let diff = |arguments: &[&str]| {
            let arguments =
                [&["diff", "--sort", "biggest", "--color", "never"], arguments].concat();
            let ran = ebbtide(&boot.run, root, &arguments);
            (ran.status, ran.text())
        };
        insta::assert_snapshot!(diff(&[]).1, @r"
        the next reset takes away:
        +      3 B  /srv/\x1b[2J\n\xff  new
        -           /home/alice/        deleted
        1 new, 1 deleted: 3 B
        besides, 6 that are noise or ignored, of 28 B: --all lists them
        to keep some of it: ebbtide keep PATH…
        ");
        assert!(diff(&["--all"]).1.contains("/var/lib/app/db"));
        assert!(diff(&["/var/lib"]).1.contains("/var/lib/app/db"));
        let json: serde_json::Value = serde_json::from_str(&diff(&["--json"]).1).unwrap();
        let count = |key: &str, sort: &str| json[key][sort].as_u64().unwrap();
        assert_eq!(
            (count("ignored", "added"), count("ignored", "bytes")),
            (2, 11 + 12),
            "{json:#}"
        );
        assert_eq!((count("ignored", "changed"), count("ignored", "deleted")), (1, 1), "{json:#}");
        assert_eq!(count("noise", "added"), 2, "{json:#}");
        // All that is left.
        write(
            root,
            "/etc/ebbtide/ebbtide.toml",
            "version = 1\n[ignore]\npaths = [\"/var\", \"/[a-z]*/?*\"]\n",
        );
        let (status, text) = diff(&[]);
        assert_eq!(status, 0, "{text}");
        assert!(text.starts_with("nothing was changed"), "{text}");
        // A mistake hides nothing, and is said.
        write(root, "/etc/ebbtide/ebbtide.toml", "version = 1\n[ignore\n");
        let ran = ebbtide(&boot.run, root, &["diff"]);
        assert_eq!(ran.status, 3);
        assert_eq!(
            ran.err,
            "/etc/ebbtide/ebbtide.toml can't be understood, so what it ignores is told: see \
             `ebbtide check`\n"
        );
        assert!(String::from_utf8(ran.out).unwrap().contains("/var/lib/app"));
    });
}

#[test]
fn a_past_root_is_told_without_what_was_kept_then() {
    if !is_root() {
        return;
    }
    let machine = Machine::of(KINDS[0]);
    let log = "[keep]\ndirectories = [\"/var/log\"]\n";
    machine.set_up(log);
    machine.boot("", |root| {
        write(root, "/var/log/kept", "");
        write(root, "/srv/lost", "");
    });
    // Boot 2 goes on with the root of boot 1.
    machine.boot("ebbtide=keep", |root| write(root, "/srv/more", ""));
    machine.apply(
        "[keep]\ndirectories = [\"/srv\", { path = \"/var/lib/app\", method = \"symlink\" }]\n",
    );
    machine.live("", |root, boot| {
        let paths = |number: &str| {
            let ran = ebbtide(&boot.run, root, &["diff", "--boot", number, "-0"]);
            (ran.status, String::from_utf8(ran.out).unwrap().replace('\0', " "), ran.err)
        };
        // /srv is kept now, and was not then; what was mounted then is not told.
        let (status, told, _) = paths("2");
        assert_eq!((status, told.as_str()), (3, "/srv/lost /srv/more "));
        let (status, _, err) = paths("1");
        assert_eq!(status, 1);
        assert!(err.contains("boot 2 went on with the same root"), "{err}");
    });
}

fn as_its_schema_says(ran: &Ran) {
    let printed = ran.json();
    let wrong = program::unlike_its_schema("diff", &printed);
    assert!(wrong.is_empty(), "{wrong:#?} in {printed:#}");
    assert_eq!((&printed["boot"], &printed["base"]), (&1.into(), &1.into()), "{printed:#}");
    let paths = printed["paths"].as_array().unwrap();
    let of = |path: &str| {
        let found = paths.iter().find(|it| it["path"] == path).unwrap();
        found.get("application").cloned().unwrap_or_default()
    };
    assert_eq!(of("/var/lib/app/db"), serde_json::json!({ "package": "app" }));
    assert_eq!(of("/etc/group"), serde_json::json!({ "preset": "accounts" }));
    assert!(of("/etc/issue").is_null());
    let app = &printed["applications"][0];
    assert_eq!((&app["application"]["package"], &app["added"]), (&"app".into(), &2.into()));
    let count = |what: &str| paths.iter().filter(|path| path["change"] == what).count();
    assert_eq!(["added", "changed", "deleted"].map(count), [5, 1, 2], "{printed:#}");
    assert!(paths.iter().any(|path| path["path"] == r"/srv/\x1b[2J\n\xff"), "{printed:#}");
    assert_eq!(printed["changes"]["total"]["bytes"], 10 + 1 + 12 + 3);
}

#[test]
fn what_the_next_reset_keeps() {
    if is_root() {
        [KINDS[0], KINDS[1], KINDS[4]].into_iter().for_each(keeps);
    }
}

fn keeps(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(
        "[keep]\ndirectories = [\"/var/log\", \"/var/lib/app\", { path = \"/srv/l\", method = \"symlink\" }]\n\
         files = [{ path = \"/etc/later\", method = \"sync\" }]\n",
    );
    machine.boot("", |root| {
        write(root, "/var/log/all", &"x".repeat(10_000));
        write(root, "/var/lib/app/one", &"x".repeat(5000));
    });
    machine.live("", |root, boot| {
        let ran = ebbtide(&boot.run, root, &["diff", "--kept"]);
        assert_eq!(ran.status, 0, "{}", ran.err);
        // What a directory takes on the disk differs between filesystems.
        let text = ran.text().replace(&machine.device.0, "DEVICE");
        let lines = text.lines().map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.join(" ")
        });
        let text: Vec<_> = lines.collect();
        assert!(text.contains(&"PATH STORE METHOD SIZE ON DISK FILES".to_owned()), "{text:#?}");
        assert!(text.contains(&"/etc/later state sync nothing yet".to_owned()), "{text:#?}");
        let found = |path: &str| text.iter().find(|line| line.starts_with(path));
        let log = |path: &str| found(path).unwrap_or_else(|| panic!("{path} in {text:#?}"));
        assert!(log("/var/log state bind 9.7 KiB ").ends_with(" KiB 2"), "{text:#?}");
        assert!(log("/var/lib/app state bind 4.8 KiB ").ends_with(" KiB 1"), "{text:#?}");
        assert!(log("/srv/l state symlink 0 B ").ends_with(" 0"), "{text:#?}");
        assert!(
            log("store state is at /run/ebbtide/stores/state: DEVICE").ends_with("state"),
            "{text:#?}"
        );

        let json = ebbtide(&boot.run, root, &["diff", "--kept", "--json"]).json();
        let wrong = program::unlike_its_schema("diff-kept", &json);
        assert!(wrong.is_empty(), "{wrong:#?} in {json:#}");
        let entries = json["entries"].as_array().unwrap();
        let of = |path: &str| entries.iter().find(|entry| entry["path"] == path).unwrap();
        // The base has a log of its own, which came along.
        let amount = &of("/var/log")["data"]["present"];
        assert_eq!((&amount["bytes"], &amount["files"]), (&10_007.into(), &2.into()));
        assert_eq!(of("/etc/later")["data"], "nothing");
        let all = entries.iter().map(|it| it["data"]["present"]["bytes"].as_u64().unwrap_or(0));
        assert_eq!(json["total"]["bytes"], all.sum::<u64>(), "{json:#}");
        let place = of("/var/lib/app")["place"].as_str().unwrap();
        let there = fs::read(Path::new(place).join("one")).unwrap();
        assert_eq!(there.len(), 5000);

        let some =
            ebbtide(&boot.run, root, &["diff", "--kept", "/var/lib/app/one", "/srv", "--json"])
                .json();
        let paths: Vec<_> =
            some["entries"].as_array().unwrap().iter().map(|it| &it["path"]).collect();
        assert_eq!(paths, ["/srv/l", "/var/lib/app"]);
        let none = ebbtide(&boot.run, root, &["diff", "--kept", "/usr"]);
        assert_eq!(none.text(), "the next reset keeps nothing of it\n");
    });
}
