//! How a run ends: statuses, signals, two at once, killed, full.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::mount::{Filesystem, Volume};

use crate::harness::{
    Ran, Scratch, Try, mounts, mounts_below, needs_root, processes_with, small_system, until,
};

#[test]
fn the_status_of_the_command_is_passed_on() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    assert_eq!(it.sh("exit 7").status(), 7);
    assert_eq!(it.sh("kill -9 $$").status(), 137);
    let missing = it.run(&["no-such-command"]);
    assert_eq!(missing.status(), 127);
    assert!(missing.err().contains("error: cannot run the command"), "{}", missing.err());
    assert_eq!(it.run(&["/etc/passwd"]).status(), 126);
    let usage =
        Command::new(env!("CARGO_BIN_EXE_ebbtide")).args(["try", "--odd"]).output().unwrap();
    assert_eq!(usage.status.code(), Some(125));
}

#[test]
fn input_and_output_are_the_callers() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let mut child = it
        .command(&["sh", "-c", "cat; echo err >&2; tty >/dev/null || echo no terminal"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through\0a pipe\n").unwrap();
    let ran = Ran(child.wait_with_output().unwrap());
    assert_eq!(ran.ok(), "through\0a pipe\nno terminal\n");
    assert!(ran.err().starts_with("err\n"), "{}", ran.err());
}

#[test]
fn a_signal_reaches_the_command() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let mut child = it
        .command(&["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn orphans_are_reaped_and_end_with_the_command() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let mark = format!("orphan-{}", std::process::id());
    let script = "sleep 0.05 & (sleep 1000 & ) ; (setsid sleep 1000 &) ; sleep 0.3; \
                  cat /proc/[0-9]*/stat | grep -c ' Z '";
    let out = it.command(&["sh", "-c", script]).env("MARK", &mark).output().unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "0\n");
    assert_eq!(processes_with(&mark), Vec::<u32>::new());
}

/// The whole story: a mess, one thing that is worth it, and the next time.
#[test]
fn what_is_kept_after_the_fact_is_there_again() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let volume = Volume::new(Filesystem::Ext4, 32 << 20).unwrap();
    let home = base.join("home");
    let mounted = Command::new("mount").arg("--bind").arg(volume.path()).arg(&home).status();
    assert!(mounted.unwrap().success());
    fs::create_dir(home.join("alice")).unwrap();
    fs::write(home.join("alice/old"), "old").unwrap();
    let it = Try::new(&scratch.path("state")).base(&base);
    it.sh(
        "mkdir /srv/app; echo data > /srv/app/file; echo note > /etc/note; echo x > /etc/mess; \
         mkdir /home/alice/work; echo new > /home/alice/work/new; mv /home/alice/old /home/alice/work",
    )
    .ok();
    let state = it.state.to_str().unwrap();
    let kept = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
        .args(["keep", "--state", state, "/srv/app", "/etc/note", "/home/alice/work"])
        .output()
        .unwrap();
    Ran(kept).ok();
    for _ in 0..2 {
        let again = it.sh("cat /srv/app/file /etc/note; cat /home/alice/work/*; ls /etc/mess");
        assert_eq!(again.out(), "data\nnote\nnew\nold", "{}", again.err());
    }
    assert!(Command::new("umount").arg(&home).status().unwrap().success());
}

#[test]
fn two_at_once_on_one_state_are_refused() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let mut first = it
        .command(&["sh", "-c", "echo ready; read wait"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(first.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let second = it.sh("true");
    assert_eq!(second.status(), 125);
    let state = it.state.display().to_string();
    insta::assert_snapshot!(second.err().replace(&state, "STATE"), @r"
    error: cannot start: another throw-away root is running on STATE
    hint: leave that one first, or give this one a directory of its own with --state
    ");
    Try::new(&scratch.path("other")).sh("true").ok();
    drop(first.stdin.take());
    first.wait().unwrap();
    it.sh("true").ok();
}

#[test]
fn killed_at_any_moment_nothing_stays() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let it = Try::new(&scratch.path("state")).base(&base);
    it.keep(r#"directories = ["/var/lib/kept"]"#);
    let mark = format!("killed-{}", std::process::id());
    let before = mounts();
    for round in 0..24_u64 {
        if round == 8 {
            // Until here the container itself may not have been finished once.
            it.sh("echo precious > /var/lib/kept/file").ok();
        }
        let mut child = it
            .command(&["sh", "-c", "while :; do echo x >> /etc/mess; sleep 0.01; done"])
            .env("MARK", &mark)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round % 8 * 20 + round));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "round {round}");
        until("all processes are gone", || processes_with(&mark).is_empty());
        assert_eq!(mounts_below(scratch.directory.path()), Vec::<String>::new());
    }
    assert_eq!(mounts(), before);
    let after = it.sh("cat /var/lib/kept/file; ls /etc/mess 2>/dev/null");
    assert!(after.out().starts_with("precious\n"), "{}{}", after.out(), after.err());
    assert!(!after.out().contains("mess"));
    assert!(!base.join("etc/mess").exists());
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let volume = Volume::new(Filesystem::Ext4, 24 << 20).unwrap();
    let it = Try::new(&volume.path().join("state")).base(&base);
    it.keep(r#"directories = ["/var/lib/kept"]"#);
    it.sh("echo precious > /var/lib/kept/file").ok();
    let full = it.sh("dd if=/dev/zero of=/var/big bs=64k 2>/dev/null || echo full; cat /etc/issue");
    assert_eq!(full.out(), "full\nfrom the base\n", "{}", full.err());
    assert_eq!(full.status(), 0, "{}", full.err());
    assert!(full.err().contains("/var/big"), "{}", full.err());
    // On a disk without a free block there is no new root, and that is no secret.
    let next = it.sh("cat /var/lib/kept/file");
    match next.status() {
        0 => assert_eq!(next.out(), "precious\n"),
        125 => assert!(next.err().contains("No space left"), "{}", next.err()),
        other => panic!("{other}: {}", next.err()),
    }
    let big = ["root", "past/2"].map(|it| volume.path().join("state/ebbtide").join(it));
    for root in big {
        let _ = fs::remove_file(root.join("upper/var/big"));
    }
    assert_eq!(it.sh("cat /var/lib/kept/file; ls /var/big 2>/dev/null; true").ok(), "precious\n");
}

#[test]
fn a_user_without_rights_is_told_so() {
    needs_root!();
    let scratch = Scratch::new();
    let binary = scratch.path("ebbtide");
    // By cp(1): a child that another test forks meanwhile would have it open for writing for a moment.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_ebbtide")).arg(&binary).status();
    assert!(copied.unwrap().success());
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(scratch.directory.path(), open).unwrap();
    let ran = Command::new(&binary).args(["try", "--", "true"]).uid(65534).gid(65534).output();
    let ran = Ran(ran.unwrap());
    assert_eq!(ran.status(), 125);
    insta::assert_snapshot!(ran.err(), @r"
    error: cannot make a throw-away root: only root may mount filesystems
    hint: run it again with sudo
    ");
}

#[test]
fn a_container_that_forbids_mounts_is_named() {
    needs_root!();
    let scratch = Scratch::new();
    let state = scratch.path("state").display().to_string();
    let ran = Command::new("setpriv")
        .args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", "--"])
        .args([env!("CARGO_BIN_EXE_ebbtide"), "try", "--state", &state, "--", "true"])
        .output()
        .unwrap();
    let ran = Ran(ran);
    assert_eq!(ran.status(), 125);
    insta::assert_snapshot!(ran.err());
}

#[test]
fn root_of_a_user_namespace_is_told_so() {
    needs_root!();
    let scratch = Scratch::new();
    let state = scratch.path("state").display().to_string();
    let ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--"])
        .args([env!("CARGO_BIN_EXE_ebbtide"), "try", "--state", &state, "--", "true"])
        .output();
    let ran = Ran(ran.unwrap());
    assert_eq!(ran.status(), 125);
    insta::assert_snapshot!(ran.err(), @r"
    error: cannot start: root of this container is not root for the kernel
    caused by: in a user namespace nobody may write down what overlays need (trusted.* attributes)
    hint: run it on the machine itself, or in a container without a user namespace
    ");
}

#[test]
fn in_a_container_that_allows_mounts() {
    needs_root!();
    let scratch = Scratch::new();
    let root = scratch.path("root");
    small_system(&root);
    crate::harness::install(
        &root,
        Path::new(env!("CARGO_BIN_EXE_ebbtide")),
        Path::new("bin/ebbtide"),
    );
    let script = "ebbtide try -- sh -c 'echo inside > /etc/mess; cat /etc/mess /etc/issue'; \
                  ls /etc/mess; ebbtide try -- cat /etc/issue";
    let ran = Ran(testkit::privileged::chroot(&root, "sh").args(["-c", script]).output().unwrap());
    assert_eq!(ran.out(), "inside\nfrom the base\nfrom the base\n", "{}", ran.err());
    assert!(root.join("var/lib/ebbtide/try/ebbtide/past/1/upper/etc/mess").exists());
}
