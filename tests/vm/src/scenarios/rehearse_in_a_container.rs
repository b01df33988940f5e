//! A service that needs a path which nobody declared: it fails in a rehearsal of the next boot, which
//! names the path, and runs in the one after `ebbtide keep`. The machine does not notice either.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::forgetful::{Forgetful, Life};

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
directories = ["/var/log", { path = "/var/cache/app", store = "cache" }]
"#;

/// Needs its configuration once it was set up, as most services do.
const APP: &str = "[Unit]\nDescription=An Application\n\n[Service]\nType=oneshot\n\
    RemainAfterExit=yes\nStateDirectory=app\n\
    ExecStart=bash -c 'test ! -e /var/log/app-is-set-up || cat /srv/app/config'\n";

pub fn run(directory: &Path) -> Result<()> {
    let machine = Forgetful::set_up(directory, DECLARATION, |tree| {
        let units = tree.join("usr/lib/systemd/system");
        fs::write(units.join("app.service"), APP)?;
        Ok(symlink("../app.service", units.join("multi-user.target.wants/app.service"))?)
    })?;

    let life = machine.boot("")?;
    let (code, report) = rehearse(&life)?;
    ensure!(code == 0, "a machine that nobody used: {report:#}");

    life.check("mkdir /srv/app && echo configured >/srv/app/config")?;
    life.check("echo data >/var/lib/app/data && echo cached >/var/cache/app/a")?;
    life.check("touch /var/log/app-is-set-up && systemctl restart app.service")?;
    let (code, report) = rehearse(&life)?;
    ensure!(code == 3, "status {code}: {report:#}");
    let failed = &report["system"]["failed"];
    ensure!(failed.as_array().is_some_and(|it| it.len() == 1), "{report:#}");
    ensure!(failed[0]["unit"] == "app.service" && failed[0]["result"] == "exit-code", "{report:#}");
    let log = failed[0]["log"].to_string();
    ensure!(log.contains("/srv/app/config: No such file"), "{report:#}");
    let missed = &failed[0]["missed"];
    ensure!(missed[0]["path"] == "/srv/app/config" && missed[0]["declared"] == false, "{report:#}");
    // What systemd makes where it is missing, and what was in it.
    ensure!(missed[1]["path"] == "/var/lib/app", "{report:#}");

    let kept = life.ebbtide(&["keep", "/srv/app"])?;
    ensure!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stderr));
    let (code, report) = rehearse(&life)?;
    ensure!(code == 0, "status {code}: {report:#}");
    ensure!(report["system"]["state"] == "running", "{report:#}");

    // The machine is as it was, and what the rehearsals said of its next boot is true.
    life.assert_proved()?;
    ensure!(life.check("cat /srv/app/config /var/lib/app/data")? == "configured\ndata");
    life.power_off()?;
    let life = machine.boot("")?;
    life.assert_proved()?;
    ensure!(life.check("cat /srv/app/config /var/cache/app/a")? == "configured\ncached");
    ensure!(life.check("cat /var/lib/app/data || true")?.is_empty(), "nobody declared it");
    life.power_off()
}

/// `ebbtide rehearse --boot`: its status and what it printed.
fn rehearse(life: &Life<'_>) -> Result<(i32, Value)> {
    let output = life.ebbtide(&["rehearse", "--boot", "--json"])?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("rehearse said {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.code().unwrap_or(-1), report))
}
