//! `ebbtide diff` of single files, and between the roots of two boots, on machines in loop images.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
#[macro_use]
mod machine;
mod program;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use ebbtide_core::boot::Boot;
use machine::{Kind, Machine, write};
use program::ebbtide_running;

on_each_disk!(in_files, between_boots);

/// What is printed, without what differs from run to run; the exit status; what was complained of.
fn diff(boot: &Boot, root: &Path, arguments: &[&str]) -> (i32, String, String) {
    let ran = ebbtide_running(&boot.run, root, &[&["diff"], arguments].concat());
    (ran.status, String::from_utf8(ran.out).unwrap(), ran.err)
}

/// What the base has.
fn files(source: &Path) {
    write(source, "/etc/lines", "1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    write(source, "/etc/gone", "was\n");
    write(source, "/etc/mode", "same\n");
    write(source, "/etc/as-it-was", "same\n");
    write(source, "/etc/program", "\u{7f}ELF\0old");
    write(source, "/etc/large", &"x".repeat(5 << 20));
    write(source, "/etc/becomes-link", "text\n");
    symlink("/old\n", source.join("etc/link")).unwrap();
}

/// What becomes of it.
fn change(root: &Path) {
    write(root, "/etc/lines", "1\n2\n3\n4\nfive\u{1b}[31m\n6\n7\n8\n9\n");
    fs::remove_file(root.join("etc/gone")).unwrap();
    fs::set_permissions(root.join("etc/mode"), fs::Permissions::from_mode(0o600)).unwrap();
    write(root, "/etc/program", "\u{7f}ELF\0new");
    write(root, "/etc/large", &format!("{}y", "x".repeat(5 << 20)));
    for (link, to) in [("etc/link", "/new"), ("etc/becomes-link", "lines")] {
        fs::remove_file(root.join(link)).unwrap();
        symlink(to, root.join(link)).unwrap();
    }
    write(root, "/srv/new", "no end");
    symlink("../etc", root.join("srv/etc")).unwrap();
    write(root, "/var/log/app", "kept\n");
}

fn in_files(kind: Kind) {
    let machine = Machine::of(kind);
    files(&machine.source());
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    let all = |boot: &Boot, root: &Path, more: &[&str]| {
        let paths = ["lines", "gone", "mode", "program", "large", "link", "becomes-link"];
        let paths = paths.map(|path| format!("/etc/{path}"));
        let paths = paths.iter().map(String::as_str).chain(["/srv/new"]);
        let arguments: Vec<&str> =
            ["--content"].into_iter().chain(more.iter().copied()).chain(paths).collect();
        let (status, out, err) = diff(boot, root, &arguments);
        assert_eq!((status, err.as_str()), (3, ""), "{kind:?}");
        out
    };
    let mut now = String::new();
    machine.live("", |root, boot| {
        change(root);
        now = all(boot, root, &[]);
        insta::allow_duplicates! { insta::assert_snapshot!(now, @r"
        --- base 1: /etc/lines
        +++ the running root: /etc/lines
        @@ -2,7 +2,7 @@
         2
         3
         4
        -5
        +five\x1b[31m
         6
         7
         8
        --- base 1: /etc/gone
        +++ the running root: not there
        @@ -1 +0,0 @@
        -was
        --- base 1: /etc/mode
        +++ the running root: /etc/mode
        mode: 0644, now 0600
        --- base 1: /etc/program
        +++ the running root: /etc/program
        binary: 8 B, now 8 B; the content is not shown
        --- base 1: /etc/large
        +++ the running root: /etc/large
        more than 4.0 MiB: 5.0 MiB, now 5.0 MiB; the content is not shown
        --- base 1: /etc/link
        +++ the running root: /etc/link
        -symbolic link to /old\n
        +symbolic link to /new
        --- base 1: /etc/becomes-link
        +++ the running root: /etc/becomes-link
        it was a file, and is a symlink
        @@ -1 +0,0 @@
        -text
        +symbolic link to lines
        --- base 1: not there
        +++ the running root: /srv/new
        @@ -0,0 +1 @@
        +no end
        \ No newline at end of file
        "); }
        let (status, out, _) = diff(boot, root, &["--content", "/etc/as-it-was"]);
        assert_eq!(status, 0);
        assert_eq!(out, "/etc/as-it-was is the same in base 1 and in the running root\n");
        // What is kept is compared as the system has it.
        let (status, out, _) = diff(boot, root, &["--content", "/var/log/app"]);
        assert_eq!(status, 3);
        assert!(out.contains("\n+kept\n-- it is kept: no reset"), "{out}");
        for (path, why) in [
            ("/srv/etc/lines", "/srv/etc is a symbolic link to ../etc, and no link is followed"),
            ("/etc", "/etc is a directory"),
            ("/nowhere", "neither of the two has it"),
        ] {
            let (status, out, err) = diff(boot, root, &["--content", path]);
            assert_eq!((status, out.as_str()), (1, ""));
            assert!(err.contains(why), "{err}");
        }
    });
    machine.live("", |root, boot| {
        let past = all(boot, root, &["--boot", "last"]);
        assert_eq!(past, now.replace("the running root", "boot 1"));
        // Its store has it now, and the past root never had.
        let (status, _, err) = diff(boot, root, &["--content", "--boot", "1", "/var/log/app"]);
        assert_eq!(status, 1);
        assert!(err.contains("/var/log/app was mounted from store state in boot 1"), "{err}");
        let since = all(boot, root, &["--boot", "1.."]);
        assert!(
            since.contains("--- boot 1: /etc/lines\n+++ the running root: /etc/lines\n"),
            "{since}"
        );
        assert!(since.contains("-five\\x1b[31m\n+5\n"), "{since}");
    });
}

fn between_boots(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    machine.boot("", |root| {
        write(root, "/etc/issue", "one\n");
        write(root, "/etc/same", "same in both\n");
        write(root, "/srv/one", "1");
        write(root, "/srv/both", "same size\n");
        write(root, "/var/log/kept", "1");
    });
    machine.boot("", |root| {
        write(root, "/etc/issue", "two\n");
        write(root, "/etc/same", "same in both\n");
        write(root, "/srv/two", "22");
        write(root, "/srv/both", "size same\n");
        fs::remove_file(root.join("etc/group")).unwrap();
        write(root, "/var/log/kept", "2");
    });
    machine.live("", |root, boot| {
        let (status, out, err) = diff(boot, root, &["--boot", "1..2", "--sort", "biggest"]);
        assert_eq!((status, err.as_str()), (3, ""), "{kind:?}");
        insta::allow_duplicates! { insta::assert_snapshot!(out, @r"
        the root of boot 2, compared with that of boot 1:
        preset accounts: 1 deleted
          -           /etc/group  deleted
        of no known application: 1 new, 2 changed, 1 deleted, 16 B
          ~     10 B  /srv/both   changed
          ~      4 B  /etc/issue  changed
          +      2 B  /srv/two    new
          -           /srv/one    deleted
        1 new, 2 changed, 2 deleted: 16 B
        "); }
        let (_, last, _) = diff(boot, root, &["--boot", "1..last", "--sort", "biggest"]);
        assert_eq!(last, out);
        let (status, since, _) = diff(boot, root, &["--boot", "2..", "--sort", "biggest"]);
        assert_eq!(status, 3);
        insta::allow_duplicates! { insta::assert_snapshot!(since, @r"
        the running root, compared with that of boot 2:
        preset accounts: 1 new, 33 B
          +     33 B  /etc/group  new
        of no known application: 1 changed, 3 deleted, 14 B
          ~     14 B  /etc/issue  changed
          -           /etc/same   deleted
          -           /srv/both   deleted
          -           /srv/two    deleted
        1 new, 1 changed, 3 deleted: 47 B
        "); }
        let (status, out, _) = diff(boot, root, &["--boot", "1..2", "/usr"]);
        assert_eq!((status, out.as_str()), (0, "boots 1 and 2 left roots that are the same\n"));
        let ran = ebbtide_running(&boot.run, root, &["diff", "--boot", "1..2", "--json"]);
        let json = ran.json();
        assert_eq!((&json["since"], &json["boot"]), (&1.into(), &2.into()), "{json:#}");
        let wrong = program::unlike_its_schema("diff", &json);
        assert!(wrong.is_empty(), "{wrong:#?}");
        for (range, why) in [
            ("2..1", "boot 1 does not come after boot 2"),
            ("1..7", "there is no past root of boot 7"),
            ("5..", "there is no past root of boot 5"),
        ] {
            let (status, _, err) = diff(boot, root, &["--boot", range]);
            assert_eq!(status, 1);
            assert!(err.contains(why), "{err}");
        }
    });
}
