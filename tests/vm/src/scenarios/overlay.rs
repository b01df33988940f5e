//! The main thing, on filesystems without subvolumes: roots are overlays.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::ebbtide::{Ebbtide, Kind, OVERLAY_ON_EXT4, OVERLAY_ON_XFS, checks};

pub fn on_ext4(directory: &Path) -> Result<()> {
    let machine = forgets_and_remembers(directory, OVERLAY_ON_EXT4)?;
    let mut vm = machine.start("ebbtide=off")?;
    checks::healthy(&mut vm)?;
    checks::kept_by_off(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}

pub fn on_xfs(directory: &Path) -> Result<()> {
    let machine = forgets_and_remembers(directory, OVERLAY_ON_XFS)?;
    let mut vm = machine.start("ebbtide=keep")?;
    checks::healthy(&mut vm)?;
    checks::kept_by_keep(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}

fn forgets_and_remembers(directory: &Path, kind: Kind) -> Result<Ebbtide> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    checks::new_and_complete(&mut vm)?;
    // The root is an overlay, and no layer can be reached beside it.
    vm.check("findmnt --noheadings --output FSTYPE / | grep -qx overlay")?;
    vm.check("! grep -E ' /run/ebbtide/(root|base|staging)' /proc/self/mountinfo")?;
    vm.check("touch /stray")?;
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        let past = top.join("ebbtide/past/1/upper");
        ensure!(past.join("stray").exists() && past.join("opt/evil/sh").exists());
        ensure!(!past.join("usr/bin").exists(), "a past root has more than what was written");
        ensure!(!top.join("ebbtide/bases/1/stray").exists(), "the base was written to");
        Ok(())
    })?;
    Ok(machine)
}
