//! Where a rehearsal is put together: a filesystem in RAM, in a mount namespace that nobody else sees.

use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{self, MountAttributes};

use crate::compiled::{DeviceSpec, RamSize};
use crate::enclosure::mounts::open_directory;
use crate::failure::{Context, Failure, Result};

/// Its name in the run directory, where it is an empty directory for everybody else.
const NAME: &str = "rehearsal";

/// The filesystem, by its mount point.
#[derive(Debug)]
pub(super) struct Work(PathBuf);

impl Work {
    /// Mounts it in the run directory; nothing but it, and what is mounted in it, is ever written to.
    pub(super) fn mount(run: &Path, size: RamSize) -> Result<Self> {
        let at = run.join(NAME);
        let what = || format!("cannot mount a filesystem in RAM at {}", at.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(run).context(what)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&at).context(what)?;
        let at = at.canonicalize().context(what)?;
        let size = size.to_string();
        let options = [("mode", Some("0700")), ("size", Some(size.as_str()))];
        // Devices: whiteouts in the layers of overlays look like some.
        let attributes = MountAttributes::NOSUID | MountAttributes::NOATIME;
        let fresh = mount::mount_detached("tmpfs", None, &options, attributes).context(what)?;
        mount::attach(fresh.as_fd(), open_directory(&at)?.as_fd()).context(what)?;
        Ok(Self(at))
    }

    /// Where the new root is mounted.
    pub(super) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// What is going to be its `/run`.
    pub(super) fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The volume with the container that the new root is made in.
    pub(super) fn volume(&self) -> PathBuf {
        self.0.join("volume")
    }

    /// The machine's own, for reading only.
    pub(super) fn below(&self, name: &str) -> PathBuf {
        self.0.join("below").join(name)
    }

    /// What is written to what is covered.
    pub(super) fn layers(&self) -> PathBuf {
        self.0.join("layers")
    }

    /// The same under its overlay.
    pub(super) fn covered(&self, name: &str) -> PathBuf {
        self.0.join("covered").join(name)
    }

    /// A place where nothing is.
    pub(super) fn nothing(&self) -> PathBuf {
        self.0.join("nothing")
    }

    /// What a system says on its console.
    pub(super) fn console(&self) -> PathBuf {
        self.0.join("console.log")
    }
}

/// Makes a directory and those above it.
pub(super) fn make(path: &Path) -> Result<PathBuf> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context(|| format!("cannot make {}", path.display()))?;
    Ok(path.to_owned())
}

/// A directory as a device of a declaration.
pub(super) fn device(path: &Path) -> Result<DeviceSpec> {
    let text = path.to_str().ok_or_else(|| {
        Failure::new(format!(
            "cannot rehearse below {}: its name is not UTF-8",
            ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
        ))
    })?;
    Ok(DeviceSpec(text.to_owned()))
}
