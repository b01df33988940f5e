//! What a user may try against the service, and against a restore.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    ALICE, BOB, Service, as_user, at, connected, mode, own, serve, set_up, write_as,
};
use crate::machine::{Kind, Machine, write};

/// A machine whose boot 1 had something of alice's and something of bob's.
fn machine(kind: Kind) -> Machine {
    let machine = set_up(kind);
    machine.boot("", |root| {
        write_as(ALICE, root, "home/alice/box/letter", "dear bob\n");
        write_as(BOB, root, "home/bob/open", "bob's\n");
        write_as(ALICE, root, "home/alice/long", &"x".repeat(32 << 20));
        write_as(ALICE, root, "home/bob/of-alice", "x");
    });
    machine
}

fn frame(letter: u8, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    [&[letter], &length[..], text].concat()
}

/// What is answered to some bytes: all of it, as text.
fn answered(uid: u32, bytes: &[u8]) -> String {
    let mut socket = connected(uid);
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // It may have hung up before all of it was there.
    let _ = socket.write_all(bytes);
    all(&mut socket)
}

fn all(socket: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    match socket.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        result => drop(result.unwrap()),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn asked(uid: u32, request: &str) -> String {
    answered(uid, &frame(b'j', request.as_bytes()))
}

on_each_disk!(
    odd_requests_are_refused,
    who_asks_is_what_the_kernel_says,
    exchanged_directories_lead_nowhere,
    what_serves_a_user_is_closed_to_that_user,
);

fn odd_requests_are_refused(kind: Kind) {
    machine(kind).live("", |root, boot| {
        let _service = serve(root, boot);
        let good = r#"{"version":1,"ask":{"log":{"path":"/home/alice/box/letter"}}}"#;
        let answer = asked(ALICE, good);
        assert!(answer.contains("\"present\""), "{answer}");
        let long = format!(r#"{{"version":1,"ask":{{"log":{{"path":"/{}"}}}}}}"#, "a/".repeat(3000));
        for odd in [
            "",
            "null",
            "{}",
            "\u{0}\u{1}",
            &"[".repeat(60_000),
            r#"{"version":2,"ask":{"boots":{}}}"#,
            r#"{"version":1,"ask":{"boots":{}},"uid":1001}"#,
            r#"{"version":1,"ask":{"log":{"path":"/home/bob/open","uid":1001}}}"#,
            r#"{"version":1,"ask":{"log":{"path":"/home/alice/../bob/open"}}}"#,
            r#"{"version":1,"ask":{"log":{"path":"home/alice/box/letter"}}}"#,
            r#"{"version":1,"ask":{"log":{"path":"/home/alice//box/letter"}}}"#,
            r#"{"version":1,"ask":{"log":{"path":"/home/alice\u0000"}}}"#,
            r#"{"version":1,"ask":{"diff":{"boot":"../root"}}}"#,
            r#"{"version":1,"ask":{"diff":{"boot":"99"}}}"#,
            &format!(r#"{{"version":1,"ask":{{"diff":{{"boot":"{}"}}}}}}"#, "1".repeat(5000)),
            r#"{"version":1,"ask":{"restore":{"path":"/","boot":null,"elsewhere":true,"dry_run":false}}}"#,
            &long,
        ] {
            let answer = asked(ALICE, odd);
            assert!(answer.contains("\"failed\""), "{odd}: {answer}");
            assert!(!answer.contains("bob's"), "{odd}: {answer}");
        }
        let too_long = frame(b'j', &vec![b' '; (64 << 10) + 1]);
        assert!(answered(ALICE, &too_long).contains("too long"));
        assert!(answered(ALICE, b"j\xff\xff\xff\xff").contains("too long"));
        assert!(answered(ALICE, b"GET / HTTP/1.1\r\n\r\n").contains("\"failed\""));
        assert!(answered(ALICE, &frame(b'd', &[0; 20])).contains("\"failed\""));

        // Half a request, and then nothing; and one that comes very slowly.
        let whole = frame(b'j', good.as_bytes());
        let started = Instant::now();
        let slow = std::thread::spawn({
            let whole = whole.clone();
            let mut socket = connected(ALICE);
            move || {
                for byte in whole.iter().take(20) {
                    let _ = socket.write_all(&[*byte]);
                    std::thread::sleep(Duration::from_secs(1));
                }
                all(&mut socket)
            }
        });
        let half = answered(ALICE, &whole[..20]);
        assert!(half.contains("\"failed\""), "{half}");
        let waited = started.elapsed();
        assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(15), "{waited:?}");
        // They that hang take nothing from others.
        let hanging: Vec<_> = (0..30).map(|_| connected(BOB)).collect();
        let answer = asked(ALICE, good);
        assert!(answer.contains("\"present\""), "{answer}");
        drop(hanging);
        assert!(!slow.join().unwrap().contains("\"present\""));
    });
}

fn who_asks_is_what_the_kernel_says(kind: Kind) {
    machine(kind).live("", |root, boot| {
        let _service = serve(root, boot);
        let ask = |uid, path: &str| {
            asked(uid, &format!(r#"{{"version":1,"ask":{{"log":{{"path":"{path}"}}}}}}"#))
        };
        assert!(ask(BOB, "/home/bob/open").contains("\"present\""));
        assert!(!ask(ALICE, "/home/bob/open").contains("\"present\""));
        for uid in [0, 65_534, 4242] {
            let answer = ask(uid, "/home/bob/open");
            assert!(answer.contains("cannot tell what is yours"), "{uid}: {answer}");
        }
        assert!(ask(ALICE, "/home/bob/of-alice").contains("\"present\""), "it was hers");
    });
}

fn exchanged_directories_lead_nowhere(kind: Kind) {
    machine(kind).live("", |root, boot| {
        let _service = serve(root, boot);
        // Bob may exchange what is in here, and alice may write.
        let shared = at("srv/shared");
        write(Path::new(crate::harness::ROOT), "srv/shared/in/x", "");
        let elsewhere = at("srv/elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        own(ALICE, &elsewhere);
        for directory in ["srv/shared", "srv/shared/in"] {
            mode(&at(directory), 0o777);
        }
        symlink(&elsewhere, shared.join("link")).unwrap();
        // Her own home, with a link that goes to and fro in the place of a directory.
        let home = at("home/alice");
        fs::create_dir(home.join("box")).unwrap();
        own(ALICE, &home.join("box"));
        symlink(&elsewhere, home.join("link")).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let directory: std::os::fd::OwnedFd = fs::File::open(&home).unwrap().into();
                let directory = std::os::fd::AsFd::as_fd(&directory);
                while !ended.load(Ordering::Relaxed) {
                    let (one, other) = ("box".as_ref(), "link".as_ref());
                    ebbtide_sys::file::exchange(directory, one, directory, other).unwrap();
                }
            });
            let restored = (0..40).map(|_| {
                let ran = as_user(ALICE, &["restore", "/home/alice/box/letter"]);
                let followed = fs::read_dir(&elsewhere).unwrap().next().is_some();
                for place in ["box/letter", "link/letter"] {
                    let _ = fs::remove_file(home.join(place));
                }
                (ran.status, followed)
            });
            let restored: Vec<_> = restored.collect();
            ended.store(true, Ordering::Relaxed);
            assert!(restored.iter().all(|(_, followed)| !followed), "it followed a link");
            assert!(restored.iter().any(|(status, _)| *status == 0), "never seen as a directory");
        });
        // A directory of the name that a copy has on its way, which bob made first.
        let trap = shared.join("in/.ebbtide-restore.letter");
        fs::create_dir(&trap).unwrap();
        own(BOB, &trap);
        mode(&trap, 0o777);
        let to = shared.join("in");
        let refused =
            as_user(ALICE, &["restore", "--to", to.to_str().unwrap(), "/home/alice/box/letter"]);
        assert_eq!(refused.status, 1);
        assert!(refused.err.contains("remove it"), "{}", refused.err);
        assert!(fs::read_dir(&trap).unwrap().next().is_none());
        assert!(!to.join("letter").exists());
    });
}

/// Waits until the service for a connection is that user's.
fn serving(service: &Service, uid: u32) -> u32 {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        let all = service.started.lock().unwrap().clone();
        let is_theirs = |pid: &&u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let wanted = format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}\n");
            status.contains(&wanted)
        };
        if let Some(pid) = all.iter().find(is_theirs) {
            return *pid;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no service became user {uid}");
}

fn what_serves_a_user_is_closed_to_that_user(kind: Kind) {
    machine(kind).live("", |root, boot| {
        let service = serve(root, boot);
        // It is stuck as long as nobody reads.
        let mut socket = connected(ALICE);
        let request = r#"{"version":1,"ask":{"restore":{"path":"/home/alice/long","boot":"1","elsewhere":false,"dry_run":false}}}"#;
        socket.write_all(&frame(b'j', request.as_bytes())).unwrap();
        let pid = serving(&service, ALICE);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        for set in ["CapPrm:", "CapEff:", "CapInh:", "CapAmb:"] {
            assert_eq!(field(set), "0000000000000000", "{set}");
        }
        let gid = format!("{ALICE}\t{ALICE}\t{ALICE}\t{ALICE}");
        assert_eq!((field("Gid:"), field("Groups:"), field("NoNewPrivs:")), (gid, String::new(), "1".into()));
        // What it has open is for reading only, and not for its user to take.
        assert_eq!(fs::metadata(format!("/proc/{pid}/fd")).unwrap().uid(), 0);
        let number = ALICE.to_string();
        let look = Command::new("setpriv")
            .args(["--reuid", &number, "--regid", &number, "--clear-groups"])
            .args(["ls", &format!("/proc/{pid}/fd/")])
            .output()
            .unwrap();
        assert!(!look.status.success(), "{}", String::from_utf8_lossy(&look.stdout));
        let mut trees = 0;
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let entry = entry.unwrap();
            if !fs::metadata(entry.path()).is_ok_and(|it| it.is_dir()) {
                continue;
            }
            let opened = fs::File::open(entry.path()).unwrap();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_str().unwrap())).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & 0o3, 0, "{info}");
            let at_root = fs::metadata(crate::harness::ROOT).unwrap();
            let found = opened.metadata().unwrap();
            if (found.dev(), found.ino()) != (at_root.dev(), at_root.ino()) {
                trees += 1;
                let written = rustix::fs::mkdirat(&opened, "planted", rustix::fs::Mode::RWXU);
                assert_eq!(written, Err(rustix::io::Errno::ROFS));
            }
        }
        assert!(trees > 0, "no tree is open");
        let answer = all(&mut socket);
        assert!(answer.len() > 32 << 20, "{}", answer.len());
        assert!(answer.ends_with("{\"end\":{\"left_out\":0}}"));
    });
}
