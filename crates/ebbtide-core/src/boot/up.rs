//! A whole boot in one go: reset, mount of the root, attach.

use std::os::fd::AsFd;
use std::path::Path;

use ebbtide_sys::{device, mount, mountinfo};

use super::initramfs::has_systemd;
use super::{Boot, attach, open_directory, report, reset};
use crate::backend;
use crate::compiled::Backend;
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::record::{Outcome, Record};

/// Makes a new root where nothing speaks against it, mounts it at a directory, and attaches. An error
/// means that there is no root to run on.
pub fn up(boot: &Boot, sysroot: &Path, log: &mut Log<'_>) -> Result<Record> {
    let mut record = reset(boot, log);
    if let Err(failure) = boot.mount_root(sysroot, &record) {
        last_resort(boot, sysroot, &failure, &mut record, log)?;
    }
    Ok(attach(boot, sysroot, log))
}

/// As [`up`], on a directory where the initramfs has mounted the volume or the base already. The root
/// takes its place; under systemd it goes on top.
pub fn take_over(boot: &Boot, sysroot: &Path, log: &mut Log<'_>) -> Result<Record> {
    if let Err(failure) = make_writable(boot, sysroot) {
        log(Level::Warning, &failure.chain());
    }
    let mut record = reset(boot, log);
    // Not before it is known that there is something to put there.
    if record.root.is_some()
        && !has_systemd()
        && let Err(error) = mount::unmount(sysroot, false)
    {
        log(Level::Info, &format!("the root goes on top of what is mounted: {error}"));
    }
    if let Err(failure) = boot.mount_root(sysroot, &record) {
        last_resort(boot, sysroot, &failure, &mut record, log)?;
    }
    Ok(attach(boot, sysroot, log))
}

/// A filesystem that is mounted for reading can't be mounted for writing a second time (EBUSY).
fn make_writable(boot: &Boot, sysroot: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let what = || "cannot make the volume writable";
    let path = device::find(&boot.locator.device.0).context(what)?;
    let number = std::fs::metadata(path).context(what)?.rdev();
    let number = (rustix::fs::major(number), rustix::fs::minor(number));
    let mounts = mountinfo::read_self().context(what)?;
    let found = mounts.iter().rev().find(|mount| mount.mount_point == sysroot);
    if found.is_some_and(|mount| mount.device == number && mount.is_read_only()) {
        mount::remount_writable(sysroot).context(what)?;
    }
    Ok(())
}

/// Where the root of an overlay can't be mounted, a machine can still run on its base, with what is
/// written in RAM, and with the entries that are required. Nothing on the volume is changed by that,
/// so the base of another container will do.
fn last_resort(
    boot: &Boot,
    sysroot: &Path,
    failure: &Failure,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    if boot.locator.backend == Backend::Btrfs {
        return Err(Failure::new(failure.chain()));
    }
    let mut problem = Problem::from_failure(Level::Error, failure);
    problem.message = format!("the base runs, with what is written in RAM: {}", problem.message);
    report(record, log, problem);
    let container = boot.open_any_container()?;
    let root = backend::overlay::in_ram(&container)?;
    record.outcome = Outcome::Refused;
    record.root = Some(root.clone());
    let mounted = match backend::overlay::mount_in_ram(&container, &root, &boot.run) {
        Ok(mounted) => mounted,
        Err(failure) => {
            let mut problem = Problem::from_failure(Level::Error, &failure);
            problem.message = format!("the base runs, and is read-only: {}", problem.message);
            report(record, log, problem);
            backend::overlay::mount_base(&container, &boot.run)?
        }
    };
    let target = open_directory(sysroot)?;
    mount::attach(mounted.as_fd(), target.as_fd())
        .context(|| format!("cannot mount the base at {}", sysroot.display()))?;
    boot.write_record(record)
}
