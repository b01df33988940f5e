//! Other filesystems that were under overlays of their own while a root was tried out: what was written
//! to them lies beside what was written to the root, and goes where that goes.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount;
use serde::{Deserialize, Serialize};

use super::{UPPER, WORK};
use crate::container::{self, check_version};
use crate::failure::{Context, Result};
use crate::staging::Staging;
use crate::volume;

/// Where they are, in the directory of a root.
pub const DIRECTORY: &str = "others";
/// Which of them is for which filesystem.
const LIST: &str = "others.json";

/// What was written to one of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Other {
    /// Where it is mounted: absolute.
    pub path: PathBuf,
    /// The directory that holds `upper` and `work`, below that of the root: `others/0`.
    pub directory: PathBuf,
}

impl Other {
    /// What was written, below the directory of the root.
    pub fn upper(&self) -> PathBuf {
        self.directory.join(UPPER)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct List {
    version: u32,
    others: Vec<Other>,
}

/// Writes into the directory of a root which ones it has, in the order of their paths.
pub fn write(root: BorrowedFd<'_>, others: Vec<Other>) -> Result<()> {
    container::write(root, LIST, &List { version: container::VERSION, others })
}

/// Reads which ones a root has: none, as a rule.
pub fn read(root: BorrowedFd<'_>) -> Result<Vec<Other>> {
    let list: Option<List> = container::read(root, Path::new(LIST))?;
    let Some(list) = list else { return Ok(Vec::new()) };
    check_version("the list of other filesystems", list.version)?;
    Ok(list.others)
}

/// Puts them onto the tree of a root, which is for reading. What can't be is left out: the filesystem
/// below may be gone since. `base`: the directory that the root lies over; `own`: that of the root.
pub(super) fn put_on(
    tree: OwnedFd,
    own: &Path,
    base: &Path,
    staging: &Staging,
    overlay: impl Fn(&Path, &Path, &Path) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    let what = || "cannot put the other filesystems onto the root";
    let others = read(std::fs::File::open(own).context(what)?.as_fd())?;
    if others.is_empty() {
        return Ok(tree);
    }
    let at = staging.put(Path::new("tree"), tree.as_fd())?;
    for other in others {
        let below = other.path.strip_prefix("/").unwrap_or(&other.path);
        let directory = own.join(&other.directory);
        let (upper, work) = (directory.join(UPPER), directory.join(WORK));
        let Ok(lower) = std::fs::File::open(base.join(below)) else { continue };
        // By descriptor: a mount point may have any name.
        let place = PathBuf::from(format!("/proc/self/fd/{}", lower.as_raw_fd()));
        if let Ok(mounted) = overlay(&place, &upper, &work) {
            let _ = volume::attach(mounted.as_fd(), None, &at.join(below));
        }
    }
    let top = std::fs::File::open(&at).context(what)?;
    mount::clone_mount(top.as_fd(), Path::new(""), true).context(what)
}
