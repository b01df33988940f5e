//! Mounts that end with the value that stands for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::run;

/// A filesystem that an image can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filesystem {
    /// btrfs
    Btrfs,
    /// ext4
    Ext4,
    /// XFS; at least 300 MiB
    Xfs,
    /// FAT, as on an EFI system partition; its label is in capital letters
    Vfat,
}

impl Filesystem {
    /// Returns its name as mount(8) has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Btrfs => "btrfs",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Vfat => "vfat",
        }
    }

    /// Makes the filesystem on `device`, which may be an image file.
    ///
    /// # Errors
    ///
    /// Fails when mkfs does.
    pub fn make(self, device: &Path, label: &str) -> Result<()> {
        let mut mkfs = Command::new(format!("mkfs.{}", self.name()));
        match self {
            Self::Vfat => mkfs.args(["-n", label]),
            Self::Ext4 => mkfs.args(["-q", "-L", label]),
            Self::Btrfs | Self::Xfs => mkfs.args(["-q", "-L", label, "-f"]),
        };
        run(mkfs.arg(device)).map(drop)
    }
}

/// A mount at a directory of its own below the directory for temporary files.
///
/// Dropping it unmounts it, and leaves it to the kernel when it is busy.
#[derive(Debug)]
pub struct Mount {
    // Not a `TempDir`: that would delete the *content* if unmounting failed.
    directory: PathBuf,
    mounted: bool,
}

impl Mount {
    /// Mounts `source`, with `options` as mount(8) takes them; `loop` is one of them, and its
    /// device detaches itself when the mount ends.
    ///
    /// # Errors
    ///
    /// Fails when mount(8) does.
    pub fn new(source: &Path, filesystem: Filesystem, options: &str) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("ebbtide-mount-")
            .tempdir()
            .context("cannot make a directory to mount at")?
            .keep();
        let mut mount = Self { directory, mounted: false };
        run(Command::new("mount")
            .args(["-t", filesystem.name(), "-o", options])
            .arg(source)
            .arg(&mount.directory))?;
        mount.mounted = true;
        Ok(mount)
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Returns the device that is mounted.
    ///
    /// # Errors
    ///
    /// Fails when the mount is gone.
    pub fn device(&self) -> Result<PathBuf> {
        let source = run(Command::new("findmnt")
            .args(["--noheadings", "--nofsroot", "--output", "SOURCE", "--mountpoint"])
            .arg(&self.directory))?;
        Ok(PathBuf::from(String::from_utf8(source)?.trim_end()))
    }

    /// Unmounts it.
    ///
    /// # Errors
    ///
    /// Fails when it is busy; it is then detached from the tree all the same.
    pub fn close(mut self) -> Result<()> {
        run(Command::new("umount").arg(&self.directory))?;
        self.mounted = false;
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.mounted && run(Command::new("umount").arg(&self.directory)).is_err() {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.directory));
        }
        let _ = std::fs::remove_dir(&self.directory);
    }
}

/// A new filesystem in a temporary file, mounted.
#[derive(Debug)]
pub struct Volume {
    // Unmounted before its image is deleted: fields are dropped in this order.
    mount: Mount,
    directory: TempDir,
}

impl Volume {
    /// Makes and mounts one of `size` bytes; btrfs with its top level.
    ///
    /// # Errors
    ///
    /// Fails when the image cannot be made or mounted.
    pub fn new(filesystem: Filesystem, size: u64) -> Result<Self> {
        Self::within(&std::env::temp_dir(), filesystem, size)
    }

    /// The same with its image in RAM where a system has a place for that, so that a flush takes no time:
    /// for tests that flush by the thousand.
    ///
    /// # Errors
    ///
    /// Fails when the image cannot be made or mounted.
    pub fn in_memory(filesystem: Filesystem, size: u64) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let above = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        Self::within(&above, filesystem, size)
    }

    fn within(above: &Path, filesystem: Filesystem, size: u64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ebbtide-volume-").tempdir_in(above)?;
        let image = directory.path().join("image");
        sparse_file(&image, size)?;
        filesystem.make(&image, "test")?;
        let mount = Mount::new(&image, filesystem, "loop")?;
        Ok(Self { mount, directory })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        self.mount.path()
    }

    /// Returns its loop device.
    ///
    /// # Errors
    ///
    /// Fails when the mount is gone.
    pub fn device(&self) -> Result<PathBuf> {
        self.mount.device()
    }

    /// Unmounts it and deletes the image.
    ///
    /// # Errors
    ///
    /// Fails when it is busy.
    pub fn close(self) -> Result<()> {
        self.mount.close()?;
        self.directory.close().context("cannot delete the image")
    }
}

/// Makes a file of `size` bytes that occupies none.
///
/// # Errors
///
/// Fails when there is one, so that no image is overwritten while something uses it.
pub(crate) fn sparse_file(path: &Path, size: u64) -> Result<()> {
    if path.exists() {
        bail!("{} exists already", path.display());
    }
    let file = std::fs::File::create_new(path)
        .with_context(|| format!("cannot create {}", path.display()))?;
    file.set_len(size).with_context(|| format!("cannot set the size of {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privileged::require_root;

    #[test]
    fn a_volume_is_writable_and_leaves_nothing() {
        if !require_root() {
            return;
        }
        for (filesystem, size) in [
            (Filesystem::Btrfs, 128 << 20),
            (Filesystem::Ext4, 32 << 20),
            (Filesystem::Xfs, 320 << 20),
        ] {
            let volume = Volume::new(filesystem, size).unwrap();
            std::fs::write(volume.path().join("file"), "content").unwrap();
            assert!(volume.device().unwrap().starts_with("/dev"));
            let (at, image) = (volume.path().to_owned(), volume.directory.path().to_owned());
            volume.close().unwrap();
            assert!(!at.exists());
            assert!(!image.exists());
        }
    }

    #[test]
    fn dropping_a_busy_volume_detaches_it() {
        if !require_root() {
            return;
        }
        let volume = Volume::new(Filesystem::Btrfs, 128 << 20).unwrap();
        let at = volume.path().to_owned();
        let busy = std::fs::File::create(at.join("file")).unwrap();
        drop(volume);
        assert!(!at.exists());
        drop(busy);
    }
}
