//! Using a machine, and making a mess of it.

use anyhow::Result;
use testkit::vm::Vm;

/// Does both; `checks` knows what it did.
pub fn make(vm: &mut Vm) -> Result<()> {
    vm.check(include_str!("mess.sh"))?;
    // A second declaration, so that there is a previous one to fall back to.
    let declaration = "/etc/ebbtide/ebbtide.toml";
    vm.check(&format!(
        "sed -i 's|\"/var/lib/witness\",|\"/var/lib/witness\", \"/var/lib/added\",|' {declaration} \
         && ebbtide check && ebbtide apply"
    ))?;
    Ok(())
}
