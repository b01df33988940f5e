//! SELinux enforces its policy: the machine forgets and remembers as every other does, nothing is denied for want of
//! a label, and what was made in a boot or while the system runs has the label that the policy has for it.

use std::path::Path;

use anyhow::{Result, ensure};
use testkit::vm::Vm;

use crate::ebbtide::{Ebbtide, Kind, checks};

/// What has data of its own or directories that Ebbtide makes.
const PLACES: &str = "/etc /home /opt /root /srv /usr/bin /usr/lib/systemd /var";

const LATER: &str =
    "version = 1\n[keep]\ndirectories = [\"/var/lib/mysql\", \"/var/spool/made/cron\"]\n";

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::messed_up(directory, kind)?;
    let mut vm = machine.start("")?;
    checks::new_and_complete(&mut vm)?;
    enforced(&mut vm)?;

    // What has no model: made while the system runs, and in a boot.
    vm.check("mkdir -p /etc/ebbtide/ebbtide.d")?;
    vm.write_file("/etc/ebbtide/ebbtide.d/later.toml", LATER.as_bytes())?;
    vm.check("ebbtide apply && mountpoint /var/lib/mysql")?;
    enforced(&mut vm)?;
    let type_of = "stat -c %C /var/lib/mysql | cut -d: -f3";
    ensure!(vm.check(type_of)?.trim() == "mysqld_db_t", "{}", vm.check(type_of)?);
    vm.check("cd /etc/ebbtide/ebbtide.d && sed -i s/mysql/postgresql/ later.toml && ebbtide apply --next-boot")?;
    vm.reboot()?;
    checks::new_and_complete(&mut vm)?;
    enforced(&mut vm)?;
    vm.check("mountpoint /var/lib/postgresql")?;
    vm.power_off_cleanly().map(drop)
}

fn enforced(vm: &mut Vm) -> Result<()> {
    ensure!(vm.check("getenforce")?.trim() == "Enforcing", "SELinux does not enforce its policy");
    let denied = vm.check("journalctl --boot --quiet _TRANSPORT=audit + _TRANSPORT=kernel | grep 'avc:  denied' || true")?;
    let ours = |line: &&str| line.contains("unlabeled_t") || line.contains("ebbtide");
    let denied: Vec<&str> = denied.lines().filter(ours).collect();
    ensure!(denied.is_empty(), "denied: {}", denied.join("\n"));
    let wrong = vm.check(&format!("restorecon -n -v -R {PLACES} 2>&1"))?;
    ensure!(wrong.is_empty(), "labelled otherwise than the policy has it:\n{wrong}");
    let run = vm.check("stat -c %C /run /run/ebbtide /run/ebbtide/* | sort -u")?;
    ensure!(!run.contains("tmpfs_t"), "not labelled in the run directory: {run}");
    Ok(())
}
