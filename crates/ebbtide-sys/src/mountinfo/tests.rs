use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;

use super::*;

#[test]
fn the_lines_of_the_manual_and_worse() {
    let content =
        b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
        22 1 0:21 / /a\\040b\\011\\012\\134 rw - tmpfs none rw,size=1k\n\
        23 1 0:22 /@ / ro,relatime shared:7 propagate_from:2 - btrfs /dev/sda ro,subvol=/@\\054x\n\
        24 1 0:23 /\xff /\xfe\xff rw shared:1 master:2 unbindable - fuse.x\\040y  rw\n\
        25 1 0:24 / /m rw - autofs  \n\
        26 1 0:24 / /- rw - proc - rw\n";
    let entries = parse(content).unwrap();
    assert_eq!(
        entries[0],
        MountEntry {
            id: 36,
            parent: 35,
            device: (98, 0),
            root: "/mnt1".into(),
            mount_point: "/mnt2".into(),
            options: b"rw,noatime".to_vec(),
            peer_group: None,
            master: Some(1),
            fstype: "ext3".to_owned(),
            source: "/dev/root".into(),
            super_options: b"rw,errors=continue".to_vec(),
        }
    );
    assert_eq!(entries[1].mount_point, Path::new("/a b\t\n\\"));
    assert_eq!(entries[2].peer_group, Some(7));
    assert_eq!(entries[2].super_option("subvol").unwrap(), b"/@,x");
    assert_eq!(entries[3].root.as_os_str().as_bytes(), b"/\xff");
    assert_eq!(entries[3].mount_point.as_os_str().as_bytes(), b"/\xfe\xff");
    assert_eq!((entries[3].peer_group, entries[3].master), (Some(1), Some(2)));
    assert_eq!(entries[3].fstype, "fuse.x y");
    assert_eq!(entries[3].source, "");
    assert_eq!(
        (entries[4].source.as_os_str(), &entries[4].super_options[..]),
        (OsStr::new(""), &b""[..])
    );
    assert_eq!(
        (entries[5].mount_point.as_path(), &entries[5].source),
        (Path::new("/-"), &"-".into())
    );
}

#[test]
fn malformed_lines_are_named() {
    let good = "1 0 0:1 / / rw - tmpfs none rw";
    let cases = [
        "x 0 0:1 / / rw - tmpfs none rw",
        "1 0 0 / / rw - tmpfs none rw",
        "1 0 0:y / / rw - tmpfs none rw",
        "-1 0 0:1 / / rw - tmpfs none rw",
        "1 0 0:1 / / rw shared:1",
        "1 0 0:1 / / rw shared:x - tmpfs none rw",
        "1 0 0:1 / / rw - tmpfs",
        "1 0 0:1",
        " ",
    ];
    for bad in cases {
        let content = format!("{good}\n{good}\n{bad}\n{good}\n");
        assert_eq!(parse(content.as_bytes()), Err(ParseError { line: 3 }), "{bad}");
    }
    assert_eq!(parse(b""), Ok(vec![]));
    assert_eq!(parse(good.as_bytes()).unwrap().len(), 1);
    assert_eq!(ParseError { line: 3 }.to_string(), "line 3 of mountinfo is malformed");
}

#[test]
fn options_of_the_mount_and_of_the_filesystem() {
    let read_only = |line: &str| parse(line.as_bytes()).unwrap()[0].is_read_only();
    assert!(read_only("1 0 0:1 / / ro,nosuid - tmpfs none rw"));
    assert!(read_only("1 0 0:1 / / rw - tmpfs none ro,size=1"));
    assert!(!read_only("1 0 0:1 / / rw,nosuid - tmpfs none rw,error=ro"));
    let entry = &parse(b"1 0 0:1 / / rw,nosuid - tmpfs none rw,size=1").unwrap()[0];
    assert!(entry.has_option("nosuid") && !entry.has_option("nodev"));
    assert_eq!(entry.super_option("size").unwrap(), b"1");
    assert_eq!(entry.super_option("rw").unwrap(), b"");
    assert_eq!(entry.super_option("siz"), None);
}

#[test]
fn this_namespace() {
    let mounts = read_self().unwrap();
    assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
    assert!(mounts.iter().any(|mount| mount.fstype == "proc"));
}

/// Escapes as the kernel does.
fn mangle(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in bytes {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend(format!("\\{byte:03o}").bytes()),
            _ => out.push(*byte),
        }
    }
    out
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
        let _ = parse(&bytes);
    }

    #[test]
    fn what_the_kernel_writes_is_read_back(
        id: u32, parent: u32, device: (u32, u32),
        root in proptest::collection::vec(1_u8.., 0..20),
        point in proptest::collection::vec(1_u8.., 0..20),
        source in proptest::collection::vec(1_u8.., 0..20),
        shared: Option<u32>,
    ) {
        let mut line = format!("{id} {parent} {}:{} /", device.0, device.1).into_bytes();
        line.extend(mangle(&root));
        line.extend(b" /");
        line.extend(mangle(&point));
        line.extend(b" rw,noatime ");
        if let Some(group) = shared {
            line.extend(format!("shared:{group} ").bytes());
        }
        line.extend(b"- btrfs ");
        line.extend(mangle(&source));
        line.extend(b" rw,subvolid=5\n");
        let entries = parse(&line).unwrap();
        let entry = &entries[0];
        prop_assert_eq!((entry.id, entry.parent, entry.device), (id, parent, device));
        prop_assert_eq!(&entry.root.as_os_str().as_bytes()[1..], root);
        prop_assert_eq!(&entry.mount_point.as_os_str().as_bytes()[1..], point);
        prop_assert_eq!(entry.source.as_bytes(), source);
        prop_assert_eq!(entry.peer_group, shared);
    }
}
