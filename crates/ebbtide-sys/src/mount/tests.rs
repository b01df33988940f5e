use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::file::{
    create_directory, create_file, exchange, read_limited, rename_noreplace, replace_file,
};
use crate::mountinfo::{MountEntry, read_self};
use crate::testing::{Filesystem, LoopDevice, Scratch, name, needs_root, open};

fn tmpfs() -> OwnedFd {
    let options = [("size", Some("1m")), ("mode", Some("0700"))];
    mount_detached("tmpfs", None, &options, MountAttributes::NOSUID | MountAttributes::NODEV)
        .unwrap()
}

fn mount_at(path: &Path) -> MountEntry {
    let mut mounts = read_self().unwrap();
    mounts.retain(|mount| mount.mount_point == path);
    mounts.pop().unwrap()
}

#[test]
fn attributes_are_sets() {
    let both = MountAttributes::READ_ONLY | MountAttributes::NOSUID;
    assert!(both.contains(MountAttributes::NOSUID) && !both.contains(MountAttributes::NODEV));
    assert!(MountAttributes::NONE.is_empty() && !both.is_empty());
}

#[test]
fn works_on_files_in_a_detached_mount() {
    needs_root!();
    for fstype in ["btrfs", "ext4", "xfs", "tmpfs"] {
        let fs = (fstype != "tmpfs").then(|| Filesystem::new(fstype));
        let mount = fs.as_ref().map_or_else(tmpfs, |fs| fs.mount.try_clone().unwrap());
        let top = mount.as_fd();
        let dir = create_directory(top, name("dir"), 0o700).unwrap();
        replace_file(dir.as_fd(), name("a"), b"a", 0o644).unwrap();
        replace_file(top, name("b"), b"b", 0o644).unwrap();
        exchange(dir.as_fd(), name("a"), top, name("b")).unwrap();
        rename_noreplace(top, name("b"), top, name("c")).unwrap();
        assert_eq!(read_limited(top, Path::new("dir/a"), 9).unwrap(), b"b");
        assert_eq!(read_limited(top, Path::new("c"), 9).unwrap(), b"a");
        crate::file::sync_filesystem(top).unwrap();
        if fstype == "btrfs" {
            crate::btrfs::create_subvolume(dir.as_fd(), name("subvolume")).unwrap();
            crate::btrfs::snapshot(top, top, name("snapshot"), true).unwrap();
        }
    }
}

#[test]
fn a_failure_tells_what_the_filesystem_said() {
    needs_root!();
    let device = LoopDevice::formatted("ext4", &[]);
    let source = Some(device.path.as_path());
    let error =
        mount_detached("ext4", source, &[("no\nsuch", None)], MountAttributes::NONE).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    let text = error.to_string();
    assert!(
        text.starts_with(r#"fsconfig(FSCONFIG_SET_FLAG, "no\nsuch") failed: EINVAL"#),
        "{text}"
    );
    assert!(text.contains("ext4: Unknown parameter 'no\\nsuch'"), "{text}");

    let error = mount_detached("btrfs", source, &[], MountAttributes::NONE).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL, "{error}");
    assert!(error.to_string().contains(device.path.to_str().unwrap()), "{error}");
    let error = mount_detached("nosuchfs", None, &[], MountAttributes::NONE).unwrap_err();
    assert_eq!(error.errno(), Errno::NODEV);
}

#[test]
fn read_only_is_of_the_filesystem_and_of_the_mount() {
    needs_root!();
    enter_private_mount_namespace().unwrap();
    for fstype in ["btrfs", "ext4"] {
        let device = LoopDevice::formatted(fstype, &[]);
        let scratch = Scratch::new();
        let attributes = MountAttributes::READ_ONLY | MountAttributes::NODEV;
        let mount = mount_detached(fstype, Some(&device.path), &[], attributes).unwrap();
        let error = create_file(mount.as_fd(), name("x"), 0o644).unwrap_err();
        assert_eq!(error.errno(), Errno::ROFS);
        attach(mount.as_fd(), scratch.fd()).unwrap();
        drop(mount);

        let path = scratch.directory.path();
        let before = mount_at(path);
        assert!(before.has_option("ro") && before.super_option("ro").is_some(), "{before:?}");
        remount_writable(path).unwrap();
        let after = mount_at(path);
        assert!(!after.is_read_only(), "{after:?}");
        assert!(after.has_option("noatime") && after.has_option("nodev"), "{after:?}");
        create_file(open(path).as_fd(), name("x"), 0o644).unwrap();
        unmount(path, false).unwrap();
    }
}

/// What is writable already is left alone; what is only half of it is not.
#[test]
fn remounts_what_is_not_writable_without_access_times() {
    needs_root!();
    enter_private_mount_namespace().unwrap();
    let fs = Filesystem::new("btrfs");
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("at")).unwrap();
    let path = &scratch.path("at");
    for attributes in [
        MountAttributes::NOATIME,
        MountAttributes::NONE,
        MountAttributes::READ_ONLY | MountAttributes::NOATIME,
    ] {
        let mount = mount_detached("btrfs", Some(&fs.device.path), &[], MountAttributes::NONE);
        let mount = mount.unwrap();
        // Of the mount alone: the filesystem stays writable.
        set_attributes(mount.as_fd(), attributes, false).unwrap();
        attach(mount.as_fd(), open(path).as_fd()).unwrap();
        drop(mount);
        remount_writable(path).unwrap();
        let after = mount_at(path);
        assert!(!after.is_read_only() && after.has_option("noatime"), "{attributes:?}: {after:?}");
        unmount(path, false).unwrap();
    }
}

#[test]
fn remounts_only_what_is_a_mount() {
    needs_root!();
    let scratch = Scratch::new();
    assert_eq!(remount_writable(scratch.directory.path()).unwrap_err().errno(), Errno::INVAL);
    std::os::unix::fs::symlink("/", scratch.path("link")).unwrap();
    assert!(remount_writable(&scratch.path("link")).is_err());
    assert!(remount_writable(&scratch.path("nothing")).unwrap_err().is_not_found());
}

#[test]
fn a_subvolume_of_a_mounted_btrfs_by_name_and_by_number() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    crate::btrfs::create_subvolume(fs.fd(), name("root")).unwrap();
    std::fs::write(fs.path("root/file"), "x").unwrap();
    let id = crate::btrfs::subvolume_info(fs.open("root").as_fd()).unwrap().id.to_string();
    let source = Some(fs.device.path.as_path());
    for options in [("subvol", "root"), ("subvol", "/root"), ("subvolid", &id)] {
        let options = [(options.0, Some(options.1))];
        for attributes in [MountAttributes::NOATIME, MountAttributes::READ_ONLY] {
            let mount = mount_detached("btrfs", source, &options, attributes).unwrap();
            assert_eq!(read_limited(mount.as_fd(), Path::new("file"), 9).unwrap(), b"x");
        }
    }
    let error = mount_detached("btrfs", source, &[("subvol", Some("no"))], MountAttributes::NONE);
    assert!(error.unwrap_err().is_not_found());
    // The first mount stayed writable.
    create_file(fs.fd(), name("x"), 0o644).unwrap();
}

#[test]
fn clones_and_attaches() {
    needs_root!();
    enter_private_mount_namespace().unwrap();
    let scratch = Scratch::new();
    for dir in ["tree/below", "target", "target2"] {
        std::fs::create_dir_all(scratch.path(dir)).unwrap();
    }
    let dir = |path: &str| open(scratch.path(path));
    attach(tmpfs().as_fd(), dir("tree/below").as_fd()).unwrap();
    std::fs::write(scratch.path("tree/below/file"), "x").unwrap();

    let recursive = clone_mount(scratch.fd(), Path::new("tree"), true).unwrap();
    let single = clone_mount(scratch.fd(), Path::new("/tree"), false).unwrap();
    assert!(read_limited(recursive.as_fd(), Path::new("below/file"), 9).is_ok());
    assert!(read_limited(single.as_fd(), Path::new("below/file"), 9).unwrap_err().is_not_found());

    set_attributes(recursive.as_fd(), MountAttributes::READ_ONLY, true).unwrap();
    set_attributes(recursive.as_fd(), MountAttributes::NOATIME, true).unwrap();
    attach(recursive.as_fd(), dir("target").as_fd()).unwrap();
    let below = mount_at(&scratch.path("target/below"));
    for option in ["ro", "noatime", "nosuid", "nodev"] {
        assert!(below.has_option(option), "{below:?}");
    }
    assert_eq!(std::fs::write(scratch.path("target/x"), "").unwrap_err().raw_os_error(), Some(30));
    std::fs::write(scratch.path("tree/x"), "").unwrap();

    set_attributes(single.as_fd(), MountAttributes::NOEXEC, false).unwrap();
    attach(single.as_fd(), dir("target2").as_fd()).unwrap();
    assert!(mount_at(&scratch.path("target2")).has_option("noexec"));

    assert_eq!(unmount(&scratch.path("target"), false).unwrap_err().errno(), Errno::BUSY);
    unmount(&scratch.path("target"), true).unwrap();
    assert!(
        read_self().unwrap().iter().all(|m| !m.mount_point.starts_with(scratch.path("target/")))
    );
    std::os::unix::fs::symlink("target2", scratch.path("link")).unwrap();
    assert_eq!(unmount(&scratch.path("link"), true).unwrap_err().errno(), Errno::INVAL);

    std::os::unix::fs::symlink("tree", scratch.path("link2")).unwrap();
    let error = clone_mount(scratch.fd(), Path::new("link2/below"), false).unwrap_err();
    assert_eq!(error.errno(), Errno::LOOP);
}

#[test]
fn a_file_can_be_cloned_and_attached_to_a_file() {
    needs_root!();
    enter_private_mount_namespace().unwrap();
    let scratch = Scratch::new();
    std::fs::write(scratch.path("source"), "kept").unwrap();
    std::fs::write(scratch.path("target"), "").unwrap();
    let clone = clone_mount(scratch.fd(), Path::new("source"), false).unwrap();
    let target = crate::resolve::open_path(scratch.fd(), Path::new("target")).unwrap();
    attach(clone.as_fd(), target.as_fd()).unwrap();
    assert_eq!(std::fs::read_to_string(scratch.path("target")).unwrap(), "kept");
    drop(clone);
    unmount(&scratch.path("target"), false).unwrap();
}

#[test]
fn a_private_namespace_keeps_its_mounts() {
    needs_root!();
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    let path = scratch.path("dir");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            enter_private_mount_namespace().unwrap();
            attach(tmpfs().as_fd(), open(&path).as_fd()).unwrap();
            assert_eq!(mount_at(&path).fstype, "tmpfs");
            assert!(read_self().unwrap().iter().all(|mount| mount.peer_group.is_none()));
        });
    });
    assert!(read_self().unwrap().iter().all(|mount| mount.mount_point != path));
}

#[test]
fn an_overlay() {
    needs_root!();
    enter_private_mount_namespace().unwrap();
    let (scratch, lower, upper) = (Scratch::new(), tmpfs(), tmpfs());
    // Linux 6.1 takes layers from mounts that have a place only.
    for (mount, place) in [(&lower, "lower"), (&upper, "upper")] {
        std::fs::create_dir(scratch.path(place)).unwrap();
        attach(mount.as_fd(), open(scratch.path(place)).as_fd()).unwrap();
    }
    create_file(lower.as_fd(), name("lower"), 0o644).unwrap();
    for dir in ["data", "work"] {
        create_directory(upper.as_fd(), name(dir), 0o755).unwrap();
    }
    let lower = scratch.path("lower");
    let (data, work) = (scratch.path("upper/data"), scratch.path("upper/work"));
    let options = [
        ("lowerdir", lower.to_str()),
        ("upperdir", data.to_str()),
        ("workdir", work.to_str()),
        ("index", Some("off")),
        ("metacopy", Some("off")),
    ];
    let overlay = mount_detached("overlay", None, &options, MountAttributes::NONE).unwrap();
    create_file(overlay.as_fd(), name("new"), 0o640).unwrap();
    assert!(read_limited(overlay.as_fd(), Path::new("lower"), 9).is_ok());
    assert_eq!(std::fs::metadata(data.join("new")).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn an_entry_is_unmounted_and_nothing_behind_a_link() {
    needs_root!();
    std::thread::spawn(|| {
        enter_private_mount_namespace().unwrap();
        let scratch = Scratch::new();
        create_directory(scratch.fd.as_fd(), name("mounted"), 0o755).unwrap();
        let target = open(scratch.path("mounted"));
        attach(tmpfs().as_fd(), target.as_fd()).unwrap();
        drop(target);
        std::os::unix::fs::symlink("mounted", scratch.path("link")).unwrap();
        let mounted =
            || read_self().unwrap().iter().any(|it| it.mount_point == scratch.path("mounted"));
        assert!(unmount_entry(scratch.fd.as_fd(), name("link"), false).is_err());
        assert!(unmount_entry(scratch.fd.as_fd(), name("../x"), false).is_err());
        assert!(mounted());
        let used = open(scratch.path("mounted"));
        let busy = unmount_entry(scratch.fd.as_fd(), name("mounted"), false).unwrap_err();
        assert_eq!(busy.errno(), Errno::BUSY);
        unmount_entry(scratch.fd.as_fd(), name("mounted"), true).unwrap();
        assert!(!mounted());
        drop(used);
        let target = open(scratch.path("mounted"));
        attach(tmpfs().as_fd(), target.as_fd()).unwrap();
        drop(target);
        unmount_entry(scratch.fd.as_fd(), name("mounted"), false).unwrap();
        assert!(!mounted());
    })
    .join()
    .unwrap();
}
