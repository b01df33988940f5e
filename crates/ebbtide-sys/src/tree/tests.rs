use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode};

use super::*;
use crate::file::{create_file, read_limited, read_link, remove_tree};
use crate::metadata::{Metadata, set_mode, set_owner, set_times};
use crate::testing::{Filesystem, Scratch, name, needs_root, open, run};
use crate::xattr;

/// All that is to be the same in a copy, by path.
type Picture = BTreeMap<PathBuf, (Metadata, Vec<(Vec<u8>, Vec<u8>)>, Vec<u8>)>;

fn picture(top: BorrowedFd<'_>) -> Picture {
    let mut all = Picture::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let fd = open_path(top, &path).unwrap();
        let found = metadata(fd.as_fd()).unwrap();
        let mut xattrs: Vec<_> = xattr::list(fd.as_fd())
            .unwrap()
            .iter()
            .filter(|name| !xattr::is_alias(name))
            .map(|name| {
                let value = xattr::get(fd.as_fd(), name).unwrap().unwrap();
                (name.as_bytes().to_vec(), value)
            })
            .collect();
        xattrs.sort();
        let content = match found.kind {
            FileKind::Regular => read_limited(top, &path, u64::MAX).unwrap(),
            FileKind::Symlink => read_link(top, &path).unwrap().as_os_str().as_bytes().to_vec(),
            FileKind::Directory => {
                let dir = open_directory(top, &path).unwrap();
                for entry in read_directory(dir.as_fd()).unwrap() {
                    pending.push(path.join(entry.name));
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        all.insert(path, (found, xattrs, content));
    }
    all
}

/// Removes what differs between a file and its copy.
fn comparable(picture: Picture) -> Picture {
    picture
        .into_iter()
        .map(|(path, (mut found, xattrs, content))| {
            (found.inode, found.device, found.mount_id) = (0, (0, 0), 0);
            (found.changed, found.created, found.mount_root) = ((0, 0), None, false);
            found.blocks = 0;
            if found.kind == FileKind::Directory {
                (found.size, found.nlink) = (0, 0);
            }
            (path, (found, xattrs, content))
        })
        .collect()
}

fn assert_same(copy: BorrowedFd<'_>, original: &Picture, what: &str) {
    let (copy, original) = (comparable(picture(copy)), comparable(original.clone()));
    assert!(copy.keys().eq(original.keys()), "{what}: {:?}", copy.keys());
    for (path, (found, xattrs, content)) in &copy {
        let expected = &original[path];
        assert_eq!((found, xattrs), (&expected.0, &expected.1), "{what}: {path:?}");
        assert!(*content == expected.2, "{what}: content of {path:?}");
    }
}

/// Makes a tree with one of everything in `tree`.
fn make_tree(fs: &Filesystem) {
    use std::os::unix::ffi::OsStrExt;
    let at = |path: &str| fs.path("tree").join(path);
    std::fs::create_dir_all(at("dir/empty")).unwrap();
    std::fs::write(at("file"), vec![7; 100_000]).unwrap();
    std::fs::write(at("empty"), "").unwrap();
    std::fs::hard_link(at("file"), at("dir/hard")).unwrap();
    symlink("dangling\n", at("link")).unwrap();
    std::fs::hard_link(at("link"), at("dir/hard link")).unwrap();
    std::fs::write(fs.path("tree").join(OsStr::from_bytes(b"\xff \n\x1b[0m\\")), "odd").unwrap();
    std::fs::write(at(&"n".repeat(255)), "long").unwrap();

    let sparse = std::fs::File::create(at("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    for offset in [1 << 20, 5 << 20] {
        sparse.write_all_at(&[1; 8192], offset).unwrap();
    }
    std::fs::File::create(at("all hole")).unwrap().set_len(1 << 20).unwrap();

    let tree = fs.open("tree");
    let node = |name: &str, kind, device| {
        rustix::fs::mknodat(&tree, name, kind, Mode::RUSR | Mode::WGRP, device).unwrap();
    };
    node("fifo", FileType::Fifo, 0);
    node("char", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("block", FileType::BlockDevice, rustix::fs::makedev(7, 300));

    std::fs::write(at("capable"), "x").unwrap();
    run("setcap", &["cap_net_raw=ep", at("capable").to_str().unwrap()]);
    run("setfacl", &["-m", "u:1234:rwx,g:99:r", at("empty").to_str().unwrap()]);
    run("setfacl", &["-m", "u:5:r", at("dir").to_str().unwrap()]);
    run("setfacl", &["-d", "-m", "u:1234:rwx", at("dir").to_str().unwrap()]);

    let path = |path: &str| open_path(tree.as_fd(), Path::new(path)).unwrap();
    xattr::set(path("dir").as_fd(), name("user.dir"), b"\0\x01").unwrap();
    xattr::set(path("link").as_fd(), name("trusted.link"), b"x").unwrap();
    for (file, owner, mode) in [("file", 1, 0o4755), ("dir/empty", 2, 0o3777), ("fifo", 3, 0o604)] {
        set_owner(path(file).as_fd(), owner, owner + 70_000).unwrap();
        set_mode(path(file).as_fd(), mode).unwrap();
    }
    set_owner(path("link").as_fd(), 8, 9).unwrap();
    for file in ["link", "dir/empty", "dir", "sparse", "fifo", "char", "file", ""] {
        set_times(path(file).as_fd(), (1_000_000_000, 111_111_111), (900_000_000, 999_999_999))
            .unwrap();
    }
}

fn copy(fs: &Filesystem, from: &str, to: &Filesystem, to_name: &str) -> CopyReport {
    let options = CopyOptions::default();
    copy_tree(fs.fd(), Path::new(from), to.fd(), name(to_name), options).unwrap()
}

#[test]
fn copies_one_of_everything_to_every_filesystem() {
    needs_root!();
    for fstype in ["btrfs", "xfs", "ext4"] {
        let from = Filesystem::new(fstype);
        make_tree(&from);
        let before = picture(from.open("tree").as_fd());
        for target in ["btrfs", "xfs", "ext4"] {
            let other = (target != fstype).then(|| Filesystem::new(target));
            let to = other.as_ref().unwrap_or(&from);
            let report = copy(&from, "tree", to, "copy");
            let what = format!("{fstype} to {target}: {report:?}");
            assert_same(to.open("copy").as_fd(), &before, &what);
            assert_eq!(report.files, 13, "{what}");
            let shares = target == fstype && fstype != "ext4";
            assert_eq!(report.reflinked, if shares { 6 } else { 0 }, "{what}");
            assert_eq!(report.bytes, 100_000 + (9 << 20) + 3 + 4 + 1, "{what}");
            let same = |a: &str, b: &str| {
                let inode = |path| std::fs::symlink_metadata(to.path(path)).unwrap().ino();
                inode(a) == inode(b)
            };
            assert!(same("copy/file", "copy/dir/hard") && same("copy/link", "copy/dir/hard link"));
            let blocks = |path| std::fs::metadata(to.path(path)).unwrap().blocks();
            assert!(blocks("copy/sparse") < 1000 && blocks("copy/all hole") == 0, "{what}");
        }
        assert_eq!(picture(from.open("tree").as_fd()), before, "the source was not touched");
    }
}

#[test]
fn into_a_fresh_subvolume() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    make_tree(&fs);
    crate::btrfs::create_subvolume(fs.fd(), name("new")).unwrap();
    let target = fs.open("new");
    let options = CopyOptions::default();
    copy_tree_into(fs.fd(), Path::new("tree"), target.as_fd(), options).unwrap();
    assert_same(target.as_fd(), &picture(fs.open("tree").as_fd()), "a subvolume");

    let options = CopyOptions::default();
    let error = copy_tree_into(fs.fd(), Path::new("tree"), target.as_fd(), options).unwrap_err();
    assert_eq!(error.errno(), Errno::NOTEMPTY);
    // The directory itself as the source.
    crate::btrfs::create_subvolume(fs.fd(), name("second")).unwrap();
    let (from, to) = (fs.open("new"), fs.open("second"));
    copy_tree_into(from.as_fd(), Path::new(""), to.as_fd(), CopyOptions::default()).unwrap();
    assert_same(to.as_fd(), &picture(from.as_fd()), "another subvolume");
}

#[test]
fn single_files() {
    needs_root!();
    let fs = Filesystem::new("ext4");
    make_tree(&fs);
    let other = Filesystem::new("btrfs");
    for file in ["tree/file", "tree/link", "tree/fifo", "tree/char", "/tree/capable"] {
        let report = copy(&fs, file, &other, "copy");
        assert_eq!(report.files, 1);
        let (a, b) =
            (open_path(fs.fd(), Path::new(file)), open_path(other.fd(), Path::new("copy")));
        let (a, b) = (a.unwrap(), b.unwrap());
        let (mut found, mut made) = (picture_of(&a), picture_of(&b));
        (found.0.nlink, made.0.nlink) = (1, 1);
        assert_eq!(made, found, "{file}");
        let again =
            copy_tree(fs.fd(), Path::new(file), other.fd(), name("copy"), CopyOptions::default());
        assert_eq!(again.unwrap_err().errno(), Errno::EXIST);
        remove_tree(other.fd(), name("copy")).unwrap();
    }
    let missing =
        copy_tree(fs.fd(), Path::new("no/thing"), other.fd(), name("copy"), CopyOptions::default());
    assert!(missing.unwrap_err().is_not_found());
}

fn picture_of(fd: &OwnedFd) -> (Metadata, Vec<std::ffi::OsString>) {
    let mut found = metadata(fd.as_fd()).unwrap();
    (found.inode, found.device, found.mount_id, found.blocks) = (0, (0, 0), 0, 0);
    (found.changed, found.created) = ((0, 0), None);
    (found, xattr::list(fd.as_fd()).unwrap())
}

#[test]
fn leaves_out_what_is_skipped_and_sockets() {
    let scratch = Scratch::new();
    for path in ["tree/keep/skip", "tree/skip/below", "to"] {
        std::fs::create_dir_all(scratch.path(path)).unwrap();
    }
    for path in ["tree/keep/file", "tree/skip/file", "tree/file"] {
        std::fs::write(scratch.path(path), path).unwrap();
    }
    let _listener = std::os::unix::net::UnixListener::bind(scratch.path("tree/socket")).unwrap();
    std::fs::hard_link(scratch.path("tree/file"), scratch.path("tree/hard")).unwrap();
    let (asked, mut told) = (std::cell::RefCell::new(Vec::new()), Vec::new());
    let skip = |path: &Path| {
        asked.borrow_mut().push(path.to_owned());
        path == Path::new("skip")
    };
    let mut progress = |bytes| told.push(bytes);
    let options = CopyOptions {
        skip: &skip,
        keep_hard_links: false,
        progress: Some(&mut progress),
        ..CopyOptions::default()
    };
    let report =
        copy_tree(scratch.fd(), Path::new("tree"), scratch.fd(), name("copy"), options).unwrap();
    assert_eq!((report.files, report.bytes), (3, 14 + 9 + 9));
    assert_eq!(report.sockets_skipped, [PathBuf::from("socket")]);
    let dir = open(scratch.path("copy"));
    let paths: Vec<_> = picture(dir.as_fd()).into_keys().collect();
    let expected = ["", "file", "hard", "keep", "keep/file", "keep/skip"].map(PathBuf::from);
    assert_eq!(paths, expected);
    assert_eq!(std::fs::metadata(scratch.path("copy/hard")).unwrap().nlink(), 1);
    assert!(told.is_sorted() && told.last() == Some(&report.bytes), "{told:?}");
    let mut asked = asked.into_inner();
    asked.sort();
    let expected =
        ["file", "hard", "keep", "keep/file", "keep/skip", "skip", "socket"].map(PathBuf::from);
    assert_eq!(asked, expected);
}

#[test]
fn trees_of_any_depth() {
    let scratch = Scratch::new();
    crate::file::tests::make_deep(scratch.fd(), 4000);
    let options = CopyOptions::default();
    let report =
        copy_tree(scratch.fd(), Path::new("d"), scratch.fd(), name("copy"), options).unwrap();
    assert_eq!(report.files, 3999);
    let size = |path| tree_size(scratch.fd(), Path::new(path)).unwrap();
    assert_eq!(size("copy"), size("d"));
    for tree in ["d", "copy"] {
        remove_tree(scratch.fd(), name(tree)).unwrap();
    }
}

#[test]
fn other_mounts_are_left_out() {
    needs_root!();
    crate::mount::enter_private_mount_namespace().unwrap();
    let fs = Filesystem::new("ext4");
    let top = Scratch::new();
    crate::mount::attach(fs.fd(), top.fd()).unwrap();
    for path in ["tree/mount", "tree/z"] {
        std::fs::create_dir_all(fs.path(path)).unwrap();
    }
    std::fs::write(fs.path("tree/file mount"), "below").unwrap();
    let options = [("mode", Some("1733")), ("uid", Some("77"))];
    let other =
        crate::mount::mount_detached("tmpfs", None, &options, crate::mount::MountAttributes::NONE)
            .unwrap();
    std::fs::write(crate::testing::through(other.as_fd()).join("file"), "above").unwrap();
    let file = crate::mount::clone_mount(other.as_fd(), Path::new("file"), false);
    if let Ok(file) = file {
        let target = open_path(fs.fd(), Path::new("tree/file mount")).unwrap();
        crate::mount::attach(file.as_fd(), target.as_fd()).unwrap();
    }
    crate::mount::attach(other.as_fd(), fs.open("tree/mount").as_fd()).unwrap();

    let mut report = copy(&fs, "tree", &fs, "copy");
    report.mounts_skipped.sort();
    assert!(report.mounts_skipped.contains(&PathBuf::from("mount")), "{report:?}");
    let found = std::fs::metadata(fs.path("copy/mount")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o7777), (77, 0o1733));
    assert!(std::fs::read_dir(fs.path("copy/mount")).unwrap().next().is_none());
    assert!(fs.path("copy/z").exists());

    std::fs::write(fs.path("tree/mount/large"), vec![1; 1 << 20]).unwrap();
    assert!(tree_size(fs.fd(), Path::new("tree")).unwrap() < 100_000);
    // A single clone shows what is below.
    let single = crate::mount::clone_mount(fs.fd(), Path::new("tree"), false).unwrap();
    let options = CopyOptions::default();
    let report = copy_tree(single.as_fd(), Path::new(""), fs.fd(), name("below"), options).unwrap();
    assert!(report.mounts_skipped.is_empty());
    assert_eq!(std::fs::read(fs.path("below/file mount")).unwrap(), b"below");
}

#[test]
fn nested_subvolumes() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    std::fs::create_dir_all(fs.path("tree/dir")).unwrap();
    crate::btrfs::create_subvolume(fs.open("tree").as_fd(), name("a")).unwrap();
    crate::btrfs::create_subvolume(fs.open("tree/a").as_fd(), name("b")).unwrap();
    for path in ["tree/file", "tree/a/file", "tree/a/b/file"] {
        std::fs::write(fs.path(path), vec![1; 8192]).unwrap();
    }
    set_mode(fs.open("tree/a").as_fd(), 0o751).unwrap();

    let report = copy(&fs, "tree", &fs, "without");
    assert_eq!(report.subvolumes_skipped, [PathBuf::from("a")]);
    assert_eq!(std::fs::metadata(fs.path("without/a")).unwrap().mode() & 0o7777, 0o751);
    assert!(!fs.path("without/a/file").exists());

    let options = CopyOptions { cross_subvolumes: true, ..CopyOptions::default() };
    let report = copy_tree(fs.fd(), Path::new("tree"), fs.fd(), name("with"), options).unwrap();
    assert_eq!(report.subvolumes_copied, [PathBuf::from("a"), PathBuf::from("a/b")]);
    assert_eq!(report.reflinked, 3);
    assert_eq!(std::fs::read(fs.path("with/a/b/file")).unwrap(), vec![1; 8192]);
    assert!(!crate::btrfs::is_subvolume(fs.open("with/a").as_fd()).unwrap());

    // In a snapshot they are empty directories of a special kind.
    crate::btrfs::create_subvolume(fs.fd(), name("base")).unwrap();
    crate::btrfs::create_subvolume(fs.open("base").as_fd(), name("nested")).unwrap();
    crate::btrfs::snapshot(fs.open("base").as_fd(), fs.fd(), name("snapshot"), true).unwrap();
    let report = copy(&fs, "snapshot", &fs, "of snapshot");
    assert_eq!(report.vanished, 0, "{report:?}");
    assert!(fs.path("of snapshot/nested").is_dir());
    remove_tree(fs.fd(), name("of snapshot")).unwrap();
    crate::btrfs::set_read_only(fs.open("snapshot").as_fd(), false).unwrap();
    remove_tree(fs.open("snapshot").as_fd(), name("nested")).unwrap();
}

#[test]
fn no_copy_on_write_is_kept_and_shared() {
    needs_root!();
    let fs = Filesystem::new("btrfs");
    std::fs::create_dir_all(fs.path("tree/dir")).unwrap();
    run("chattr", &["+C", fs.path("tree/dir").to_str().unwrap()]);
    std::fs::write(fs.path("tree/dir/image"), vec![1; 8192]).unwrap();
    std::fs::write(fs.path("tree/plain"), vec![1; 8192]).unwrap();
    let report = copy(&fs, "tree", &fs, "copy");
    assert_eq!(report.reflinked, 2);
    let flags = |path: &str| {
        let text = run("lsattr", &["-d", fs.path(path).to_str().unwrap()]);
        text.split(' ').next().unwrap().contains('C')
    };
    assert!(flags("copy/dir") && flags("copy/dir/image") && !flags("copy/plain"));
}

#[test]
fn not_into_itself() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("tree/a/b")).unwrap();
    let inside = open(scratch.path("tree/a/b"));
    let options = CopyOptions::default();
    let error = copy_tree(scratch.fd(), Path::new("tree"), inside.as_fd(), name("copy"), options)
        .unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL, "{error}");
}

#[test]
fn sizes() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("tree/dir")).unwrap();
    std::fs::write(scratch.path("tree/file"), vec![1; 100_000]).unwrap();
    std::fs::File::create(scratch.path("tree/sparse")).unwrap().set_len(1 << 30).unwrap();
    crate::file::sync_filesystem(scratch.fd()).unwrap();
    let size = |path| tree_size(scratch.fd(), Path::new(path)).unwrap();
    let up_to = |limit| tree_size_up_to(scratch.fd(), Path::new("tree"), limit).unwrap();
    assert_eq!(up_to(size("tree")), size("tree"));
    assert!((1..=size("tree")).contains(&up_to(0)), "it is more, and how much more is not counted");
    let (file, all) = (size("tree/file"), size("tree"));
    assert!((100_000..200_000).contains(&file), "{file}");
    assert!((file..file + 50_000).contains(&all), "{all}");
    std::fs::hard_link(scratch.path("tree/file"), scratch.path("tree/dir/hard")).unwrap();
    assert_eq!(size("tree"), all);
    assert!(tree_size(scratch.fd(), Path::new("no")).unwrap_err().is_not_found());
}

/// Content from outside must never turn up, whatever is swapped while a tree is copied.
#[test]
fn an_attacker_who_swaps_directories_while_a_tree_is_copied() {
    let outside = Scratch::new();
    std::fs::create_dir_all(outside.path("c")).unwrap();
    for file in ["secret", "c/secret"] {
        std::fs::write(outside.path(file), "secret").unwrap();
    }
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("tree/a/b/c")).unwrap();
    for file in 0..20 {
        create_file(open(scratch.path("tree/a/b")).as_fd(), name(&format!("{file}")), 0o644)
            .unwrap();
    }
    symlink(outside.directory.path(), scratch.path("link")).unwrap();
    let stop = AtomicBool::new(false);
    let mut copied = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let a = open(scratch.path("tree/a"));
            while !stop.load(Ordering::Relaxed) {
                crate::file::exchange(a.as_fd(), name("b"), scratch.fd(), name("link")).unwrap();
            }
        });
        for round in 0..200 {
            let to = format!("copy{round}");
            let options = CopyOptions::default();
            match copy_tree(scratch.fd(), Path::new("tree"), scratch.fd(), name(&to), options) {
                Ok(_) => copied += 1,
                Err(error) => assert_eq!(error.errno(), Errno::STALE, "{error}"),
            }
            let dir = open(scratch.path(&to));
            let all = picture(dir.as_fd());
            assert!(all.keys().all(|path| !path.ends_with("secret")));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(copied > 0);
}
