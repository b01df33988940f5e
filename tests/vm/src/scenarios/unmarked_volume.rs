//! A volume without a container, booted with Ebbtide's initramfs: nothing on it is touched, and it
//! boots as its kernel command line says.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;
use testkit::guest::kernel_arguments;
use testkit::process::run as execute;
use testkit::vm::Machine;

use crate::ebbtide::{BTRFS, Ebbtide, checks};
use crate::prepared;

pub fn run(directory: &Path) -> Result<()> {
    let disk = prepared::stock()?.disk(directory)?;
    let before = disk.with_top_level(subvolumes)?;
    let initramfs = Ebbtide::fresh(&directory.join("ebbtide"), BTRFS)?.boot;
    let arguments = kernel_arguments("root=LABEL=system rootflags=subvol=@root ro");
    let mut vm = Machine::new(directory).disk(&disk).kernel(&initramfs, &arguments).start()?;
    vm.wait_for_boot()?;
    checks::healthy(&mut vm)?;
    let record: Value = serde_json::from_str(&vm.check("cat /run/ebbtide/boot.json")?)?;
    ensure!(record["outcome"] == "refused" && record["number"] == 0, "{record:#}");
    ensure!(record["problems"].to_string().contains("cannot open the container"), "{record:#}");
    vm.power_off_cleanly()?;
    let after = disk.with_top_level(subvolumes)?;
    ensure!(after == before, "the volume was changed: {before} and then {after}");
    Ok(())
}

/// What lies on the top level, and all subvolumes with their UUIDs.
fn subvolumes(top: &Path) -> Result<String> {
    let names = execute(Command::new("ls").arg("-A").arg(top))?;
    let list = execute(Command::new("btrfs").args(["subvolume", "list", "-u"]).arg(top))?;
    let list = String::from_utf8(list)?;
    // The generation of what was booted grows.
    let uuids: Vec<_> = list.lines().filter_map(|line| line.split(" uuid ").nth(1)).collect();
    Ok(format!("{} {}", String::from_utf8(names)?, uuids.join(" ")))
}
