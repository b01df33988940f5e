//! A private place where mounts are put together before anybody sees them.
//!
//! Layers of an overlay have to be attached somewhere (Linux 6.1), and so has what others are bound on
//! (a move into a detached tree is refused before Linux 6.18). So it is done in a mount namespace of its
//! own, whose mounts are all private: nothing propagates out of it, and whatever happens, nothing of it
//! stays.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, mount};

use crate::failure::{Context, Failure, Result};

/// Its name in the run directory.
const NAME: &str = "staging";

/// The place, inside its namespace: an empty filesystem of its own.
#[derive(Debug)]
pub(crate) struct Staging {
    path: PathBuf,
}

/// Makes the place in the run directory, and lets `build` mount in it. What comes back should be a
/// detached mount: all attached ones are gone.
pub(crate) fn within(
    run: &Path,
    build: impl FnOnce(&Staging) -> Result<OwnedFd> + Send,
) -> Result<OwnedFd> {
    file::create_directories(run).context(|| format!("cannot make {}", run.display()))?;
    let place = run.canonicalize().context(|| "cannot find the run directory")?.join(NAME);
    match std::fs::create_dir(&place) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).context(|| format!("cannot make {}", place.display()));
        }
        _ => {}
    }
    // A thread can have a namespace of its own, and shares its descriptors.
    let result = std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            mount::enter_private_mount_namespace()
                .context(|| "cannot make a mount namespace of its own")?;
            build(&Staging::make(&place)?)
        });
        inside.join().unwrap_or_else(|_| Err(Failure::new("cannot put the mounts together")))
    });
    let _ = std::fs::remove_dir(&place);
    result
}

impl Staging {
    fn make(path: &Path) -> Result<Self> {
        let what = || format!("cannot mount {}", path.display());
        let options = [("mode", Some("0700")), ("size", Some("1m"))];
        let attributes = mount::MountAttributes::NOSUID | mount::MountAttributes::NODEV;
        let fresh = mount::mount_detached("tmpfs", None, &options, attributes).context(what)?;
        let target = open(path)?;
        mount::attach(fresh.as_fd(), target.as_fd()).context(what)?;
        Ok(Self { path: path.to_owned() })
    }

    /// Its tree, in the shape of a root.
    #[cfg(feature = "declaration")]
    pub(crate) fn root(&self) -> Result<OwnedFd> {
        open(&self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it, and attaches a volume there, or a directory of the volume.
    pub(crate) fn put(&self, path: &Path, volume: BorrowedFd<'_>) -> Result<PathBuf> {
        let place = self.path.join(path);
        file::create_directories(&place).context(|| format!("cannot make {}", place.display()))?;
        crate::volume::attach(volume, None, &place)?;
        Ok(place)
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .context(|| format!("cannot open {}", path.display()))
}
