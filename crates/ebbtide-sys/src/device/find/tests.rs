use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags};

use super::*;
use crate::device::{Superblock, probe};
use crate::testing::{Filesystem, LoopDevice, needs_root, run};

#[test]
fn tags() {
    let cases = [
        ("UUID=abc", Some(Tag::Uuid("abc"))),
        ("UUID=\"abc\"", Some(Tag::Uuid("abc"))),
        ("LABEL=a=b", Some(Tag::Label("a=b"))),
        ("PARTUUID=1", Some(Tag::PartUuid("1"))),
        ("PARTLABEL=EFI system", Some(Tag::PartLabel("EFI system"))),
        ("UUID=", None),
        ("LABEL=\"\"", None),
        ("label=x", None),
        ("system", None),
        ("", None),
    ];
    for (spec, expected) in cases {
        assert_eq!(parse(spec), expected, "{spec}");
    }
}

#[test]
fn links_of_udev() {
    let cases = [
        (Tag::Label("my disk/1"), r"/dev/disk/by-label/my\x20disk\x2f1"),
        (Tag::Label(r"ü\x"), r"/dev/disk/by-label/ü\x5cx"),
        (Tag::Label("#+-.:=@_"), "/dev/disk/by-label/#+-.:=@_"),
        (Tag::PartLabel("a"), "/dev/disk/by-partlabel/a"),
        (Tag::PartUuid("AB-01"), "/dev/disk/by-partuuid/ab-01"),
        (Tag::Uuid("1A2B-3C4D"), "/dev/disk/by-uuid/1A2B-3C4D"),
        (
            Tag::Uuid("0A1B2C3D-0000-0000-0000-0000000000FF"),
            "/dev/disk/by-uuid/0a1b2c3d-0000-0000-0000-0000000000ff",
        ),
    ];
    for (tag, expected) in cases {
        assert_eq!(link(&tag), Path::new(expected));
    }
}

#[test]
fn names_in_proc_partitions() {
    let content = b"major minor  #blocks  name\n\n   7        0     131072 loop0\n  \
        11        0    1048575 sr0\n   2        0          4 fd0\n \
        104        0  1 cciss/c0d0\n";
    assert_eq!(device_names(content, &DRIVES), ["loop0", "cciss/c0d0"]);
    assert_eq!(sysfs("cciss/c0d0"), Path::new("/sys/class/block/cciss!c0d0"));
}

#[test]
fn errors_are_harmless_to_print() {
    let find = |spec| find(spec).unwrap_err().to_string();
    assert_eq!(
        find("x\x1b"),
        r#""x\x1b" is neither UUID=, LABEL=, PARTUUID=, PARTLABEL= nor an absolute path"#
    );
    assert_eq!(find("/dev/no\nne"), r#"no device matches "/dev/no\nne""#);
    assert_eq!(find("/dev/null"), "/dev/null is not a block device");
    assert_eq!(find("/etc"), "/etc is not a block device");
    let error = FindError::Ambiguous {
        spec: "LABEL=x".to_owned(),
        devices: vec!["/dev/a".into(), "/dev/b".into()],
    };
    assert_eq!(error.to_string(), r#"several devices match "LABEL=x": /dev/a, /dev/b"#);
}

/// A label that no other device on the machine has.
fn fresh_label() -> String {
    format!("t {}", &crate::random::uuid_v4().simple().to_string()[..8])
}

#[test]
fn finds_by_uuid_and_label() {
    needs_root!();
    for fstype in ["btrfs", "ext4", "xfs"] {
        let label = fresh_label().replace(' ', "-");
        let device = LoopDevice::formatted(fstype, &["-L", &label]);
        let found = probe(&device.path).unwrap().unwrap();
        assert_eq!((found.fstype, &found.label), (fstype, &label));
        let blkid =
            run("blkid", &["-p", "-o", "value", "-s", "UUID", device.path.to_str().unwrap()]);
        assert_eq!(found.uuid.to_string(), blkid.trim());
        // An image file has the same superblock.
        assert_eq!(probe(&device.image).unwrap(), Some(found.clone()));

        let spec = format!("UUID={}", found.uuid.to_string().to_uppercase());
        assert_eq!(find(&spec).unwrap(), device.path);
        assert_eq!(find(&format!("LABEL=\"{label}\"")).unwrap(), device.path);
        assert_eq!(find(device.path.to_str().unwrap()).unwrap(), device.path);
        let error = find(&format!("PARTLABEL={label}")).unwrap_err();
        assert!(matches!(error, FindError::NotFound { .. }));
    }
}

#[test]
fn a_btrfs_is_one_while_the_kernel_writes_its_superblock() {
    needs_root!();
    let volume = Filesystem::new("btrfs");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let top = rustix::fs::openat(&volume.mount, ".", flags, Mode::empty()).unwrap();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut count = 0;
            while !ended.load(Ordering::Relaxed) {
                count += 1;
                rustix::fs::mkdirat(&top, count.to_string(), Mode::RWXU).unwrap();
                rustix::fs::syncfs(&top).unwrap();
            }
        });
        let missed = (0..20_000).filter(|_| !matches!(probe(&volume.device.path), Ok(Some(_))));
        let missed = missed.count();
        ended.store(true, Ordering::Relaxed);
        assert_eq!(missed, 0);
    });
}

#[test]
fn no_filesystem() {
    needs_root!();
    let device = LoopDevice::new(1);
    assert_eq!(probe(&device.path).unwrap(), None);
    run("mkswap", &[device.path.to_str().unwrap()]);
    assert_eq!(probe(&device.path).unwrap(), None);
    assert!(probe(Path::new("/dev/nothing")).unwrap_err().is_not_found());
}

#[test]
fn two_filesystems_with_one_label() {
    needs_root!();
    let label = fresh_label();
    let spec = format!("LABEL={label}");
    let first = LoopDevice::formatted("ext4", &["-L", &label]);
    assert_eq!(find(&spec).unwrap(), first.path);
    let second = LoopDevice::formatted("btrfs", &["-L", &label]);
    match find(&spec).unwrap_err() {
        FindError::Ambiguous { devices, .. } => {
            assert!(devices.contains(&first.path) && devices.contains(&second.path));
        }
        error => panic!("{error}"),
    }
}

#[test]
fn one_btrfs_on_two_devices_and_a_copy_of_one() {
    needs_root!();
    let label = fresh_label();
    let (first, second) = (LoopDevice::new(128), LoopDevice::new(128));
    let (a, b) = (first.path.to_str().unwrap(), second.path.to_str().unwrap());
    run("mkfs.btrfs", &["-q", "-L", &label, a, b]);
    let Superblock { uuid, .. } = probe(&first.path).unwrap().unwrap();
    assert_eq!(probe(&second.path).unwrap().unwrap().uuid, uuid);
    for spec in [format!("UUID={uuid}"), format!("LABEL={label}")] {
        let found = find(&spec).unwrap();
        assert!(found == first.path || found == second.path);
    }

    let third = LoopDevice::new(128);
    std::fs::copy(&first.image, &third.image).unwrap();
    for spec in [format!("UUID={uuid}"), format!("LABEL={label}")] {
        assert!(matches!(find(&spec), Err(FindError::Ambiguous { .. })));
    }
}
