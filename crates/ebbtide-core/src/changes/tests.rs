//! Cases by name, and how changes are told in few lines.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ebbtide_sys::xattr;

use super::agreement::{Overlay, can_mount};
use super::*;

/// The changes of an overlay, one on a line.
fn lines(overlay: &Overlay, kept: &[&str]) -> String {
    let kept = kept.iter().map(Path::new).collect();
    let mut text = String::new();
    for change in overlay.fast(&kept) {
        let from = match &change.what {
            What::Renamed { from } => format!(" from {}", shown(from)),
            _ => String::new(),
        };
        let (what, path) = (change.what.name(), shown(&change.path));
        writeln!(text, "{what} {path} {:?} {}{from}", change.kind, change.bytes).unwrap();
    }
    text
}

fn installed(base: &Path) {
    for directory in ["etc/app", "var/lib/app/cache", "var/log", "home"] {
        fs::create_dir_all(base.join(directory)).unwrap();
    }
    for file in ["etc/hosts", "etc/app/conf", "var/lib/app/db", "var/lib/app/cache/1", "var/log/a"]
    {
        fs::write(base.join(file), "of the base\n").unwrap();
    }
}

#[test]
fn each_sort_of_change() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    let root = overlay.root();
    fs::write(root.join("etc/hosts"), "other bytes\n").unwrap();
    fs::write(root.join("etc/new"), "12345").unwrap();
    fs::create_dir(root.join("etc/new.d")).unwrap();
    fs::remove_file(root.join("var/log/a")).unwrap();
    fs::set_permissions(root.join("etc/app"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(root.join("var/lib/app"), root.join("var/lib/moved")).unwrap();
    fs::write(root.join("var/lib/moved/db"), "longer than it was\n").unwrap();
    fs::remove_dir(root.join("home")).unwrap();
    fs::write(root.join("home"), "not a directory").unwrap();
    insta::assert_snapshot!(lines(&overlay, &[]), @r"
    metadata /etc/app Directory 0
    changed /etc/hosts Regular 12
    added /etc/new Regular 5
    added /etc/new.d Directory 0
    deleted /home Directory 0
    added /home Regular 15
    deleted /var/lib/app Directory 0
    renamed /var/lib/moved Directory 0 from /var/lib/app
    deleted /var/log/a Regular 0
    changed /var/lib/moved/db Regular 19
    ");
}

#[test]
fn many_changes_in_one_directory() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(|base| {
        fs::create_dir_all(base.join("many/inner")).unwrap();
        (0..30).for_each(|it| fs::write(base.join(format!("many/{it:02}")), "12345").unwrap());
    });
    let many = overlay.root().join("many");
    let mut expected = Vec::new();
    for it in 0..40 {
        let path = many.join(format!("{it:02}"));
        match it {
            0..5 => fs::remove_file(path).unwrap(),
            5..10 => continue,
            10..15 => fs::write(path, "54321").unwrap(),
            _ => fs::write(path, "1").unwrap(),
        }
        expected.push(match it {
            0..5 => format!("deleted /many/{it:02} Regular 0\n"),
            10..15 => format!("changed /many/{it:02} Regular 5\n"),
            15..30 => format!("changed /many/{it:02} Regular 1\n"),
            _ => format!("added /many/{it:02} Regular 1\n"),
        });
    }
    fs::write(many.join("inner/new"), "").unwrap();
    expected.push("added /many/inner/new Regular 0\n".to_owned());
    assert_eq!(lines(&overlay, &[]), expected.concat());
}

#[test]
fn every_difference_of_a_file_counts() {
    if !can_mount() {
        return;
    }
    let acl = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x07\0\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let set = |path: &Path, name: &str, value: &[u8]| {
        let file = fs::File::open(path).unwrap();
        xattr::set(file.as_fd(), OsStr::new(name), value).unwrap();
    };
    let device = |path: &Path, number: u32| {
        let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::RUSR);
        let device = rustix::fs::makedev(1, number);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device).unwrap();
    };
    let overlay = Overlay::new(|base| {
        for name in ["acl", "bytes", "group", "label", "mode", "no-label", "owner", "size"] {
            fs::write(base.join(name), "12").unwrap();
        }
        set(&base.join("label"), "trusted.test", b"a");
        set(&base.join("no-label"), "trusted.test", b"");
        std::os::unix::fs::symlink("a", base.join("link")).unwrap();
        device(&base.join("device"), 3);
    });
    let root = overlay.root();
    let owner = |name: &str, uid, gid| std::os::unix::fs::chown(root.join(name), uid, gid).unwrap();
    owner("owner", Some(7), None);
    owner("group", None, Some(7));
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o4644)).unwrap();
    set(&root.join("acl"), "system.posix_acl_access", acl);
    fs::set_permissions(root.join("acl"), fs::Permissions::from_mode(0o644)).unwrap();
    set(&root.join("label"), "trusted.test", b"b");
    let file = fs::File::open(root.join("no-label")).unwrap();
    xattr::remove(file.as_fd(), OsStr::new("trusted.test")).unwrap();
    fs::write(root.join("bytes"), "13").unwrap();
    fs::write(root.join("size"), "1").unwrap();
    fs::remove_file(root.join("link")).unwrap();
    std::os::unix::fs::symlink("b", root.join("link")).unwrap();
    fs::remove_file(root.join("device")).unwrap();
    device(&root.join("device"), 5);
    insta::assert_snapshot!(lines(&overlay, &[]), @r"
    metadata /acl Regular 0
    changed /bytes Regular 2
    changed /device CharDevice 0
    metadata /group Regular 0
    metadata /label Regular 0
    changed /link Symlink 0
    metadata /mode Regular 0
    metadata /no-label Regular 0
    metadata /owner Regular 0
    changed /size Regular 1
    ");
}

#[test]
fn what_was_only_touched_is_no_change() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    let root = overlay.root();
    let mode = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    for path in ["etc/hosts", "var/lib/app"] {
        let before = fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        mode(path, 0o711);
        mode(path, before);
    }
    fs::write(root.join("etc/app/conf"), "of the base\n").unwrap();
    fs::File::open(root.join("var/log/a")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    fs::write(root.join("var/lib/app/temporary"), "").unwrap();
    fs::remove_file(root.join("var/lib/app/temporary")).unwrap();
    assert_eq!(lines(&overlay, &[]), "");
    // They are in the upper directory all the same.
    let upper = |path: &str| {
        ebbtide_sys::metadata::metadata_beneath(overlay.upper.as_fd(), Path::new(path)).unwrap()
    };
    for path in ["etc/hosts", "var/lib/app", "etc/app/conf", "var/log/a"] {
        assert!(upper(path).is_some(), "{path}");
    }
}

#[test]
fn what_is_made_anew_is_compared_with_what_was_there() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    let root = overlay.root();
    fs::remove_dir_all(root.join("var/lib/app")).unwrap();
    fs::create_dir_all(root.join("var/lib/app/cache")).unwrap();
    fs::write(root.join("var/lib/app/db"), "of the base\n").unwrap();
    insta::assert_snapshot!(lines(&overlay, &[]), @"deleted /var/lib/app/cache/1 Regular 0");
}

#[test]
fn entries_and_the_way_to_them_are_no_changes() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    let root = overlay.root();
    for directory in ["srv/data/kept/deep", "var/lib/app/kept", "opt"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::write(root.join("srv/data/kept/file"), "").unwrap();
    fs::write(root.join("etc/machine-id"), "0").unwrap();
    fs::remove_file(root.join("etc/hosts")).unwrap();
    let kept = ["/srv/data/kept", "/var/lib/app/kept", "/etc/machine-id", "/etc/hosts"];
    insta::assert_snapshot!(lines(&overlay, &kept), @"added /opt Directory 0");
    assert_eq!(lines(&overlay, &[""]), "", "all of it is kept");
    // What is new beside an entry, is new; and so is what only looks like one.
    fs::write(root.join("srv/data/kept2"), "").unwrap();
    fs::write(root.join("opt/kept"), "").unwrap();
    insta::assert_snapshot!(lines(&overlay, &[&kept[..], &["/opt/kept/below"]].concat()), @r"
    added /opt/kept Regular 0
    added /srv/data/kept2 Regular 0
    ");
}

#[test]
fn renamed_and_back_again_is_where_it_was() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    let path = |path: &str| overlay.root().join(path);
    fs::rename(path("var/lib/app"), path("var/elsewhere")).unwrap();
    fs::rename(path("var/elsewhere"), path("var/lib/app")).unwrap();
    assert_eq!(lines(&overlay, &[]), "");
    // Also where the directory above has been made anew meanwhile.
    fs::rename(path("var/lib/app"), path("var/elsewhere")).unwrap();
    fs::remove_dir(path("var/lib")).unwrap();
    fs::create_dir(path("var/lib")).unwrap();
    fs::rename(path("var/elsewhere"), path("var/lib/app")).unwrap();
    assert_eq!(lines(&overlay, &[]), "");
    fs::remove_file(path("var/lib/app/db")).unwrap();
    assert_eq!(lines(&overlay, &[]), "deleted /var/lib/app/db Regular 0\n");
}

#[test]
fn renames_inside_a_renamed_directory() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    let path = |path: &str| overlay.root().join(path);
    fs::rename(path("var/lib/app"), path("var/lib/new")).unwrap();
    fs::rename(path("var/lib/new/cache"), path("var/lib/new/cache.old")).unwrap();
    fs::create_dir(path("srv")).unwrap();
    fs::rename(path("var/lib/new"), path("srv/new")).unwrap();
    fs::write(path("srv/new/cache.old/1"), "").unwrap();
    insta::assert_snapshot!(lines(&overlay, &[]), @r"
    added /srv Directory 0
    renamed /srv/new Directory 0 from /var/lib/app
    deleted /var/lib/app Directory 0
    deleted /srv/new/cache Directory 0
    renamed /srv/new/cache.old Directory 0 from /var/lib/app/cache
    changed /srv/new/cache.old/1 Regular 0
    ");
}

#[test]
fn whiteouts_that_are_files() {
    if !can_mount() {
        return;
    }
    // As composefs and others make them; this kernel need not know them.
    let overlay = Overlay::new(installed);
    let upper =
        PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&overlay.upper)));
    let note = |path: &str, name: &str, value: &[u8]| {
        let opened = ebbtide_sys::resolve::open_path(overlay.upper.as_fd(), Path::new(path));
        xattr::set(opened.unwrap().as_fd(), OsStr::new(name), value).unwrap();
    };
    for directory in ["etc", "var/log"] {
        fs::create_dir_all(upper.join(directory)).unwrap();
    }
    for path in ["etc/hosts", "etc/empty", "var/log/a"] {
        fs::write(upper.join(path), "").unwrap();
    }
    note("etc", "trusted.overlay.opaque", b"x");
    note("etc/hosts", "trusted.overlay.whiteout", b"");
    // Without the mark on the directory, it is a file.
    note("var/log/a", "trusted.overlay.whiteout", b"");
    insta::assert_snapshot!(lines(&overlay, &[]), @r"
    added /etc/empty Regular 0
    deleted /etc/hosts Regular 0
    changed /var/log/a Regular 0
    ");
}

#[test]
fn a_file_without_its_content_is_refused() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    fs::set_permissions(overlay.root().join("etc/hosts"), fs::Permissions::from_mode(0o600))
        .unwrap();
    let hosts = ebbtide_sys::resolve::open_beneath(
        overlay.upper.as_fd(),
        Path::new("etc/hosts"),
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::TRUNC,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    rustix::fs::ftruncate(&hosts, 12).unwrap();
    xattr::set(hosts.as_fd(), OsStr::new("trusted.overlay.metacopy"), b"").unwrap();
    let visited =
        overlay_each(overlay.upper.as_fd(), overlay.base.as_fd(), &Kept::default(), &mut |_| ());
    let failure = visited.unwrap_err();
    assert_eq!(failure.chain(), "/etc/hosts has its content in another layer");
    assert!(failure.advice().unwrap().contains("metacopy"));
}

#[test]
fn a_mount_on_the_base_is_refused() {
    if !can_mount() {
        return;
    }
    let overlay = Overlay::new(installed);
    fs::write(overlay.root().join("var/log/a"), "").unwrap();
    let log = ebbtide_sys::resolve::open_directory(overlay.base.as_fd(), Path::new("var/log"));
    let options = ebbtide_sys::mount::MountAttributes::NONE;
    let other = ebbtide_sys::mount::mount_detached("tmpfs", None, &[], options).unwrap();
    ebbtide_sys::mount::attach(other.as_fd(), log.unwrap().as_fd()).unwrap();
    let failure =
        super::overlay(overlay.upper.as_fd(), overlay.base.as_fd(), &Kept::default()).unwrap_err();
    assert_eq!(failure.chain(), "something is mounted on the base at /var/log");
}

/// More directories than are kept open at a time.
const DEEP: usize = 150;

#[test]
fn deep_trees_and_long_paths() {
    if !can_mount() {
        return;
    }
    let go_down = |top: &Path, make: bool| {
        let mut at = fs::File::open(top).unwrap();
        for _ in 0..DEEP {
            let name = "d".repeat(60);
            let mode = rustix::fs::Mode::RWXU;
            if make {
                rustix::fs::mkdirat(&at, &name, mode).unwrap();
            }
            let flags = rustix::fs::OFlags::DIRECTORY;
            let next = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
            at = next.into();
        }
        at
    };
    let overlay = Overlay::new(|base| drop(go_down(base, true)));
    let bottom = go_down(&overlay.root(), false);
    let mode = rustix::fs::Mode::RUSR;
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    rustix::fs::openat(&bottom, "new", flags, mode).unwrap();
    let found = overlay.fast(&Kept::default());
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].path.iter().count(), DEEP + 2);
    assert!(found[0].path.as_os_str().len() > 4096);
    let kept = Kept::default();
    let changes = super::overlay(overlay.upper.as_fd(), overlay.base.as_fd(), &kept).unwrap();
    assert_eq!(changes.total().added, 1);
    assert_eq!(changes.summary(5, Order::Biggest).groups.len(), 1);
}

/// Changes without a filesystem.
fn made(all: &[(&str, What, FileKind, u64, i64)]) -> Changes {
    let mut changes = Changes::default();
    for (path, what, kind, bytes, when) in all {
        let path = PathBuf::from(OsStr::from_bytes(path.as_bytes()));
        let when = Some((*when, 0));
        changes.add(&Change { path, what: what.clone(), kind: *kind, bytes: *bytes, when });
    }
    changes
}

fn told(changes: &Changes, limit: usize, order: Order) -> String {
    let summary = changes.summary(limit, order);
    let mut sum: u64 = summary.groups.iter().map(|group| group.tally.count()).sum();
    let mut bytes: u64 = summary.groups.iter().map(|group| group.tally.bytes).sum();
    sum += summary.more.map_or(0, |more| more.tally.count());
    bytes += summary.more.map_or(0, |more| more.tally.bytes);
    assert_eq!((sum, bytes), (summary.total.count(), summary.total.bytes));
    let mut text = String::new();
    for group in &summary.groups {
        let below = if group.below { "/*" } else { "" };
        let change = group.change.unwrap_or("-");
        let tally = (group.tally.count(), group.tally.bytes);
        writeln!(text, "{}{below} {change} {tally:?}", shown(&group.path)).unwrap();
    }
    if let Some(more) = summary.more {
        let tally = (more.tally.count(), more.tally.bytes);
        writeln!(text, "and {} more {tally:?}", more.groups).unwrap();
    }
    text
}

fn many() -> Changes {
    use FileKind::{Directory, Regular};
    let mut changes = made(&[
        ("/etc/hosts", What::Changed, Regular, 300, 9),
        ("/etc/motd", What::Deleted, Regular, 0, 0),
        ("/home/alice", What::Added, Directory, 0, 1),
        ("/home/alice/.cache", What::Added, Directory, 0, 1),
        ("/home/alice/letter", What::Added, Regular, 4000, 2),
        ("/srv/new", What::Renamed { from: "/srv/old".into() }, Directory, 0, 3),
        ("/srv/old", What::Deleted, Directory, 0, 0),
        ("/srv/new/a", What::Changed, Regular, 10, 4),
    ]);
    for number in 0..100 {
        let path = format!("/home/alice/.cache/{number}");
        let (what, kind) = (What::Added, Regular);
        changes.add(&Change { path: path.into(), what, kind, bytes: 1000, when: Some((5, 0)) });
    }
    changes
}

#[test]
fn the_biggest_directories_are_told_apart() {
    let changes = many();
    assert_eq!(changes.total().count(), 106);
    insta::assert_snapshot!(told(&changes, 1, Order::Biggest), @r"
    /home/alice/* - (101, 104000)
    and 2 more (5, 310)
    ");
    insta::assert_snapshot!(told(&changes, 5, Order::Biggest), @r"
    /home/alice/.cache/* - (100, 100000)
    /home/alice/letter added (1, 4000)
    /etc/hosts changed (1, 300)
    /srv/* - (3, 10)
    /etc/motd deleted (1, 0)
    ");
    insta::assert_snapshot!(told(&changes, 9, Order::Newest), @r"
    /etc/hosts changed (1, 300)
    /home/alice/.cache/* - (100, 100000)
    /srv/new/a changed (1, 10)
    /srv/new renamed (1, 0)
    /home/alice/letter added (1, 4000)
    /etc/motd deleted (1, 0)
    /srv/old deleted (1, 0)
    ");
    let json = serde_json::to_string_pretty(&changes.summary(2, Order::Biggest)).unwrap();
    insta::assert_snapshot!(json, @r#"
    {
      "version": 1,
      "total": {
        "added": 101,
        "changed": 2,
        "deleted": 2,
        "metadata": 0,
        "renamed": 1,
        "bytes": 104310,
        "newest": 9
      },
      "groups": [
        {
          "path": "/home/alice",
          "directory": true,
          "below": true,
          "change": null,
          "added": 101,
          "changed": 0,
          "deleted": 0,
          "metadata": 0,
          "renamed": 0,
          "bytes": 104000,
          "newest": 5
        },
        {
          "path": "/etc",
          "directory": true,
          "below": true,
          "change": null,
          "added": 0,
          "changed": 1,
          "deleted": 1,
          "metadata": 0,
          "renamed": 0,
          "bytes": 300,
          "newest": 9
        }
      ],
      "more": {
        "groups": 1,
        "added": 0,
        "changed": 1,
        "deleted": 1,
        "metadata": 0,
        "renamed": 1,
        "bytes": 10,
        "newest": 4
      }
    }
    "#);
}

#[test]
fn nothing_is_told_of_nothing() {
    let changes = Changes::default();
    assert!(changes.is_empty());
    let summary = changes.summary(10, Order::Biggest);
    assert!(summary.groups.is_empty() && summary.more.is_none());
}

#[test]
fn what_is_not_remembered_is_counted() {
    let mut changes = Changes::default();
    let mut bytes = 0;
    for number in 0..60_000_u64 {
        let directory = format!("/var/{}/{}", number / 10_000, number / 100);
        let add = |changes: &mut Changes, path: String, kind, bytes| {
            let path = PathBuf::from(path);
            changes.add(&Change { path, what: What::Added, kind, bytes, when: None });
        };
        if number % 100 == 0 {
            add(&mut changes, directory.clone(), FileKind::Directory, 0);
        }
        bytes += number;
        add(&mut changes, format!("{directory}/{number}"), FileKind::Regular, number);
    }
    assert_eq!((changes.total().added, changes.total().bytes), (60_000, bytes));
    let text = told(&changes, 6, Order::Biggest);
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(text.starts_with("/var/5/* - (10000, "), "{text}");
}

proptest::proptest! {
    #[test]
    fn every_summary_adds_up(
        paths in proptest::collection::vec(("(/[abc]){1,5}", 0..5_u64, 0..4_usize), 0..60),
        limit in 1..20_usize,
    ) {
        let what = [What::Added, What::Changed, What::Deleted, What::Metadata];
        let mut changes = Changes::default();
        for (path, bytes, index) in paths {
            let what = what[index].clone();
            let (path, kind) = (PathBuf::from(path), FileKind::Regular);
            changes.add(&Change { path, what, kind, bytes, when: None });
        }
        for order in [Order::Biggest, Order::Newest] {
            told(&changes, limit, order);
            assert!(changes.summary(limit, order).groups.len() <= limit);
        }
    }
}
