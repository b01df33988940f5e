//! `cargo xtask demo`: one machine, two boots, and what became of what was done in the first.

use std::fs;

use anyhow::Result;
use testkit::process::target_directory;
use testkit::vm::Vm;

use crate::ebbtide::{BTRFS, Ebbtide, checks, mess};

/// What is looked at, and how.
const THINGS: &[(&str, &str)] = &[
    ("/home/alice/thesis.tex", "cat /home/alice/thesis.tex"),
    ("/etc/made-later.conf", "cat /etc/made-later.conf"),
    ("entries in the journal of boot 1", "journalctl --quiet | grep -c 'the first boot was here'"),
    ("ssh host key", "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub | cut -c1-24"),
    ("/stray", "cat /stray"),
    ("user mallory", "getent passwd mallory"),
    ("setuid shell", "stat -c %A /opt/evil/sh"),
    ("enabled unit evil.service", "systemctl is-enabled evil.service"),
    ("/etc/cron.d/evil", "cat /etc/cron.d/evil"),
    ("/etc/ld.so.preload", "cat /etc/ld.so.preload"),
    ("PermitRootLogin in sshd_config", "grep ^PermitRootLogin /etc/ssh/sshd_config"),
    ("/usr/sbin/getcap", "ls /usr/sbin/getcap"),
];

/// Tells the story on standard output.
pub fn run() -> Result<()> {
    println!(
        "1. A Debian 12 with Ebbtide's package; `ebbtide init` makes base 1, stores and a root."
    );
    let directory = target_directory().join("vm/demo");
    let _ = fs::remove_dir_all(&directory);
    let machine = Ebbtide::fresh(&directory, BTRFS)?;
    println!("2. First boot. It is used, and then made a mess of, as root.");
    let mut vm = machine.start("")?;
    checks::healthy(&mut vm)?;
    mess::make(&mut vm)?;
    let before = look(&mut vm)?;
    println!("3. `systemctl reboot`.");
    vm.reboot()?;
    checks::healthy(&mut vm)?;
    let after = look(&mut vm)?;
    println!();
    println!("{:<34} {:<30} after the reboot", "", "before");
    for (((name, _), before), after) in THINGS.iter().zip(before).zip(after) {
        println!("{name:<34} {before:<30} {after}");
    }
    for command in ["ebbtide status", "ebbtide boots"] {
        println!("\n# {command}\n{}", vm.check(command)?.trim_end());
    }
    vm.power_off_cleanly()?;
    let past =
        machine.system.with_top_level(|top| Ok(top.join("ebbtide/past/1/stray").exists()))?;
    println!();
    let line = if past {
        "4. Nothing is lost: /stray is still on the disk, in ebbtide/past/1."
    } else {
        "4. The root of boot 1 is not on the disk any more: this is a bug."
    };
    println!("{line}");
    fs::remove_dir_all(&directory)?;
    Ok(())
}

fn look(vm: &mut Vm) -> Result<Vec<String>> {
    THINGS
        .iter()
        .map(|(_, command)| {
            let output = vm.run(command)?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().next().unwrap_or_default();
            Ok(if output.status == 0 { line.chars().take(28).collect() } else { "-".to_owned() })
        })
        .collect()
}
