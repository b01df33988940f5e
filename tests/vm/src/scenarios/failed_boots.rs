//! Three boots in a row do not come up: the one after them has only what is required, and says so; when that
//! came up, all is as before. If it does not come up either, the last root that did runs again.

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

    fail(&machine, 3)?;

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

    vm.check("systemctl is-active ebbtide-came-up.service")?;
    vm.check("echo mine >/etc/of-that-root && sync")?;
    vm.cut_power()?;
    fail(&machine, 4)?;
    let mut vm = machine.start("")?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3, "status is {code}: {status:#}");
    checks::says(&mut vm, "its root runs again")?;
    vm.check("grep -q mine /etc/of-that-root && test ! -e /var/lib/may/be")?;
    checks::kept(&mut vm)?;
    vm.check("systemctl is-active ebbtide-came-up.service")?;
    vm.reboot()?;
    vm.check("test ! -e /etc/of-that-root && grep -q mine /var/lib/may/be")?;
    checks::healthy(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}

/// So many boots get as far as their entries, and no further.
fn fail(machine: &Ebbtide, boots: usize) -> Result<()> {
    for _ in 0..boots {
        let mut vm = machine.machine("ebbtide=debug").start()?;
        vm.wait_for_console("entries in place", Duration::from_secs(300))?;
        vm.cut_power()?;
    }
    Ok(())
}
