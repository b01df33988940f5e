//! Disks that many scenarios begin with: made on first use, once per run, then copied.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};
use testkit::disk::Disk;
use testkit::guest::{BootFiles, Guest};
use testkit::mount::Filesystem;
use testkit::process::{run, target_directory};

/// The size of a prepared disk, in bytes.
const SIZE: u64 = 4 << 30;

/// A disk to copy, with what boots it without its loader.
pub struct Prepared {
    disk: Disk,
    boot: BootFiles,
}

impl Prepared {
    /// Makes a disk labelled `system`, has `fill` work below its top level and say which root to
    /// take the kernel from.
    fn new(name: &str, fill: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<Self> {
        let directory = directory().join(name);
        fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let disk = Disk::new_system(&directory.join("disk"), SIZE, Filesystem::Btrfs, "system")?;
        let boot = disk.with_top_level(|top| BootFiles::copy(&fill(top)?, &directory))?;
        Ok(Self { disk, boot })
    }

    /// Returns a copy of the disk in `directory`.
    pub fn disk(&self, directory: &Path) -> Result<Disk> {
        self.disk.copy_to(&directory.join("disk"))
    }

    /// Returns the kernel of the disk as it was prepared, with its initramfs.
    pub fn boot(&self) -> &BootFiles {
        &self.boot
    }
}

/// Debian as its installer leaves it on btrfs, in the subvolume `@root`.
pub fn stock() -> Result<&'static Prepared> {
    static STOCK: OnceLock<Result<Prepared>> = OnceLock::new();
    once(&STOCK, || {
        Prepared::new("stock", |top| {
            let root = top.join("@root");
            run(Command::new("btrfs").args(["--quiet", "subvolume", "create"]).arg(&root))?;
            Guest::debian_12()?.copy_to(&root)?;
            fs::write(root.join("etc/fstab"), "LABEL=system / btrfs noatime,subvol=@root 0 0\n")?;
            Ok(root)
        })
    })
}

/// Deletes what was prepared, in this run or in one that was ended.
pub fn clean() -> Result<()> {
    let directory = directory();
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot delete {}", directory.display()))?;
    }
    Ok(())
}

/// Where prepared disks are.
pub fn directory() -> PathBuf {
    target_directory().join("vm/prepared")
}

/// Makes it on first use; what failed once fails for every scenario, and is not tried again.
pub fn once<T>(
    cell: &'static OnceLock<Result<T>>,
    make: impl FnOnce() -> Result<T>,
) -> Result<&'static T> {
    cell.get_or_init(make).as_ref().map_err(|error| anyhow!("cannot prepare the disk: {error:#}"))
}
