//! The power fails at hundreds of moments of a machine's life, boots and resets included, and the disk
//! loses some of what it had not been told to keep, in any order: each time, the next boot has a new root,
//! and all that was durable.

mod cut;
mod promises;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::vm::Vm;
use testkit::write_log::WriteLog;

use self::cut::Cuts;
use crate::ebbtide::{Ebbtide, Kind, checks};

const WORKLOAD: &str = include_str!("workload.sh");

/// How often the power fails, unless `EBBTIDE_POWER_CUTS` says otherwise.
const CUTS: usize = 200;

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::fresh(directory, kind)?;
    machine.system.with_top_level(|top| Ok(std::fs::write(top.join("not-ours"), "stays")?))?;
    let cuts = Cuts::prepare(directory, &machine)?;

    let log = directory.join("writes");
    let mut vm = machine.machine("").record_writes(&log)?.start()?;
    vm.wait_for_boot()?;
    live(&mut vm, 25)?;
    vm.check("ebbtide flush")?;
    live(&mut vm, 35)?;
    vm.reboot()?;
    checks::healthy(&mut vm)?;
    live(&mut vm, 60)?;
    // The workload goes on until systemd ends it.
    vm.power_off_cleanly()?;

    let log = WriteLog::open(&log)?;
    let count = match std::env::var("EBBTIDE_POWER_CUTS") {
        Ok(count) => count.parse().context("EBBTIDE_POWER_CUTS is no number")?,
        Err(_) => CUTS,
    };
    let flushes = log.writes().iter().filter(|write| write.flush).count();
    ensure!(flushes > 50, "{flushes} flushes: the disk was hardly told to keep anything");
    let real = cuts.survive(&log, count)?;

    // And one of them for real.
    machine.system.replace_system_by(&real)?;
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    vm.check("test \"$(sqlite3 /var/lib/app/db 'PRAGMA integrity_check')\" = ok")?;
    vm.power_off_cleanly()?;
    Ok(())
}

/// Lets the workload run until its log has so many lines.
fn live(vm: &mut Vm, lines: u32) -> Result<()> {
    vm.write_file("/run/workload", WORKLOAD.as_bytes())?;
    let boot = checks::record(vm)?["number"].as_u64().context("the record has no number")?;
    vm.check(&format!(
        "systemctl is-active --quiet workload || \
         systemd-run --quiet --unit=workload bash /run/workload {boot}"
    ))?;
    let wait = format!(
        "until [ $(wc -l </var/lib/app/log) -ge {lines} ]; do \
         systemctl is-active --quiet workload || exit 1; sleep 0.2; done"
    );
    let output = vm.run_within(&wait, &[], Duration::from_secs(600))?;
    ensure!(output.success(), "the workload ended: {}", vm.run("journalctl -u workload")?.text());
    Ok(())
}
