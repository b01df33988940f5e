use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::mount::{MountAttributes, mount_detached};
use crate::resolve::open_path;
use crate::testing::{Filesystem, Scratch, name, needs_root, open, run};

#[test]
fn list_get_set_remove() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    for fd in [open(scratch.path("file")), open_path(scratch.fd(), Path::new("file")).unwrap()] {
        let fd = fd.as_fd();
        assert_eq!(get(fd, name("user.a")).unwrap(), None);
        set(fd, name("user.a"), b"one").unwrap();
        set(fd, name("user.a"), b"two\0\xff").unwrap();
        set(fd, name("user.empty"), b"").unwrap();
        set(fd, name("user.large"), &[7; 3000]).unwrap();
        let mut names = list(fd).unwrap();
        names.sort();
        assert_eq!(names, ["user.a", "user.empty", "user.large"]);
        assert_eq!(get(fd, name("user.a")).unwrap().unwrap(), b"two\0\xff");
        assert_eq!(get(fd, name("user.empty")).unwrap().unwrap(), b"");
        assert_eq!(get(fd, name("user.large")).unwrap().unwrap(), [7; 3000]);
        for name in names {
            assert!(remove(fd, &name).unwrap());
            assert!(!remove(fd, &name).unwrap());
        }
    }
}

#[test]
fn of_a_symbolic_link_itself() {
    needs_root!();
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    symlink("file", scratch.path("link")).unwrap();
    let link = open_path(scratch.fd(), Path::new("link")).unwrap();
    set(link.as_fd(), name("trusted.test"), b"link").unwrap();
    assert_eq!(list(link.as_fd()).unwrap(), ["trusted.test"]);
    assert!(list(open(scratch.path("file")).as_fd()).unwrap().is_empty());
}

#[test]
fn copies_everything_and_removes_what_was_inherited() {
    needs_root!();
    let fs = Filesystem::new("ext4");
    for file in ["from", "plain"] {
        std::fs::write(fs.path(file), "").unwrap();
    }
    let from = fs.path("from");
    run("setfacl", &["-m", "u:1234:r", from.to_str().unwrap()]);
    run("setcap", &["cap_net_raw=ep", from.to_str().unwrap()]);
    std::fs::create_dir(fs.path("dir")).unwrap();
    run("setfacl", &["-d", "-m", "u:99:rwx", fs.path("dir").to_str().unwrap()]);
    for file in ["dir/a", "dir/b"] {
        std::fs::write(fs.path(file), "").unwrap();
    }
    let (from, plain) = (open(from), open(fs.path("plain")));
    set(from.as_fd(), name("user.a"), b"1").unwrap();
    set(from.as_fd(), name("trusted.a"), b"2").unwrap();
    let (a, b) = (open(fs.path("dir/a")), open_path(fs.fd(), Path::new("dir/b")).unwrap());
    assert_eq!(list(a.as_fd()).unwrap(), [ACCESS_ACL]);

    copy_xattrs(from.as_fd(), a.as_fd()).unwrap();
    let sorted = |fd| {
        let mut names = list(fd).unwrap();
        names.sort();
        names
    };
    let names = sorted(from.as_fd());
    assert_eq!(names, ["security.capability", ACCESS_ACL, "trusted.a", "user.a"]);
    assert_eq!(sorted(a.as_fd()), names);
    for name in names {
        assert_eq!(get(a.as_fd(), &name).unwrap(), get(from.as_fd(), &name).unwrap());
    }

    copy_xattrs(plain.as_fd(), b.as_fd()).unwrap();
    assert!(list(b.as_fd()).unwrap().is_empty());
}

#[test]
fn a_target_that_can_not_store_them() {
    needs_root!();
    let fs = Filesystem::new("ext4");
    // ramfs has no extended attributes at all.
    let poor = mount_detached("ramfs", None, &[], MountAttributes::NONE).unwrap();
    let target = crate::file::create_file(poor.as_fd(), name("target"), 0o600).unwrap();
    for file in ["user", "acl", "capability"] {
        std::fs::write(fs.path(file), "").unwrap();
    }
    run("setfacl", &["-m", "u:1234:r", fs.path("acl").to_str().unwrap()]);
    run("setcap", &["cap_net_raw=ep", fs.path("capability").to_str().unwrap()]);
    set(open(fs.path("user")).as_fd(), name("user.a"), b"1").unwrap();

    copy_xattrs(open(fs.path("user")).as_fd(), target.as_fd()).unwrap();
    for file in ["acl", "capability"] {
        let error = copy_xattrs(open(fs.path(file)).as_fd(), target.as_fd()).unwrap_err();
        assert_eq!(error.errno(), Errno::OPNOTSUPP, "{error}");
    }
    assert!(list(target.as_fd()).unwrap().is_empty());
}

#[test]
fn all_attributes_in_order() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("file"), "").unwrap();
    let file = open_path(scratch.fd(), Path::new("file")).unwrap();
    assert_eq!(all(file.as_fd()).unwrap(), []);
    set(file.as_fd(), name("user.b"), b"2").unwrap();
    set(file.as_fd(), name("user.a"), b"").unwrap();
    let expected = [("user.a".into(), vec![]), ("user.b".into(), b"2".to_vec())];
    assert_eq!(all(file.as_fd()).unwrap(), expected);
}

#[test]
fn labels_are_what_decides_about_access_and_nothing_else() {
    needs_root!();
    let fs = Filesystem::new("ext4");
    for directory in ["model", "plain", "above"] {
        std::fs::create_dir(fs.path(directory)).unwrap();
    }
    let model = fs.path("model");
    run("setfacl", &["-m", "u:1234:rwx", "-m", "d:u:99:r", model.to_str().unwrap()]);
    let model = fs.open("model");
    set(model.as_fd(), name("security.selinux"), b"u:object_r:x_t:s0\0").unwrap();
    set(model.as_fd(), name("user.note"), b"mine").unwrap();
    set(model.as_fd(), name("trusted.note"), b"mine").unwrap();
    run("setfacl", &["-d", "-m", "u:77:rwx", fs.path("above").to_str().unwrap()]);
    std::fs::create_dir(fs.path("above/made")).unwrap();

    let made = fs.open("above/made");
    copy_labels(model.as_fd(), made.as_fd()).unwrap();
    let mut names = list(made.as_fd()).unwrap();
    names.sort();
    assert_eq!(names, ["security.selinux", ACCESS_ACL, DEFAULT_ACL]);
    for name in names {
        assert_eq!(get(made.as_fd(), &name).unwrap(), get(model.as_fd(), &name).unwrap());
    }
    // A model without any takes away what was inherited.
    copy_labels(fs.open("plain").as_fd(), made.as_fd()).unwrap();
    assert_eq!(list(made.as_fd()).unwrap(), ["security.selinux"]);
    // What can't be stored is left out: there is no boot without it.
    let tmpfs = mount_detached("tmpfs", None, &[("noswap", None)], MountAttributes::NONE)
        .or_else(|_| mount_detached("tmpfs", None, &[], MountAttributes::NONE))
        .unwrap();
    copy_labels(model.as_fd(), tmpfs.as_fd()).unwrap();
}

#[test]
fn a_new_file_is_labelled_like_its_model_and_a_label_that_it_has_stays() {
    needs_root!();
    let fs = Filesystem::new("ext4");
    let file = |file: &str| {
        std::fs::write(fs.path(file), "").unwrap();
        open(fs.path(file))
    };
    let (model, made) = (file("model"), file("made"));
    label_like(model.as_fd(), made.as_fd()).unwrap();
    assert_eq!(list(made.as_fd()).unwrap(), [] as [&str; 0]);
    set(model.as_fd(), name(SELINUX), b"u:object_r:x_t:s0\0").unwrap();
    label_like(model.as_fd(), made.as_fd()).unwrap();
    let label = |file: BorrowedFd<'_>| get(file, name(SELINUX)).unwrap();
    assert_eq!(label(made.as_fd()).unwrap(), b"u:object_r:x_t:s0\0");
    set(model.as_fd(), name(SELINUX), b"u:object_r:y_t:s0\0").unwrap();
    label_like(model.as_fd(), made.as_fd()).unwrap();
    assert_eq!(label(made.as_fd()).unwrap(), b"u:object_r:x_t:s0\0");
    std::os::unix::fs::symlink("nowhere", fs.path("link")).unwrap();
    let link = open_path(open(fs.path("")).as_fd(), Path::new("link")).unwrap();
    label_like(model.as_fd(), link.as_fd()).unwrap();
    assert_eq!(label(link.as_fd()).unwrap(), b"u:object_r:y_t:s0\0");
}

#[test]
fn a_file_that_is_replaced_keeps_its_label_and_a_new_one_has_that_of_its_directory() {
    needs_root!();
    let fs = Filesystem::new("ext4");
    let directory = open(fs.path(""));
    set(directory.as_fd(), name(SELINUX), b"u:object_r:etc_t:s0\0").unwrap();
    std::fs::write(fs.path("old"), "").unwrap();
    set(open(fs.path("old")).as_fd(), name(SELINUX), b"u:object_r:own_t:s0\0").unwrap();
    for (file, label) in [("old", "u:object_r:own_t:s0\0"), ("new", "u:object_r:etc_t:s0\0")] {
        crate::file::replace_file(directory.as_fd(), name(file), b"x", 0o644).unwrap();
        let found = get(open(fs.path(file)).as_fd(), name(SELINUX)).unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&found), label);
    }
}
