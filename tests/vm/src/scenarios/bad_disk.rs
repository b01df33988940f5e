//! A disk that cannot be read, one that cannot be written to, one that is protected, and full ones: the
//! machine boots and says what is wrong, and with a good disk everything is there again.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use testkit::guest::kernel_arguments;
use testkit::vm::{Fault, Machine, Vm};

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    for fault in [Fault::Reads, Fault::Writes, Fault::Protected] {
        let what = || format!("{fault:?}");
        with_a_bad_store(&machine, directory, fault).with_context(what)?;
        let mut vm = machine.start("")?;
        checks::new_and_complete(&mut vm).with_context(|| format!("after {fault:?}"))?;
        vm.check("touch /stray")?;
        vm.power_off_cleanly()?;
    }
    full_disks(&machine)
}

fn with_a_bad_store(machine: &Ebbtide, directory: &Path, fault: Fault) -> Result<()> {
    let arguments = kernel_arguments("root=LABEL=system ro");
    let mut vm = Machine::new(directory)
        .disk(&machine.system)
        .bad_disk(&machine.big, fault)
        .kernel(&machine.boot, &arguments)
        .start()?;
    vm.wait_for_boot()?;
    let (code, status) = checks::status(&mut vm)?;
    if status["outcome"] == "refused" {
        checks::refused(&mut vm)?;
    } else {
        // It may be seen by what writes to it first.
        ensure!(status["outcome"] == "reset", "{status:#}");
        checks::kept(&mut vm)?;
    }
    ensure!(code == 3 || fault == Fault::Writes, "status is {code}: {status:#}");
    if code == 3 {
        checks::says(&mut vm, "big")?;
    }
    vm.cut_power()
}

/// Fills all there is, and reboots: whether that was reset or not, nothing that was kept is lost.
fn full_disks(machine: &Ebbtide) -> Result<()> {
    let mut vm = machine.start("")?;
    fill(&mut vm)?;
    vm.reboot()?;
    let (_, status) = checks::status(&mut vm)?;
    let text = format!("{status:#}");
    ensure!(status["outcome"] == "reset" || status["outcome"] == "refused", "{text}");
    ensure!(text.contains("full"), "nobody says that a disk is full: {text}");
    checks::kept(&mut vm).context("with full disks")?;
    vm.check("rm /srv/filler /srv/rest /home/filler /home/rest; sync")?;
    vm.reboot()?;
    checks::new_and_complete(&mut vm).context("with room again")?;
    vm.power_off_cleanly().map(drop)
}

fn fill(vm: &mut Vm) -> Result<()> {
    for place in ["/srv", "/home"] {
        vm.check(&format!(
            "fallocate -l $(df --output=avail -B1 {place} | tail -1) {place}/filler; \
             dd if=/dev/zero of={place}/rest bs=64k status=none; ! dd if=/dev/zero of={place}/rest \
             bs=64k count=64 oflag=append conv=notrunc,fsync status=none"
        ))
        .with_context(|| format!("{place} is not full"))?;
    }
    Ok(())
}
