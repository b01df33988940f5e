use std::os::unix::fs::symlink;

use super::*;
use crate::resolve::open_path;
use crate::testing::{Scratch, needs_root, open};

#[test]
fn kinds() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "12345").unwrap();
    std::fs::create_dir(scratch.path("dir")).unwrap();
    symlink("file", scratch.path("link")).unwrap();
    rustix::fs::mkfifoat(&scratch.fd, "fifo", Mode::RUSR).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(scratch.path("socket")).unwrap();

    let find = |path| metadata_beneath(scratch.fd(), Path::new(path)).unwrap().unwrap();
    let cases = [
        ("file", FileKind::Regular),
        ("dir", FileKind::Directory),
        ("link", FileKind::Symlink),
        ("fifo", FileKind::Fifo),
        ("socket", FileKind::Socket),
        ("", FileKind::Directory),
    ];
    for (path, kind) in cases {
        assert_eq!(find(path).kind, kind, "{path}");
    }
    assert_eq!((find("file").size, find("file").nlink), (5, 1));
    assert!(find("file").created.is_some() && find("file").mount_id != 0);
    assert!(!find("file").mount_root);

    let dev = open("/dev");
    let null = metadata_beneath(dev.as_fd(), Path::new("null")).unwrap().unwrap();
    assert_eq!((null.kind, null.rdev), (FileKind::CharDevice, (1, 3)));
    assert!(metadata(open("/proc").as_fd()).unwrap().mount_root);
}

#[test]
fn absent_is_not_the_same_as_in_the_way() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    symlink("/", scratch.path("link")).unwrap();
    let find = |path| metadata_beneath(scratch.fd(), Path::new(path));
    assert_eq!(find("nothing").unwrap(), None);
    assert_eq!(find("nothing/below").unwrap(), None);
    assert_eq!(find("file/below").unwrap_err().errno(), Errno::NOTDIR);
    assert_eq!(find("link/below").unwrap_err().errno(), Errno::LOOP);
    assert_eq!(find("link").unwrap().unwrap().kind, FileKind::Symlink);
}

#[test]
fn mode_exactly_and_by_any_descriptor() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    symlink("file", scratch.path("link")).unwrap();
    let reader = open(scratch.path("file"));
    let path = open_path(scratch.fd(), Path::new("file")).unwrap();
    let link = open_path(scratch.fd(), Path::new("link")).unwrap();
    let mode = || metadata(reader.as_fd()).unwrap().mode;

    set_mode(reader.as_fd(), 0o4755).unwrap();
    assert_eq!(mode(), 0o4755);
    set_mode(path.as_fd(), 0o640).unwrap();
    assert_eq!(mode(), 0o640);
    set_mode_by_path(path.as_fd(), 0o1600).unwrap();
    assert_eq!(mode(), 0o1600);

    assert_eq!(set_mode(link.as_fd(), 0o777).unwrap_err().errno(), Errno::OPNOTSUPP);
    assert_eq!(set_mode(path.as_fd(), 0o10_000).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(mode(), 0o1600);
}

#[test]
fn owner_of_a_link_itself() {
    needs_root!();
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    symlink("file", scratch.path("link")).unwrap();
    let link = open_path(scratch.fd(), Path::new("link")).unwrap();
    set_owner(link.as_fd(), 1234, 70_000).unwrap();
    let found = metadata(link.as_fd()).unwrap();
    assert_eq!((found.uid, found.gid), (1234, 70_000));
    let file = metadata_beneath(scratch.fd(), Path::new("file")).unwrap().unwrap();
    assert_eq!(file.uid, rustix::process::geteuid().as_raw());
    assert_eq!(set_owner(link.as_fd(), u32::MAX, 0).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn times_to_the_nanosecond() {
    let scratch = Scratch::new();
    symlink("nowhere", scratch.path("link")).unwrap();
    let link = open_path(scratch.fd(), Path::new("link")).unwrap();
    set_times(link.as_fd(), (1, 2), (-3, 999_999_999)).unwrap();
    let found = metadata(link.as_fd()).unwrap();
    assert_eq!((found.accessed, found.modified), ((1, 2), (-3, 999_999_999)));
}

#[test]
fn one_entry_of_a_directory() {
    let scratch = Scratch::new();
    symlink("nowhere", scratch.path("link")).unwrap();
    let found = metadata_of_entry(scratch.fd(), OsStr::new("link")).unwrap().unwrap();
    assert_eq!(found.kind, FileKind::Symlink);
    assert_eq!(metadata_of_entry(scratch.fd(), OsStr::new("no")).unwrap(), None);
    for name in ["", ".", "..", "a/b"] {
        let error = metadata_of_entry(scratch.fd(), OsStr::new(name)).unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL, "{name}");
    }
}
