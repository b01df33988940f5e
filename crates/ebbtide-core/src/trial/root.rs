//! The root itself, as a boot makes it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{self, MountAttributes};

use super::others::open_directory;
use crate::failure::{Context, Log, Result};

/// A root that was made, reset and mounted.
#[derive(Debug)]
pub(super) struct Made {
    /// The directory that holds what is written to it.
    pub(super) own: PathBuf,
}

/// Makes the root anew over `base` and mounts it at `sysroot`, with the entries of `declaration`.
pub(super) fn up(
    state: &Path,
    base: &Path,
    _declaration: &Path,
    run: &Path,
    sysroot: &Path,
    _log: &mut Log<'_>,
) -> Result<Made> {
    // To be replaced by the boot of a container in `state`.
    let mut own = state.join("ebbtide/root");
    let _ = std::fs::remove_dir_all(&own);
    let mounted = (|| {
        std::fs::create_dir_all(own.join("upper")).context(|| "cannot make upper")?;
        std::fs::create_dir_all(own.join("work")).context(|| "cannot make work")?;
        overlay(base, &own)
    })()
    .or_else(|_: crate::failure::Failure| {
        own = run.join("ram");
        std::fs::create_dir_all(&own).context(|| "cannot make ram")?;
        let ram = mount::mount_detached("tmpfs", None, &[], MountAttributes::NONE)
            .context(|| "cannot mount ram")?;
        mount::attach(ram.as_fd(), open_directory(&own)?.as_fd()).context(|| "cannot attach")?;
        std::fs::create_dir_all(own.join("upper")).context(|| "cannot make upper")?;
        std::fs::create_dir_all(own.join("work")).context(|| "cannot make work")?;
        overlay(base, &own)
    })?;
    mount::attach(mounted.as_fd(), open_directory(sysroot)?.as_fd()).context(|| "cannot attach")?;
    Ok(Made { own })
}

fn overlay(base: &Path, own: &Path) -> Result<std::os::fd::OwnedFd> {
    let path = |name: &str| own.join(name).display().to_string();
    let (upper, work, base) = (path("upper"), path("work"), base.display().to_string());
    let options = [
        ("lowerdir", Some(&*base)),
        ("upperdir", Some(&*upper)),
        ("workdir", Some(&*work)),
        ("index", Some("off")),
        ("metacopy", Some("off")),
        ("redirect_dir", Some("on")),
    ];
    mount::mount_detached("overlay", None, &options, MountAttributes::NOATIME)
        .context(|| "cannot mount overlay")
}
