//! The disk of a store is not there, and then another one is: the machine boots on its last root, and says so,
//! until somebody accepts that disk.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use testkit::guest::kernel_arguments;
use testkit::vm::{Machine, Vm};

use crate::ebbtide::{Ebbtide, Kind, checks};

/// As if the store were restored to a new disk, where it was made anew.
const MARKER: &str = r#"{"version":1,"uuid":"00000000-0000-4000-8000-00000000beef"}"#;

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let arguments = kernel_arguments("root=LABEL=system ro");
    let mut vm =
        Machine::new(directory).disk(&machine.system).kernel(&machine.boot, &arguments).start()?;
    vm.wait_for_boot()?;
    checks::refused(&mut vm)?;
    checks::says(&mut vm, "store big is not there")?;
    // What needs it does not begin anew on an empty directory, and says why; the rest is up.
    let failed = vm.check("systemctl --failed --plain --no-legend | cut -d' ' -f1")?;
    ensure!(failed.trim() == "ebbtide-missing@srv.service", "failed: {failed}");
    vm.check("systemctl is-active multi-user.target ssh && ! systemctl is-active site")?;
    vm.check("! test -e /srv/served")?;
    let why = vm.check("journalctl --boot --no-pager --unit 'ebbtide-missing@srv.service'")?;
    ensure!(why.contains("/srv is declared and not there"), "{why}");
    ensure!(why.contains("store big is not there"), "{why}");
    checks::says(&mut vm, "site.service does not start, because it needs /srv")?;
    vm.power_off_cleanly()?;

    machine.big.with_top_level(|top| Ok(fs::write(top.join(".ebbtide/store.json"), MARKER)?))?;
    exchanged(machine.start("")?)
}

fn exchanged(mut vm: Vm) -> Result<()> {
    checks::refused(&mut vm)?;
    checks::says(&mut vm, "store big")?;
    let (_, status) = checks::status(&mut vm)?;
    ensure!(status.to_string().contains("ebbtide accept"), "no way out: {status:#}");
    let shown = vm.check("ebbtide accept --dry-run")?;
    ensure!(shown.contains("beef"), "{shown}");
    vm.check("ebbtide accept --yes")?;
    vm.reboot()?;
    checks::new_and_complete(&mut vm)?;
    vm.power_off_cleanly().map(drop)
}
