//! The switches on the kernel command line.

use std::path::Path;

use anyhow::Result;

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
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
