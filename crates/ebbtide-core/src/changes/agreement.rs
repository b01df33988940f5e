//! The fast way and the obvious one find the same, on real overlays with random histories.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{MountAttributes, attach, mount_detached};
use ebbtide_sys::{mount, resolve, xattr};
use proptest::prelude::*;

use super::*;

/// An overlay over a plain base, with both layers in RAM.
pub(super) struct Overlay {
    place: tempfile::TempDir,
    _layers: OwnedFd,
    pub(super) base: OwnedFd,
    pub(super) upper: OwnedFd,
    pub(super) merged: OwnedFd,
}

/// Whether this can be tested here; says so if not. Mounts of the test go with its thread.
pub(super) fn can_mount() -> bool {
    if rustix::process::geteuid().is_root() {
        mount::enter_private_mount_namespace().unwrap();
        return true;
    }
    eprintln!("SKIPPED: needs root for mounts");
    false
}

impl Drop for Overlay {
    fn drop(&mut self) {
        mount::unmount(self.place.path(), true).unwrap();
    }
}

impl Overlay {
    /// Mounts one, after `prepare` has filled the base.
    pub(super) fn new(prepare: impl FnOnce(&Path)) -> Self {
        let place = tempfile::tempdir().unwrap();
        let layers = mount_detached("tmpfs", None, &[], MountAttributes::NONE).unwrap();
        // Linux 6.1 takes layers from mounts that have a place only.
        attach(layers.as_fd(), fs::File::open(place.path()).unwrap().as_fd()).unwrap();
        let path = |name: &str| place.path().join(name);
        for name in ["base", "upper", "work"] {
            fs::create_dir(path(name)).unwrap();
        }
        prepare(&path("base"));
        let options = [
            ("lowerdir", path("base")),
            ("upperdir", path("upper")),
            ("workdir", path("work")),
            ("index", "off".into()),
            ("metacopy", "off".into()),
            ("redirect_dir", "on".into()),
            ("xino", "on".into()),
        ];
        let options = options.each_ref().map(|(name, value)| (*name, value.to_str()));
        let merged = mount_detached("overlay", None, &options, MountAttributes::NONE).unwrap();
        let open = |name: &str| fs::File::open(path(name)).unwrap().into();
        let (base, upper) = (open("base"), open("upper"));
        Self { place, _layers: layers, base, upper, merged }
    }

    /// The merged root, as a path for this process.
    pub(super) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.merged.as_raw_fd()))
    }

    pub(super) fn fast(&self, kept: &Kept) -> Vec<Change> {
        let mut all = Vec::new();
        let mut visit = |change| all.push(Change { when: None, ..change });
        overlay_each(self.upper.as_fd(), self.base.as_fd(), kept, &mut visit)
            .unwrap_or_else(|it| panic!("{}", it.chain()));
        all
    }

    fn slow_below(&self, path: &Path, from: &Path, kept: Option<&Kept>) -> Vec<Change> {
        let mut all = Vec::new();
        let mut visit = |change| all.push(Change { when: None, ..change });
        let root = resolve::open_directory(self.merged.as_fd(), path).unwrap();
        let base = resolve::open_directory(self.base.as_fd(), from).unwrap();
        reference::below(root.as_fd(), base.as_fd(), path, kept, &mut visit)
            .unwrap_or_else(|it| panic!("{}", it.chain()));
        all
    }

    /// Checks that both ways agree, below each directory that was renamed for itself.
    fn agrees(&self, kept: &Kept) -> std::result::Result<Vec<Change>, TestCaseError> {
        let fast = self.fast(kept);
        let mut tops = vec![(PathBuf::from("/"), PathBuf::from("/"))];
        tops.extend(fast.iter().filter_map(|change| match &change.what {
            What::Renamed { from } => Some((change.path.clone(), from.clone())),
            _ => None,
        }));
        for (top, from) in &tops {
            let elsewhere = |path: &Path| {
                path == top
                    || tops
                        .iter()
                        .any(|(it, _)| it != top && it.starts_with(top) && path.starts_with(it))
            };
            let of_top =
                |change: &&Change| change.path.starts_with(top) && !elsewhere(&change.path);
            let got: Vec<_> = fast.iter().filter(of_top).cloned().collect();
            let kept = top.iter().skip(1).try_fold(kept, |kept, name| kept.get(name));
            let mut expected = self.slow_below(top, from, kept);
            expected.retain(|change| of_top(&change));
            prop_assert_eq!(&got, &expected, "below {:?}, in the base {:?}", top, from);
        }
        Ok(fast)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Mkdir(PathBuf),
    Write(PathBuf, u8, u16),
    Append(PathBuf),
    Truncate(PathBuf),
    Sparse(PathBuf),
    /// Only what makes the kernel copy it up.
    Open(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    Exchange(PathBuf, PathBuf),
    Link(PathBuf, PathBuf),
    Symlink(PathBuf, u8),
    Fifo(PathBuf),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32),
    Touch(PathBuf),
    Attribute(PathBuf, u8),
    NoAttribute(PathBuf),
}

impl Step {
    /// Tries it; what is impossible is no step.
    fn attempt(&self, root: &Path) {
        let _ = self.run(root);
    }

    fn run(&self, root: &Path) -> std::io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        let open = |path: &PathBuf| {
            if !fs::symlink_metadata(at(path))?.is_file() {
                return Err(std::io::ErrorKind::Unsupported.into());
            }
            fs::OpenOptions::new().write(true).open(at(path))
        };
        let itself = |path: &PathBuf| -> std::io::Result<OwnedFd> {
            let top = fs::File::open(root)?;
            resolve::open_path(top.as_fd(), path).map_err(|error| error.errno().into())
        };
        let no_link = |path: &PathBuf| {
            if fs::symlink_metadata(at(path))?.is_symlink() {
                return Err(std::io::Error::from(std::io::ErrorKind::Unsupported));
            }
            Ok(())
        };
        match self {
            Self::Mkdir(path) => fs::create_dir(at(path)),
            Self::Write(path, byte, length) => {
                if fs::symlink_metadata(at(path)).is_ok() {
                    open(path)?.set_len(0)?;
                    open(path)?.write_all_at(&vec![*byte; usize::from(*length)], 0)
                } else {
                    fs::write(at(path), vec![*byte; usize::from(*length)])
                }
            }
            Self::Append(path) => {
                let file = open(path)?;
                file.write_all_at(b"x", file.metadata()?.len())
            }
            Self::Truncate(path) => open(path)?.set_len(0),
            Self::Sparse(path) => {
                let file = open(path)?;
                file.set_len(1 << 24)?;
                file.write_all_at(b"y", 1 << 22)
            }
            Self::Open(path) => open(path).map(drop),
            Self::Remove(path) if fs::symlink_metadata(at(path))?.is_dir() => {
                fs::remove_dir_all(at(path))
            }
            Self::Remove(path) => fs::remove_file(at(path)),
            Self::Rename(from, to) => fs::rename(at(from), at(to)),
            Self::Exchange(a, b) => {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                Ok(rustix::fs::renameat_with(cwd, at(a), cwd, at(b), flags)?)
            }
            Self::Link(from, to) => fs::hard_link(at(from), at(to)),
            Self::Symlink(path, target) => {
                std::os::unix::fs::symlink(format!("target {target}"), at(path))
            }
            Self::Fifo(path) => {
                let mode = rustix::fs::Mode::RWXU;
                let kind = rustix::fs::FileType::Fifo;
                Ok(rustix::fs::mknodat(rustix::fs::CWD, at(path), kind, mode, 0)?)
            }
            Self::Chmod(path, mode) => {
                no_link(path)?;
                fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
            }
            Self::Chown(path, uid) => std::os::unix::fs::lchown(at(path), Some(*uid), None),
            Self::Touch(path) => {
                let now = (i64::from(u32::MAX), 0);
                ebbtide_sys::metadata::set_times(itself(path)?.as_fd(), now, now)
                    .map_err(|error| error.errno().into())
            }
            Self::Attribute(path, byte) => {
                xattr::set(itself(path)?.as_fd(), OsStr::new("trusted.test"), &[*byte])
                    .map_err(|error| error.errno().into())
            }
            Self::NoAttribute(path) => {
                xattr::remove(itself(path)?.as_fd(), OsStr::new("trusted.test"))
                    .map(drop)
                    .map_err(|error| error.errno().into())
            }
        }
    }
}

/// Few names, so that steps meet; and all of them bad, but for three.
fn name() -> impl Strategy<Value = OsString> {
    prop_oneof![
        4 => "[abc]".prop_map(OsString::from),
        1 => prop::sample::select(vec![
            b"new\nline".to_vec(),
            b"\x1b[31mred".to_vec(),
            b"\xff\xfe".to_vec(),
            b" ..".to_vec(),
            vec![b'n'; 255],
        ])
        .prop_map(OsString::from_vec),
    ]
}

fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.into_iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => path().prop_map(Step::Mkdir),
        4 => (path(), 0..3_u8, 0..3_u16).prop_map(|(path, byte, length)| Step::Write(path, byte, length)),
        1 => path().prop_map(Step::Append),
        1 => path().prop_map(Step::Truncate),
        1 => path().prop_map(Step::Sparse),
        1 => path().prop_map(Step::Open),
        3 => path().prop_map(Step::Remove),
        4 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (path(), path()).prop_map(|(a, b)| Step::Exchange(a, b)),
        1 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (path(), 0..2_u8).prop_map(|(path, target)| Step::Symlink(path, target)),
        1 => path().prop_map(Step::Fifo),
        1 => (path(), prop::sample::select(vec![0o644, 0o755, 0o4711])).prop_map(|(path, mode)| Step::Chmod(path, mode)),
        1 => (path(), 0..2_u32).prop_map(|(path, uid)| Step::Chown(path, uid)),
        1 => path().prop_map(Step::Touch),
        1 => (path(), 0..2_u8).prop_map(|(path, byte)| Step::Attribute(path, byte)),
        1 => path().prop_map(Step::NoAttribute),
    ]
}

#[test]
fn the_upper_directory_is_the_change() {
    if !can_mount() {
        return;
    }
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(300);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let seen = RefCell::new(HashMap::<_, u32>::new());
    let strategy = (
        prop::collection::vec(step(), 0..30),
        prop::collection::vec(step(), 0..25),
        prop::collection::vec(path(), 0..2),
    );
    let result = runner.run(&strategy, |(before, after, kept)| {
        let overlay = Overlay::new(|base| {
            skeleton(base);
            for step in &before {
                step.attempt(base);
            }
        });
        for step in &after {
            step.attempt(&overlay.root());
        }
        let kept: Vec<_> = kept.iter().map(|path| Path::new("/").join(path)).collect();
        let kept = kept.iter().map(PathBuf::as_path).collect();
        for change in overlay.agrees(&kept)? {
            *seen.borrow_mut().entry((change.what.name(), change.kind)).or_default() += 1;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    // Histories that change nothing would prove nothing.
    let seen = seen.into_inner();
    for what in ["added", "deleted", "metadata", "renamed"] {
        let count = seen.get(&(what, FileKind::Directory)).copied().unwrap_or(0);
        assert!(count > 5, "{what} directories: {seen:?}");
    }
    for what in ["added", "changed", "deleted", "metadata"] {
        let count = seen.get(&(what, FileKind::Regular)).copied().unwrap_or(0);
        assert!(count > 5, "{what} files: {seen:?}");
    }
}

/// Something for the steps to begin with.
fn skeleton(base: &Path) {
    for directory in ["a/a/a", "a/b", "b/a", "b/c/b", "c"] {
        fs::create_dir_all(base.join(directory)).unwrap();
    }
    for file in ["a/a/a/a", "a/a/b", "a/c", "b/b", "b/c/b/a", "c/a", "c/b"] {
        fs::write(base.join(file), "x").unwrap();
    }
}
