//! The machine whose disk has more than one filesystem: `/usr`, `/boot` and the EFI system partition are
//! their own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::disk::{Disk, Part};
use testkit::guest::BootFiles;
use testkit::mount::Filesystem;
use testkit::process::run;

use super::{Ebbtide, Kind, init, install};

/// Where they are mounted; those that hold others come first.
pub const MOUNTED: [&str; 3] = ["usr", "boot", "boot/efi"];

const PARTS: [Part; 3] = [
    Part { filesystem: Filesystem::Ext4, label: "usr", size: 1536 << 20 },
    Part { filesystem: Filesystem::Ext4, label: "boot", size: 256 << 20 },
    Part { filesystem: Filesystem::Vfat, label: "ESP", size: 64 << 20 },
];

const FSTAB: &str = "LABEL=system / auto defaults 0 1\n\
    LABEL=usr /usr ext4 defaults 0 2\n\
    LABEL=boot /boot ext4 defaults 0 2\n\
    LABEL=ESP /boot/efi vfat umask=0077 0 2\n";

impl Ebbtide {
    /// The machine as `ebbtide init` left it, and what that said.
    pub fn with_separate_filesystems(directory: &Path, kind: Kind) -> Result<(Self, String)> {
        let tree = directory.join("tree");
        fs::create_dir_all(&tree)?;
        let (path, filesystem) = (directory.join("system"), kind.filesystem);
        let system = Disk::new_system_with(&path, 5 << 30, filesystem, "system", &PARTS)?;
        let big = Disk::new_plain(&directory.join("big"), 512 << 20, Filesystem::Ext4, "big")?;
        let declaration = directory.join("ebbtide.toml");
        fs::write(&declaration, kind.declaration())?;
        let store = big.mount()?;
        let (boot, said) = system.with_parts("", |disk, _, parts| {
            let mounted = Mounted::new(&tree, parts)?;
            install(kind, &tree)?;
            fs::write(tree.join("etc/fstab"), FSTAB)?;
            let said = init(&tree, &declaration, Some(disk))?;
            let boot = BootFiles::copy(&tree, directory)?;
            mounted.close()?;
            Ok((boot, said))
        })?;
        store.close()?;
        run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&tree))?;
        Ok((Self { kind, system, big, boot, directory: directory.to_owned() }, said))
    }
}

/// The filesystems of [`PARTS`] that setting up needs, mounted in a system's tree. The last one is for the
/// guest: not every kernel that this runs on has FAT.
struct Mounted<'a> {
    tree: &'a Path,
    mounted: usize,
}

impl<'a> Mounted<'a> {
    fn new(tree: &'a Path, devices: &[std::path::PathBuf]) -> Result<Self> {
        let mut mounted = Self { tree, mounted: 0 };
        ensure!(devices.len() == MOUNTED.len(), "there are {} partitions", devices.len());
        for (index, (place, device)) in MOUNTED.iter().zip(devices).enumerate() {
            let place = tree.join(place);
            fs::create_dir_all(&place)?;
            if PARTS[index].filesystem != Filesystem::Vfat {
                run(Command::new("mount").arg(device).arg(&place))?;
                mounted.mounted += 1;
            }
        }
        Ok(mounted)
    }

    fn close(mut self) -> Result<()> {
        while self.mounted > 0 {
            self.unmount(false)?;
        }
        Ok(())
    }

    fn unmount(&mut self, lazily: bool) -> Result<()> {
        self.mounted -= 1;
        let mut umount = Command::new("umount");
        if lazily {
            umount.arg("--lazy");
        }
        run(umount.arg(self.tree.join(MOUNTED[self.mounted]))).map(drop)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        while self.mounted > 0 {
            let _ = self.unmount(true);
        }
    }
}
