//! The power fails in the middle of a reset; the next boot finishes it. Afterwards, a past root
//! that somebody boots is found out.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.machine("ebbtide=debug").start()?;
    vm.wait_for_console("put the old root away as past/1", Duration::from_secs(300))?;
    vm.cut_power()?;

    let mut vm = machine.start("")?;
    checks::new_and_complete(&mut vm)?;
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        ensure!(top.join(kind.written(1)).join("stray").exists(), "the old root is gone");
        ensure!(!top.join("ebbtide/root.new").exists(), "something is left over");
        Ok(())
    })?;

    if !kind.is_btrfs() {
        return Ok(());
    }
    let mut vm = machine.start("rootflags=subvol=ebbtide/past/1")?;
    vm.assert_healthy()?;
    checks::another_root(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}
