use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::*;
use crate::file::{exchange, read_limited, sync_filesystem};
use crate::mount::{MountAttributes, mount_detached};
use crate::resolve::{open_directory, open_path};
use crate::testing::{Filesystem, Scratch, name, needs_root, run};

/// Returns what `btrfs subvolume show` says on a line.
fn shown(at: &Scratch, path: &str, key: &str) -> String {
    let text = run("btrfs", &["subvolume", "show", at.path(path).to_str().unwrap()]);
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap();
    line.trim().to_owned()
}

fn info(fs: &Filesystem, path: &str) -> SubvolumeInfo {
    subvolume_info(fs.open(path).as_fd()).unwrap()
}

#[test]
fn makes_describes_and_deletes() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    // The program that is asked as well wants a mount that has a place.
    crate::mount::enter_private_mount_namespace().unwrap();
    let at = Scratch::new();
    crate::mount::attach(fs.fd(), at.fd()).unwrap();
    create_subvolume(fs.fd(), name("a")).unwrap();
    std::fs::create_dir(fs.path("plain")).unwrap();
    snapshot(fs.open("a").as_fd(), fs.fd(), name("ro"), true).unwrap();
    snapshot(fs.open("ro").as_fd(), fs.open("plain").as_fd(), name("rw"), false).unwrap();

    let (top, a, ro, rw) = (info(&fs, ""), info(&fs, "a"), info(&fs, "ro"), info(&fs, "plain/rw"));
    assert_eq!((top.id, top.parent_id, top.parent_uuid), (SubvolumeId::TOP_LEVEL, None, None));
    assert_eq!((a.parent_id, a.parent_uuid), (Some(SubvolumeId::TOP_LEVEL), None));
    assert_eq!((ro.parent_uuid, rw.parent_uuid), (Some(a.uuid), Some(ro.uuid)));
    assert_eq!((a.read_only, ro.read_only, rw.read_only), (false, true, false));
    assert_eq!((&a.name, &rw.name), (&"a".into(), &"rw".into()));
    assert_eq!(ro.received_uuid, None);
    for (path, info) in [("a", &a), ("ro", &ro), ("plain/rw", &rw)] {
        assert_eq!(shown(&at, path, "UUID:"), info.uuid.to_string());
        assert_eq!(shown(&at, path, "Subvolume ID:"), info.id.to_string());
        assert_eq!(shown(&at, path, "Generation:"), info.generation.to_string());
        assert_eq!(shown(&at, path, "Gen at creation:"), info.otransid.to_string());
        assert!(info.created.0 > 1_600_000_000);
    }

    let here = |path: &str| is_subvolume(fs.open(path).as_fd()).unwrap();
    assert!(here("") && here("a") && here("ro") && !here("plain"));
    let scratch = Scratch::new();
    assert!(!is_subvolume(scratch.fd()).unwrap() && !is_btrfs(scratch.fd()).unwrap());
    assert_eq!(subvolume_info(scratch.fd()).unwrap_err().errno(), Errno::NOTTY);
    let text = run("btrfs", &["filesystem", "show", fs.device.path.to_str().unwrap()]);
    assert!(text.contains(&filesystem_uuid(fs.fd()).unwrap().to_string()), "{text}");

    let error = delete_subvolume(fs.fd(), name("plain")).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL, "{error}");
    delete_subvolume(fs.fd(), name("ro")).unwrap();
    let error = delete_subvolume(fs.fd(), name("ro")).unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains(r#"BTRFS_IOC_SNAP_DESTROY, "ro") failed"#), "{error}");
    assert_eq!(create_subvolume(fs.fd(), name("a")).unwrap_err().errno(), Errno::EXIST);
    let source = fs.open("a");
    let error = snapshot(source.as_fd(), fs.fd(), name("plain"), false).unwrap_err();
    assert_eq!(error.errno(), Errno::EXIST);
}

#[test]
fn names_are_checked() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    for bad in ["", ".", "..", "a/b"] {
        assert_eq!(create_subvolume(fs.fd(), name(bad)).unwrap_err().errno(), Errno::INVAL);
        assert_eq!(delete_subvolume(fs.fd(), name(bad)).unwrap_err().errno(), Errno::INVAL);
    }
    create_subvolume(fs.fd(), name(&"n".repeat(255))).unwrap();
    let error = create_subvolume(fs.fd(), name(&"n".repeat(256))).unwrap_err();
    assert_eq!(error.errno(), Errno::NAMETOOLONG);
    create_subvolume(fs.fd(), name("odd\n name")).unwrap();
    assert_eq!(info(&fs, "odd\n name").name, "odd\n name");
}

#[test]
fn descriptors_that_were_opened_by_path_only() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    let path = |relative: &str| open_path(fs.fd(), Path::new(relative)).unwrap();
    create_subvolume(path("").as_fd(), name("a")).unwrap();
    snapshot(path("a").as_fd(), path("").as_fd(), name("b"), true).unwrap();
    set_read_only(path("b").as_fd(), false).unwrap();
    assert!(!subvolume_info(path("b").as_fd()).unwrap().read_only);
    assert!(nested_subvolumes(path("a").as_fd()).unwrap().is_empty());
    delete_subvolume(path("").as_fd(), name("b")).unwrap();
}

#[test]
fn read_only_and_back() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    create_subvolume(fs.fd(), name("a")).unwrap();
    let a = fs.open("a");
    for read_only in [true, true, false, false] {
        set_read_only(a.as_fd(), read_only).unwrap();
        assert_eq!(subvolume_info(a.as_fd()).unwrap().read_only, read_only);
        assert_eq!(std::fs::write(fs.path("a/file"), "x").is_err(), read_only);
    }
}

#[test]
fn default_subvolume_is_followed() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    assert_eq!(default_subvolume(fs.fd()).unwrap(), SubvolumeId::TOP_LEVEL);
    create_subvolume(fs.fd(), name("a")).unwrap();
    let id = info(&fs, "a").id;
    set_default_subvolume(fs.fd(), id).unwrap();
    assert_eq!(default_subvolume(fs.fd()).unwrap(), id);
    let text = run("btrfs", &["subvolume", "get-default", fs.path("").to_str().unwrap()]);
    assert!(text.starts_with(&format!("ID {id} ")), "{text}");
    assert_eq!(delete_subvolume(fs.fd(), name("a")).unwrap_err().errno(), Errno::PERM);
    set_default_subvolume(fs.fd(), SubvolumeId::TOP_LEVEL).unwrap();
    assert_eq!(default_subvolume(fs.fd()).unwrap(), SubvolumeId::TOP_LEVEL);
    assert!(set_default_subvolume(fs.fd(), SubvolumeId(9999)).unwrap_err().is_not_found());
}

/// Makes `top` with subvolumes in it, around it, and one below a directory with an odd name.
fn make_nested(fs: &Filesystem) {
    for path in ["top", "top/a", "top/dir/odd\n/b", "top/a/c", "top/a/dir/d", "beside"] {
        let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
        std::fs::create_dir_all(fs.path(parent)).unwrap();
        create_subvolume(fs.open(parent).as_fd(), name(last)).unwrap();
        std::fs::write(fs.path(path).join("file"), "x").unwrap();
    }
}

#[test]
fn nested_ones_with_their_paths() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    make_nested(&fs);
    let list = |path: &str| {
        let found = nested_subvolumes(fs.open(path).as_fd()).unwrap();
        for (id, relative) in &found {
            let below = open_directory(fs.open(path).as_fd(), relative).unwrap();
            assert_eq!(subvolume_info(below.as_fd()).unwrap().id, *id);
        }
        found.into_iter().map(|(_, path)| path.into_os_string().into_string().unwrap()).collect()
    };
    let paths: Vec<String> = list("top");
    assert_eq!(paths, ["a", "dir/odd\n/b", "a/c", "a/dir/d"]);
    assert_eq!(list("beside"), Vec::<String>::new());
    assert_eq!(list("").len(), 6);
    // A directory stands for the subvolume that it is in.
    assert_eq!(list_ids(&fs, "top/dir"), list_ids(&fs, "top"));
}

fn list_ids(fs: &Filesystem, path: &str) -> Vec<SubvolumeId> {
    let found = nested_subvolumes(fs.open(path).as_fd()).unwrap();
    found.into_iter().map(|(id, _)| id).collect()
}

#[test]
fn deletes_nested_ones_even_in_read_only_ones() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    make_nested(&fs);
    assert_eq!(delete_subvolume(fs.fd(), name("top")).unwrap_err().errno(), Errno::NOTEMPTY);
    for path in ["top/a/c", "top/a", "top"] {
        set_read_only(fs.open(path).as_fd(), true).unwrap();
    }
    delete_subvolume_recursively(fs.fd(), name("top")).unwrap();
    assert!(!fs.path("top").exists());
    assert!(fs.path("beside/file").exists());
    assert_eq!(list_ids(&fs, "").len(), 1);

    std::fs::create_dir(fs.path("plain")).unwrap();
    let error = delete_subvolume_recursively(fs.fd(), name("plain")).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    std::os::unix::fs::symlink("beside", fs.path("link")).unwrap();
    let error = delete_subvolume_recursively(fs.fd(), name("link")).unwrap_err();
    assert_eq!(error.errno(), Errno::LOOP);
    assert!(fs.path("beside/file").exists());
}

#[test]
fn many_subvolumes_take_several_answers() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    // With names this long some 800 items fill the buffer.
    let last = |number: usize| format!("{number:0>240}");
    for number in 0..1100 {
        create_subvolume(fs.fd(), name(&last(number))).unwrap();
    }
    let found = nested_subvolumes(fs.fd()).unwrap();
    let expected: Vec<_> = (0..1100).map(|number| PathBuf::from(last(number))).collect();
    assert_eq!(found.into_iter().map(|(_, path)| path).collect::<Vec<_>>(), expected);
}

/// What the reset relies on to tell a fresh root from one that was used.
#[test]
fn a_pristine_snapshot_has_the_generation_that_it_was_made_in() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    create_subvolume(fs.fd(), name("base")).unwrap();
    std::fs::create_dir_all(fs.path("base/etc")).unwrap();
    std::fs::write(fs.path("base/etc/file"), "x").unwrap();
    set_read_only(fs.open("base").as_fd(), true).unwrap();
    sync_filesystem(fs.fd()).unwrap();
    let base = info(&fs, "base");

    for number in 0..4 {
        let root = format!("root{number}");
        snapshot(fs.open("base").as_fd(), fs.fd(), name(&root), false).unwrap();
        let pristine = || {
            sync_filesystem(fs.fd()).unwrap();
            let found = info(&fs, &root);
            found.generation == found.otransid && found.parent_uuid == Some(base.uuid)
        };
        assert!(pristine());
        // Neither time, nor other subvolumes, nor being mounted, read and renamed change that.
        std::fs::write(fs.path("elsewhere"), "x").unwrap();
        assert!(pristine());
        let options = [("subvol", Some(root.as_str()))];
        let source = Some(fs.device.path.as_path());
        let mount = mount_detached("btrfs", source, &options, MountAttributes::NOATIME).unwrap();
        assert_eq!(read_limited(mount.as_fd(), Path::new("etc/file"), 9).unwrap(), b"x");
        drop(mount);
        assert!(pristine());
        std::fs::rename(fs.path(&root), fs.path("moved")).unwrap();
        sync_filesystem(fs.fd()).unwrap();
        std::fs::rename(fs.path("moved"), fs.path(&root)).unwrap();
        assert!(pristine());
        match number {
            0 => std::fs::write(fs.path(&root).join("new"), "").unwrap(),
            1 => std::fs::write(fs.path(&root).join("etc/file"), "y").unwrap(),
            2 => std::fs::remove_file(fs.path(&root).join("etc/file")).unwrap(),
            _ => crate::metadata::set_mode(fs.open(&root).as_fd(), 0o711).unwrap(),
        }
        assert!(!pristine(), "change {number}");
    }
    // A snapshot is a change of its source, even of a read-only one: no identity can rest on this.
    assert!(info(&fs, "base").generation > base.generation);
}

#[test]
fn exchanges_two_subvolumes_while_one_is_mounted() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    for root in ["root", "root.new"] {
        create_subvolume(fs.fd(), name(root)).unwrap();
        std::fs::write(fs.path(root).join("name"), root).unwrap();
    }
    let source = Some(fs.device.path.as_path());
    let options = [("subvol", Some("root"))];
    let mount = || mount_detached("btrfs", source, &options, MountAttributes::NOATIME).unwrap();
    let read = |mount: &std::os::fd::OwnedFd| {
        let content = read_limited(mount.as_fd(), Path::new("name"), 99).unwrap();
        String::from_utf8(content).unwrap()
    };
    let old = mount();
    exchange(fs.fd(), name("root.new"), fs.fd(), name("root")).unwrap();
    sync_filesystem(fs.fd()).unwrap();
    assert_eq!((read(&old), read(&mount())), ("root".to_owned(), "root.new".to_owned()));
    crate::file::create_file(old.as_fd(), name("still writable"), 0o600).unwrap();
    assert_eq!(info(&fs, "root").name, "root");
    assert_eq!(info(&fs, "root.new").name, "root.new");
}

#[test]
fn data_written_since_a_generation() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    create_subvolume(fs.fd(), name("base")).unwrap();
    std::fs::write(fs.path("base/old"), vec![1; 3 << 20]).unwrap();
    snapshot(fs.open("base").as_fd(), fs.fd(), name("root"), false).unwrap();
    let since = info(&fs, "root").otransid;
    let written = || {
        sync_filesystem(fs.fd()).unwrap();
        written_since(fs.open("root").as_fd(), since).unwrap()
    };
    assert_eq!(written(), 0);
    // The old content counts from the beginning only, and not for being shared or renamed.
    assert_eq!(written_since(fs.open("root").as_fd(), 0).unwrap(), 3 << 20);
    std::fs::rename(fs.path("root/old"), fs.path("root/renamed")).unwrap();
    assert_eq!(written(), 0);

    std::fs::write(fs.path("root/new"), vec![2; 1 << 20]).unwrap();
    assert_eq!(written(), 1 << 20);
    let copied = crate::tree::copy_tree(
        fs.fd(),
        Path::new("root/new"),
        fs.open("root").as_fd(),
        name("shared"),
        crate::tree::CopyOptions::default(),
    );
    assert_eq!(copied.unwrap().reflinked, 1);
    assert_eq!(written(), 1 << 20);
    std::fs::write(fs.path("root/inline"), vec![3; 100]).unwrap();
    assert_eq!(written(), (1 << 20) + 100);
    std::fs::File::create(fs.path("root/sparse")).unwrap().set_len(1 << 30).unwrap();
    assert_eq!(written(), (1 << 20) + 100);
    for file in 0..3000 {
        std::fs::write(fs.path(&format!("root/many{file}")), vec![4; 200]).unwrap();
    }
    assert_eq!(written(), (1 << 20) + 100 + 3000 * 200);
}

#[test]
fn what_deleted_subvolumes_held_is_free_after_waiting() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    create_subvolume(fs.fd(), name("a")).unwrap();
    create_subvolume(fs.open("a").as_fd(), name("b")).unwrap();
    std::fs::write(fs.path("a/b/data"), vec![7; 32 << 20]).unwrap();
    sync_filesystem(fs.fd()).unwrap();
    let ids = [info(&fs, "a").id, info(&fs, "a/b").id];
    let before = crate::file::room(fs.fd()).unwrap();
    run("chattr", &["+i", fs.path("a").to_str().unwrap()]);
    let error = delete_subvolume(fs.open("a").as_fd(), name("b")).unwrap_err();
    assert_eq!(error.errno(), Errno::PERM, "the flag forbids it: {error}");
    delete_subvolume_recursively(fs.fd(), name("a")).unwrap();
    let limit = std::time::Duration::from_secs(60);
    assert!(wait_until_freed(fs.fd(), &ids, limit).unwrap());
    let after = crate::file::room(fs.fd()).unwrap();
    assert!(after.available >= before.available + (31 << 20), "{before:?} {after:?}");
    assert!(after.available <= after.total);
    // One that is there is waited for in vain.
    create_subvolume(fs.fd(), name("c")).unwrap();
    let there = [info(&fs, "c").id];
    let short = std::time::Duration::from_millis(1);
    assert!(!wait_until_freed(fs.fd(), &there, short).unwrap());
}

#[test]
fn what_changed_is_the_same_in_however_many_parts() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    run("btrfs", &["subvolume", "create", fs.path("base").to_str().unwrap()]);
    let file = |top: &str, index: usize| fs.path(top).join(format!("d{}/f{index}", index / 10));
    for index in 0..400 {
        let path = file("base", index);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "x").unwrap();
    }
    // Of two names in different directories, one is found with the inode.
    std::fs::hard_link(file("base", 7), fs.path("base/d30/link")).unwrap();
    run(
        "btrfs",
        &[
            "subvolume",
            "snapshot",
            fs.path("base").to_str().unwrap(),
            fs.path("root").to_str().unwrap(),
        ],
    );
    let made = info(&fs, "root").otransid;
    for index in (0..400).step_by(7) {
        std::fs::write(file("root", index), "other").unwrap();
    }
    std::fs::remove_file(file("root", 250)).unwrap();
    for index in 400..500 {
        std::fs::write(fs.path("root/d1").join(format!("new{index}")), "").unwrap();
    }
    let root = fs.open("root");
    sync_filesystem(root.as_fd()).unwrap();
    let look = |count: usize, threads: usize, names: usize| {
        let parts = changed::parts(1024, count);
        changed::in_parts(root.as_fd(), made, names, (&parts, threads)).unwrap()
    };
    let ways = |changed: &ChangedInodes, inode: u64| match changed.on_the_way(inode) {
        OnTheWay::Nothing => Vec::new(),
        OnTheWay::These(names) => names.keys().cloned().collect(),
        OnTheWay::Any => vec!["any".into()],
    };
    let whole = look(1, 1, 1 << 16);
    assert!((256..1100).filter(|inode| whole.contains(*inode)).count() > 150);
    for (count, threads) in [(2, 1), (8, 2), (64, 4)] {
        let found = look(count, threads, 1 << 16);
        for inode in 256..1100 {
            let known = |it: &ChangedInodes| (it.contains(inode), it.is_new(inode));
            assert_eq!(known(&found), known(&whole), "{inode} in {count} parts");
            assert_eq!(ways(&found, inode), ways(&whole, inode), "{inode} in {count} parts");
        }
    }
    // With fewer names remembered, no way is lost: any name may be one.
    let few = look(8, 2, 40);
    for inode in 256..1100 {
        let names = ways(&few, inode);
        assert!(names == ways(&whole, inode) || names == ["any"], "{inode}: {names:?}");
    }
}
