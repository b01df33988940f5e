//! The switches on the kernel command line.

use std::path::Path;

use anyhow::Result;

use crate::ebbtide::{BTRFS, Ebbtide, checks};

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, BTRFS)?;
    let mut vm = machine.start("ebbtide=off")?;
    checks::healthy(&mut vm)?;
    checks::kept_by_off(&mut vm)?;
    vm.power_off_cleanly()?;

    let mut vm = machine.start("ebbtide=keep")?;
    checks::healthy(&mut vm)?;
    checks::kept_by_keep(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}
