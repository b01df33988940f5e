//! The base has no password for anybody, and the last root has one: it is not reset, says why, and lets in who
//! mends it. With `require-login = false` it is reset, and that is told; with the account files kept, all is well.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use testkit::process::run as execute;

use crate::ebbtide::{BTRFS, Ebbtide, checks};

const DECLARATION: &str = "/etc/ebbtide/ebbtide.toml";
const ACCOUNTS: &str = "version = 1\n[keep]\npresets = [\"accounts\"]\n";

pub fn run(directory: &Path) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, BTRFS)?;
    lock_root_in_the_base(&machine)?;
    let why = "nobody could log in to a new one: the last one has a password for root";

    // Root needs none on the root of the boot before.
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    checks::refused(&mut vm)?;
    checks::says(&mut vm, why)?;
    checks::says(&mut vm, "the next boot will not reset the root")?;
    ensure!(vm.console().contains(why), "the console does not say it");
    vm.check("echo alice:secret | chpasswd")?;
    vm.check(&format!(
        "sed -i 's/^ephemeral = .*/&\\nrequire-login = false/' {DECLARATION} && ebbtide apply"
    ))?;
    vm.reboot()?;

    checks::healthy(&mut vm)?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 3 && status["proved"] == true, "status is {code}: {status:#}");
    checks::says(&mut vm, "nobody may be able to log in: the last root has a password")?;
    vm.check("test ! -e /stray && getent shadow alice | grep -q '^alice:!'")?;
    vm.check(&format!(
        "sed -i /^require-login/d {DECLARATION} && mkdir -p /etc/ebbtide/ebbtide.d"
    ))?;
    vm.check("echo alice:secret | chpasswd")?;
    vm.write_file("/etc/ebbtide/ebbtide.d/accounts.toml", ACCOUNTS.as_bytes())?;
    vm.check("ebbtide apply && touch /stray")?;
    vm.reboot()?;

    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    vm.check("test ! -e /stray && getent shadow alice | grep -q '^alice:[$]'")?;
    vm.power_off_cleanly()?;
    Ok(())
}

fn lock_root_in_the_base(machine: &Ebbtide) -> Result<()> {
    machine.system.with_top_level(|top| {
        let base = top.join("ebbtide/bases/1");
        let writable = |value: &str| {
            let mut set = Command::new("btrfs");
            set.args(["property", "set", "-f", "-ts"]).arg(&base).args(["ro", value]);
            execute(&mut set)
        };
        writable("false")?;
        let shadow = base.join("etc/shadow");
        let text = fs::read_to_string(&shadow)?;
        ensure!(text.starts_with("root::"), "root has a password in the base");
        fs::write(shadow, text.replacen("root::", "root:*:", 1))?;
        writable("true")?;
        Ok(())
    })
}
