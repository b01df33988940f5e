//! The disk of a store appears seconds after the initramfs began to look for it: the boot waits, and is
//! complete.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::guest::kernel_arguments;
use testkit::vm::Machine;

use crate::ebbtide::{Ebbtide, Kind, checks};

/// How long the boot has to wait for the disk.
const LATE: Duration = Duration::from_secs(5);

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    // The kernel is as quiet as in other scenarios, and the initramfs is not.
    let arguments = kernel_arguments("root=LABEL=system ro").replace(" quiet ", " loglevel=4 ");
    ensure!(!arguments.contains("quiet"), "the initramfs says nothing: {arguments}");
    let mut vm = Machine::new(directory)
        .disk(&machine.system)
        .disk_to_plug_in(&machine.big)
        .kernel(&machine.boot, &arguments)
        .start()?;
    vm.wait_for_console("Waiting for Ebbtide's device LABEL=big", Duration::from_secs(300))?;
    std::thread::sleep(LATE);
    ensure!(!vm.console().contains("store big"), "the boot went on without its store");
    vm.plug_in()?;
    vm.wait_for_boot()?;
    checks::new_and_complete(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}
