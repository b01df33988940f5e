//! The loader never reads a root: kernel, initramfs and GRUB's own files come from the base, so
//! that what the last boot planted in its `/boot` is not run.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.through_grub().start()?;
    vm.wait_for_boot()?;
    let line = vm.check("cat /proc/cmdline")?;
    ensure!(line.starts_with("BOOT_IMAGE=/ebbtide/bases/1/boot/vmlinuz-"), "booted with {line}");
    checks::new_and_complete(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}
