//! The main thing: a machine that was used and made a mess of reboots, and is new, except for what
//! was declared; the old root is still on the disk.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    checks::new_and_complete(&mut vm)?;

    vm.check("systemctl is-active ebbtide-came-up.service")?;

    let boots: Value = serde_json::from_str(&vm.check("ebbtide boots --json")?)?;
    ensure!(boots["boots"][0]["current"] == true, "{boots:#}");
    let past = &boots["boots"][1];
    ensure!(past["root"] == "ebbtide/past/1" && past["ended"] == "clean", "{boots:#}");
    ensure!(past["own_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{boots:#}");
    let stray = Path::new("/mnt").join(kind.written(1)).join("stray");
    vm.check(&format!(
        "mount -o {} LABEL=system /mnt && test -e {} && umount /mnt",
        if kind.is_btrfs() { "ro,subvolid=5" } else { "rw" },
        stray.display()
    ))?;

    // A record that says something else than the kernel is found out.
    vm.check("cp /run/ebbtide/boot.json /run/true && sed -i 's/\"outcome\": \"reset\"/\"outcome\": \"refused\"/' /run/ebbtide/boot.json")?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3 && status["proved"] == false, "a forged record was believed: {status:#}");
    vm.check("mv /run/true /run/ebbtide/boot.json")?;
    checks::proved(&mut vm)?;

    // In its sandbox, gc can do what it has to: here, to find that all of it stays.
    vm.check("systemctl start ebbtide-gc.service")?;
    let said = vm.check("journalctl --boot --output cat --unit ebbtide-gc.service")?;
    ensure!(said.contains("nothing deleted"), "gc said {said}");

    // The package does not go while the root is Ebbtide's.
    let removal = vm.run("apt-get remove --yes ebbtide 2>&1")?;
    ensure!(removal.status != 0, "the package was removed under a root of Ebbtide's");
    vm.check("ebbtide status")?;

    if kind.is_btrfs() {
        vm.check("touch /stray")?;
        vm.reboot()?;
        checks::new_and_complete(&mut vm)?;
    } else {
        // The root is an overlay, and no layer can be reached beside it.
        vm.check("findmnt --noheadings --output FSTYPE / | grep -qx overlay")?;
        vm.check("! grep -E ' /run/ebbtide/(root|base|staging)' /proc/self/mountinfo")?;
    }
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        let past = |number, path: &str| top.join(kind.written(number)).join(path).exists();
        ensure!(past(1, "stray") && past(1, "opt/evil/sh"), "a past root is gone");
        ensure!(top.join("ebbtide/came-up.json").exists(), "no boot said that it came up");
        ensure!(past(1, "opt/nested/file"), "a nested subvolume did not travel with its root");
        if kind.is_btrfs() {
            ensure!(past(2, "stray"), "a past root is gone");
        } else {
            ensure!(!past(1, "usr/bin/env"), "a past root has more than what was written");
            ensure!(!top.join("ebbtide/bases/1/stray").exists(), "the base was written to");
        }
        Ok(())
    })
}
