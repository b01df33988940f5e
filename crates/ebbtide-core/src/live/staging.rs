//! A private place where mounts are put together before they appear in the running system.
//!
//! Binding must be done on an attached mount (a move into a detached tree is refused before Linux
//! 6.18), and a private one, so that nothing of it is seen elsewhere before it is whole.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount;
use ebbtide_sys::mountinfo;

use crate::failure::{Context, Result};

/// Its name in the run directory.
const NAME: &str = "staging";

/// The place; what is mounted in it goes when it does.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    directory: OwnedFd,
}

impl Staging {
    /// Makes it anew, in the run directory.
    pub(super) fn make(run: &Path) -> Result<Self> {
        let path = run.canonicalize().context(|| "cannot find the run directory")?.join(NAME);
        clear(&path)?;
        let what = || format!("cannot make {}", path.display());
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).context(what);
            }
            _ => {}
        }
        let fresh = mount::mount_detached(
            "tmpfs",
            None,
            &[("mode", Some("0700")), ("size", Some("1m"))],
            mount::MountAttributes::NOSUID | mount::MountAttributes::NODEV,
        )
        .context(what)?;
        let target = super::open_directory(&path)?;
        mount::attach(fresh.as_fd(), target.as_fd()).context(what)?;
        mount::make_private(&path).context(what)?;
        let directory = super::open_directory(&path)?;
        Ok(Self { path, directory })
    }

    /// Its tree, in the shape of a root.
    pub(super) fn root(&self) -> Result<OwnedFd> {
        ebbtide_sys::resolve::open_directory(self.directory.as_fd(), Path::new(""))
            .context(|| "cannot open the staging place")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Attaches what is mounted at a path here to a target, with all that is mounted below it, in
    /// one step.
    pub(super) fn attach(&self, path: &Path, target: BorrowedFd<'_>) -> Result<()> {
        let clone = mount::clone_mount(self.directory.as_fd(), path, true)
            .context(|| "cannot clone what was put together")?;
        mount::attach(clone.as_fd(), target).context(|| "cannot attach it")
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = clear(&self.path);
    }
}

/// Takes away what an earlier attempt left. Lazily: nothing but Ebbtide ever used it.
fn clear(path: &Path) -> Result<()> {
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    for mount in mounts.iter().rev().filter(|mount| mount.mount_point.starts_with(path)) {
        mount::unmount(&mount.mount_point, true)
            .context(|| format!("cannot clear {}", path.display()))?;
    }
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.context(|| format!("cannot remove {}", path.display())),
    }
}
