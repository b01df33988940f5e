//! What the next reset would take is told; what is kept by one command is there afterwards, what is
//! not is gone, and comes back from a past root.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testkit::vm::Vm;

use crate::ebbtide::{Ebbtide, Kind, checks};

/// One day's work: what is worth keeping, and what is not.
const WORK: &str = r"set -eu
mkdir -p /opt/found /opt/reviewed /opt/noise /opt/lost/sub
echo kept >/opt/found/data
echo reviewed >/opt/reviewed/data
echo noise >/opt/noise/data
echo lost >/opt/lost/sub/data
cp /bin/true /opt/lost/tool
setcap cap_net_raw=ep /opt/lost/tool
setfattr -n trusted.note -v remember /opt/lost/tool
chown -R alice:alice /opt/lost/sub
chmod 2750 /opt/lost/sub
touch -d '2001-02-03 04:05:06' /opt/lost/sub/data
ln /opt/lost/sub/data /opt/lost/second
ln -s /etc/shadow /opt/lost/link
truncate -s 1G /opt/lost/sparse
echo odd >/opt/lost/$(printf 'esc\033[31m')
echo '# changed' >>/etc/nsswitch.conf
chmod 600 /etc/issue.net
rm /etc/cron.daily/apt-compat
";

/// How [`WORK`] is seen once it is back.
const BACK: &[&str] = &[
    "grep -qx lost /opt/lost/sub/data",
    "stat -c '%U:%G %a' /opt/lost/sub | grep -qx 'alice:alice 2750'",
    "stat -c %Y /opt/lost/sub/data | grep -qx $(date -d '2001-02-03 04:05:06' +%s)",
    "test $(stat -c %i /opt/lost/second) = $(stat -c %i /opt/lost/sub/data)",
    "getcap /opt/lost/tool | grep -q cap_net_raw=ep",
    "getfattr --only-values -n trusted.note /opt/lost/tool | grep -qx remember",
    "readlink /opt/lost/link | grep -qx /etc/shadow",
    "stat -c '%s %b' /opt/lost/sparse | grep -qx '1073741824 0'",
];

pub fn run(directory: &Path, kind: Kind) -> Result<()> {
    let machine = Ebbtide::fresh(directory, kind)?;
    let mut vm = machine.start("")?;
    vm.check(WORK)?;
    is_told(&mut vm)?;
    is_decided(&mut vm)?;
    vm.reboot()?;

    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    vm.check("grep -qx kept /opt/found/data && grep -qx reviewed /opt/reviewed/data")?;
    vm.check(
        "! test -e /opt/lost && ! test -e /opt/noise && ! grep -q changed /etc/nsswitch.conf",
    )?;
    comes_back(&mut vm)?;
    vm.check("echo more >>/opt/found/data && ebbtide forget --move-back /opt/found")?;
    vm.check("! findmnt --mountpoint /opt/found && grep -qx more /opt/found/data")?;
    vm.reboot()?;

    checks::healthy(&mut vm)?;
    checks::proved(&mut vm)?;
    for command in BACK {
        vm.check(command).context("it was restored to be kept")?;
    }
    vm.check("! test -e /opt/found")?;
    vm.check("ebbtide log --grep more /opt/found/data && ebbtide restore /opt/found")?;
    vm.check("grep -qx more /opt/found/data")?;
    between_boots(&mut vm)?;
    vm.power_off_cleanly()?;
    Ok(())
}

/// The changes that `ebbtide diff` tells with these arguments, by their paths.
fn changes(vm: &mut Vm, arguments: &str) -> Result<BTreeMap<String, String>> {
    let output = vm.run(&format!("ebbtide diff --json {arguments}"))?;
    ensure!(output.status == 3, "diff ended with {}: {}", output.status, output.text());
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let mut changes = BTreeMap::new();
    for change in told["paths"].as_array().context("no paths")? {
        let path = change["path"].as_str().context("no path")?.to_owned();
        changes.insert(path, change["change"].as_str().context("no change")?.to_owned());
    }
    Ok(changes)
}

/// Fails unless these paths changed in that way, and those did not change.
fn ensure_told(
    changes: &BTreeMap<String, String>,
    told: &[(&str, &str)],
    not: &[&str],
) -> Result<()> {
    let mut wrong = String::new();
    for &(path, change) in told {
        if changes.get(path).map(String::as_str) != Some(change) {
            let _ = writeln!(wrong, "{path} is not {change}, but {:?}", changes.get(path));
        }
    }
    for path in not {
        if let Some(change) = changes.get(*path) {
            let _ = writeln!(wrong, "{path} is {change}");
        }
    }
    ensure!(wrong.is_empty(), "{wrong}{changes:#?}");
    Ok(())
}

fn is_told(vm: &mut Vm) -> Result<()> {
    let found = changes(vm, "")?;
    let told = [
        ("/opt/found/data", "added"),
        ("/opt/lost/sub/data", "added"),
        ("/opt/lost/second", "added"),
        ("/opt/lost/esc\\x1b[31m", "added"),
        ("/etc/nsswitch.conf", "changed"),
        ("/etc/issue.net", "metadata"),
        ("/etc/cron.daily/apt-compat", "deleted"),
    ];
    ensure_told(&found, &told, &["/home/alice", "/var/log/journal", "/etc/motd", "/etc/hosts"])?;
    let content = vm.run("ebbtide diff --content /etc/nsswitch.conf")?.text();
    ensure!(content.contains("+# changed"), "{content}");
    let kept = vm.check("ebbtide diff --kept")?;
    ensure!(kept.contains("/var/lib/witness") && !kept.contains("/opt"), "{kept}");
    Ok(())
}

fn is_decided(vm: &mut Vm) -> Result<()> {
    vm.check("ebbtide keep --dry-run /opt/found && ! findmnt --mountpoint /opt/found")?;
    vm.check("ebbtide keep /opt/found && findmnt --mountpoint /opt/found")?;
    vm.check("ebbtide ignore /opt/noise")?;
    let said = vm.check("printf '%s\\n' parent y | ebbtide review /opt/reviewed")?;
    let kept = vm.check("ebbtide diff --kept")?;
    ensure!(kept.contains("/opt/reviewed"), "{said}\n{kept}");
    let not = ["/opt/found/data", "/opt/reviewed/data", "/opt/noise/data"];
    ensure_told(&changes(vm, "")?, &[("/opt/lost/sub/data", "added")], &not)?;
    // The next boot, before it is one.
    vm.check("ebbtide rehearse -- sh -c 'grep -qx kept /opt/found/data && ! test -e /opt/lost'")?;
    vm.check("test -e /opt/lost/sub/data")?;
    Ok(())
}

/// Of what the reset took, all of it, some of it, and none where something else is now.
fn comes_back(vm: &mut Vm) -> Result<()> {
    let taken = changes(vm, "--boot last")?;
    let told = [("/opt/lost/sub/data", "added"), ("/etc/nsswitch.conf", "changed")];
    ensure_told(&taken, &told, &["/opt/found/data", "/opt/reviewed/data"])?;
    let found = vm.check("ebbtide log --search 'sub' /opt")?;
    ensure!(found.contains("/opt/lost/sub"), "{found}");
    vm.check("ebbtide boots mount last /mnt && grep -qx lost /mnt/opt/lost/sub/data")?;
    vm.check("! touch /mnt/opt/lost/new && umount /mnt")?;

    comes_back_to_users(vm)?;
    vm.check("ebbtide restore --to /tmp /etc/nsswitch.conf && grep -q changed /tmp/nsswitch.conf")?;
    let said = vm.check("! ebbtide restore --boot last /etc/nsswitch.conf 2>&1")?;
    ensure!(said.contains("--force"), "{said}");
    vm.check("! grep -q changed /etc/nsswitch.conf")?;
    vm.check("ebbtide restore --force --boot last /etc/nsswitch.conf")?;
    vm.check("grep -q changed /etc/nsswitch.conf")?;
    vm.check("ebbtide restore --keep /opt/lost && findmnt --mountpoint /opt/lost")?;
    for command in BACK {
        vm.check(command).context("not as it was")?;
    }
    Ok(())
}

/// A user sees and restores what was theirs, through the socket, and learns of nothing else.
fn comes_back_to_users(vm: &mut Vm) -> Result<()> {
    let taken = vm.run("runuser -u alice -- ebbtide diff --boot last -0")?;
    let paths: Vec<_> = taken.stdout.split(|&byte| byte == 0).collect();
    ensure!(
        paths.contains(&b"/opt/lost/sub/data".as_slice())
            && !paths.iter().any(|path| path.starts_with(b"/etc")),
        "alice is told {}\n{}",
        taken.text(),
        String::from_utf8_lossy(&taken.stderr)
    );
    vm.check("runuser -u alice -- ebbtide restore --to /home/alice /opt/lost/sub/data")?;
    vm.check("stat -c %U:%s /home/alice/data | grep -qx alice:5")?;
    vm.check("! runuser -u alice -- ebbtide restore --to /home/alice /etc/cron.d/e2scrub_all")?;
    vm.check("! runuser -u alice -- ebbtide log /opt/lost/tool")?;
    vm.check("! systemctl --failed --quiet | grep -q ebbtide-user").map(drop)
}

fn between_boots(vm: &mut Vm) -> Result<()> {
    let boots: Value = serde_json::from_str(&vm.check("ebbtide boots --json")?)?;
    let boots = boots["boots"].as_array().context("no boots")?;
    ensure!(boots.len() >= 3, "{boots:#?}");
    let changed = changes(vm, "--boot 1..2")?;
    ensure_told(&changed, &[], &["/opt/reviewed/data", "/usr/bin/true"])?;
    vm.check("ebbtide gc --dry-run").map(drop)
}
