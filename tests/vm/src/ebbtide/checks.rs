//! What must be so after a boot. Each of these fails on a machine that booted without Ebbtide: the
//! scenario `without-the-hook` sees to that.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::vm::Vm;

/// A check of a running machine.
pub type Check = fn(&mut Vm) -> Result<()>;

/// All of them, for the boot in which each has to fail.
pub const ALL: &[(&str, Check)] = &[
    ("record", recorded),
    ("proved", proved),
    ("forgotten", forgotten),
    ("kept", kept),
    ("ebbtide=off", kept_by_off),
    ("ebbtide=keep", kept_by_keep),
    ("refused", refused),
    ("another root", another_root),
];

/// No unit failed, nothing failed on the console, and the record is about this very boot.
pub fn healthy(vm: &mut Vm) -> Result<()> {
    vm.assert_healthy()?;
    recorded(vm)
}

/// What this boot says of itself.
pub fn record(vm: &mut Vm) -> Result<Value> {
    Ok(serde_json::from_str(&vm.check("cat /run/ebbtide/boot.json")?)?)
}

fn recorded(vm: &mut Vm) -> Result<()> {
    let record = record(vm)?;
    let id = vm.boot_id().to_owned();
    ensure!(record["kernel_boot_id"] == id, "the record is about another boot: {record:#}");
    Ok(())
}

/// `ebbtide status` with its exit status.
pub fn status(vm: &mut Vm) -> Result<(i32, Value)> {
    let output = vm.run("ebbtide status --json")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let status =
        serde_json::from_str(&text).with_context(|| format!("status said {text:?}, {errors}"))?;
    Ok((output.status, status))
}

/// All that a boot should be after the mess: healthy, new, and with everything that was declared.
pub fn new_and_complete(vm: &mut Vm) -> Result<()> {
    healthy(vm)?;
    proved(vm)?;
    forgotten(vm)?;
    kept(vm)
}

/// The root is new, and the kernel says so.
pub fn proved(vm: &mut Vm) -> Result<()> {
    let (code, status) = status(vm)?;
    ensure!(status["proved"] == true, "not proved: {status:#}");
    ensure!(status["outcome"] == "reset", "not reset: {status:#}");
    ensure!(code == 0, "status is {code}: {status:#}");
    Ok(())
}

/// Nothing is left of the mess.
pub fn forgotten(vm: &mut Vm) -> Result<()> {
    absent(
        vm,
        &[
            "/stray",
            "/opt/evil",
            "/opt/nested",
            "/etc/systemd/system/evil.service",
            "/etc/systemd/system/multi-user.target.wants/evil.service",
            "/etc/cron.d/evil",
            "/etc/ld.so.preload",
        ],
    )?;
    for command in [
        "! getent passwd mallory",
        "! grep -q '^PermitRootLogin yes' /etc/ssh/sshd_config",
        "test -e /etc/cron.daily/apt-compat",
        "test -x /usr/sbin/getcap",
        "! grep -q key /root/.profile",
        "! grep -q planted /boot/grub/grub.cfg",
        "for file in /boot/vmlinuz-* /boot/initrd.img-*; do test $(stat -c %s $file) -gt 1000000; done",
    ] {
        vm.check(command).with_context(|| format!("not forgotten: {command}"))?;
    }
    Ok(())
}

fn absent(vm: &mut Vm, paths: &[&str]) -> Result<()> {
    for path in paths {
        let output = vm.run(&format!("test ! -e {path} -a ! -L {path}"))?;
        ensure!(output.status == 0, "{path} is still there");
    }
    Ok(())
}

/// All that was declared is as it was left, and was so before the first service ran.
pub fn kept(vm: &mut Vm) -> Result<()> {
    for (command, expected) in [
        ("cat /home/alice/thesis.tex", "thesis"),
        ("stat -c '%U %G %a' /home/alice/thesis.tex", "alice alice 660"),
        ("getfattr --only-values -n user.note /home/alice/thesis.tex", "remember"),
        ("getfacl -cn /home/alice/thesis.tex | grep 1234", "user:1234:rw-"),
        ("readlink /home/alice/link", "thesis.tex"),
        ("getcap /var/lib/app/tool", "/var/lib/app/tool cap_net_raw=ep"),
        ("stat -c '%U %G %a' /var/lib/app", "alice alice 750"),
        ("stat -c %F /var/lib/app/fifo", "fifo"),
        ("stat -c '%s %b' /srv/sparse", "1073741824 0"),
        ("cat /srv/new*", "odd"),
        ("cat /etc/made-later.conf", "later"),
        ("cat /etc/motd", "welcome back"),
        ("grep 127.0.1.1 /etc/hosts", "127.0.1.1 kept-by-sync"),
        ("ls /etc/issue 2>/dev/null || echo deleted", "deleted"),
        ("readlink /etc/motd", "/run/ebbtide/stores/state/etc/motd"),
        ("findmnt -no OPTIONS /srv | tr , '\\n' | grep -x noexec", "noexec"),
        ("findmnt -no OPTIONS /home | tr , '\\n' | grep -x nosuid", "nosuid"),
    ] {
        let output = vm.check(command).with_context(|| format!("not kept: {command}"))?;
        ensure!(output.trim() == expected, "{command}: {output:?} instead of {expected:?}");
    }
    let boots = vm.check("grep -c . /run/witness")?;
    ensure!(boots.trim() != "0", "the first service did not see what it had written");
    let journal = vm.check("journalctl --list-boots --quiet | wc -l")?;
    ensure!(journal.trim().parse::<u32>()? > 1, "the journal begins with this boot");
    vm.check("journalctl --quiet | grep -q 'the first boot was here'")?;
    let id = vm.check("cat /etc/machine-id /run/ebbtide/stores/state/etc/machine-id | sort -u")?;
    ensure!(id.lines().count() == 1 && id.trim().len() == 32, "machine ids: {id:?}");
    ensure!(vm.check("findmnt -n /etc/machine-id || echo plain")?.trim() == "plain");
    ssh_answers_with_the_kept_key(vm)
}

fn ssh_answers_with_the_kept_key(vm: &mut Vm) -> Result<()> {
    let key =
        vm.check("cut -d' ' -f2 /run/ebbtide/stores/state/etc/ssh/ssh_host_ed25519_key.pub")?;
    let answer = vm.check(
        "ip link set lo up; for try in 1 2 3 4 5 6; do \
         ssh-keyscan -T 20 -t ed25519 127.0.0.1 2>/dev/null | grep -v '^#' | cut -d' ' -f3 | grep . && break; sleep 2; done",
    )?;
    ensure!(!key.trim().is_empty() && key == answer, "sshd answers with {answer:?}, not {key:?}");
    Ok(())
}

/// `ebbtide=off`: the last root, as it was, and status says so.
pub fn kept_by_off(vm: &mut Vm) -> Result<()> {
    on_the_last_root(vm, &serde_json::json!({"kept": "off"}))
}

/// `ebbtide=keep`: the last root, with its entries.
pub fn kept_by_keep(vm: &mut Vm) -> Result<()> {
    on_the_last_root(vm, &serde_json::json!({"kept": "keep"}))
}

/// The reset was refused: the last root runs on.
pub fn refused(vm: &mut Vm) -> Result<()> {
    on_the_last_root(vm, &serde_json::json!("refused"))
}

fn on_the_last_root(vm: &mut Vm, outcome: &Value) -> Result<()> {
    let (code, status) = status(vm)?;
    ensure!(status["outcome"] == *outcome, "outcome: {status:#}");
    ensure!(code == 3, "status is {code}: {status:#}");
    vm.check("test -e /stray").context("the root is not the last one")?;
    let home = vm.check("cat /home/alice/thesis.tex").context("entries are not attached")?;
    ensure!(home.trim() == "thesis");
    Ok(())
}

/// A root that is not the one of this boot is mounted, and status says so.
pub fn another_root(vm: &mut Vm) -> Result<()> {
    let (code, status) = status(vm)?;
    ensure!(code == 3 && status["proved"] == false, "status is {code}: {status:#}");
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let told = |problem: &Value| {
        problem["message"]
            .as_str()
            .is_some_and(|it| it.contains("the root of this boot is subvolume"))
    };
    if !problems.iter().any(told) || status["boot"].is_null() {
        bail!("status does not say that another root is mounted: {status:#}");
    }
    Ok(())
}

/// A problem with these words is among those of `status`.
pub fn says(vm: &mut Vm, words: &str) -> Result<()> {
    let (_, status) = status(vm)?;
    let text = status["problems"].to_string();
    ensure!(text.contains(words), "{words:?} is not among {:#}", status["problems"]);
    Ok(())
}
