//! The runner itself: GRUB, installed on the image, boots a Debian without Ebbtide.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::vm::Machine;

use crate::prepared;

pub fn run(directory: &Path) -> Result<()> {
    let disk = prepared::stock()?.disk(directory)?;
    disk.install_grub("@root")?;
    disk.update_grub("@root")?;

    let mut vm = Machine::new(directory).disk(&disk).start()?;
    vm.wait_for_boot()?;
    vm.assert_healthy()?;
    let loader = vm.check("cat /proc/cmdline")?;
    ensure!(loader.starts_with("BOOT_IMAGE=/@root/boot/vmlinuz-"), "booted with {loader}");
    vm.power_off_cleanly()?;
    Ok(())
}
