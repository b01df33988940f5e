//! A compiled declaration that was changed behind Ebbtide's back: the previous one is used.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    machine.system.with_top_level(|top| {
        let pins: Value =
            serde_json::from_slice(&fs::read(top.join("ebbtide/declarations.json"))?)?;
        let current = pins["current"].as_str().unwrap_or_default();
        ensure!(pins["previous"].is_string(), "there is no previous one: {pins:#}");
        let file = top.join(format!("state/.ebbtide/declarations/{current}.json"));
        fs::write(
            &file,
            fs::read_to_string(&file)?.replace("/var/lib/added", "/var/lib/tampered"),
        )?;
        Ok(())
    })?;
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    checks::forgotten(&mut vm)?;
    checks::kept(&mut vm)?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3 && status["outcome"] == "reset", "status is {code}: {status:#}");
    checks::says(&mut vm, "the previous one is used")?;
    vm.check("test ! -e /var/lib/tampered")?;
    vm.check("ebbtide apply")?;
    vm.power_off_cleanly()?;
    Ok(())
}
