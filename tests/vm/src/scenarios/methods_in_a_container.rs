//! Entries of every method, in stores of every class, in the hands of real programs: over clean ends
//! and over ends that nobody was told of, twice each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::forgetful::{Forgetful, Life};
use crate::programs;

const DECLARATION: &str = r#"version = 1

[root]
backend = "btrfs"
device = "@SYSTEM@"
ephemeral = ["/home", "/root"]

[store.state]
subvolume = "state"

[store.secret]
subvolume = "secret"
class = "secret"

[store.log]
subvolume = "log"
class = "log"

[store.cache]
device = "@CACHE@"
class = "cache"

[keep]
presets = ["accounts", "ssh-host-keys"]
directories = [
    { path = "/var/log", store = "log" },
    { path = "/var/cache/app", store = "cache" },
    { path = "/var/lib/secrets", store = "secret", mode = "0700" },
    { path = "/srv", options = ["noexec"] },
    { path = "/var/lib/private/dynamic", mode = "0700" },
    { path = "/var/lib/perhaps", optional = true },
    { path = "/opt/a/b", parent = { user = "alice", group = "adm", mode = "0750" } },
]
files = [
    { path = "/etc/hosts", method = "sync" },
    { path = "/etc/deleted.conf", method = "sync" },
    { path = "/etc/linked.conf", method = "symlink" },
    { path = "/etc/mounted.conf", method = "bind" },
]

[users.alice]
directories = [{ path = ".ssh", mode = "0700" }, "Documents", { path = ".cache/app", store = "cache" }]
files = [{ path = ".gitconfig", method = "sync" }, { path = ".bash_history", method = "sync" }]

[users.bob]
directories = ["Documents"]
"#;

/// A service that runs as a user of its own, and counts its starts.
const DYNAMIC: &str = "[Unit]\nDescription=A Service With a Dynamic User\n\n[Service]\nType=oneshot\n\
    RemainAfterExit=yes\nDynamicUser=yes\nStateDirectory=dynamic\n\
    ExecStart=bash -c 'echo started >>/var/lib/dynamic/starts'\n";

/// What is mounted where, and what the kernel has to say about it.
const MOUNTS: [(&str, &[&str], &[&str]); 5] = [
    ("/var/log", &["nosuid", "nodev", "noexec"], &[]),
    ("/var/cache/app", &["nosuid", "nodev"], &["noexec"]),
    ("/var/lib/secrets", &["nosuid", "nodev"], &["noexec"]),
    ("/srv", &["nosuid", "nodev", "noexec"], &[]),
    ("/home/alice/.cache/app", &["nosuid", "nodev"], &["noexec"]),
];

pub fn run(directory: &Path) -> Result<()> {
    let machine = Forgetful::set_up(directory, DECLARATION, |tree| {
        let units = tree.join("usr/lib/systemd/system");
        fs::write(units.join("dynamic.service"), DYNAMIC)?;
        symlink("../dynamic.service", units.join("multi-user.target.wants/dynamic.service"))?;
        // Ebbtide has to make the home.
        Ok(fs::remove_dir_all(tree.join("home/alice"))?)
    })?;

    let life = machine.boot("")?;
    life.check("for it in deleted linked mounted; do echo $it >/etc/$it.conf; done")?;
    life.check("echo x >/stray && echo of the log >/var/log/app.log")?;
    life.check("test \"$(stat -c %U:%G:%a /opt/a)\" = alice:adm:750")?;
    life.power_off()?;

    let life = machine.boot("")?;
    life.check("! test -e /stray")?;
    life.check(programs::USE)?;
    life.check("rm /etc/deleted.conf")?;
    life.check("echo cached >/var/cache/app/file && echo hidden >/var/lib/secrets/file")?;
    life.power_off()?;
    let trash = fs::read_dir(machine.state().join(".ebbtide/trash"))?.count();
    ensure!(trash > 0, "what was replaced is in no trash");

    let life = machine.boot("")?;
    everything_is_kept(&life, 3)?;
    life.assert_proved()?;
    life.check("rm /home/alice/.gitconfig && sed -i 's/replaced/replaced twice/' /etc/hosts")?;
    life.check("useradd --create-home carol && echo carol:secret | chpasswd")?;
    life.kill()?;

    // What was deleted comes back and is reported; what was changed is kept.
    let life = machine.boot("")?;
    everything_is_kept(&life, 4)?;
    life.check("grep -q 'replaced twice' /etc/hosts")?;
    life.check("getent passwd carol && getent shadow carol | cut -d: -f2 | grep -q '^[$]'")?;
    let (code, status) = life.status()?;
    let problems = status["problems"].to_string();
    ensure!(code == 3 && problems.contains(".gitconfig"), "it is not reported: {status:#}");
    life.check("rm -r /srv/* /etc/linked.conf; ! test -L /etc/linked.conf")?;
    life.kill()?;

    let life = machine.boot("ebbtide=off")?;
    life.check("! test -e /etc/linked.conf && grep -q 'replaced twice' /etc/hosts")?;
    life.kill()?;

    let life = machine.boot("")?;
    everything_is_kept(&life, 6)?;
    life.assert_proved()?;
    life.power_off()
}

fn everything_is_kept(life: &Life<'_>, boots: usize) -> Result<()> {
    for command in programs::KEPT {
        life.check(command).with_context(|| format!("not kept: {command}"))?;
    }
    for command in [
        "! test -e /etc/deleted.conf",
        "grep -q log /var/log/app.log && test -d /var/log/journal",
        "grep -q cached /var/cache/app/file && grep -q hidden /var/lib/secrets/file",
        "test \"$(stat -c %U:%G:%a /var/lib/secrets)\" = root:root:700",
        "test \"$(stat -c %U:%a /var/lib/private)\" = root:700",
        "test \"$(stat -c %U:%G:%a /opt/a)\" = alice:adm:750",
        "! test -e /var/lib/perhaps",
        "test \"$(stat -c %U:%G:%a /home/alice/.cache)\" = alice:alice:700",
        "readlink /etc/linked.conf | grep -q ^/run/ebbtide/stores/state/",
    ] {
        life.check(command).with_context(|| format!("not so: {command}"))?;
    }
    let starts = life.check("grep -c started /var/lib/private/dynamic/starts")?;
    ensure!(starts == boots.to_string(), "the service counts {starts} starts in boot {boots}");
    for (path, with, without) in MOUNTS {
        let options = life.check(&format!("findmnt -no OPTIONS --mountpoint {path} | tail -1"))?;
        let has = |option: &&&str| options.split(',').any(|it| it == **option);
        ensure!(with.iter().all(|it| has(&it)), "{path} has only {options}");
        ensure!(!without.iter().any(|it| has(&it)), "{path} has {options}");
    }
    Ok(())
}
