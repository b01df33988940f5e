//! The other filesystems of the machine, in the throw-away root: what was planned, and what came of
//! it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::mountinfo::MountEntry;
use ebbtide_sys::{file, resolve};
use serde::Serialize;

use super::plan::{Kind, Other, Seen, Treatment};
use crate::backend::overlay;
use crate::backend::overlay::others::{DIRECTORY, Other as Written};
use crate::enclosure::mounts::{
    attach, bind_read_only, like, magic, make_directory, open_directory, overlay_over,
};
use crate::failure::{Context, Result};

/// The longest single file that is copied, in bytes.
const COPIED: u64 = 1 << 20;

/// One of them that can be written to, with what lies below it.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) written: Written,
    pub(super) upper: OwnedFd,
    pub(super) base: OwnedFd,
}

/// What is not as it is outside, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Where.
    pub path: PathBuf,
    /// What about it, as the end of a sentence that begins with the path.
    pub what: String,
}

/// Looks at mounts: what each shows at its mount point.
pub(super) fn look(mounts: Vec<MountEntry>) -> Vec<Seen> {
    let seen = mounts.into_iter().map(|mount| {
        let kind = match std::fs::symlink_metadata(&mount.mount_point) {
            Ok(found) if found.is_dir() => Kind::Directory,
            Ok(found) if found.is_file() => Kind::File,
            _ => Kind::Other,
        };
        Seen { mount, kind }
    });
    seen.collect()
}

/// Mounts all of them below `root`, parents first. `own` is the directory of the root of this boot.
pub(super) fn mount_all(
    plan: &[Other],
    root: &Path,
    own: &Path,
) -> Result<(Vec<Layer>, Vec<Note>)> {
    let (mut layers, mut notes) = (Vec::new(), Vec::new());
    let own = open_directory(own)?;
    let directory = make_directory(own.as_fd(), DIRECTORY)?;
    let empty = make_directory(directory.as_fd(), "empty")?;
    for (index, other) in plan.iter().enumerate() {
        let name = index.to_string();
        let done = mount_one(other, root, directory.as_fd(), &name, empty.as_fd());
        let note = match done {
            Ok(Came::Writable { upper, base }) => {
                let place = Path::new(DIRECTORY).join(&name);
                let written = Written { path: other.path.clone(), directory: place };
                layers.push(Layer { written, upper, base });
                None
            }
            Ok(Came::ReadOnly(cause)) => Some(format!("can only be read here: {cause}")),
            Ok(Came::AsPlanned) => None,
            // Who removes a directory takes away what is mounted on it in every namespace
            // (mount_namespaces(7)): there is nothing to show any more.
            Err(_) if is_gone(&other.source) => None,
            Err(failure) => Some(format!("is not there: {}", failure.chain())),
        };
        notes.extend(note.map(|what| Note { path: other.path.clone(), what }));
    }
    let others = layers.iter().map(|layer| layer.written.clone()).collect();
    overlay::others::write(own.as_fd(), others)?;
    Ok((layers, notes))
}

fn is_gone(path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path);
    found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

enum Came {
    Writable { upper: OwnedFd, base: OwnedFd },
    ReadOnly(String),
    AsPlanned,
}

fn mount_one(
    other: &Other,
    root: &Path,
    directory: BorrowedFd<'_>,
    name: &str,
    empty: BorrowedFd<'_>,
) -> Result<Came> {
    let root = open_directory(root)?;
    let machine = open_directory(Path::new("/"))?;
    let source = resolve::open_path(machine.as_fd(), &other.source)
        .context(|| format!("cannot find {}", other.source.display()))?;
    match other.treatment {
        Treatment::Empty => {
            let options = [("mode", Some("1777"))];
            let attributes = MountAttributes::NOSUID | MountAttributes::NODEV;
            let fresh = mount::mount_detached("tmpfs", None, &options, attributes)
                .context(|| "cannot mount a new one")?;
            attach(&fresh, &root, &other.path)?;
            Ok(Came::AsPlanned)
        }
        Treatment::Copy => copy(other, &root, directory, name, source.as_fd()),
        Treatment::ReadOnly => {
            read_only(other, &root, source.as_fd(), empty)?;
            Ok(Came::AsPlanned)
        }
        Treatment::Overlay => match overlay_over(source.as_fd(), directory, name, other.attributes)
            .context(|| format!("{} can't be under an overlay", other.fstype))
        {
            Ok((mounted, upper)) => {
                attach(&mounted, &root, &other.path)?;
                let base = mount::clone_mount(source.as_fd(), Path::new(""), false)
                    .context(|| "cannot look below its overlay")?;
                Ok(Came::Writable { upper, base })
            }
            Err(failure) => {
                read_only(other, &root, source.as_fd(), empty)?;
                Ok(Came::ReadOnly(failure.chain()))
            }
        },
    }
}

/// What is at `source`, to be read only: over an overlay where that works, since a socket that is
/// seen through one leads nowhere.
fn read_only(
    other: &Other,
    root: &OwnedFd,
    source: BorrowedFd<'_>,
    empty: BorrowedFd<'_>,
) -> Result<()> {
    let lower = format!("{}:{}", magic(source), magic(empty));
    let options = [("lowerdir", Some(&*lower)), ("metacopy", Some("off"))];
    let attributes = other.attributes | MountAttributes::READ_ONLY;
    let mounted = match mount::mount_detached("overlay", None, &options, attributes) {
        Ok(mounted) => mounted,
        Err(_) => bind_read_only(source, other.attributes)?,
    };
    attach(&mounted, root, &other.path)
}

/// A single file that is mounted: a copy of it, which goes with this boot.
fn copy(
    other: &Other,
    root: &OwnedFd,
    directory: BorrowedFd<'_>,
    name: &str,
    source: BorrowedFd<'_>,
) -> Result<Came> {
    let found = metadata::metadata(source).context(|| "cannot look at it")?;
    if found.kind != FileKind::Regular || found.size > COPIED {
        attach(&bind_read_only(source, other.attributes)?, root, &other.path)?;
        return Ok(Came::ReadOnly("it is a single file, and too large for a copy".to_owned()));
    }
    let content = std::fs::read(magic(source)).context(|| "cannot read it")?;
    let fresh =
        file::create_file(directory, OsStr::new(name), 0o600).context(|| "cannot make a copy")?;
    std::fs::write(magic(fresh.as_fd()), content).context(|| "cannot make a copy")?;
    like(source, fresh.as_fd())?;
    let bound =
        mount::clone_mount(directory, Path::new(name), false).context(|| "cannot bind its copy")?;
    attach(&bound, root, &other.path)?;
    Ok(Came::AsPlanned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_meanwhile_is_not_missed() {
        let scratch = tempfile::tempdir().unwrap();
        let (root, own) = (scratch.path().join("root"), scratch.path().join("own"));
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(&own).unwrap();
        let other = |source: PathBuf| Other {
            path: PathBuf::from("/other"),
            source,
            fstype: "tmpfs".to_owned(),
            attributes: MountAttributes::NODEV,
            treatment: Treatment::Copy,
        };
        let gone = other(scratch.path().join("gone"));
        let (layers, notes) = mount_all(&[gone], &root, &own).unwrap();
        assert!(layers.is_empty() && notes.is_empty(), "{notes:?}");
        // Something else that goes wrong is said.
        let file = scratch.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (_, notes) = mount_all(&[other(file.join("below"))], &root, &own).unwrap();
        assert_eq!(notes.len(), 1);
    }
}
