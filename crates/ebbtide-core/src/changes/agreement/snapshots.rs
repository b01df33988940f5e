//! Roots that are snapshots of their base.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_sys::btrfs;

use super::*;

/// A btrfs in a file, mounted in the namespace of this test.
struct Volume(tempfile::TempDir);

impl Volume {
    fn new() -> Self {
        let volume = Self(tempfile::tempdir().unwrap());
        let image = volume.0.path().join("image");
        File::create(&image).unwrap().set_len(512 << 20).unwrap();
        run("mkfs.btrfs", &[OsStr::new("-q"), image.as_os_str()]);
        fs::create_dir(volume.top()).unwrap();
        let options = ["-o", "loop,noatime"].map(OsStr::new);
        run("mount", &[options[0], options[1], image.as_os_str(), volume.top().as_os_str()]);
        volume
    }

    fn top(&self) -> PathBuf {
        self.0.path().join("top")
    }

    /// Makes a base, and a root of it.
    fn pair(&self, prepare: impl FnOnce(&Path)) -> Pair<'_> {
        let top = File::open(self.top()).unwrap();
        let pair = Pair { volume: self };
        pair.remove();
        btrfs::create_subvolume(top.as_fd(), OsStr::new("base")).unwrap();
        prepare(&self.top().join("base"));
        pair.without_subvolumes();
        let base = File::open(self.top().join("base")).unwrap();
        btrfs::set_read_only(base.as_fd(), true).unwrap();
        btrfs::snapshot(base.as_fd(), top.as_fd(), OsStr::new("root"), false).unwrap();
        pair
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        run("umount", &[self.top().as_os_str()]);
    }
}

fn run(program: &str, arguments: &[&OsStr]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program}");
}

struct Pair<'v> {
    volume: &'v Volume,
}

impl Pair<'_> {
    fn root(&self) -> PathBuf {
        self.volume.top().join("root")
    }

    fn remove(&self) {
        let top = File::open(self.volume.top()).unwrap();
        for name in ["root", "base"] {
            if self.volume.top().join(name).exists() {
                let _ = btrfs::set_read_only(
                    File::open(self.volume.top().join(name)).unwrap().as_fd(),
                    false,
                );
                btrfs::delete_subvolume_recursively(top.as_fd(), OsStr::new(name)).unwrap();
            }
        }
    }

    /// A base has none.
    fn without_subvolumes(&self) {
        let base = File::open(self.volume.top().join("base")).unwrap();
        ebbtide_sys::file::sync_filesystem(base.as_fd()).unwrap();
        for (_, path) in btrfs::nested_subvolumes(base.as_fd()).unwrap().iter().rev() {
            let path = self.volume.top().join("base").join(path);
            let parent = File::open(path.parent().unwrap()).unwrap();
            btrfs::delete_subvolume(parent.as_fd(), path.file_name().unwrap()).unwrap();
        }
    }

    fn fast(&self, kept: &Kept) -> Vec<Change> {
        let (root, base) = self.open();
        let [all, other, none] = [usize::MAX, 2, 0].map(|names| {
            let mut all = Vec::new();
            super::super::btrfs::within(root.as_fd(), base.as_fd(), kept, names, &mut |change| {
                all.push(change);
            })
            .unwrap_or_else(|it| panic!("{}", it.chain()));
            all
        });
        assert_eq!(all, other, "with few names remembered");
        assert_eq!(all, none, "with no name remembered");
        all.into_iter().map(|change| Change { when: None, ..change }).collect()
    }

    fn open(&self) -> (File, File) {
        let open = |name: &str| File::open(self.volume.top().join(name)).unwrap();
        (open("root"), open("base"))
    }
}

#[test]
fn what_btrfs_marked_is_the_change() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    histories(400, |before, after, kept| {
        let pair = volume.pair(|base| {
            skeleton(base);
            for step in before {
                step.attempt(base);
            }
        });
        for step in after {
            step.attempt(&pair.root());
        }
        let (root, base) = pair.open();
        agree(pair.fast(kept), root.as_fd(), base.as_fd(), kept)
    });
}

#[test]
fn a_name_of_many_and_a_place_in_the_depth_are_found() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let pair = volume.pair(|base| {
        fs::write(base.join("many"), "x").unwrap();
        fs::create_dir_all(base.join("a/b/c/d")).unwrap();
        for number in 0..2000 {
            let directory = base.join(format!("a/{}", number % 3));
            fs::create_dir_all(&directory).unwrap();
            fs::hard_link(base.join("many"), directory.join(format!("{number:0200}"))).unwrap();
        }
    });
    fs::write(pair.root().join("many"), "other").unwrap();
    fs::write(pair.root().join("a/b/c/d/new"), "").unwrap();
    let changes = pair.fast(&Kept::default());
    let (root, base) = pair.open();
    assert_eq!(agree(changes, root.as_fd(), base.as_fd(), &Kept::default()).unwrap().len(), 2002);
}

#[test]
fn wide_and_deep_trees_are_shared_in_order() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let leaves = |top: &Path| -> Vec<PathBuf> {
        let wide = (0..40).flat_map(|a| (0..8).map(move |b| format!("wide/{a}/{b}")));
        let deep = (0..40).map(|depth| format!("deep{}", "/and-deeper".repeat(4 * depth)));
        wide.chain(deep).map(|path| top.join(path)).collect()
    };
    let mode = rustix::fs::Mode::RUSR;
    let pair = volume.pair(|base| {
        for leaf in leaves(base) {
            fs::create_dir_all(&leaf).unwrap();
            for name in 0..6 {
                fs::write(leaf.join(name.to_string()), "x").unwrap();
            }
        }
        let device = rustix::fs::makedev(4095, 0xf_fffe);
        let kind = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, base.join("node"), kind, mode, device).unwrap();
    });
    for (index, leaf) in leaves(&pair.root()).into_iter().enumerate() {
        match index % 5 {
            0 => fs::write(leaf.join("0"), "longer").unwrap(),
            1 => fs::write(leaf.join("1"), "y").unwrap(),
            2 => fs::write(leaf.join("new"), "").unwrap(),
            3 => fs::remove_file(leaf.join("3")).unwrap(),
            _ => {}
        }
    }
    let mode = mode | rustix::fs::Mode::WOTH;
    let flags = rustix::fs::AtFlags::empty();
    rustix::fs::chmodat(rustix::fs::CWD, pair.root().join("node"), mode, flags).unwrap();
    let (root, base) = pair.open();
    for _ in 0..10 {
        let changes = pair.fast(&Kept::default());
        let changes = agree(changes, root.as_fd(), base.as_fd(), &Kept::default()).unwrap();
        assert_eq!(changes.len(), 360 / 5 * 4 + 1);
        let node = changes.iter().find(|change| change.path == Path::new("/node")).unwrap();
        assert_eq!(node.what, What::Metadata);
    }
}

/// Inode numbers of another subvolume mean other inodes.
#[test]
fn a_nested_subvolume_is_new_with_all_that_is_in_it() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let pair = volume.pair(|base| {
        for name in ["a", "b", "c"] {
            fs::create_dir(base.join(name)).unwrap();
        }
    });
    let (root, base) = pair.open();
    btrfs::create_subvolume(root.as_fd(), OsStr::new("nested")).unwrap();
    for name in ["d", "e", "f"] {
        fs::create_dir(pair.root().join("nested").join(name)).unwrap();
    }
    for name in ["a", "b", "c"] {
        fs::rename(pair.root().join(name), pair.root().join(name).with_extension("new")).unwrap();
    }
    let changes = pair.fast(&Kept::default());
    let added = changes.iter().filter(|change| change.what == What::Added);
    let added: Vec<_> = added.map(|change| change.path.to_str().unwrap()).collect();
    assert_eq!(added, ["/nested", "/nested/d", "/nested/e", "/nested/f"]);
    agree(changes, root.as_fd(), base.as_fd(), &Kept::default()).unwrap();
}

#[test]
fn a_base_that_was_written_to_after_all_is_compared_file_by_file() {
    if !can_mount() {
        return;
    }
    let volume = Volume::new();
    let pair = volume.pair(|base| fs::write(base.join("file"), "before").unwrap());
    let (_, base) = pair.open();
    btrfs::set_read_only(base.as_fd(), false).unwrap();
    fs::write(volume.top().join("base/file"), "later!").unwrap();
    ebbtide_sys::file::sync_filesystem(base.as_fd()).unwrap();
    btrfs::set_read_only(base.as_fd(), true).unwrap();
    let changes = pair.fast(&Kept::default());
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(changes[0].what, What::Changed);
}
