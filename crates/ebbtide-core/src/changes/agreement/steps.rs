//! Random histories of a tree.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ebbtide_sys::{btrfs, resolve, xattr};
use proptest::prelude::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
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
    /// Nothing but on btrfs.
    Subvolume(PathBuf),
}

impl Step {
    /// Tries it; what is impossible is no step.
    pub(super) fn attempt(&self, root: &Path) {
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
            Self::Subvolume(path) => {
                let top = fs::File::open(root)?;
                let parent = path.parent().unwrap_or(Path::new(""));
                let parent = resolve::open_directory(top.as_fd(), parent)
                    .map_err(|error| std::io::Error::from(error.errno()))?;
                btrfs::create_subvolume(parent.as_fd(), path.file_name().unwrap_or_default())
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

pub(super) fn path() -> impl Strategy<Value = PathBuf> {
    prop::collection::vec(name(), 1..4).prop_map(|names| names.into_iter().collect())
}

pub(super) fn step() -> impl Strategy<Value = Step> {
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
        1 => path().prop_map(Step::Subvolume),
    ]
}

/// Something for the steps to begin with.
pub(super) fn skeleton(base: &Path) {
    for directory in ["a/a/a", "a/b", "b/a", "b/c/b", "c"] {
        fs::create_dir_all(base.join(directory)).unwrap();
    }
    for file in ["a/a/a/a", "a/a/b", "a/c", "b/b", "b/c/b/a", "c/a", "c/b"] {
        fs::write(base.join(file), "x").unwrap();
    }
}
