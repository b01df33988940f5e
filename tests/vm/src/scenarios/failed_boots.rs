//! Three boots in a row do not come up: the one after them has only what is required, and says so; when that
//! came up, all is as before.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::ebbtide::{Ebbtide, Kind, checks};

const OPTIONAL: &str = "version = 1\n[keep]\n\
                        directories = [{ path = \"/var/lib/may\", optional = true }]\n";

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    vm.check("systemctl is-active ebbtide-came-up.service")?;
    vm.check("mkdir -p /etc/ebbtide/ebbtide.d /var/lib/may && echo mine >/var/lib/may/be")?;
    vm.write_file("/etc/ebbtide/ebbtide.d/may.toml", OPTIONAL.as_bytes())?;
    vm.check("ebbtide apply && sync")?;
    vm.cut_power()?;

    for _ in 0..3 {
        let mut vm = machine.machine("ebbtide=debug").start()?;
        vm.wait_for_console("entries in place", Duration::from_secs(300))?;
        vm.cut_power()?;
    }

    let mut vm = machine.start("")?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3 && status["proved"] == true, "status is {code}: {status:#}");
    checks::says(&mut vm, "only the base and required entries are in place")?;
    vm.check("test ! -e /var/lib/may/be")?;
    checks::kept(&mut vm)?;
    vm.check("systemctl is-active ebbtide-came-up.service")?;
    vm.reboot()?;
    vm.check("grep -q mine /var/lib/may/be")?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 0, "status is {code}: {status:#}");
    vm.power_off_cleanly()?;
    Ok(())
}
