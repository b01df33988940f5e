//! Disk images: made, copied, looked into between boots, and made bootable.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::mount::{Filesystem, Mount, sparse_file};
use crate::privileged::chroot;
use crate::process::run;

const SECTOR: u64 = 512;
/// Where the filesystem of a partitioned disk begins, in bytes; room for GRUB is before it.
const SYSTEM_START: u64 = 2 << 20;
/// The number of its partition.
const SYSTEM_PARTITION: u32 = 2;
/// What is left free at the end, in bytes, for the second copy of the partition table.
const TABLE_COPY: u64 = 1 << 20;

/// One more partition of a system disk.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// What it is formatted with.
    pub filesystem: Filesystem,
    /// Its label, and the name of the partition.
    pub label: &'static str,
    /// Its size in bytes, whole MiB.
    pub size: u64,
}

/// A raw, sparse disk image with one filesystem in it.
///
/// The value does not own the file: it stays where it is until the directory it is in is deleted.
#[derive(Debug, Clone)]
pub struct Disk {
    path: PathBuf,
    filesystem: Filesystem,
    partitioned: bool,
    parts: Vec<Part>,
}

impl Disk {
    /// Makes the disk of a machine, `size` bytes: GPT with a partition for GRUB (BIOS) and one with
    /// a filesystem labelled `label`, which the guest sees as `/dev/vda2`.
    ///
    /// # Errors
    ///
    /// Fails when the file exists or cannot be made.
    pub fn new_system(path: &Path, size: u64, filesystem: Filesystem, label: &str) -> Result<Self> {
        Self::new_system_with(path, size, filesystem, label, &[])
    }

    /// Makes the disk of a machine with more partitions than one, `/dev/vda3` and so on, which take of
    /// its size.
    ///
    /// # Errors
    ///
    /// Fails when the file exists or cannot be made.
    pub fn new_system_with(
        path: &Path,
        size: u64,
        filesystem: Filesystem,
        label: &str,
        parts: &[Part],
    ) -> Result<Self> {
        let others: u64 = parts.iter().map(|part| part.size).sum();
        ensure!(
            size > SYSTEM_START + others + TABLE_COPY,
            "{size} bytes are too few for a system disk"
        );
        sparse_file(path, size)?;
        let disk =
            Self { path: path.to_owned(), filesystem, partitioned: true, parts: parts.to_vec() };
        disk.partition()?;
        // Through loop devices, as mkfs itself can only use the whole file.
        let (start, length) = disk.range()?;
        let mut all = vec![(filesystem, label, start, length)];
        all.extend(disk.parts_with_starts()?.into_iter().map(|(part, start)| {
            let Part { filesystem, label, size } = part;
            (filesystem, label, start, size)
        }));
        for (filesystem, label, start, length) in all {
            let range = [format!("--offset={start}"), format!("--sizelimit={length}")];
            let device = LoopDevice::attach(&disk.path, &range)?;
            filesystem.make(&device.path, label)?;
            device.detach()?;
        }
        Ok(disk)
    }

    /// Makes a disk of `size` bytes that is one filesystem, without partitions, as for a store.
    ///
    /// # Errors
    ///
    /// Fails when the file exists or cannot be made.
    pub fn new_plain(path: &Path, size: u64, filesystem: Filesystem, label: &str) -> Result<Self> {
        sparse_file(path, size)?;
        filesystem.make(path, label)?;
        Ok(Self { path: path.to_owned(), filesystem, partitioned: false, parts: Vec::new() })
    }

    /// Takes an image that somebody else made: one filesystem, without partitions.
    ///
    /// # Errors
    ///
    /// Fails when there is no such file.
    pub fn existing(path: &Path, filesystem: Filesystem) -> Result<Self> {
        ensure!(path.is_file(), "{} is no disk image", path.display());
        Ok(Self { path: path.to_owned(), filesystem, partitioned: false, parts: Vec::new() })
    }

    /// Copies the disk to `path`, which must not exist. Neither may be mounted or in a running VM.
    ///
    /// The copy has the same filesystem UUID: never mount both at once on a kernel before 6.7.
    ///
    /// # Errors
    ///
    /// Fails when `path` exists or the copy does not fit.
    pub fn copy_to(&self, path: &Path) -> Result<Self> {
        ensure!(!path.exists(), "{} exists already", path.display());
        run(Command::new("cp")
            .args(["--reflink=auto", "--sparse=always", "--"])
            .args([&self.path, path]))?;
        Ok(Self { path: path.to_owned(), ..self.clone() })
    }

    /// Returns the image's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies the filesystem alone into the file `path`; returns where it begins on the disk, in bytes.
    ///
    /// # Errors
    ///
    /// Fails when the file exists, or does not fit.
    pub fn copy_system_to(&self, path: &Path) -> Result<u64> {
        ensure!(self.partitioned, "{} has no partitions", self.path.display());
        let (start, size) = self.range()?;
        sparse_file(path, size)?;
        run(Command::new("dd")
            .args(["bs=1M", "conv=sparse,notrunc", "iflag=count_bytes,skip_bytes", "status=none"])
            .args([format!("skip={start}"), format!("count={size}")])
            .arg(option("if=", &self.path))
            .arg(option("of=", path)))?;
        Ok(start)
    }

    /// Puts back a filesystem as [`Disk::copy_system_to`] made it. Only while nothing uses the disk.
    ///
    /// # Errors
    ///
    /// Fails when it can't be written.
    pub fn replace_system_by(&self, copy: &Path) -> Result<()> {
        let (start, size) = self.range()?;
        run(Command::new("fallocate")
            .args(["--punch-hole", "--offset", &start.to_string(), "--length", &size.to_string()])
            .arg(&self.path))?;
        run(Command::new("dd")
            .args(["bs=1M", "conv=sparse,notrunc", "oflag=seek_bytes", "status=none"])
            .arg(format!("seek={start}"))
            .arg(option("if=", copy))
            .arg(option("of=", &self.path)))
        .map(drop)
    }

    /// Mounts the filesystem, btrfs with its top level. Only while no VM runs on it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be mounted.
    pub fn mount(&self) -> Result<Mount> {
        let mut options = String::from("loop");
        if self.partitioned {
            let (start, size) = self.range()?;
            options = format!("loop,offset={start},sizelimit={size}");
        }
        if self.filesystem == Filesystem::Btrfs {
            options.push_str(",subvolid=5");
        }
        Mount::new(&self.path, self.filesystem, &options)
    }

    /// Mounts the filesystem for as long as `visit` runs, and gives it the mount point.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be mounted or unmounted, and when `visit` does.
    pub fn with_top_level<T>(&self, visit: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let mount = self.mount()?;
        let result = visit(mount.path());
        let closed = mount.close();
        let value = result?;
        closed?;
        Ok(value)
    }

    /// Installs GRUB for BIOS on a partitioned disk, with the grub-install of the system below
    /// `root`, a directory or subvolume of the top level. GRUB then reads its modules and `grub.cfg`
    /// from `<root>/boot/grub`, as seen from the top level.
    ///
    /// # Errors
    ///
    /// Fails when that system has no GRUB or the installation fails.
    pub fn install_grub(&self, root: &str) -> Result<()> {
        self.with_system(root, |disk, root| {
            run(chroot(root, "grub-install")
                .args(["--target=i386-pc", "--boot-directory=/boot", "--no-floppy"])
                .arg(disk))
            .map(drop)
        })
    }

    /// Writes `<root>/boot/grub/grub.cfg` with the `update-grub` of the system below `root`.
    ///
    /// # Errors
    ///
    /// Fails when that fails.
    pub fn update_grub(&self, root: &str) -> Result<()> {
        self.with_system(root, |disk, root| {
            run(&mut chroot(root, "update-grub"))?;
            // Where udev keeps no links by UUID, GRUB names the device as it is called here.
            let device = format!("root={}p{SYSTEM_PARTITION}", disk.display());
            let uuid = run(Command::new("findmnt")
                .args(["--noheadings", "--output", "UUID", "--target"])
                .arg(root))?;
            let uuid = String::from_utf8(uuid)?;
            let menu = root.join("boot/grub/grub.cfg");
            let text = fs::read_to_string(&menu)
                .with_context(|| format!("cannot read {}", menu.display()))?
                .replace(&device, &format!("root=UUID={}", uuid.trim()));
            fs::write(&menu, text).with_context(|| format!("cannot write {}", menu.display()))
        })
    }

    /// Mounts a partitioned disk by its partition, so that programs find the disk it belongs to,
    /// and gives `visit` the whole disk's device and the directory `root` of the top level.
    ///
    /// # Errors
    ///
    /// Fails when the partition cannot be mounted or unmounted, and when `visit` does.
    pub fn with_system<T>(
        &self,
        root: &str,
        visit: impl FnOnce(&Path, &Path) -> Result<T>,
    ) -> Result<T> {
        self.with_parts(root, |device, root, _| visit(device, root))
    }

    /// Like [`Disk::with_system`], and gives `visit` also the devices of the other partitions.
    ///
    /// # Errors
    ///
    /// Fails when a partition cannot be found, mounted or unmounted, and when `visit` does.
    pub fn with_parts<T>(
        &self,
        root: &str,
        visit: impl FnOnce(&Path, &Path, &[PathBuf]) -> Result<T>,
    ) -> Result<T> {
        ensure!(self.partitioned, "{} has no partitions", self.path.display());
        let device = LoopDevice::attach(&self.path, &["--partscan".to_owned()])?;
        let partition = device.partition(SYSTEM_PARTITION)?;
        let others = (SYSTEM_PARTITION + 1..).take(self.parts.len());
        let others = others.map(|number| device.partition(number)).collect::<Result<Vec<_>>>()?;
        let top_level = if self.filesystem == Filesystem::Btrfs { "subvolid=5" } else { "rw" };
        let mount = Mount::new(&partition, self.filesystem, top_level)?;
        let root = mount.path().join(root.trim_start_matches('/'));
        let result = visit(&device.path, &root, &others);
        let closed = mount.close().and_then(|()| device.detach());
        let value = result?;
        closed?;
        Ok(value)
    }

    /// Returns where the filesystem begins and how long it is, in bytes.
    fn range(&self) -> Result<(u64, u64)> {
        let size = fs::metadata(&self.path)
            .with_context(|| format!("cannot read the size of {}", self.path.display()))?
            .len();
        let others: u64 = self.parts.iter().map(|part| part.size).sum();
        Ok((SYSTEM_START, size - SYSTEM_START - others - TABLE_COPY))
    }

    /// Returns the other partitions, which follow that filesystem, with where each begins, in bytes.
    fn parts_with_starts(&self) -> Result<Vec<(Part, u64)>> {
        let (start, size) = self.range()?;
        let mut next = start + size;
        let place = |part: &Part| {
            let start = next;
            next += part.size;
            (*part, start)
        };
        Ok(self.parts.iter().map(place).collect())
    }

    fn partition(&self) -> Result<()> {
        let (start, size) = self.range()?;
        let mut table = format!(
            "label: gpt\n\
             start={}, size={}, type=21686148-6449-6E6F-744E-656564454649, name=grub\n\
             start={}, size={}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=system\n",
            (1 << 20) / SECTOR,
            (1 << 20) / SECTOR,
            start / SECTOR,
            size / SECTOR,
        );
        for (Part { filesystem, label, size }, start) in self.parts_with_starts()? {
            let kind = match filesystem {
                Filesystem::Vfat => "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
                _ => "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
            };
            let (start, size) = (start / SECTOR, size / SECTOR);
            let _ = writeln!(table, "start={start}, size={size}, type={kind}, name={label}");
        }
        let mut sfdisk = Command::new("sfdisk")
            .arg("--quiet")
            .arg(&self.path)
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start sfdisk")?;
        if let Some(mut input) = sfdisk.stdin.take() {
            input.write_all(table.as_bytes()).context("cannot write to sfdisk")?;
        }
        let status = sfdisk.wait().context("cannot wait for sfdisk")?;
        if !status.success() {
            bail!("sfdisk: {status} for\n{table}");
        }
        Ok(())
    }
}

fn option(name: &str, value: &Path) -> OsString {
    let mut option = OsString::from(name);
    option.push(value);
    option
}

/// An attached loop device, detached when dropped.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    attached: bool,
}

impl LoopDevice {
    /// Attaches an image, with more options of losetup(8).
    ///
    /// # Errors
    ///
    /// Fails when losetup(8) does.
    pub fn attach(image: &Path, options: &[String]) -> Result<Self> {
        let printed =
            run(Command::new("losetup").args(["--find", "--show"]).args(options).arg(image))?;
        let path = PathBuf::from(String::from_utf8(printed)?.trim_end());
        Ok(Self { path, attached: true })
    }

    /// Returns its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the node of partition `number`.
    ///
    /// Kernels without GPT support find no partition by themselves, and without devtmpfs or udev
    /// nobody makes the nodes: then partx(8) and mknod(1) do.
    fn partition(&self, number: u32) -> Result<PathBuf> {
        let node = PathBuf::from(format!("{}p{number}", self.path.display()));
        if node.exists() {
            return Ok(node);
        }
        run(Command::new("partx").arg("--update").arg(&self.path))?;
        if !node.exists() {
            let name = node.file_name().unwrap_or_default();
            let numbers = Path::new("/sys/class/block").join(name).join("dev");
            let numbers = fs::read_to_string(&numbers)
                .with_context(|| format!("cannot read {}", numbers.display()))?;
            let (major, minor) = numbers.trim().split_once(':').unwrap_or_default();
            run(Command::new("mknod").arg(&node).args(["b", major, minor]))?;
        }
        Ok(node)
    }

    /// Detaches it.
    ///
    /// # Errors
    ///
    /// Fails when losetup(8) does.
    pub fn detach(mut self) -> Result<()> {
        self.attached = false;
        run(Command::new("losetup").arg("--detach").arg(&self.path)).map(drop)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        if self.attached {
            let _ = run(Command::new("losetup").arg("--detach").arg(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::privileged::require_root;

    #[test]
    fn a_system_disk_keeps_what_is_written_and_copies() {
        if !require_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::new_system(
            &directory.path().join("disk"),
            256 << 20,
            Filesystem::Btrfs,
            "system",
        )
        .unwrap();
        disk.with_top_level(|top| Ok(std::fs::write(top.join("file"), "first")?)).unwrap();

        let copy = disk.copy_to(&directory.path().join("copy")).unwrap();
        copy.with_top_level(|top| Ok(std::fs::write(top.join("file"), "second")?)).unwrap();

        let read = |disk: &Disk| {
            disk.with_top_level(|top| Ok(std::fs::read_to_string(top.join("file"))?)).unwrap()
        };
        assert_eq!(read(&disk), "first");
        assert_eq!(read(&copy), "second");
        assert!(disk.copy_to(copy.path()).is_err(), "an image was overwritten");
    }

    #[test]
    fn each_partition_has_its_filesystem() {
        if !require_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let parts = [
            Part { filesystem: Filesystem::Ext4, label: "usr", size: 16 << 20 },
            Part { filesystem: Filesystem::Vfat, label: "ESP", size: 8 << 20 },
        ];
        let path = directory.path().join("disk");
        let disk =
            Disk::new_system_with(&path, 64 << 20, Filesystem::Ext4, "system", &parts).unwrap();
        let labels = disk
            .with_parts("", |_, top, others| {
                std::fs::write(top.join("file"), "content")?;
                let label = |path: &PathBuf| {
                    let mut blkid = Command::new("blkid");
                    let printed = run(blkid.args(["-p", "-s", "LABEL", "-o", "value"]).arg(path))?;
                    Ok(String::from_utf8(printed)?.trim().to_owned())
                };
                others.iter().map(label).collect::<Result<Vec<_>>>()
            })
            .unwrap();
        assert_eq!(labels, ["usr", "ESP"]);
    }

    #[test]
    fn the_partition_is_found_through_the_whole_disk() {
        if !require_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::new_system(
            &directory.path().join("disk"),
            256 << 20,
            Filesystem::Btrfs,
            "system",
        )
        .unwrap();
        let device = disk
            .with_system("/", |device, top| {
                std::fs::write(top.join("file"), "content")?;
                Ok(device.to_owned())
            })
            .unwrap();
        // A mount namespace made meanwhile, by whatever else runs, holds the device for a moment.
        let is_attached = || {
            let files =
                run(Command::new("losetup").args(["--noheadings", "--output", "BACK-FILE"]));
            let image = directory.path().display().to_string();
            String::from_utf8(files.unwrap()).unwrap().contains(&image)
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while is_attached() {
            assert!(Instant::now() < deadline, "{} is still attached", device.display());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn a_plain_disk_is_one_filesystem() {
        if !require_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let disk = Disk::new_plain(&path, 64 << 20, Filesystem::Ext4, "store").unwrap();
        disk.with_top_level(|top| Ok(std::fs::create_dir(top.join("kept"))?)).unwrap();
        assert!(disk.with_top_level(|top| Ok(top.join("kept").is_dir())).unwrap());
    }
}
