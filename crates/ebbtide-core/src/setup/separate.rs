//! Filesystems of their own below the system that the base is made from, such as `/usr` and `/boot`: the
//! base has only the place where they are mounted, and no reset touches them.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::{mount, mountinfo, resolve};

use super::{BaseSource, Request};
use crate::failure::{Context, Failure, Result};
use crate::fstab;

/// What building an initramfs, or installing a loader, needs of a system.
const NEEDED: [&str; 2] = ["/usr", "/boot"];

/// What lies in those directories of a system is made anew by every boot.
pub(super) const NOT_COPIED: [&str; 5] = ["proc", "sys", "dev", "run", "tmp"];

/// Returns where filesystems are mounted below a directory, as paths of the system in it; those that hold
/// others come first, and those that every boot mounts anew are left out.
pub(super) fn mounted_below(source: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("cannot find out what is mounted below {}", source.display());
    let source = source.canonicalize().context(what)?;
    let mounts = mountinfo::read_self().context(what)?;
    let mut found: Vec<PathBuf> = mounts
        .iter()
        .filter_map(|mount| mount.mount_point.strip_prefix(&source).ok())
        .filter(|below| below.iter().next().is_some())
        .filter(|below| !NOT_COPIED.iter().any(|name| below.starts_with(name)))
        .map(|below| Path::new("/").join(below))
        .collect();
    found.sort();
    found.dedup();
    Ok(found)
}

/// Refuses to make a base whose initramfs could not be built, because a part of the system is not there.
pub(super) fn refuse(request: &Request, fstab: &str, mounted: &[PathBuf]) -> Result<()> {
    let places = fstab::mount_points(fstab);
    let missing = NEEDED.map(Path::new).into_iter().find(|needed| {
        places.iter().any(|place| place == needed) && !mounted.iter().any(|place| place == needed)
    });
    let Some(missing) = missing.map(Path::display) else { return Ok(()) };
    let failure = Failure::new(format!(
        "{missing} of the system is a filesystem of its own, and it is not there: the base's initramfs is \
         built with it"
    ));
    Err(match &request.base {
        BaseSource::Directory(directory) => {
            failure.hint(format!("mount it at {}{missing} first", directory.display()))
        }
        BaseSource::Subvolume(_) | BaseSource::Blank => failure.hint(
            "mount the system with all its filesystems, and name that directory with --base-directory: a \
             snapshot has only one of them",
        ),
    })
}

/// Says what a filesystem of its own means, for each of them.
pub(super) fn notices(fstab: &str, mounted: &[PathBuf]) -> Vec<String> {
    let places = fstab::mount_points(fstab);
    let notice = |path: &PathBuf| {
        let shown = ebbtide_sys::escape(path.as_os_str().as_encoded_bytes());
        if !places.contains(path) {
            return format!(
                "/etc/fstab does not name what is mounted on {shown}: the base is without it"
            );
        }
        match path.to_str() {
            Some("/usr") => "/usr is a filesystem of its own: no reset touches it. Programs that are \
                written there stay, and packages that are installed while the system runs stay by half: \
                their files do, and what /etc and /var know of them goes. To have it reset, move it into \
                the filesystem of / first"
                .to_owned(),
            Some("/boot") => "/boot is a filesystem of its own: no reset touches it, and what lies there is \
                what boots. The initramfs in it is built again"
                .to_owned(),
            _ => format!("{shown} is a filesystem of its own: no reset touches it"),
        }
    };
    mounted.iter().map(notice).collect()
}

/// Mounts below a base what its programs need, as it is mounted below the base's source.
pub(super) fn mount_needed(source: &Path, base: &Path) -> Result<()> {
    let is_needed = |path: &PathBuf| NEEDED.iter().any(|needed| path.starts_with(needed));
    for path in mounted_below(source)?.into_iter().filter(is_needed) {
        let what = || format!("cannot mount {} in the base", path.display());
        let inside = path.strip_prefix("/").unwrap_or(&path);
        let opened = std::fs::File::open(source.join(inside)).context(what)?;
        if !opened.metadata().context(what)?.is_dir() {
            continue;
        }
        let clone = mount::clone_mount(opened.as_fd(), Path::new(""), false).context(what)?;
        let base = std::fs::File::open(base).context(what)?;
        let target = resolve::open_directory(base.as_fd(), inside).context(what)?;
        mount::attach(clone.as_fd(), target.as_fd()).context(what)?;
    }
    Ok(())
}
