//! The fast ways and the obvious one find the same, on real overlays and subvolumes with random histories.

mod snapshots;
mod steps;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{MountAttributes, attach, mount_detached};
use ebbtide_sys::{mount, resolve};
use proptest::prelude::*;

use self::steps::{Step, path, skeleton, step};
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

    /// Checks that both ways agree.
    fn agrees(&self, kept: &Kept) -> std::result::Result<Vec<Change>, TestCaseError> {
        agree(self.fast(kept), self.merged.as_fd(), self.base.as_fd(), kept)
    }
}

fn slow_below(
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    path: &Path,
    from: &Path,
    kept: Option<&Kept>,
) -> Vec<Change> {
    let mut all = Vec::new();
    let mut visit = |change| all.push(Change { when: None, ..change });
    let root = resolve::open_directory(root, path).unwrap();
    let base = resolve::open_directory(base, from).unwrap();
    reference::below(root.as_fd(), base.as_fd(), path, kept, &mut visit)
        .unwrap_or_else(|it| panic!("{}", it.chain()));
    all
}

/// Checks that what was found is what the reference finds, below each directory that was renamed for
/// itself.
fn agree(
    fast: Vec<Change>,
    root: BorrowedFd<'_>,
    base: BorrowedFd<'_>,
    kept: &Kept,
) -> std::result::Result<Vec<Change>, TestCaseError> {
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
        let of_top = |change: &&Change| change.path.starts_with(top) && !elsewhere(&change.path);
        let got: Vec<_> = fast.iter().filter(of_top).cloned().collect();
        let kept = top.iter().skip(1).try_fold(kept, |kept, name| kept.get(name));
        let mut expected = slow_below(root, base, top, from, kept);
        expected.retain(|change| of_top(&change));
        prop_assert_eq!(&got, &expected, "below {:?}, in the base {:?}", top, from);
    }
    Ok(fast)
}

#[test]
fn the_upper_directory_is_the_change() {
    if !can_mount() {
        return;
    }
    histories(300, |before, after, kept| {
        let overlay = Overlay::new(|base| {
            skeleton(base);
            for step in before {
                step.attempt(base);
            }
        });
        for step in after {
            step.attempt(&overlay.root());
        }
        overlay.agrees(kept)
    });
}

/// Runs random histories: what was done to the base, what to the root, and which paths are kept.
fn histories(
    cases: u32,
    run: impl Fn(&[Step], &[Step], &Kept) -> std::result::Result<Vec<Change>, TestCaseError>,
) {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|it| it.parse().ok());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: asked.unwrap_or(cases),
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
        let kept: Vec<_> = kept.iter().map(|path| Path::new("/").join(path)).collect();
        let kept = kept.iter().map(PathBuf::as_path).collect();
        for change in run(&before, &after, &kept)? {
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
