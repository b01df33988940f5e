use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;
use crate::file::exchange;
use crate::testing::{Scratch, name};

/// Opens in both ways, which must agree; returns what was opened, as the kernel names it.
fn both(dir: BorrowedFd<'_>, path: &str, flags: OFlags) -> std::result::Result<String, Errno> {
    let path = relative(Path::new(path))?;
    let flags = flags | OFlags::CLOEXEC;
    let shown =
        |fd: OwnedFd| String::from_utf8(crate::descriptor::path_of(fd.as_fd()).unwrap()).unwrap();
    let fast = openat2(dir, &path, flags, Mode::empty()).map(shown);
    let slow = walk::open(dir, &path, flags, Mode::empty()).map(shown);
    assert_eq!(fast, slow, "{path:?} {}", render(flags));
    fast
}

#[test]
fn resolves_below_and_follows_nothing() {
    let scratch = Scratch::new();
    std::fs::create_dir_all(scratch.path("a/b")).unwrap();
    std::fs::write(scratch.path("a/b/file"), "").unwrap();
    symlink("a", scratch.path("to-dir")).unwrap();
    symlink("/etc/passwd", scratch.path("to-file")).unwrap();
    symlink("nowhere", scratch.path("dangling")).unwrap();
    let top = scratch.directory.path().to_str().unwrap().to_owned();
    let at = |relative: &str| Ok(format!("{top}{relative}"));

    let read = OFlags::RDONLY;
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    let path = OFlags::PATH | OFlags::NOFOLLOW;
    let cases = [
        ("", read, at("")),
        ("/", directory, at("")),
        (".", path, at("")),
        ("a/b/file", read, at("/a/b/file")),
        ("/a/b/file", read, at("/a/b/file")),
        ("//a//./b/./file/", read, at("/a/b/file")),
        ("a/b", directory, at("/a/b")),
        ("a/b/file", directory, Err(Errno::NOTDIR)),
        ("a/b/file/x", read, Err(Errno::NOTDIR)),
        ("a/c", read, Err(Errno::NOENT)),
        ("c/d", read, Err(Errno::NOENT)),
        ("..", read, Err(Errno::INVAL)),
        ("a/../a", read, Err(Errno::INVAL)),
        ("/../etc", read, Err(Errno::INVAL)),
        ("a\0b", read, Err(Errno::INVAL)),
        ("to-dir", directory, Err(Errno::LOOP)),
        ("to-dir", path, at("/to-dir")),
        ("to-dir/", path, at("/to-dir")),
        ("to-dir", OFlags::PATH, Err(Errno::LOOP)),
        ("to-dir/b", read, Err(Errno::LOOP)),
        ("to-dir/b/file", path, Err(Errno::LOOP)),
        ("to-file", read, Err(Errno::LOOP)),
        ("dangling", read, Err(Errno::LOOP)),
    ];
    for (asked, flags, expected) in cases {
        assert_eq!(both(scratch.fd(), asked, flags), expected, "{asked:?} {}", render(flags));
    }
}

#[test]
fn magic_links_are_links() {
    let scratch = Scratch::new();
    let proc = crate::testing::open("/proc/self/fd");
    let magic = std::os::fd::AsRawFd::as_raw_fd(&scratch.fd).to_string();
    assert_eq!(both(proc.as_fd(), &magic, OFlags::RDONLY), Err(Errno::LOOP));
}

#[test]
fn creates_but_not_through_a_link() {
    let scratch = Scratch::new();
    symlink(scratch.path("victim"), scratch.path("link")).unwrap();
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let error = open_beneath(scratch.fd(), Path::new("link"), flags, Mode::RUSR).unwrap_err();
    assert_eq!(error.errno(), Errno::LOOP);
    let path = Path::new("link");
    assert_eq!(walk::open(scratch.fd(), path, flags, Mode::RUSR).unwrap_err(), Errno::LOOP);
    assert!(!scratch.path("victim").exists());

    open_beneath(scratch.fd(), Path::new("new"), flags, Mode::RUSR).unwrap();
    assert!(scratch.path("new").exists());
}

#[test]
fn paths_longer_than_the_kernel_takes() {
    let scratch = Scratch::new();
    let mut path = PathBuf::new();
    let mut current = open_directory(scratch.fd(), Path::new("")).unwrap();
    let long = "x".repeat(250);
    for _ in 0..20 {
        current = crate::file::create_directory(current.as_fd(), name(&long), 0o755).unwrap();
        path.push(&long);
    }
    let found = open_directory(scratch.fd(), &path).unwrap();
    let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
    assert_eq!(inode(&found), inode(&current));

    path.push("y".repeat(256));
    assert_eq!(open_path(scratch.fd(), &path).unwrap_err().errno(), Errno::NAMETOOLONG);
    crate::file::remove_tree(scratch.fd(), name(&long)).unwrap();
}

#[test]
fn an_error_says_what_was_asked() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("odd\x1b[31m")).unwrap();
    let dir = open_directory(scratch.fd(), Path::new("odd\x1b[31m")).unwrap();
    let raw = std::os::fd::AsRawFd::as_raw_fd(&dir);
    let top = scratch.directory.path().display();

    let error = open_directory(dir.as_fd(), Path::new("va\nr")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            r#"openat2({raw} <{top}/odd\x1b[31m>, "va\nr", O_RDONLY|O_DIRECTORY) failed: ENOENT (No such file or directory)"#
        )
    );
    let error = open_path(dir.as_fd(), Path::new("../x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            r#"openat2({raw} <{top}/odd\x1b[31m>, "../x", O_PATH|O_NOFOLLOW) failed: EINVAL (Invalid argument): `..` is not allowed"#
        )
    );
}

#[test]
fn splits_off_the_name() {
    let cases = [
        ("", None),
        ("/", None),
        ("..", None),
        ("a/..", None),
        ("a", Some(("", "a"))),
        ("/a", Some(("/", "a"))),
        ("a/b", Some(("a", "b"))),
        ("/a/b/c/", Some(("/a/b", "c"))),
        ("a/.", Some(("", "a"))),
    ];
    for (path, expected) in cases {
        let expected = expected.map(|(dir, file)| (Path::new(dir), OsStr::new(file)));
        assert_eq!(split_parent(Path::new(path)), expected, "{path:?}");
    }
}

/// Resolves while another thread swaps a directory for a link to one outside, over and over.
#[test]
fn an_attacker_who_swaps_directories_for_links() {
    let scratch = Scratch::new();
    let outside = Scratch::new();
    std::fs::create_dir_all(scratch.path("dir/sub")).unwrap();
    std::fs::create_dir(outside.path("sub")).unwrap();
    std::fs::write(scratch.path("dir/sub/file"), "inside").unwrap();
    std::fs::write(outside.path("sub/file"), "outside").unwrap();
    symlink(outside.directory.path(), scratch.path("link")).unwrap();

    let stop = AtomicBool::new(false);
    let path = Path::new("dir/sub/file");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let (mut opened, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                exchange(scratch.fd(), name("dir"), scratch.fd(), name("link")).unwrap();
            }
        });
        for round in 0..20_000 {
            let result = if round % 2 == 0 {
                openat2(scratch.fd(), path, flags, Mode::empty())
            } else {
                walk::open(scratch.fd(), path, flags, Mode::empty())
            };
            match result {
                Ok(fd) => {
                    opened += 1;
                    let mut content = [0; 16];
                    let count = rustix::io::read(&fd, &mut content).unwrap();
                    assert_eq!(&content[..count], b"inside");
                }
                Err(errno) => {
                    refused += 1;
                    assert!(matches!(errno, Errno::LOOP | Errno::NOTDIR), "{errno:?}");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(opened > 0 && refused > 0, "no race: {opened} opened, {refused} refused");
}

proptest! {
    #[test]
    fn a_relative_path_stays_below(path in "[a./]{0,12}") {
        match relative(Path::new(&path)) {
            Ok(relative) => {
                prop_assert!(relative.is_relative());
                prop_assert!(relative.components().all(|c| c != Component::ParentDir));
                prop_assert!(!relative.as_os_str().is_empty());
                prop_assert_eq!(super::relative(&relative), Ok(relative.clone()));
            }
            Err(errno) => {
                prop_assert_eq!(errno, Errno::INVAL);
                prop_assert!(path.split('/').any(|component| component == ".."));
            }
        }
    }

    #[test]
    fn parent_and_name_make_the_path(path in "/?[a-c]{1,3}(/[a-c]{1,3}){0,4}") {
        let (parent, name) = split_parent(Path::new(&path)).unwrap();
        prop_assert_eq!(parent.join(name), PathBuf::from(&path));
    }
}
