//! The kernel command line may name the volume in another way than the declaration does: it is the same
//! volume.

use std::path::Path;

use anyhow::{Context, Result};
use testkit::guest::kernel_arguments;

use crate::ebbtide::{Ebbtide, Kind, checks};

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    let mut names = vec!["/dev/vda2".to_owned()];
    for tag in ["UUID", "PARTUUID", "PARTLABEL"] {
        let value = vm.check(&format!("lsblk --noheadings --nodeps --output {tag} /dev/vda2"))?;
        names.push(format!("{tag}={}", value.trim()));
    }
    vm.power_off_cleanly()?;
    for name in names {
        let arguments = kernel_arguments(&format!("root={name} ro"));
        let mut vm = machine.without_loader(&machine.boot, &arguments).start()?;
        vm.wait_for_boot()?;
        checks::new_and_complete(&mut vm).with_context(|| format!("with root={name}"))?;
        vm.power_off_cleanly()?;
    }
    Ok(())
}
