//! With a hundred entries and systemd in the initramfs, every boot out of many is new and complete.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::ebbtide::{Ebbtide, Kind, checks};

/// How many, unless `EBBTIDE_SOAK_BOOTS` says so.
const BOOTS: u32 = 3;

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let boots = std::env::var("EBBTIDE_SOAK_BOOTS").map_or(Ok(BOOTS), |it| it.parse())?;
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    let paths: Vec<String> = (1..=100).map(|number| format!("\"/opt/kept/{number}\"")).collect();
    let layer = format!("version = 1\n[keep]\ndirectories = [{}]\n", paths.join(", "));
    vm.check("mkdir -p /etc/ebbtide/ebbtide.d")?;
    vm.write_file("/etc/ebbtide/ebbtide.d/hundred.toml", layer.as_bytes())?;
    vm.check("ebbtide apply && for n in $(seq 100); do echo $n >/opt/kept/$n/mark; done")?;
    for boot in 1..=boots {
        vm.check("touch /stray")?;
        vm.reboot().with_context(|| format!("boot {boot} of {boots}"))?;
        checks::healthy(&mut vm).with_context(|| format!("boot {boot} of {boots}"))?;
        checks::proved(&mut vm).with_context(|| format!("boot {boot} of {boots}"))?;
        let marks =
            vm.check("test ! -e /stray && cat /opt/kept/*/mark | sort -n | tr '\\n' ' '")?;
        let expected: Vec<String> = (1..=100).map(|number: u32| number.to_string()).collect();
        ensure!(marks.split_whitespace().eq(&expected), "boot {boot} of {boots}: {marks}");
    }
    vm.power_off_cleanly()?;
    Ok(())
}
