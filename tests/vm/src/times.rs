//! What `ebbtide-boot` says of its own time, in a machine that boots for the second time.

use std::fs;

use anyhow::{Result, ensure};
use testkit::process::target_directory;

use crate::ebbtide::{BTRFS, Ebbtide, checks};

/// What has the kernel's log print it: `ebbtide: reset took 12.3 ms`.
const SAID: &str = r"dmesg | sed -nE 's/.*ebbtide: ([a-z]+ took [0-9.]+ ms)$/\1/p'";

/// Prints one line for each of its calls in the second boot, then how many entries are in place.
pub fn run() -> Result<()> {
    let directory = target_directory().join("vm/times");
    let _ = fs::remove_dir_all(&directory);
    let machine = Ebbtide::fresh(&directory, BTRFS)?;
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    vm.reboot()?;
    checks::healthy(&mut vm)?;
    let said = vm.check(SAID)?;
    ensure!(said.contains("reset took") && said.contains("attach took"), "the kernel has: {said}");
    let entries = vm.check("grep -o '\"entries\": [0-9]*' /run/ebbtide/boot.json")?;
    println!("{}\n{}", said.trim_end(), entries.trim_end());
    vm.power_off_cleanly()?;
    fs::remove_dir_all(&directory)?;
    Ok(())
}
