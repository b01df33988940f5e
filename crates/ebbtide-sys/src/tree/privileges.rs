//! Taking away from a copied tree what gives privileges to whoever can reach it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use super::open_child;
use super::stack::DirectoryStack;
use crate::error::Result;
use crate::file::{read_directory, remove_file};
use crate::metadata::{FileKind, Metadata, metadata_of_entry, set_mode};
use crate::resolve::open_path;
use crate::xattr;

const SET_ID: u32 = 0o6000;
const CAPABILITY: &str = "security.capability";

/// What gives privileges to whoever can reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    /// The set-user-id and set-group-id bits and the capabilities of files: what `nosuid` takes from a mount.
    pub programs: bool,
    /// Device nodes: what `nodev` does.
    pub devices: bool,
}

impl Privileges {
    /// Both.
    pub const ALL: Self = Self { programs: true, devices: true };
}

/// Takes such privileges away at `name` in `dir` and below it. Returns where there was something to do,
/// relative to `name`, which is the empty path.
///
/// For a copy that nobody else can reach yet. Directories keep their bits: those are about groups of
/// new files only. Mounts are not entered, no link is followed.
pub fn drop_privileges(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    which: Privileges,
) -> Result<Vec<PathBuf>> {
    let mut changed = Vec::new();
    let Some(top) = metadata_of_entry(dir, name)? else { return Ok(changed) };
    if top.kind != FileKind::Directory {
        if drop_one(dir, name, &top, which)? {
            changed.push(PathBuf::new());
        }
        return Ok(changed);
    }
    let opened = open_child(dir, name)?;
    let mut stack = DirectoryStack::default();
    let (mut levels, mut above) = (vec![read_directory(opened.as_fd())?], PathBuf::new());
    stack.push(opened)?;
    while let Some(entries) = levels.last_mut() {
        let Some(entry) = entries.pop() else {
            levels.pop();
            stack.pop()?;
            above.pop();
            continue;
        };
        let parent = stack.top()?;
        let Some(found) = metadata_of_entry(parent, &entry.name)? else { continue };
        if found.mount_id != top.mount_id {
            continue;
        }
        if found.kind == FileKind::Directory {
            let child = open_child(parent, &entry.name)?;
            levels.push(read_directory(child.as_fd())?);
            above.push(&entry.name);
            stack.push(child)?;
        } else if drop_one(parent, &entry.name, &found, which)? {
            changed.push(above.join(&entry.name));
        }
    }
    Ok(changed)
}

fn drop_one(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    found: &Metadata,
    which: Privileges,
) -> Result<bool> {
    match found.kind {
        FileKind::CharDevice | FileKind::BlockDevice if which.devices => remove_file(dir, name),
        FileKind::Regular if which.programs => {
            let file = open_path(dir, Path::new(name))?;
            let capable = xattr::remove(file.as_fd(), OsStr::new(CAPABILITY))?;
            let set_id = found.mode & SET_ID != 0;
            if set_id {
                set_mode(file.as_fd(), found.mode & !SET_ID)?;
            }
            Ok(capable || set_id)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;
    use crate::testing::{Scratch, name, needs_root, run};

    #[test]
    fn nothing_that_gives_privileges_is_left() {
        needs_root!();
        let scratch = Scratch::new();
        let path = |path: &str| scratch.path(path);
        let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        fs::create_dir_all(path("top/deep")).unwrap();
        for (file, mode) in [("deep/su", 0o4755), ("sg", 0o2750), ("plain", 0o640), ("out", 0o4711)]
        {
            let at = path("top").join(file);
            fs::write(&at, "#!").unwrap();
            fs::set_permissions(&at, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::rename(path("top/out"), path("outside")).unwrap();
        symlink("../outside", path("top/link")).unwrap();
        fs::set_permissions(path("top/deep"), fs::Permissions::from_mode(0o2775)).unwrap();
        let plain = open_path(scratch.fd(), Path::new("top/plain")).unwrap();
        // cap_net_raw+ep
        let raw = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        xattr::set(plain.as_fd(), name(CAPABILITY), &raw).unwrap();
        run("mknod", &[path("top/null").to_str().unwrap(), "c", "1", "3"]);
        let drop = |name: &str, which| {
            let mut changed = drop_privileges(scratch.fd(), OsStr::new(name), which).unwrap();
            changed.sort();
            changed
        };
        let none = Privileges { programs: false, devices: false };
        assert_eq!(drop("top", none), Vec::<PathBuf>::new());
        assert_eq!(drop("top", Privileges { devices: true, ..none }), [PathBuf::from("null")]);
        assert_eq!(mode(&path("top/deep/su")), 0o4755);
        let programs = Privileges { programs: true, ..none };
        assert_eq!(drop("top", programs), ["deep/su", "plain", "sg"].map(PathBuf::from));
        assert_eq!(mode(&path("top/deep/su")), 0o755);
        assert_eq!(mode(&path("top/sg")), 0o750);
        assert_eq!(mode(&path("top/deep")), 0o2775);
        assert_eq!(mode(&path("outside")), 0o4711, "no link is followed");
        assert_eq!(xattr::get(plain.as_fd(), name(CAPABILITY)).unwrap(), None);
        assert!(!path("top/null").exists());
        assert_eq!(drop("top", Privileges::ALL), Vec::<PathBuf>::new());
        assert_eq!(drop("outside", Privileges::ALL), [PathBuf::new()]);
        assert_eq!(mode(&path("outside")), 0o711);
    }
}
