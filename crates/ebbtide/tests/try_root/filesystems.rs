//! Roots on every kind of filesystem, and the other filesystems of the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use testkit::mount::{Filesystem, Volume};

use crate::harness::{Scratch, Try, needs_root, small_system};

/// A root that keeps one thing, three times.
fn forgets_and_keeps(base: &Path, state: &Path, on_disk: bool) {
    let it = Try::new(state).base(base);
    it.keep(r#"directories = ["/var/lib/kept"]"#);
    let first = it
        .sh("echo one > /var/lib/kept/file; echo mess > /etc/mess; rm /etc/issue; mv /srv /srv2; \
         ls /var/lib /var/lib/try; ls /dev /proc/1/status /sys/kernel");
    assert!(first.err().contains("1 new, 2 deleted, 1 renamed"), "{}", first.err());
    assert!(first.err().contains("/etc/mess"), "{}", first.err());
    assert!(first.err().contains("kept: /var/lib/kept"), "{}", first.err());
    assert!(!first.out().contains("state.lock"));
    let second = it.sh("cat /var/lib/kept/file /etc/issue; ls /etc /srv; ls -d /srv2").out();
    assert!(second.starts_with("one\nfrom the base\n"), "{second}");
    assert!(!second.contains("mess"), "{second}");
    assert!(!second.contains("srv2"), "{second}");
    // The base has nothing of all that.
    assert!(!base.join("etc/mess").exists());
    assert!(!base.join("var/lib/kept").exists());
    assert!(base.join("srv").is_dir());
    assert_eq!(fs::read_to_string(base.join("etc/issue")).unwrap(), "from the base\n");
    let past = state.join("ebbtide/past/1/upper/etc/mess");
    assert_eq!(past.exists(), on_disk, "{}", past.display());
    assert_eq!(state.join("ebbtide/root").exists(), on_disk);
}

fn on(filesystem: Filesystem, megabytes: u64) {
    let volume = Volume::new(filesystem, megabytes << 20).unwrap();
    let base = volume.path().to_owned();
    small_system(&base);
    forgets_and_keeps(&base, &base.join("var/lib/try"), true);
    volume.close().unwrap();
}

#[test]
fn on_ext4() {
    needs_root!();
    on(Filesystem::Ext4, 128);
}

#[test]
fn on_xfs() {
    needs_root!();
    on(Filesystem::Xfs, 320);
}

#[test]
fn on_btrfs() {
    needs_root!();
    on(Filesystem::Btrfs, 160);
}

/// Mounts that end with the value.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(at: &Path, arguments: &[&str]) -> Self {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(arguments).arg(at).status().unwrap();
        assert!(done.success());
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn on_tmpfs() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    let _mounted = Mounted::new(&base, &["-t", "tmpfs", "tmpfs"]);
    small_system(&base);
    forgets_and_keeps(&base, &base.join("var/lib/try"), true);
}

#[test]
fn on_an_overlay_what_is_written_goes_to_ram() {
    needs_root!();
    let scratch = Scratch::new();
    small_system(&scratch.path("lower"));
    for name in ["upper", "work"] {
        fs::create_dir(scratch.path(name)).unwrap();
    }
    let path = |name: &str| scratch.path(name).display().to_string();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", path("lower"), path("upper"), path("work"));
    let base = scratch.path("root");
    let _mounted = Mounted::new(&base, &["-t", "overlay", "-o", &options, "overlay"]);
    forgets_and_keeps(&base, &base.join("var/lib/try"), false);
    // And what is copied in is taken back all the same, since RAM is gone by then.
    let it = Try::new(&base.join("var/lib/try")).base(&base);
    it.keep(r#"files = [{ path = "/etc/issue", method = "sync" }]"#);
    it.sh("echo changed > /etc/new && mv /etc/new /etc/issue").ok();
    assert_eq!(it.sh("cat /etc/issue").ok(), "changed\n");
}

#[test]
fn over_the_running_machine() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let name = format!("/etc/ebbtide-test-{}", std::process::id());
    let out = it.sh(&format!("echo x > {name}; ls {name}; id -u")).ok();
    assert_eq!(out, format!("{name}\n0\n"));
    assert!(!Path::new(&name).exists());
    assert_eq!(it.sh(&format!("ls {name} 2>&1 | wc -l; ls {name} && echo there")).out(), "1\n");
}

#[test]
fn other_filesystems_are_overlaid_reset_and_told() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    let volume = Volume::new(Filesystem::Ext4, 64 << 20).unwrap();
    let home = base.join("home");
    let _home = Mounted::new(&home, &["--bind", volume.path().to_str().unwrap()]);
    fs::create_dir(home.join("alice")).unwrap();
    std::os::unix::fs::chown(home.join("alice"), Some(1000), Some(1000)).unwrap();
    fs::write(home.join("alice/letter"), "dear").unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o751)).unwrap();
    let sealed = base.join("srv");
    let _sealed = Mounted::new(&sealed, &["-t", "tmpfs", "-o", "ro,noexec", "tmpfs"]);
    let temporary = base.join("tmp");
    let _temporary = Mounted::new(&temporary, &["-t", "tmpfs", "tmpfs"]);
    fs::write(temporary.join("secret"), "").unwrap();
    let single = base.join("etc/single");
    fs::write(&single, "below").unwrap();
    fs::write(scratch.path("single"), "mounted").unwrap();
    let file = scratch.path("single").display().to_string();
    assert!(Command::new("mount").args(["--bind", &file]).arg(&single).status().unwrap().success());
    let _single = Mounted(single.clone());

    let it = Try::new(&scratch.path("state")).base(&base);
    it.keep(r#"directories = ["/home/alice/kept"]"#);
    let first = it.sh(
        "echo bye > /home/alice/letter; echo x > /home/alice/new; echo k > /home/alice/kept/file; \
         cat /etc/single; echo over > /etc/single; cat /etc/single; \
         touch /srv/x 2>/dev/null || echo sealed; ls /tmp; stat -c %a%u /home; stat -c %a /tmp",
    );
    assert_eq!(first.ok(), "mountedover\nsealed\n7510\n1777\n");
    assert!(first.err().contains("/home/alice/letter"), "{}", first.err());
    assert!(first.err().contains("/home/alice/new"), "{}", first.err());
    assert!(!first.err().contains("/home/alice/kept/file"), "{}", first.err());
    assert!(!first.err().contains("/etc/single"), "{}", first.err());
    assert_eq!(fs::read_to_string(home.join("alice/letter")).unwrap(), "dear");
    assert!(!home.join("alice/new").exists());
    assert!(!home.join("alice/kept").exists());
    assert_eq!(home.metadata().unwrap().mode() & 0o7777, 0o751);
    assert_eq!(fs::read_to_string(scratch.path("single")).unwrap(), "mounted");
    let second = it.sh("cat /home/alice/letter; cat /home/alice/kept/file; ls /home/alice");
    assert_eq!(second.ok(), "deark\nkept\nletter\n");
    // What the first one had written went with its root.
    let past = scratch.path("state/ebbtide/past/1");
    let list = fs::read_to_string(past.join("others.json")).unwrap();
    assert!(list.contains("\"/home\""), "{list}");
    let found = fs::read_dir(past.join("others"))
        .unwrap()
        .flatten()
        .any(|it| it.path().join("upper/alice/new").exists());
    assert!(found);
}

#[test]
fn what_cannot_be_overlaid_can_be_read_and_that_is_said() {
    needs_root!();
    let scratch = Scratch::new();
    let base = scratch.path("root");
    small_system(&base);
    // Two overlays on one another are as many as the kernel allows.
    for name in ["a", "b", "upper", "work"] {
        fs::create_dir_all(scratch.path(name)).unwrap();
    }
    fs::write(scratch.path("a/file"), "deep").unwrap();
    let path = |name: &str| scratch.path(name).display().to_string();
    let first = format!("lowerdir={}:{}", path("a"), path("b"));
    let _first = Mounted::new(&scratch.path("one"), &["-t", "overlay", "-o", &first, "overlay"]);
    let srv = base.join("srv");
    let second =
        format!("lowerdir={},upperdir={},workdir={}", path("one"), path("upper"), path("work"));
    let _second = Mounted::new(&srv, &["-t", "overlay", "-o", &second, "overlay"]);
    let it = Try::new(&scratch.path("state")).base(&base);
    let ran = it.sh("cat /srv/file; touch /srv/x 2>/dev/null || echo sealed");
    assert_eq!(ran.ok(), "deepsealed\n");
    assert!(ran.err().contains("/srv can only be read here"), "{}", ran.err());
    assert!(!srv.join("x").exists());
    let refused = Try::new(&scratch.path("other")).base(&srv).sh("true");
    assert_eq!(refused.status(), 125);
    assert!(refused.err().contains("as a base"), "{}", refused.err());
}
