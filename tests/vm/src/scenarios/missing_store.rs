//! The disk of a store is not there: the machine boots on its last root, and says so.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::guest::kernel_arguments;
use testkit::vm::Machine;

use crate::ebbtide::{Ebbtide, Kind, checks};

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
    Ok(())
}
