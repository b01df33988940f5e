use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::metadata::{FileKind, metadata};
use crate::testing::{Filesystem, Scratch, name, needs_root};

fn names(fd: BorrowedFd<'_>) -> Vec<String> {
    let mut names: Vec<_> = read_directory(fd)
        .unwrap()
        .into_iter()
        .map(|entry| entry.name.into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn replaces_and_makes_files() {
    let scratch = Scratch::new();
    let large = vec![0xff; 300_000];
    for (content, mode) in [(&b"one"[..], 0o666), (b"", 0o600), (&large, 0o4751)] {
        replace_file(scratch.fd(), name("file"), content, mode).unwrap();
        assert_eq!(std::fs::read(scratch.path("file")).unwrap(), content);
        let found = std::fs::metadata(scratch.path("file")).unwrap();
        assert_eq!(found.permissions().mode() & 0o7777, mode);
        assert_eq!(names(scratch.fd()), ["file"]);
    }
}

#[test]
fn other_content_leaves_owner_mode_and_attributes() {
    needs_root!();
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "old").unwrap();
    let open = crate::resolve::open_path(scratch.fd(), Path::new("file")).unwrap();
    crate::metadata::set_owner(open.as_fd(), 1, 2).unwrap();
    crate::metadata::set_mode(open.as_fd(), 0o2640).unwrap();
    crate::xattr::set(open.as_fd(), name("user.note"), b"x").unwrap();

    replace_content(scratch.fd(), name("file"), b"new").unwrap();
    assert_eq!(std::fs::read(scratch.path("file")).unwrap(), b"new");
    let new = crate::resolve::open_path(scratch.fd(), Path::new("file")).unwrap();
    let found = metadata(new.as_fd()).unwrap();
    assert_eq!((found.uid, found.gid, found.mode), (1, 2, 0o2640));
    assert_ne!(found.inode, metadata(open.as_fd()).unwrap().inode);
    let note = crate::xattr::get(new.as_fd(), name("user.note")).unwrap();
    assert_eq!(note.as_deref(), Some(&b"x"[..]));
    assert_eq!(names(scratch.fd()), ["file"]);

    symlink("file", scratch.path("link")).unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    for (other, errno) in
        [("link", Errno::LOOP), ("dir", Errno::INVAL), ("no", Errno::NOENT), ("a/b", Errno::INVAL)]
    {
        let error = replace_content(scratch.fd(), name(other), b"").unwrap_err();
        assert_eq!(error.errno(), errno, "{other}");
    }
}

#[test]
fn leftovers_of_a_crash_are_replaced_without_harm() {
    let scratch = Scratch::new();
    let leftover = scratch.path(".ebbtide-new.file");
    std::fs::write(scratch.path("precious"), "precious").unwrap();

    std::fs::write(&leftover, "torn").unwrap();
    replace_file(scratch.fd(), name("file"), b"1", 0o644).unwrap();
    symlink("precious", &leftover).unwrap();
    replace_file(scratch.fd(), name("file"), b"2", 0o644).unwrap();
    std::fs::hard_link(scratch.path("precious"), &leftover).unwrap();
    replace_file(scratch.fd(), name("file"), b"3", 0o644).unwrap();
    rustix::fs::mkfifoat(&scratch.fd, ".ebbtide-new.file", Mode::RUSR).unwrap();
    replace_file(scratch.fd(), name("file"), b"4", 0o644).unwrap();

    assert_eq!(std::fs::read(scratch.path("file")).unwrap(), b"4");
    assert_eq!(std::fs::read(scratch.path("precious")).unwrap(), b"precious");
    assert_eq!(names(scratch.fd()), ["file", "precious"]);
}

#[test]
fn a_failed_replacement_leaves_the_old_file_and_no_other() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    let error = replace_file(scratch.fd(), name("dir"), b"x", 0o644).unwrap_err();
    assert_eq!(error.errno(), Errno::ISDIR);
    assert_eq!(names(scratch.fd()), ["dir"]);
}

#[test]
fn the_longest_name() {
    let scratch = Scratch::new();
    let long = "n".repeat(255);
    replace_file(scratch.fd(), name(&long), b"x", 0o644).unwrap();
    assert_eq!(names(scratch.fd()), [long]);
}

#[test]
fn writers_at_the_same_time_never_publish_half_a_file() {
    let scratch = Scratch::new();
    let content = |writer: u8| vec![writer; 100_000];
    replace_file(scratch.fd(), name("file"), &content(0), 0o644).unwrap();
    let busy = AtomicUsize::new(3);
    std::thread::scope(|scope| {
        for writer in 0..3 {
            let (fd, busy, content) = (scratch.fd(), &busy, content(writer));
            scope.spawn(move || {
                let result =
                    (0..30).try_for_each(|_| replace_file(fd, name("file"), &content, 0o644));
                busy.fetch_sub(1, Ordering::Relaxed);
                result.unwrap();
            });
        }
        while busy.load(Ordering::Relaxed) > 0 {
            let found = read_limited(scratch.fd(), Path::new("file"), 1 << 20).unwrap();
            assert_eq!(found, content(found[0]));
        }
    });
    assert_eq!(names(scratch.fd()), ["file"]);
}

#[test]
fn removes_and_tells_whether_it_was_there() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    assert!(remove_file_durably(scratch.fd(), name("file")).unwrap());
    assert!(!remove_file_durably(scratch.fd(), name("file")).unwrap());
    let error = remove_file_durably(scratch.fd(), name("dir")).unwrap_err();
    assert_eq!(error.errno(), Errno::ISDIR);
}

#[test]
fn makes_entries_with_exact_modes_and_never_over_others() {
    let scratch = Scratch::new();
    symlink("nowhere", scratch.path("taken")).unwrap();
    let mode = |fd: &OwnedFd| metadata(fd.as_fd()).unwrap().mode;
    let dir = create_directory(scratch.fd(), name("dir"), 0o2777).unwrap();
    let file = create_file(scratch.fd(), name("file"), 0o666).unwrap();
    create_symlink(scratch.fd(), name("link"), Path::new("any\nthing")).unwrap();
    assert_eq!((mode(&dir), mode(&file)), (0o2777, 0o666));
    let target = read_link(scratch.fd(), Path::new("link")).unwrap();
    assert_eq!(target, PathBuf::from("any\nthing"));

    for taken in ["taken", "dir", "file"].map(name) {
        let errors = [
            create_directory(scratch.fd(), taken, 0o755).unwrap_err(),
            create_file(scratch.fd(), taken, 0o644).unwrap_err(),
            create_symlink(scratch.fd(), taken, Path::new("x")).unwrap_err(),
        ];
        assert!(errors.iter().all(|error| error.errno() == Errno::EXIST), "{errors:?}");
    }
    for bad in ["", ".", "..", "a/b", "/", "a\0"].map(name) {
        let error = create_file(scratch.fd(), bad, 0o644).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL, "{error}");
        assert_eq!(remove_tree(scratch.fd(), bad).unwrap_err().errno(), Errno::INVAL);
    }
}

#[test]
fn renames_and_exchanges() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    let dir = crate::resolve::open_directory(scratch.fd(), Path::new("dir")).unwrap();
    for file in ["a", "b"] {
        std::fs::write(scratch.path(file), file).unwrap();
    }
    let read = |path| std::fs::read_to_string(scratch.path(path)).unwrap();
    let (a, b) = (name("a"), name("b"));

    let error = rename_noreplace(scratch.fd(), a, scratch.fd(), b).unwrap_err();
    assert_eq!(error.errno(), Errno::EXIST);
    assert!(error.to_string().contains("RENAME_NOREPLACE"), "{error}");
    rename_noreplace(scratch.fd(), a, dir.as_fd(), a).unwrap();
    exchange(scratch.fd(), b, dir.as_fd(), a).unwrap();
    assert_eq!((read("b"), read("dir/a")), ("a".to_owned(), "b".to_owned()));
    assert!(exchange(scratch.fd(), b, dir.as_fd(), b).unwrap_err().is_not_found());
    sync(scratch.fd()).unwrap();
    sync_filesystem(scratch.fd()).unwrap();
}

#[test]
fn descriptors_that_were_opened_by_path_only() {
    let scratch = Scratch::new();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let path = rustix::fs::open(scratch.directory.path(), flags, Mode::empty()).unwrap();
    replace_file(path.as_fd(), name("file"), b"x", 0o644).unwrap();
    sync(path.as_fd()).unwrap();
    sync_filesystem(path.as_fd()).unwrap();
    assert_eq!(names(path.as_fd()), ["file"]);
    assert!(remove_file_durably(path.as_fd(), name("file")).unwrap());
}

#[test]
fn reads_only_small_regular_files() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "12345").unwrap();
    std::fs::write(scratch.path("empty"), "").unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    symlink("file", scratch.path("link")).unwrap();
    // Opening this one for reading would wait for a writer.
    rustix::fs::mkfifoat(&scratch.fd, "fifo", Mode::RUSR).unwrap();
    let read = |path, limit| read_limited(scratch.fd(), Path::new(path), limit);
    assert_eq!(read("/file", 5).unwrap(), b"12345");
    assert_eq!(read("empty", 0).unwrap(), b"");
    let cases = [
        ("file", 4, Errno::FBIG),
        ("dir", 9, Errno::INVAL),
        ("fifo", 9, Errno::INVAL),
        ("link", 9, Errno::INVAL),
        ("", 9, Errno::INVAL),
        ("nothing", 9, Errno::NOENT),
        ("file/x", 9, Errno::NOTDIR),
    ];
    for (path, limit, expected) in cases {
        assert_eq!(read(path, limit).unwrap_err().errno(), expected, "{path}");
    }
}

#[test]
fn a_pseudo_file_is_longer_than_it_says() {
    let proc = crate::testing::open("/proc");
    let content = read_limited(proc.as_fd(), Path::new("version"), 4096).unwrap();
    assert!(content.starts_with(b"Linux"));
    let error = read_limited(proc.as_fd(), Path::new("version"), 3).unwrap_err();
    assert_eq!(error.errno(), Errno::FBIG);
}

#[test]
fn lists_a_directory() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    symlink("file", scratch.path("link")).unwrap();
    let mut entries = read_directory(scratch.fd()).unwrap();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    let kinds: Vec<_> = entries.iter().map(|entry| entry.kind.unwrap()).collect();
    assert_eq!(kinds, [FileKind::Regular, FileKind::Symlink]);
    assert_eq!(entries[0].inode, std::fs::metadata(scratch.path("file")).unwrap().ino());
    let file = crate::testing::open(scratch.path("file"));
    assert_eq!(read_directory(file.as_fd()).unwrap_err().errno(), Errno::NOTDIR);
}

/// Makes a chain of directories, with a file in each.
pub(crate) fn make_deep(dir: BorrowedFd<'_>, levels: usize) {
    let mut current = create_directory(dir, name("d"), 0o755).unwrap();
    for _ in 1..levels {
        create_file(current.as_fd(), name("f"), 0o644).unwrap();
        current = create_directory(current.as_fd(), name("d"), 0o755).unwrap();
    }
}

#[test]
fn removes_trees_of_any_depth_and_follows_nothing() {
    let scratch = Scratch::new();
    make_deep(scratch.fd(), 1500);
    std::fs::create_dir(scratch.path("kept")).unwrap();
    std::fs::write(scratch.path("kept/file"), "").unwrap();
    symlink("../kept", scratch.path("d/link")).unwrap();
    std::fs::hard_link(scratch.path("kept/file"), scratch.path("d/hard")).unwrap();
    remove_tree(scratch.fd(), name("d")).unwrap();
    remove_tree(scratch.fd(), name("d")).unwrap();
    assert_eq!(names(scratch.fd()), ["kept"]);
    assert!(scratch.path("kept/file").exists());

    symlink("kept", scratch.path("link")).unwrap();
    std::fs::write(scratch.path("file"), "").unwrap();
    remove_tree(scratch.fd(), name("link")).unwrap();
    remove_tree(scratch.fd(), name("file")).unwrap();
    assert_eq!(names(scratch.fd()), ["kept"]);
}

#[test]
fn removes_no_mount_and_no_subvolume() {
    needs_root!();
    crate::mount::enter_private_mount_namespace().unwrap();
    let fs = Filesystem::new("btrfs");
    // Something can be mounted only where there is a namespace.
    let scratch = Scratch::new();
    crate::mount::attach(fs.fd(), scratch.fd()).unwrap();
    for path in ["tree/a", "tree/mount", "tree/z"] {
        std::fs::create_dir_all(fs.path(path)).unwrap();
    }
    let none = crate::mount::MountAttributes::NONE;
    let other = crate::mount::mount_detached("tmpfs", None, &[], none).unwrap();
    create_file(other.as_fd(), name("kept"), 0o644).unwrap();
    crate::mount::attach(other.as_fd(), fs.open("tree/mount").as_fd()).unwrap();
    let error = remove_tree(fs.fd(), name("tree")).unwrap_err();
    assert_eq!(error.errno(), Errno::BUSY, "{error}");
    assert_eq!(names(other.as_fd()), ["kept"]);
    crate::mount::unmount(&fs.path("tree/mount"), true).unwrap();

    crate::btrfs::create_subvolume(fs.open("tree").as_fd(), name("subvolume")).unwrap();
    std::fs::write(fs.path("tree/subvolume/kept"), "").unwrap();
    let error = remove_tree(fs.fd(), name("tree")).unwrap_err();
    assert_eq!(error.errno(), Errno::NOTEMPTY);
    assert!(error.to_string().contains(r#"tree>, "subvolume")"#), "{error}");
    assert!(fs.path("tree/subvolume/kept").exists());
    let error = remove_tree(fs.open("tree").as_fd(), name("subvolume")).unwrap_err();
    assert_eq!(error.errno(), Errno::NOTEMPTY);
    crate::btrfs::delete_subvolume(fs.open("tree").as_fd(), name("subvolume")).unwrap();
    remove_tree(fs.fd(), name("tree")).unwrap();
    assert!(names(fs.fd()).is_empty());
}

#[test]
fn an_attacker_who_swaps_directories_while_a_tree_is_removed() {
    let outside = Scratch::new();
    for round in 0..20 {
        let scratch = Scratch::new();
        std::fs::write(outside.path(&format!("kept{round}")), "").unwrap();
        for path in ["tree/a/b/c", "tree/a/d"] {
            std::fs::create_dir_all(scratch.path(path)).unwrap();
            for file in 0..50 {
                std::fs::write(scratch.path(path).join(file.to_string()), "").unwrap();
            }
        }
        symlink(outside.directory.path(), scratch.path("link")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let tree = crate::resolve::open_directory(scratch.fd(), Path::new("tree/a"));
                let Ok(tree) = tree else { return };
                while !stop.load(Ordering::Relaxed) {
                    let _ = exchange(tree.as_fd(), name("b"), scratch.fd(), name("link"));
                }
            });
            for _ in 0..100 {
                if remove_tree(scratch.fd(), name("tree")).is_ok() {
                    break;
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
    assert_eq!(names(outside.fd()).len(), 20);
}

#[test]
fn flags_that_forbid_it_stop_a_removal_unless_it_is_by_force() {
    needs_root!();
    for fstype in ["ext4", "btrfs"] {
        let fs = Filesystem::new(fstype);
        let chattr = |flag: &str, path: &str| {
            crate::testing::run("chattr", &[flag, fs.path(path).to_str().unwrap()]);
        };
        std::fs::create_dir_all(fs.path("tree/held/inner")).unwrap();
        std::fs::write(fs.path("tree/held/inner/file"), "x").unwrap();
        std::fs::write(fs.path("tree/held/log\n\u{1b}"), "x").unwrap();
        symlink("/etc", fs.path("tree/held/link")).unwrap();
        std::fs::hard_link(fs.path("tree/held/inner/file"), fs.path("elsewhere")).unwrap();
        chattr("+i", "tree/held/inner/file");
        chattr("+a", "tree/held/log\n\u{1b}");
        chattr("+i", "tree/held/inner");
        chattr("+a", "tree/held");
        let error = remove_tree(fs.fd(), name("tree")).unwrap_err();
        assert_eq!(error.errno(), Errno::PERM, "{error}");
        remove_tree_by_force(fs.fd(), name("tree")).unwrap();
        assert!(!fs.path("tree").exists());
        remove_tree_by_force(fs.fd(), name("tree")).unwrap();
        std::fs::write(fs.path("plain"), "x").unwrap();
        let unprotect = |path| unprotect(std::fs::File::open(fs.path(path)).unwrap().as_fd());
        assert!(!unprotect("plain").unwrap());
        assert!(unprotect("elsewhere").unwrap(), "under its other name it is as it was");
    }
}

#[test]
fn what_others_could_have_changed_is_not_read() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("a/b")).unwrap();
    std::fs::write(scratch.path("a/b/file"), "x").unwrap();
    let mode = |path: &str, mode| {
        std::fs::set_permissions(scratch.path(path), std::fs::Permissions::from_mode(mode))
            .unwrap();
    };
    for (path, private) in [("a", 0o755), ("a/b", 0o700), ("a/b/file", 0o644)] {
        mode(path, private);
    }
    let read = || read_trusted(scratch.fd(), Path::new("a/b/file"), 9);
    assert_eq!(read().unwrap(), b"x");
    for (path, private, open) in
        [("a", 0o755, 0o775), ("a/b", 0o700, 0o702), ("a/b/file", 0o644, 0o666)]
    {
        mode(path, open);
        let error = read().unwrap_err();
        assert_eq!(error.errno(), Errno::PERM);
        assert!(error.to_string().contains("others than root"), "{error}");
        mode(path, private);
    }
    std::fs::hard_link(scratch.path("a/b/file"), scratch.path("second")).unwrap();
    assert!(read().unwrap_err().to_string().contains("it has 2 names"));
    std::fs::remove_file(scratch.path("second")).unwrap();
    assert_eq!(read().unwrap(), b"x");
    if rustix::process::geteuid().is_root() {
        for path in ["a", "a/b", "a/b/file"] {
            std::os::unix::fs::chown(scratch.path(path), Some(1000), None).unwrap();
            assert!(read().unwrap_err().to_string().contains("user 1000"), "{path}");
            std::os::unix::fs::chown(scratch.path(path), Some(0), None).unwrap();
        }
    }
    assert_eq!(read().unwrap(), b"x");
}
