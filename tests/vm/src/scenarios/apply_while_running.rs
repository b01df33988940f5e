//! A declaration that is changed while the machine runs: what nothing uses is kept from then on, in
//! every mount namespace; what is in use comes with the next boot; what is not declared any more goes.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::vm::Vm;

use crate::ebbtide::{Ebbtide, Kind, checks};

const MORE: &str = r#"version = 1
[keep]
directories = ["/opt/app", "/var/lib/busy"]
files = [{ path = "/etc/app.conf", method = "sync" }]
"#;

/// A service that was started before, in a mount namespace of its own.
const READER: &str = "systemd-run --quiet --unit=reader -p PrivateTmp=yes \
     sh -c 'while :; do cat /opt/app/data >/run/reader; sleep 0.2; done'";

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::fresh(directory, kind)?;
    let mut vm = machine.start("")?;
    vm.check(
        "mkdir -p /opt/app /var/lib/busy && echo one >/opt/app/data && echo 1 >/etc/app.conf",
    )?;
    vm.check("systemd-run --quiet --unit=busy --working-directory=/var/lib/busy sleep infinity")?;
    vm.check(READER)?;
    vm.check("mkdir -p /etc/ebbtide/ebbtide.d")?;
    vm.write_file("/etc/ebbtide/ebbtide.d/more.toml", MORE.as_bytes())?;
    let said = vm.check("ebbtide apply")?;
    ensure!(said.contains("+ /opt/app (now)"), "{said}");
    ensure!(said.contains("+ /var/lib/busy (next boot: sleep ("), "{said}");
    vm.check("findmnt --mountpoint /opt/app && ! findmnt --mountpoint /var/lib/busy")?;
    vm.check("echo two >/opt/app/data")?;
    vm.check("for i in $(seq 50); do grep -q two /run/reader && exit; sleep 0.2; done; exit 1")?;
    // Replaced by renaming, after it was taken over.
    vm.check("sed -i s/1/2/ /etc/app.conf && echo late >/var/lib/busy/data")?;
    let (code, status) = checks::status(&mut vm)?;
    ensure!(code == 0, "what waits is no fault: {status:#}");
    vm.check("systemctl stop reader")?;

    vm.reboot()?;
    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    vm.check("findmnt --mountpoint /opt/app && findmnt --mountpoint /var/lib/busy")?;
    vm.check(
        "grep -q two /opt/app/data && grep -q 2 /etc/app.conf && grep -q late /var/lib/busy/data",
    )?;

    // And away again: what is in use stays until it is not.
    vm.check("systemd-run --quiet --unit=busy --working-directory=/var/lib/busy sleep infinity")?;
    let said = vm.check("ebbtide forget /opt/app /var/lib/busy /etc/app.conf")?;
    vm.check("grep -qxF 'directories = []' /etc/ebbtide/ebbtide.d/more.toml")?;
    ensure!(said.contains("- /opt/app; its data stays in the store (now)"), "{said}");
    ensure!(
        said.contains("- /var/lib/busy; its data stays in the store (next boot: sleep ("),
        "{said}"
    );
    vm.check("! findmnt --mountpoint /opt/app && ! test -e /opt/app/data")?;
    vm.check("test -e /var/lib/busy/data && ebbtide status")?;

    // Who only edits the file has it compiled all the same; a mistake leaves what was.
    vm.write_file("/etc/ebbtide/ebbtide.d/more.toml", MORE.as_bytes())?;
    wait_for_journal(&mut vm, "the declaration changed: compiled as")?;
    vm.check("echo 'keeep = 1' >>/etc/ebbtide/ebbtide.d/more.toml")?;
    wait_for_journal(&mut vm, "unknown key")?;
    vm.check("rm /etc/ebbtide/ebbtide.d/more.toml && sleep 2 && systemctl reset-failed")?;
    vm.power_off_cleanly()?;
    machine.system.with_top_level(|top| {
        ensure!(
            top.join("state/opt/app/data").exists(),
            "a store lost what is not declared any more"
        );
        Ok(())
    })
}

fn wait_for_journal(vm: &mut Vm, text: &str) -> Result<()> {
    vm.check(&format!(
        "for i in $(seq 100); do journalctl --boot --no-pager --unit ebbtide-declaration | \
         grep -q {text:?} && exit; sleep 0.3; done; journalctl --boot --no-pager | tail; exit 1"
    ))
    .map(drop)
}
