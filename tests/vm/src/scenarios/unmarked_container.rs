//! A directory that looks like the container and has no marker: nothing in it is touched.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::ebbtide::{Ebbtide, checks};

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory)?;
    let (marker, before) = machine.system.with_top_level(|top| {
        let path = top.join("ebbtide/marker.json");
        let marker = fs::read_to_string(&path)?;
        fs::remove_file(&path)?;
        Ok((marker, listing(top)?))
    })?;
    let mut vm = machine.start("")?;
    vm.assert_healthy()?;
    vm.check("test -e /stray")?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3 && status["proved"] == false, "status is {code}: {status:#}");
    checks::says(&mut vm, "has no marker")?;
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        let after = listing(top)?;
        ensure!(after == before, "an unmarked container was changed:\n{before:#?}\n{after:#?}");
        fs::write(top.join("ebbtide/marker.json"), marker)?;
        Ok(())
    })
}

/// Everything in the container but what is in its subvolumes.
fn listing(top: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    for directory in ["ebbtide", "ebbtide/past", "ebbtide/boots", "ebbtide/bases"] {
        for entry in fs::read_dir(top.join(directory))? {
            let path = entry?.path();
            let content = if path.is_file() { fs::read(&path)? } else { Vec::new() };
            all.push((path.strip_prefix(top)?.display().to_string(), content));
        }
    }
    all.sort();
    Ok(all)
}
