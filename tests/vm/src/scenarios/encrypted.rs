//! Root and store are encrypted, and are opened in the initramfs: the root is new and what is kept is there,
//! also when the disk of the store appears late. Without it, the machine boots on its last root, and says so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::guest::kernel_arguments;
use testkit::vm::{Machine, Vm};

use crate::ebbtide::{Ebbtide, Kind, checks, mess};

/// How long after the passphrase the disk of the store appears.
const LATE: Duration = Duration::from_secs(10);

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::encrypted(directory, kind)?;
    // Without `rd.auto`, dracut activates only logical volumes that the command line names.
    let words = if kind.guest.has_dracut() { "ro rd.auto=1" } else { "ro" };
    let arguments = kernel_arguments(&format!("root=LABEL=system {words}"));
    let system = Machine::new(directory).disk(&machine.system).kernel(&machine.boot, &arguments);

    let mut vm = system.clone().disk(&machine.big).start()?;
    machine.unlock(&mut vm)?;
    vm.wait_for_boot()?;
    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    encrypted(&mut vm, kind)?;
    mess::make(&mut vm)?;
    vm.power_off_cleanly()?;

    let mut vm = system.clone().disk_to_plug_in(&machine.big).start()?;
    machine.unlock(&mut vm)?;
    std::thread::sleep(LATE);
    ensure!(!vm.console().contains("store big"), "the boot went on without its store");
    vm.plug_in()?;
    vm.wait_for_boot()?;
    checks::new_and_complete(&mut vm)?;
    encrypted(&mut vm, kind)?;
    // The next boot is to run this root.
    vm.check("touch /stray")?;
    vm.power_off_cleanly()?;

    let mut vm = system.start()?;
    machine.unlock(&mut vm)?;
    vm.wait_for_boot()?;
    checks::refused(&mut vm)?;
    checks::says(&mut vm, "store big is not there")?;
    vm.check("systemctl is-active multi-user.target && ! test -e /srv/served")?;
    vm.power_off_cleanly()?;
    Ok(())
}

/// What is mounted is on encrypted disks only.
fn encrypted(vm: &mut Vm, kind: Kind) -> Result<()> {
    let types = if kind.is_btrfs() { "crypt,disk" } else { "lvm,crypt,disk" };
    for (label, disk) in [("system", "/dev/vda"), ("big", "/dev/vdb")] {
        let below = vm.check(&format!(
            "lsblk --inverse --noheadings --raw --output TYPE,PATH $(blkid --label {label})"
        ))?;
        let found: Vec<&str> = below.lines().filter_map(|line| line.split(' ').next()).collect();
        ensure!(found.join(",") == types && below.ends_with(disk), "{label} is on {below}");
    }
    Ok(())
}
