//! Roots in RAM: nothing of a root is left after a reboot, and everything that was declared is, files
//! that programs replace by rename included, because they are taken back before the power goes.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::ebbtide::{Ebbtide, TMPFS, checks};

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, TMPFS)?;
    let mut vm = machine.start("")?;
    checks::new_and_complete(&mut vm)?;
    vm.check("findmnt --noheadings --output FSTYPE / | grep -qx overlay")?;
    vm.check("findmnt --noheadings --output OPTIONS /run/ebbtide/ram | grep -q size=409600k")?;
    // What was written was archived, and what is written now is watched.
    vm.check("ebbtide boots --json | grep -q ebbtide/past/1")?;
    vm.check("systemctl is-active ebbtide-watch && echo '127.0.1.1 watched' >/etc/hosts")?;
    vm.check(
        "for i in $(seq 60); do grep -q watched /run/ebbtide/stores/state/etc/hosts && exit; \
         sleep 0.5; done; exit 1",
    )?;
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        ensure!(!top.join("ebbtide/root").exists(), "a root lies on the disk");
        ensure!(top.join(TMPFS.written(1)).join("stray").exists(), "it was not archived");
        ensure!(!top.join("ebbtide/bases/1/stray").exists(), "the base was written to");
        Ok(())
    })?;

    // There is no last root: the base with what is required.
    let mut vm = machine.start("ebbtide=off")?;
    vm.assert_healthy()?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3 && status["outcome"]["kept"] == "off", "{status:#}");
    checks::says(&mut vm, "the root is the base with the entries that are required")?;
    checks::forgotten(&mut vm)?;
    vm.check("grep -qx thesis /home/alice/thesis.tex")?;
    vm.power_off_cleanly()?;
    Ok(())
}
