//! A private place where mounts are put together before they appear in the running system.
//!
//! Binding must be done on an attached mount (a move into a detached tree is refused before Linux
//! 6.18), and one that nobody sees. So it is done in a mount namespace of its own, whose mounts are
//! all private: nothing propagates out of it, and whatever happens, nothing of it stays.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{mount, resolve};

use crate::failure::{Context, Failure, Result};

/// Its name in the run directory.
const NAME: &str = "staging";

/// The place, inside its namespace.
#[derive(Debug)]
pub(super) struct Staging {
    path: PathBuf,
    directory: OwnedFd,
}

/// Makes the place in the run directory, lets `build` mount in it, and returns a clone of what is
/// mounted at `path` there, with all that is mounted below it: attached nowhere, for
/// [`mount::attach`].
pub(super) fn assemble(
    run: &Path,
    path: &Path,
    build: impl FnOnce(&Staging) -> Result<()> + Send,
) -> Result<OwnedFd> {
    let place = run.canonicalize().context(|| "cannot find the run directory")?.join(NAME);
    match std::fs::create_dir(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).context(|| format!("cannot make {}", place.display()));
        }
        _ => {}
    }
    // A thread can have a namespace of its own, and shares its descriptors.
    let clone = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            mount::enter_private_mount_namespace()
                .context(|| "cannot make a mount namespace of its own")?;
            let staging = Staging::make(&place)?;
            build(&staging)?;
            mount::clone_mount(staging.directory.as_fd(), path, true)
                .context(|| "cannot clone what was put together")
        });
        inside.join().unwrap_or_else(|_| Err(Failure::new("cannot put the mounts together")))
    });
    let _ = std::fs::remove_dir(&place);
    clone
}

impl Staging {
    fn make(path: &Path) -> Result<Self> {
        let what = || format!("cannot mount {}", path.display());
        let options = [("mode", Some("0700")), ("size", Some("1m"))];
        let attributes = mount::MountAttributes::NOSUID | mount::MountAttributes::NODEV;
        let fresh = mount::mount_detached("tmpfs", None, &options, attributes).context(what)?;
        let target = super::open_directory(path)?;
        mount::attach(fresh.as_fd(), target.as_fd()).context(what)?;
        Ok(Self { path: path.to_owned(), directory: super::open_directory(path)? })
    }

    /// Its tree, in the shape of a root.
    pub(super) fn root(&self) -> Result<OwnedFd> {
        resolve::open_directory(self.directory.as_fd(), Path::new(""))
            .context(|| "cannot open the staging place")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
