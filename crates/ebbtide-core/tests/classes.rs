//! Stores of all classes, on three filesystems: what the mount table says of them, and of what lies in
//! them, in every kind of boot.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod machine;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use ebbtide_core::boot::Boot;
use ebbtide_sys::mountinfo;
use machine::{Machine, is_root, read, run, write};

/// Where something is mounted, with the options that it has, and those that it must not have.
const MOUNTS: [(&str, &[&str], &[&str]); 9] = [
    ("stores/state", &["nosuid", "nodev", "noatime"], &["noexec", "ro"]),
    ("stores/cache", &["nosuid", "nodev", "noatime"], &["noexec", "ro"]),
    ("stores/secret", &["nosuid", "nodev", "noatime"], &["noexec", "ro"]),
    ("stores/log", &["nosuid", "nodev", "noexec", "noatime"], &["ro"]),
    ("stores/containers", &["noatime"], &["nosuid", "nodev", "noexec", "ro"]),
    ("var/log", &["nosuid", "nodev", "noexec"], &["ro"]),
    ("var/cache/app", &["nosuid", "nodev"], &["noexec", "ro"]),
    ("srv", &["nosuid", "nodev", "noexec", "ro"], &[]),
    ("var/lib/containers", &[], &["nosuid", "nodev", "noexec", "ro"]),
];

fn mounts_are_right(root: &Path, boot: &Boot) {
    let mounts = mountinfo::read_self().unwrap();
    for (place, with, without) in MOUNTS {
        let path = if place.starts_with("stores") { &boot.run } else { root }.join(place);
        let found = mounts.iter().rev().find(|mount| mount.mount_point == path);
        let found = found.unwrap_or_else(|| panic!("nothing is mounted at {}", path.display()));
        let options = String::from_utf8(found.options.clone()).unwrap();
        let has = |option: &&&str| options.split(',').any(|it| it == **option);
        assert!(with.iter().all(|it| has(&it)), "{place}: {options}");
        assert!(!without.iter().any(|it| has(&it)), "{place}: {options}");
    }
}

/// What only the kernel can answer: whether the options have effect.
fn options_have_effect(root: &Path) {
    let runs = |directory: &str| {
        let program = root.join(directory).join("program");
        // By cp(1): a child that another test forks meanwhile would have it open for writing for a moment.
        run("cp", &["/bin/true", program.to_str().unwrap()]);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        std::process::Command::new(&program).status().is_ok_and(|it| it.success())
    };
    assert!(runs("var/cache/app") && runs("var/lib/secrets") && runs("var/lib/containers"));
    assert!(!runs("var/log"), "no program runs from a log");
    assert!(fs::write(root.join("srv/file"), "x").is_err(), "/srv is read-only");
    let opens = |directory: &str| {
        let node = root.join(directory).join("null");
        if !node.exists() {
            run("mknod", &[node.to_str().unwrap(), "c", "1", "3"]);
        }
        fs::read(&node).is_ok()
    };
    assert!(!opens("var/cache/app"), "a device node in a store is only a name");
    assert!(opens("var/lib/containers"));
}

#[test]
fn every_class_has_its_mount_options_in_every_boot() {
    if !is_root() {
        return;
    }
    let mut machine = Machine::new();
    let cache = machine.disk("cache", "ext4");
    let log = machine.disk("log", "xfs");
    machine.set_up(&format!(
        "[store.cache]\nclass = \"cache\"\ndevice = \"{cache}\"\n\
         [store.log]\nclass = \"log\"\ndevice = \"{log}\"\n\
         [store.secret]\nclass = \"secret\"\nsubvolume = \"secret\"\n\
         [store.containers]\nsubvolume = \"containers\"\noptions = [\"suid\", \"dev\"]\n\
         [keep]\ndirectories = [\n\
         {{ path = \"/var/log\", store = \"log\" }},\n\
         {{ path = \"/var/cache/app\", store = \"cache\" }},\n\
         {{ path = \"/var/lib/secrets\", store = \"secret\", mode = \"0700\" }},\n\
         {{ path = \"/srv\", options = [\"noexec\", \"ro\"] }},\n\
         {{ path = \"/var/lib/containers\", store = \"containers\" }},\n\
         {{ path = \"/var/lib/perhaps\", optional = true }},\n\
         {{ path = \"/opt/a/b\", parent = {{ user = \"alice\", group = 4, mode = \"0750\" }} }},\n]\n\
         files = [\n\
         {{ path = \"/etc/ssh/ssh_host_ed25519_key\", store = \"secret\", method = \"symlink\" }},\n\
         {{ path = \"/etc/issue\", store = \"cache\", method = \"sync\" }},\n]\n"
    ));
    let boots = ["", "", "ebbtide=off", "ebbtide=keep", "", ""];
    for (number, command_line) in boots.into_iter().enumerate() {
        let life = |root: &Path, boot: &Boot| {
            mounts_are_right(root, boot);
            options_have_effect(root);
            assert_eq!(read(root, "var/log/old.log").as_deref(), Some("before\n"));
            let expected = if number == 0 { "from the base\n" } else { "issued\n" };
            assert_eq!(read(root, "etc/issue").as_deref(), Some(expected));
            write(root, "etc/issue", "issued\n");
            // Off changes nothing, and here every boot has a run directory of its own to point to.
            if command_line != "ebbtide=off" {
                let target = fs::read_link(root.join("etc/ssh/ssh_host_ed25519_key")).unwrap();
                assert!(target.starts_with(boot.run.join("stores/secret")));
                assert_eq!(fs::read_to_string(target).unwrap(), "PRIVATE\n");
            }
            assert!(!root.join("var/lib/perhaps").exists(), "it is optional, and there is none");
            for (path, uid, gid, mode) in [
                ("opt/a", 1000, 4, 0o750),
                ("opt/a/b", 0, 0, 0o755),
                ("var/lib/secrets", 0, 0, 0o700),
            ] {
                let found = fs::metadata(root.join(path)).unwrap();
                assert_eq!(
                    (found.uid(), found.gid(), found.mode() & 0o7777),
                    (uid, gid, mode),
                    "{path}"
                );
            }
            let status = Machine::status(boot, root);
            assert_eq!(status.ok, command_line.is_empty(), "{:#?}", status.problems);
        };
        // Every other boot ends with a power cut.
        let booted = if number % 2 == 0 {
            machine.live(command_line, |root, boot| {
                life(root, boot);
                ebbtide_core::shutdown::detach(&boot.run, &mut |_, _| ()).unwrap();
                ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
            })
        } else {
            machine.live(command_line, life)
        };
        let errors = booted.errors().into_iter();
        // The link again, and the sum of it.
        let others: Vec<_> =
            errors.filter(|it| !it.contains("ssh_host") && !it.contains("1 not")).collect();
        assert_eq!(others, Vec::<&str>::new(), "boot {number}");
        let missing = booted.record.attached.as_ref().unwrap().missing.len();
        assert_eq!(missing, usize::from(command_line == "ebbtide=off"), "boot {number}");
    }
}
