//! What is theirs is told and restored; what is others' is as if it were not there.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use crate::harness::{ALICE, BOB, PASSWD, as_user, at, mode, own, serve, set_up, write_as};
use crate::machine::{Kind, Machine, read, run, write};
use crate::program::unlike_its_schema;

/// What alice, bob and root leave in a root.
fn life(root: &Path) {
    write_as(ALICE, root, "home/alice/letter", "dear bob\n");
    write_as(ALICE, root, "home/alice/work/deep/draft", "a draft\n");
    write_as(BOB, root, "home/bob/secret", "bob's own\n");
    mode(&root.join("home/bob/secret"), 0o600);
    write_as(BOB, root, "home/bob/open", "bob's, for all to read\n");
    write(root, "etc/secret", "of root\n");
    let path = |path: &str| root.join(path);
    mode(&path("home/alice/letter"), 0o4640);
    run("setfattr", &["-n", "user.note", "-v", "x", path("home/alice/letter").to_str().unwrap()]);
    let hole = fs::File::create(path("home/alice/work/hole")).unwrap();
    hole.set_len(8 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"behind the hole", 5 << 20).unwrap();
    own(ALICE, &path("home/alice/work/hole"));
    symlink("letter", path("home/alice/work/link")).unwrap();
    own(ALICE, &path("home/alice/work/link"));
    // Others' in what is alice's.
    write(root, "home/alice/work/of-root", "of root\n");
    write_as(BOB, root, "home/alice/work/of-bob/file", "of bob\n");
    // What alice may have planted.
    symlink("/home/bob/secret", path("home/alice/planted")).unwrap();
    symlink("../bob", path("home/alice/way")).unwrap();
    for it in ["home/alice/planted", "home/alice/way"] {
        own(ALICE, &path(it));
    }
    fs::hard_link(path("home/bob/secret"), path("home/alice/hard")).unwrap();
    // Where alice may not go.
    write_as(ALICE, root, "srv/closed/of-alice", "behind a closed door\n");
    own(0, &path("srv/closed"));
    own(0, &path("srv"));
    mode(&path("srv/closed"), 0o700);
}

/// A machine whose boot 1 had that life; boot 2 did nothing.
fn machine(kind: Kind) -> Machine {
    let machine = set_up(kind);
    machine.boot("", life);
    machine.boot("", |_| ());
    machine
}

on_each_disk!(
    restores_what_is_theirs,
    others_is_as_if_it_were_not_there,
    changes_are_those_of_the_user,
    an_account_made_later_has_nothing_of_an_earlier_one,
    without_an_account_nothing_is_told,
);

fn restores_what_is_theirs(kind: Kind) {
    machine(kind).live("", |root, boot| {
        let _service = serve(root, boot);
        let boots = as_user(ALICE, &["boots", "--json"]).json();
        assert_eq!(unlike_its_schema("boots", &boots), [""; 0]);
        assert_eq!(boots["boots"].as_array().unwrap().len(), 3);
        assert!(as_user(ALICE, &["boots"]).text().contains("BOOT"));

        let log = as_user(ALICE, &["log", "--json", "/home/alice/letter"]);
        assert_eq!((log.status, log.err.as_str()), (0, ""));
        assert_eq!(unlike_its_schema("log", &log.json()), [""; 0]);
        let log = as_user(ALICE, &["log", "/home/alice/letter"]).text();
        assert!(log.contains("boot 1") && log.contains("alice:alice"), "{log}");

        let planned = as_user(ALICE, &["restore", "--dry-run", "/home/alice/letter"]).text();
        assert!(planned.starts_with("restore /home/alice/letter from boot 1: 9 B"), "{planned}");
        assert!(!at("home/alice/letter").exists());
        let json = as_user(ALICE, &["restore", "--json", "--dry-run", "/home/alice/letter"]).json();
        assert_eq!(unlike_its_schema("restore", &json), [""; 0]);

        let done = as_user(ALICE, &["restore", "--boot", "1", "/home/alice/letter"]);
        assert_eq!((done.status, done.err.as_str()), (0, ""));
        assert_eq!(
            read(Path::new(crate::harness::ROOT), "home/alice/letter").unwrap(),
            "dear bob\n"
        );
        let found = fs::metadata(at("home/alice/letter")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (ALICE, ALICE, 0o640));
        let letter = at("home/alice/letter");
        let letter = letter.to_str().unwrap();
        assert!(
            run("getfattr", &["-n", "user.note", "--only-values", "--absolute-names", letter])
                .starts_with('x')
        );

        let again = as_user(ALICE, &["restore", "--boot", "1", "/home/alice/letter"]);
        assert_eq!(again.status, 1);
        assert!(again.err.contains("is there already"), "{}", again.err);
        for option in ["--force", "--keep"] {
            let refused = as_user(ALICE, &["restore", option, "/home/alice/letter"]);
            assert!(refused.status == 1 && refused.err.contains("without root"), "{}", refused.err);
        }

        // A directory, with one above it that is missing, and without what is others'.
        let deep = as_user(ALICE, &["restore", "/home/alice/work/deep"]).text();
        assert!(deep.contains("made as they were: /home/alice/work"), "{deep}");
        assert_eq!(fs::read_to_string(at("home/alice/work/deep/draft")).unwrap(), "a draft\n");
        fs::remove_dir_all(at("home/alice/work")).unwrap();
        let whole = as_user(ALICE, &["restore", "/home/alice/work"]).text();
        assert!(whole.contains("2 in it were left out"), "{whole}");
        let names: Vec<_> = fs::read_dir(at("home/alice/work")).unwrap().collect();
        assert_eq!(names.len(), 3, "{names:?}");
        let hole = fs::read(at("home/alice/work/hole")).unwrap();
        assert_eq!(hole.len(), 8 << 20);
        assert!(hole[5 << 20..].starts_with(b"behind the hole"));
        assert!(hole[..5 << 20].iter().all(|byte| *byte == 0));
        assert_eq!(fs::read_link(at("home/alice/work/link")).unwrap(), Path::new("letter"));
        assert!(fs::metadata(at("home/alice/work/hole")).unwrap().blocks() < 1024, "no holes");

        // Elsewhere, but not where they may not write.
        mode(&at("tmp"), 0o1777);
        let to = at("tmp");
        let to = to.to_str().unwrap();
        let done = as_user(ALICE, &["restore", "--to", to, "/home/alice/letter"]);
        assert_eq!((done.status, done.err.as_str()), (0, ""));
        assert_eq!(fs::metadata(at("tmp/letter")).unwrap().uid(), ALICE);
        for closed in ["etc", "home/bob", "root", "srv"] {
            let to = at(closed);
            let refused =
                as_user(ALICE, &["restore", "--to", to.to_str().unwrap(), "/home/alice/letter"]);
            assert_eq!(refused.status, 1, "{closed}");
            assert!(!to.join("letter").exists() && !to.join(".ebbtide-restore.letter").exists());
        }
    });
}

/// What a refusal says, whatever path it is about.
fn said(arguments: &[&str], path: &str) -> (i32, String) {
    let ran = as_user(ALICE, arguments);
    assert!(ran.out.is_empty(), "{}", String::from_utf8_lossy(&ran.out));
    (ran.status, ran.err.replace(path, "PATH"))
}

fn others_is_as_if_it_were_not_there(kind: Kind) {
    machine(kind).live("", |root, boot| {
        let _service = serve(root, boot);
        let closed = [
            "/home/bob/secret",
            "/home/bob/open",
            "/home/bob",
            "/etc/secret",
            "/etc/passwd",
            "/etc",
            "/root",
            "/root/nothing",
            "/home/alice/hard",
            "/home/alice/way/secret",
            "/home/alice/way/open",
            "/home/alice/planted/x",
            "/home/alice/work/of-root",
            "/home/alice/work/of-bob",
            "/home/alice/work/of-bob/file",
            "/srv/closed/of-alice",
            "/srv/closed/nothing",
        ];
        let nothing = "/home/alice/nothing";
        for before in [&["log"][..], &["restore", "--to", "/run/root/home/alice"]] {
            let with = |path| {
                let mut arguments = before.to_vec();
                arguments.push(path);
                said(&arguments, path)
            };
            let expected = with(nothing);
            assert_eq!(expected.0, 1);
            for path in closed {
                assert_eq!(with(path), expected, "{before:?} {path}");
            }
        }
        // A link is alice's own, and is told and restored as a link.
        let link = as_user(ALICE, &["restore", "/home/alice/planted"]);
        assert_eq!((link.status, link.err.as_str()), (0, ""));
        assert_eq!(fs::read_link(at("home/alice/planted")).unwrap(), Path::new("/home/bob/secret"));
        let left: Vec<_> = fs::read_dir(at("home/alice")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        // Bob has his own.
        let bob = as_user(BOB, &["restore", "/home/bob/secret"]);
        assert_eq!((bob.status, bob.err.as_str()), (0, ""));
        // Names and sizes of others' do not count in a directory either.
        let log = as_user(ALICE, &["log", "/home/alice/work"]).text();
        assert!(log.contains("directory with 4 entries"), "{log}");
    });
}

fn changes_are_those_of_the_user(kind: Kind) {
    set_up(kind).live("", |root, boot| {
        life(root);
        let _service = serve(root, boot);
        let told = |uid: u32, arguments: &[&str]| {
            let mut all = vec!["diff", "--json"];
            all.extend(arguments);
            let ran = as_user(uid, &all);
            assert_eq!((ran.status, ran.err.as_str()), (3, ""), "{kind:?}");
            let json = ran.json();
            assert_eq!(unlike_its_schema("diff", &json), [""; 0]);
            let paths = json["paths"].as_array().unwrap();
            let mut paths: Vec<_> =
                paths.iter().map(|it| it["path"].as_str().unwrap().to_owned()).collect();
            paths.sort();
            paths
        };
        let alice = told(ALICE, &[]);
        let expected = [
            "/home/alice/letter",
            "/home/alice/planted",
            "/home/alice/way",
            "/home/alice/work",
            "/home/alice/work/deep",
            "/home/alice/work/deep/draft",
            "/home/alice/work/hole",
            "/home/alice/work/link",
        ];
        assert_eq!(alice, expected, "{kind:?}");
        assert_eq!(told(ALICE, &["/home/alice/work/deep"]).len(), 2);
        let bob = told(BOB, &[]);
        // Alice's hard link is to what is bob's, in a place where he may go.
        assert_eq!(
            bob,
            [
                "/home/alice/hard",
                "/home/alice/work/of-bob",
                "/home/alice/work/of-bob/file",
                "/home/bob/open",
                "/home/bob/secret"
            ]
        );
        assert!(as_user(ALICE, &["diff"]).text().contains("/home/alice/letter"));
        let kept = as_user(ALICE, &["diff", "--kept"]);
        assert!(kept.status == 1 && kept.err.contains("without root"), "{}", kept.err);
        ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
    });
}

fn an_account_made_later_has_nothing_of_an_earlier_one(kind: Kind) {
    machine(kind).live("", |root, boot| {
        // Alice is gone, and carol has the number.
        write(root, "etc/passwd", &PASSWD.replace("alice", "carol"));
        let _service = serve(root, boot);
        for command in ["log", "restore"] {
            let refused = as_user(ALICE, &[command, "/home/alice/letter"]);
            assert_eq!(refused.status, 1, "{}", String::from_utf8_lossy(&refused.out));
        }
        let log = as_user(ALICE, &["log", "/home/alice/letter"]);
        assert!(log.err.contains("the number 1000 is not known to have been yours"), "{}", log.err);
        let past = as_user(ALICE, &["diff", "--boot", "1"]);
        assert_eq!((past.status, past.err.as_str()), (0, ""), "{}", past.text());
        let bob = as_user(BOB, &["restore", "/home/bob/open"]);
        assert_eq!((bob.status, bob.err.as_str()), (0, ""));
        // Where nobody answers, a command says what would.
        fs::remove_file(crate::harness::SOCKET).unwrap();
        let alone = as_user(BOB, &["diff"]);
        assert_eq!(alone.status, 1);
        assert!(alone.err.contains("enable --now ebbtide-user.socket"), "{}", alone.err);
    });
}

fn without_an_account_nothing_is_told(kind: Kind) {
    set_up(kind).live("", |root, boot| {
        let _service = serve(root, boot);
        write(root, "etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        let nobody = as_user(ALICE, &["boots"]);
        assert!(nobody.err.contains("no account with number 1000"), "{}", nobody.err);
    });
}
