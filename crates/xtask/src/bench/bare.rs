//! The calls that nothing can do without, in a loop of a program that runs already and checks nothing.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ebbtide_sys::file::create_mount_point;
use ebbtide_sys::metadata::FileKind;
use ebbtide_sys::mount;
use ebbtide_sys::resolve::{open_directory, split_parent};

use super::machine::{Entry, Kept};

/// An entry, taken apart before the clock runs.
pub struct Place {
    parent: PathBuf,
    name: OsString,
    kind: FileKind,
}

impl Place {
    pub fn all(kept: Kept) -> Result<Vec<Self>> {
        kept.entries().iter().map(Self::of).collect()
    }

    fn of(entry: &Entry) -> Result<Self> {
        let path = Path::new(&entry.path);
        let (parent, name) = split_parent(path).context("an entry without a parent")?;
        let kind = if entry.is_directory { FileKind::Directory } else { FileKind::Regular };
        Ok(Self { parent: parent.to_owned(), name: name.to_owned(), kind })
    }
}

/// Makes all mount points below the root, and binds what the store has to them.
pub fn bind_all(store: &Path, root: &Path, places: &[Place]) -> Result<()> {
    let tree = root;
    let (root, store) = (File::open(root)?, File::open(store)?);
    let mut parents: Option<(&Path, OwnedFd, OwnedFd)> = None;
    for Place { parent, name, kind } in places {
        if parents.as_ref().is_none_or(|(open, ..)| open != parent) {
            fs::create_dir_all(tree.join(parent))?;
            let [kept, target] = [&store, &root].map(|tree| open_directory(tree.as_fd(), parent));
            parents = Some((parent, kept?, target?));
        }
        let Some((_, kept, target)) = &parents else { continue };
        create_mount_point(target.as_fd(), name, *kind, (0, 0), 0o755)?;
        let clone = mount::clone_entry(kept.as_fd(), name)?;
        mount::attach_to_entry(clone.as_fd(), target.as_fd(), name)?;
    }
    Ok(())
}
