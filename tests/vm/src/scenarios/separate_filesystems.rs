//! `/usr`, `/boot` and an EFI system partition are filesystems of their own: the root is new all the same,
//! they are mounted and as they were left, and an initramfs that the running system builds boots.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::vm::Vm;

use crate::ebbtide::separate::MOUNTED;
use crate::ebbtide::{Ebbtide, Kind, checks, mess};

/// Leaves a trace of the initramfs that it is part of, in the running system.
const WITNESS: &str = "#!/bin/sh\n[ \"$1\" = prereqs ] || echo updated >/run/initramfs-was\n";
const SCRIPT: &str = "/etc/initramfs-tools/scripts/init-top/witness";

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let (machine, said) = Ebbtide::with_separate_filesystems(directory, kind)?;
    ensure!(said.contains("note: /usr is a filesystem of its own"), "init said: {said}");
    ensure!(!said.contains("warning"), "init said: {said}");
    // systemd-shutdown itself runs from there; it makes /usr read-only instead.
    let busy = "Failed to unmount /usr: Device or resource busy";
    let mut vm = machine.through_grub().tolerate(busy).start()?;
    vm.wait_for_boot()?;
    let line = vm.check("cat /proc/cmdline")?;
    ensure!(line.starts_with("BOOT_IMAGE=/vmlinuz-"), "not booted from /boot: {line}");
    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    mounted(&mut vm)?;
    mess::make(&mut vm)?;
    for place in MOUNTED {
        vm.check(&format!("echo stays >/{place}/written"))?;
    }
    let has_scripts = !kind.guest.has_dracut();
    if has_scripts {
        vm.write_file(SCRIPT, WITNESS.as_bytes())?;
        vm.check(&format!("chmod +x {SCRIPT}"))?;
    }
    let build = if has_scripts {
        "update-initramfs -u 2>&1"
    } else {
        "dracut --force /boot/initrd.img-$(uname -r) 2>&1"
    };
    let outcome = vm.run_within(build, b"", Duration::from_secs(900))?;
    ensure!(outcome.success(), "{build}: {}", outcome.text());

    vm.reboot()?;
    checks::new_and_complete(&mut vm)?;
    mounted(&mut vm)?;
    for place in MOUNTED {
        ensure!(vm.check(&format!("cat /{place}/written"))? == "stays", "/{place} was reset");
    }
    if has_scripts {
        ensure!(vm.check("cat /run/initramfs-was")? == "updated", "an older initramfs was booted");
        vm.check(&format!("! test -e {SCRIPT}"))?;
    }
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        let inside = top.join("ebbtide/bases/1/usr");
        ensure!(inside.is_dir() && inside.read_dir()?.next().is_none(), "/usr was copied");
        Ok(())
    })
}

fn mounted(vm: &mut Vm) -> Result<()> {
    for (place, expected) in
        [("/usr", "usr ext4"), ("/boot", "boot ext4"), ("/boot/efi", "ESP vfat")]
    {
        let found =
            vm.check(&format!("findmnt --noheadings --raw --output LABEL,FSTYPE,OPTIONS {place}"))?;
        let is_writable = found.split([' ', ',']).any(|word| word == "rw");
        ensure!(found.starts_with(expected) && is_writable, "{place} is {found:?}");
    }
    Ok(())
}
