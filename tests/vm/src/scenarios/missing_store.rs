//! The disk of a store is not there: the machine boots on its last root, and says so.

use std::path::Path;

use anyhow::Result;
use testkit::guest::kernel_arguments;
use testkit::vm::Machine;

use crate::ebbtide::{Ebbtide, checks};

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory)?;
    let arguments = kernel_arguments("root=LABEL=system ro");
    let mut vm =
        Machine::new(directory).disk(&machine.system).kernel(&machine.boot, &arguments).start()?;
    vm.wait_for_boot()?;
    checks::healthy(&mut vm)?;
    checks::refused(&mut vm)?;
    checks::says(&mut vm, "store big is not there")?;
    vm.power_off_cleanly()?;
    Ok(())
}
