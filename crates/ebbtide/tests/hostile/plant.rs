//! What somebody who means harm leaves in a directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};

use crate::machine::run;

/// What none of it may reach.
pub const SECRET: &str = "etc/secret";

/// Names that are read as something else.
const NAMES: [&[u8]; 14] = [
    b"two\nlines",
    b"\x1b[31mred\x1b]0;title\x07",
    b"no text \xff\xfe\x80",
    b"\xc2\x9b31mC1",
    b"right-to-left \xe2\x80\xae txt.exe",
    b"--json",
    b"-rf",
    b" ",
    b"*",
    b"$(touch made)",
    b"back\\slash \"quoted\"",
    b"tab\tcarriage\rreturn",
    b"@{u}%s%n",
    &[b'n'; 255],
];

/// `cap_net_raw+ep`
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What of it gives power, below the directory.
pub const POWERFUL: [&str; 5] = ["capable", "setgid", "setuid", "sda", "zero"];

/// Makes all of it.
pub fn plant(root: &Path, place: &str) {
    let top = root.join(place);
    fs::create_dir_all(&top).unwrap();
    for name in NAMES {
        let directory = top.join("names").join(OsStr::from_bytes(name));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join(OsStr::from_bytes(name));
        fs::write(&file, "\x1b[2Jtext\n\u{202e}").unwrap();
        symlink(OsStr::from_bytes(name), directory.join("link")).unwrap();
    }
    programs(&top);
    nodes(&top);
    for (to, name) in
        [("/etc/secret", "link"), ("..", "up"), ("loop", "loop"), ("/dev/zero", "dev")]
    {
        symlink(to, top.join(name)).unwrap();
    }
    symlink("x".repeat(4000), top.join("long-link")).unwrap();
    File::create(top.join("sparse")).unwrap().set_len(1 << 40).unwrap();
    fs::write(top.join("unreadable"), "text\n").unwrap();
    fs::set_permissions(top.join("unreadable"), fs::Permissions::from_mode(0o0)).unwrap();
    fs::write(top.join("immutable"), "text\n").unwrap();
    fs::create_dir(top.join("append")).unwrap();
    fs::write(top.join("append/file"), "text\n").unwrap();
    run("chattr", &["+i", top.join("immutable").to_str().unwrap()]);
    run("chattr", &["+a", top.join("append").to_str().unwrap()]);
    // Where it is on one filesystem with it.
    let _ = fs::hard_link(root.join(SECRET), top.join("second-name"));
}

fn programs(top: &Path) {
    for (name, mode) in [("setuid", 0o4755), ("setgid", 0o2755), ("capable", 0o755)] {
        fs::write(top.join(name), "#!/bin/sh\n").unwrap();
        fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let capable = File::open(top.join("capable")).unwrap();
    let flags = XattrFlags::empty();
    rustix::fs::fsetxattr(&capable, "security.capability", &CAPABILITY, flags).unwrap();
}

fn nodes(top: &Path) {
    let mode = Mode::from_raw_mode(0o666);
    // Who reads from one of these comes to no end.
    for (name, kind, number) in [
        ("zero", FileType::CharacterDevice, makedev(1, 5)),
        ("sda", FileType::BlockDevice, makedev(8, 0)),
        ("pipe", FileType::Fifo, 0),
    ] {
        mknodat(CWD, top.join(name), kind, mode, number).unwrap();
    }
    let directory = File::open(top).unwrap();
    let number = directory.as_fd().as_raw_fd();
    drop(UnixListener::bind(format!("/proc/self/fd/{number}/socket")).unwrap());
}

/// What is a secret of root's.
pub fn write_secret(root: &Path) {
    fs::write(root.join(SECRET), "secret\n").unwrap();
    fs::set_permissions(root.join(SECRET), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Whether it is as it was.
#[track_caller]
pub fn assert_is_secret(root: &Path) {
    let found = fs::symlink_metadata(root.join(SECRET)).unwrap();
    assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o600, 0, 0));
    assert_eq!(fs::read_to_string(root.join(SECRET)).unwrap(), "secret\n");
    assert!(!root.join("made").exists());
}
