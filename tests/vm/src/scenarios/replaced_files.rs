//! Files that programs replace by rename, users who are added, and homes that are not kept whole:
//! what real programs write is there after a reboot, and after a power cut nothing is believed to be
//! deleted.

use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::Value;
use testkit::vm::Vm;

use crate::ebbtide::{Ebbtide, Kind, checks};
use crate::programs;

/// The homes of this machine are ephemeral from now on, with entries below them.
const DECLARATION: &str = r#"version = 1
[keep]
presets = ["accounts"]
files = [
    { path = "/etc/deleted.conf", method = "sync" },
    { path = "/etc/linked.conf", method = "symlink" },
    "/etc/mounted.conf",
]

[users.alice]
directories = [{ path = ".ssh", mode = "0700" }, "Documents"]
files = [{ path = ".gitconfig", method = "sync" }, { path = ".bash_history", method = "sync" }]

[users.bob]
directories = ["Documents"]
"#;

fn kept(vm: &mut Vm) -> Result<()> {
    for command in programs::KEPT {
        vm.check(command)?;
    }
    Ok(())
}

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::fresh(directory, kind)?;
    let mut vm = machine.start("")?;
    vm.check("for it in deleted linked mounted; do echo $it >/etc/$it.conf; done")?;
    vm.check(
        "sed -i -e '/\"\\/home\",/d' -e 's/ephemeral = .*/ephemeral = [\"\\/home\", \"\\/root\"]/' \
         /etc/ebbtide/ebbtide.toml && mkdir -p /etc/ebbtide/ebbtide.d",
    )?;
    vm.write_file("/etc/ebbtide/ebbtide.d/methods.toml", DECLARATION.as_bytes())?;
    let said = vm.check("ebbtide apply")?;
    ensure!(said.contains("- /home; its data stays in the store (now)"), "{said}");
    ensure!(said.contains("+ /home/alice/Documents (next boot: it lies in /home, "), "{said}");
    ensure!(said.contains("+ /etc/shadow, taken back when the machine goes down (now)"), "{said}");
    vm.reboot()?;

    // Now in ephemeral homes; bob is still to come.
    checks::healthy(&mut vm)?;
    vm.check("stat -c %U:%a /home/alice | grep -qx alice:700")?;
    vm.check(programs::USE)?;
    vm.check("rm /etc/deleted.conf")?;
    vm.reboot()?;
    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    kept(&mut vm)?;
    vm.check("! test -e /etc/deleted.conf")?;

    // What is deleted before a power cut comes back; what was changed durably is kept.
    vm.check(
        "rm /home/alice/.gitconfig && sed -i 's/replaced/replaced twice/' /etc/hosts && sync",
    )?;
    vm.cut_power()?;
    let mut vm = machine.start("")?;
    kept(&mut vm)?;
    vm.check("grep -q 'replaced twice' /etc/hosts")?;
    let status = vm.run("ebbtide status")?;
    ensure!(
        status.status == 3 && status.text().contains(".gitconfig"),
        "the file that came back is not reported: {}",
        status.text()
    );
    what_is_kept_no_longer_goes(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}

/// In the sandbox of its unit, gc can delete a root.
fn what_is_kept_no_longer_goes(vm: &mut Vm) -> Result<()> {
    let has_root = |boots: &Value, number: u64| {
        let mut boots = boots["boots"].as_array().into_iter().flatten();
        boots.any(|boot| boot["number"] == number && boot["root"].is_string())
    };
    let before = serde_json::from_str(&vm.check("ebbtide boots --json")?)?;
    ensure!(has_root(&before, 1), "{before:#}");
    vm.check(
        "sed -i '/^backend = /a keep-boots = { min = 1, count = 1 }' /etc/ebbtide/ebbtide.toml && \
         ebbtide apply && systemctl start ebbtide-gc.service",
    )?;
    let after = serde_json::from_str(&vm.check("ebbtide boots --json")?)?;
    ensure!(!has_root(&after, 1) && has_root(&after, 4), "{after:#}");
    kept(vm)
}
