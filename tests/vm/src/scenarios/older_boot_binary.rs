//! Whoever updates Ebbtide and does not build the initramfs again has the boot binary of before, and what
//! today's programs write; after `update-initramfs`, today's finds what the one of before wrote.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::forgetful::{Forgetful, Life};
use crate::scenario::older_boot;

const DECLARATION: &str = r#"version = 1

[root]
backend = "btrfs"
device = "@SYSTEM@"
ephemeral = ["/home", "/root", "/srv"]

[store.state]
subvolume = "state"

[store.cache]
device = "@CACHE@"
class = "cache"

[keep]
presets = ["accounts", "machine-id", "ssh-host-keys"]
directories = [
    "/var/log",
    { path = "/var/cache/app", store = "cache" },
    { path = "/srv/data", mode = "0750", group = "adm" },
]
files = [
    { path = "/etc/hosts", method = "sync" },
    { path = "/etc/linked.conf", method = "symlink" },
]

[users.alice]
directories = [{ path = ".ssh", mode = "0700" }]
"#;

pub fn run(directory: &Path) -> Result<()> {
    let before = older_boot().context("run this with `cargo xtask vm`")?;
    let machine = Forgetful::set_up(directory, DECLARATION, |_| Ok(()))?;

    let life = machine.boot_with(&before, "")?;
    life.assert_proved()?;
    life.check("echo linked >/etc/linked.conf; echo kept >/srv/data/file; echo x >/stray")?;
    life.check("sed -i '$ a 192.0.2.1 first' /etc/hosts")?;
    life.power_off()?;

    let life = machine.boot("")?;
    is_complete(&life, 1)?;
    life.check("sed -i '$ a 192.0.2.2 second' /etc/hosts && echo x >/stray")?;
    life.kill()?;

    // It harvests by the manifest of today's, and without the mark of a clean end.
    let life = machine.boot_with(&before, "")?;
    is_complete(&life, 2)?;
    life.check("useradd --create-home carol && rm /etc/linked.conf")?;
    life.power_off()?;

    let life = machine.boot_with(&before, "ebbtide=off")?;
    life.check("getent passwd carol && grep -q kept /srv/data/file")?;
    life.kill()?;

    let life = machine.boot("")?;
    is_complete(&life, 2)?;
    life.check("getent passwd carol && getent shadow carol")?;
    life.power_off()
}

fn is_complete(life: &Life<'_>, hosts: usize) -> Result<()> {
    life.assert_proved()?;
    life.check(
        "! test -e /stray && grep -q kept /srv/data/file && grep -q linked /etc/linked.conf",
    )?;
    life.check("test \"$(stat -c %U:%G:%a /srv/data)\" = root:adm:750")?;
    let found = life.check("grep -c '^192.0.2' /etc/hosts")?;
    ensure!(found == hosts.to_string(), "/etc/hosts has {found} lines of {hosts}");
    Ok(())
}
