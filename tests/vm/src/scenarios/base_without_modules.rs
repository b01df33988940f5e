//! A base that has no modules for the kernel that runs: it would come up without its drivers.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use testkit::process::run as execute;

use crate::ebbtide::{BTRFS, Ebbtide, checks};

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, BTRFS)?;
    machine.system.with_top_level(|top| {
        let base = top.join("ebbtide/bases/1");
        let writable = |value: &str| {
            execute(
                Command::new("btrfs")
                    .args(["property", "set", "-f", "-ts"])
                    .arg(&base)
                    .args(["ro", value]),
            )
        };
        writable("false")?;
        let modules = base.join("usr/lib/modules");
        let releases = fs::read_dir(&modules)?.collect::<Result<Vec<_>, _>>()?;
        for (number, release) in releases.iter().enumerate() {
            fs::rename(release.path(), modules.join(format!("0.0.{number}-other")))?;
        }
        writable("true")?;
        Ok(())
    })?;
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    checks::refused(&mut vm)?;
    checks::says(&mut vm, "has no modules for the running kernel")?;
    vm.power_off_cleanly()?;
    Ok(())
}
