//! What the machine has, before and after somebody inside did their worst.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use testkit::mount::{Filesystem, Volume};

use crate::harness::{Scratch, Try, mounts, needs_root, small_system};

/// Everything below a path, each with what identifies it and says when it changed.
fn files(top: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(list) = fs::read_dir(top) else { return };
    for entry in list.flatten() {
        let path = entry.path();
        let Ok(it) = path.symlink_metadata() else { continue };
        if entry.file_name().as_encoded_bytes().starts_with(b"ebbtide-try-") {
            // What another test has there.
            continue;
        }
        let line = format!(
            "{:o} {}:{} {} {} {}.{} {}",
            it.mode(),
            it.uid(),
            it.gid(),
            it.size(),
            it.ino(),
            it.ctime(),
            it.ctime_nsec(),
            it.rdev()
        );
        found.insert(path.display().to_string(), line);
        if it.is_dir() {
            files(&path, found);
        }
    }
}

fn listing(tops: &[&Path]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for top in tops {
        files(top, &mut found);
    }
    found
}

/// Mounts, units, users, files and devices of this machine, but for what other tests change meanwhile.
fn machine() -> BTreeMap<String, String> {
    let places =
        ["/etc", "/boot", "/home", "/run", "/usr/lib/systemd", "/lib/systemd", "/var/spool"];
    let mut found = listing(&places.map(Path::new));
    for entry in fs::read_dir("/dev").unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with("loop") {
            let it = entry.path().symlink_metadata().unwrap();
            found.insert(format!("/dev/{name}"), format!("{:o} {}", it.mode(), it.rdev()));
        }
    }
    for name in ["hostname", "ostype", "panic", "printk", "pid_max"] {
        let path = format!("/proc/sys/kernel/{name}");
        let value = fs::read_to_string(&path).unwrap_or_default();
        found.insert(path, value);
    }
    for (index, mount) in mounts().into_iter().enumerate() {
        found.insert(format!("mount {index}"), mount);
    }
    let queues = Command::new("ipcs").output().map(|it| it.stdout).unwrap_or_default();
    found.insert("ipcs".to_owned(), String::from_utf8_lossy(&queues).into_owned());
    found
}

#[test]
fn the_machine_is_the_same_before_and_after() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let before = machine();
    let ran =
        it.sh("echo mallory:x:0:0::/:/bin/sh >> /etc/passwd; rm -rf /etc/cron* /boot/* /home/*; \
         mkdir -p /etc/systemd/system; echo > /etc/systemd/system/evil.service; \
         rm -rf /usr/lib/systemd /var/spool; chmod 0777 /etc; touch /run/evil; \
         hostname evil; echo 1 > /proc/sys/kernel/panic; ipcmk -M 100; \
         mount -t tmpfs t /mnt; umount -a 2>/dev/null; mount --make-rshared / ; \
         mount -t tmpfs t /opt; kill -9 -1; exit 0");
    assert_eq!(ran.status(), 0, "{}", ran.err());
    assert!(ran.err().contains("/etc/"), "{}", ran.err());
    let after = machine();
    let different: Vec<_> = before
        .iter()
        .filter(|(name, line)| after.get(*name) != Some(line))
        .chain(after.iter().filter(|(name, _)| !before.contains_key(*name)))
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}

#[test]
fn a_system_survives_the_removal_of_everything() {
    needs_root!();
    let volume = Volume::new(Filesystem::Ext4, 128 << 20).unwrap();
    let base = volume.path();
    small_system(base);
    let it = Try::new(&base.join("var/lib/try")).base(base);
    it.sh("true").ok();
    let tops = ["bin", "etc", "home", "usr", "lib", "srv", "root", "tmp"].map(|it| base.join(it));
    let tops: Vec<_> = tops.iter().map(std::path::PathBuf::as_path).collect();
    let before = listing(&tops);
    let ran = it.run(&["rm", "-rf", "--no-preserve-root", "/"]);
    assert!(ran.err().contains("deleted"), "{}", ran.err());
    assert_eq!(listing(&tops), before);
    assert_eq!(it.sh("cat /etc/issue").ok(), "from the base\n");
    // Its own state was out of reach as well.
    assert!(base.join("var/lib/try/ebbtide/past/1").is_dir());
}
