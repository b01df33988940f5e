//! A machine is hibernated, and resumed: nothing has touched its disks. Hibernated again, it is booted by a
//! kernel that knows of no image: the root is not reset, and the boot says why, until the image is gone.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::process::run as call;
use testkit::vm::Vm;

use crate::ebbtide::{Ebbtide, Kind, checks};

const SWAP: &str = "/dev/vdc";

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let swap = directory.join("swap");
    File::create_new(&swap)?.set_len(1 << 30)?;
    call(Command::new("mkswap").arg("--quiet").arg(&swap))?;
    let start = |words: &str| -> Result<Vm> {
        let mut vm = machine.machine(words).image(&swap).start()?;
        vm.wait_for_boot()?;
        Ok(vm)
    };

    let resuming = format!("resume={SWAP} ebbtide=debug");
    let mut vm = start(&resuming)?;
    checks::new_and_complete(&mut vm)?;
    vm.check(&format!("swapon {SWAP} && systemd-run --unit=remembers sleep infinity"))?;
    // Not all of it is on the disk.
    vm.check(
        "echo in memory >/run/token && sync && echo stray >/stray && echo more >>/home/alice/log",
    )?;
    let boot = vm.boot_id().to_owned();
    vm.hibernate()?;

    let mut vm = start(&resuming)?;
    ensure!(vm.boot_id() == boot, "another boot: {} after {boot}", vm.boot_id());
    let console = vm.console();
    ensure!(!console.contains("new root from the base"), "the root was reset before the resume");
    vm.check("systemctl is-active remembers && grep -q memory /run/token")?;
    vm.check("grep -q stray /stray && grep -q more /home/alice/log")?;
    checks::healthy(&mut vm)?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 0 && status["proved"] == true, "status is {code}: {status:#}");
    vm.check("echo 3 >/proc/sys/vm/drop_caches; ebbtide diff / | grep -q stray; sync")?;
    vm.hibernate()?;

    let mut vm = start("ebbtide=debug")?;
    ensure!(vm.boot_id() != boot, "it resumed");
    checks::refused(&mut vm).context("with an image on its swap space")?;
    checks::says(&mut vm, &format!("a hibernated system is on {SWAP}"))?;
    // As its fstab would have systemd do; swapon(8) takes the image away.
    vm.check(&format!("swapon {SWAP} && swapoff {SWAP}"))?;
    vm.reboot()?;
    checks::new_and_complete(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}
