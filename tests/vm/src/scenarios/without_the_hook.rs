//! The checks themselves: on the same machine, booted with an initramfs that knows nothing of
//! Ebbtide, every one of them fails.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::guest::kernel_arguments;

use crate::ebbtide::{BTRFS, Ebbtide, checks};
use crate::prepared;

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, BTRFS)?;
    let arguments = kernel_arguments("root=LABEL=system rw rootflags=subvol=ebbtide/root");
    let mut vm = machine.without_loader(prepared::stock()?.boot(), &arguments).start()?;
    vm.wait_for_boot()?;
    let mut passed = Vec::new();
    for (name, check) in checks::ALL {
        if check(&mut vm).is_ok() {
            passed.push(*name);
        }
    }
    ensure!(passed.is_empty(), "these checks pass on a machine without Ebbtide: {passed:?}");
    checks::says(&mut vm, "no record of this boot")?;
    vm.power_off_cleanly()?;
    Ok(())
}
