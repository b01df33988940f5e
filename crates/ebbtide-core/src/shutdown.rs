//! The end of a boot: entries come off, everything is synced, and the mark of a clean end is
//! written last.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::mount;
use ebbtide_sys::mountinfo::{self, MountEntry};
use rustix::io::Errno;

use crate::backend;
use crate::boot::{Boot, STORES};
use crate::container::name;
use crate::failure::{Context, Failure, Level, Log, Result};
use crate::record::{CleanMark, RootIdentity, VERSION};

/// Left in the run directory when the entries were unmounted. A reboot takes that directory away; a
/// soft-reboot, which keeps the kernel and the root, does not (systemd-soft-reboot.service(8)).
const ENDED: &str = "ended";

/// Whether the userspace that this boot began with has ended.
pub fn has_ended(run: &Path) -> bool {
    run.join(ENDED).exists()
}

/// Unmounts every entry and then the stores, innermost first. What is busy is detached: nothing is
/// lost, its filesystem goes when its last user is gone, and systemd has nothing left to fail on.
pub fn detach(run: &Path, log: &mut Log<'_>) -> Result<usize> {
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    // It outlives this userspace only if the next one has the same root.
    match std::fs::write(run.join(ENDED), "") {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            log(Level::Warning, &format!("cannot note that this userspace ends: {error}"));
        }
        _ => {}
    }
    let all = mounts_of_stores(&mounts, &run.join(STORES));
    for path in &all {
        let unmounted = match mount::unmount(path, false) {
            Err(error) if error.errno() == Errno::BUSY => {
                log(Level::Info, &format!("{} is in use, detaching it", path.display()));
                mount::unmount(path, true)
            }
            other => other,
        };
        if let Err(error) = unmounted {
            log(Level::Warning, &error.to_string());
        }
    }
    Ok(all.len())
}

/// Mount points of all that comes from a store, children before parents, the stores last.
fn mounts_of_stores(mounts: &[MountEntry], stores: &Path) -> Vec<PathBuf> {
    let is_store = |mount: &&MountEntry| mount.mount_point.parent() == Some(stores);
    let roots: Vec<_> = mounts.iter().filter(is_store).collect();
    let from_store = |mount: &&MountEntry| {
        roots.iter().any(|store| {
            mount.device == store.device
                && mount.root != store.root
                && mount.root.starts_with(&store.root)
        })
    };
    let entries = mounts.iter().rev().filter(from_store);
    entries.chain(roots.iter().rev().copied()).map(|mount| mount.mount_point.clone()).collect()
}

/// Syncs everything and writes the mark of a clean end, if `sysroot` is the root of this boot.
pub fn mark_clean(boot: &Boot, sysroot: &Path) -> Result<()> {
    let record = boot.read_record().ok_or_else(|| {
        Failure::new("this boot has no record, so its end is not marked as clean")
    })?;
    let root = record
        .root
        .ok_or_else(|| Failure::new("the record of this boot does not know its root"))?;
    let directory =
        std::fs::File::open(sysroot).context(|| format!("cannot open {}", sysroot.display()))?;
    if backend::mounted(boot.locator.backend, sysroot)? != root {
        return Err(Failure::new(
            "/ is not the root of this boot, so its end is not marked as clean",
        ));
    }
    // sync(2) waits for everything and tells no errors, syncfs(2) tells those of the root.
    rustix::fs::sync();
    ebbtide_sys::file::sync_filesystem(directory.as_fd()).context(|| "cannot sync the root")?;
    boot.open_container()?.set_clean_mark(&CleanMark {
        version: VERSION,
        number: record.number,
        kernel_boot_id: record.kernel_boot_id,
        root: root.uuid(),
    })
}

/// Notes durably that this boot came up, if `sysroot` is the root of this boot: from here on, boots that
/// do not are counted. Returns whether it is; if not, others tell why.
pub fn came_up(boot: &Boot, sysroot: &Path) -> Result<bool> {
    let mounted = backend::mounted(boot.locator.backend, sysroot).ok();
    let Some(record) = boot.read_record().filter(|record| {
        let same =
            |root: &RootIdentity| mounted.as_ref().is_some_and(|it| it.uuid() == root.uuid());
        record.number.0 > 0 && record.root.as_ref().is_some_and(same)
    }) else {
        return Ok(false);
    };
    let Some(root) = record.root else { return Ok(false) };
    boot.open_container()?.set_came_up(&CleanMark {
        version: VERSION,
        number: record.number,
        kernel_boot_id: record.kernel_boot_id,
        root: root.uuid(),
    })?;
    Ok(true)
}

/// At the start of a boot: removes a mark that the initramfs did not, because it was not Ebbtide's or
/// could not open the container.
pub fn began(boot: &Boot) -> Result<()> {
    boot.open_container()?.remove_clean_mark()
}

/// Whether the filesystem at a path is a root of this container: asked before the package goes.
pub fn owns(boot: &Boot, path: &Path) -> Result<bool> {
    let recorded = boot.read_record().and_then(|record| record.root);
    std::fs::File::open(path).context(|| format!("cannot open {}", path.display()))?;
    let backend = boot.locator.backend;
    let Ok(mounted) = backend::mounted(backend, path) else { return Ok(false) };
    if recorded.is_some_and(|root| root.uuid() == mounted.uuid()) {
        return Ok(true);
    }
    let container = boot.open_container()?;
    let root = backend::identity(&container, Path::new(name::ROOT))?;
    Ok(root.uuid() == mounted.uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_from_a_store_is_unmounted_innermost_first() {
        let table = b"\
20 1 0:20 /ebbtide/root / rw,noatime - btrfs /dev/vda rw\n\
21 20 0:21 / /run rw - tmpfs tmpfs rw\n\
22 21 0:20 /state /run/ebbtide/stores/state rw - btrfs /dev/vda rw\n\
23 21 8:1 / /run/ebbtide/stores/big rw - ext4 /dev/sda1 rw\n\
24 20 0:20 /state/var/log /var/log rw - btrfs /dev/vda rw\n\
25 24 8:1 /var/log/big /var/log/big rw - ext4 /dev/sda1 rw\n\
26 20 0:20 /stately /mnt rw - btrfs /dev/vda rw\n\
27 20 0:20 /home /home rw - btrfs /dev/vda rw\n";
        let mounts = mountinfo::parse(table).unwrap();
        let found = mounts_of_stores(&mounts, Path::new("/run/ebbtide/stores"));
        let expected =
            ["/var/log/big", "/var/log", "/run/ebbtide/stores/big", "/run/ebbtide/stores/state"];
        assert_eq!(found, expected.map(PathBuf::from));
    }
}
