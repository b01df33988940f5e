//! The runner itself: a Debian without Ebbtide boots, obeys, reboots, and powers off.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::guest::kernel_arguments;
use testkit::vm::Machine;

use crate::prepared;

pub fn run(directory: &Path) -> Result<()> {
    let stock = prepared::stock()?;
    let disk = stock.disk(directory)?;
    let arguments = kernel_arguments("root=LABEL=system rootflags=subvol=@root rw");
    let machine = Machine::new(directory).disk(&disk).kernel(stock.boot(), &arguments);

    let mut vm = machine.start()?;
    vm.wait_for_boot()?;
    vm.assert_healthy()?;
    let first_boot = vm.boot_id().to_owned();

    let output = vm.run("printf 'a\\0\\377\\n'; echo error >&2; exit 3")?;
    ensure!(output.status == 3, "exit status {}", output.status);
    ensure!(output.stdout == b"a\0\xff\n", "standard output {:?}", output.stdout);
    ensure!(output.stderr == b"error\n", "standard error {:?}", output.stderr);
    vm.write_file("/srv/kept", b"from the first boot")?;

    vm.reboot()?;
    vm.assert_healthy()?;
    ensure!(vm.boot_id() != first_boot, "the boot id is still {first_boot}");
    let kept = vm.check("cat /srv/kept")?;
    ensure!(kept == "from the first boot", "/srv/kept has {kept:?}");

    vm.power_off_cleanly()?;
    disk.with_top_level(|top| {
        ensure!(top.join("@root/srv/kept").exists(), "the file is not on the disk");
        Ok(())
    })
}
