//! The system of a rehearsed root: systemd as its first process, in a container of systemd-nspawn(1).
//!
//! nspawn gives it processes, mounts, a network and control groups of its own, takes rights from it, and
//! lends it no device. A process namespace around all of it makes sure that nothing outlives this
//! process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::missed::{self, Missed};
use crate::failure::{Context, Failure, Result};

/// How often the system is asked how it is.
const PAUSE: Duration = Duration::from_millis(200);
/// How long one question may take, in seconds.
const PATIENCE: &str = "30";
/// How long powering off may take: nothing of it matters any more.
const END: Duration = Duration::from_secs(30);
/// How many of its last lines a failed unit is reported with.
const LINES: &str = "20";
/// Where programs are looked for inside; the last is that of NixOS.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:\
                    /run/current-system/sw/bin";
/// Rights over the whole machine that no question takes: what answers is a program of the root.
const RIGHTS: &str = "--bounding-set=-sys_module,-sys_rawio,-sys_boot,-sys_time,-mknod";

/// What a system came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    /// As `systemctl is-system-running` has it.
    pub state: String,
    /// Whether it has settled: that no unit is still on its way.
    pub settled: bool,
    /// Units that failed.
    pub failed: Vec<FailedUnit>,
    /// Units that are on their way, if it has not settled.
    pub jobs: Vec<String>,
}

impl Came {
    /// Whether everything runs.
    pub fn is_well(&self) -> bool {
        self.settled && self.state == "running"
    }
}

/// A unit that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedUnit {
    /// Its name.
    pub name: String,
    /// How it failed, as systemd has it: `exit-code`, `timeout`, …
    pub result: String,
    /// The last it wrote, and what systemd wrote of it.
    pub log: Vec<String>,
    /// Paths that it looked for, that are there today and not in the rehearsal.
    pub missed: Vec<Missed>,
}

/// A running container. Dropping it kills everything in it at once.
#[derive(Debug)]
pub(super) struct System {
    /// unshare(1), whose end is that of a process namespace around all of it.
    outside: Child,
    /// The system's first process, as it is numbered here.
    leader: Option<u32>,
    console: PathBuf,
}

impl System {
    /// Starts it on a root with what is mounted there, and with the directory `run` in the place
    /// `run_later`. What it says on its console goes to the file `console`.
    pub(super) fn start(root: &Path, run: &Path, run_later: &Path, console: &Path) -> Result<Self> {
        for (program, package) in
            [("systemd-nspawn", "systemd-container"), ("unshare", "util-linux")]
        {
            if !is_installed(program) {
                return Err(Failure::new(format!("cannot boot the root: there is no {program}"))
                    .hint(format!(
                        "install it (on Debian and Fedora it is in the package {package}), or run \
                         single commands with `ebbtide rehearse -- COMMAND`"
                    )));
            }
        }
        let what = || format!("cannot write {}", console.display());
        let log = File::create(console).context(what)?;
        let again = log.try_clone().context(what)?;
        let name = format!("--machine=ebbtide-rehearsal-{}", std::process::id());
        let mut bind = std::ffi::OsString::from("--bind=");
        bind.push(run);
        bind.push(":");
        bind.push(run_later);
        let mut directory = std::ffi::OsString::from("--directory=");
        directory.push(root);
        let outside = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "systemd-nspawn", "--boot", "--quiet", "--settings=no"])
            .args(["--register=no", "--keep-unit", "--private-network", "--console=read-only"])
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
            .arg(name)
            .arg(bind)
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(again)
            .spawn()
            .context(|| "cannot start systemd-nspawn")?;
        Ok(Self { outside, leader: None, console: console.to_owned() })
    }

    /// Waits until it has settled, and looks what became of it. `today`: the tree of the root of today.
    pub(super) fn settle(
        &mut self,
        limit: Duration,
        today: Option<&Path>,
        root: &Path,
        declared: &[PathBuf],
    ) -> Result<Came> {
        let deadline = Instant::now() + limit;
        let (state, settled) = loop {
            if let Some(status) = self.outside.try_wait().context(|| "cannot wait for it")? {
                return Err(self.ended(status));
            }
            self.leader = child_of(self.outside.id()).and_then(child_of);
            // Nobody answers before systemd has begun to listen.
            let state = self.ask(&["systemctl", "is-system-running"]).unwrap_or_default();
            let state = state.trim();
            if ["running", "degraded", "maintenance"].contains(&state) {
                break (state.to_owned(), true);
            }
            if Instant::now() >= deadline {
                let state = if state.is_empty() { "unknown" } else { state };
                break (state.to_owned(), false);
            }
            sleep(PAUSE);
        };
        let failed =
            ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full"];
        let mut units = Vec::new();
        for name in first_words(&self.ask(&failed).unwrap_or_default()) {
            units.push(self.look_at(name, today, root, declared));
        }
        let jobs = if settled {
            Vec::new()
        } else {
            let jobs = self.ask(&["systemctl", "list-jobs", "--plain", "--no-legend", "--full"]);
            let jobs = jobs.unwrap_or_default();
            let second = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
            jobs.lines().filter_map(second).collect()
        };
        Ok(Came { state, settled, failed: units, jobs })
    }

    fn look_at(
        &self,
        name: String,
        today: Option<&Path>,
        root: &Path,
        declared: &[PathBuf],
    ) -> FailedUnit {
        let mut question = vec!["systemctl", "show", "--property=Result"];
        let properties: Vec<String> =
            missed::PROPERTIES.iter().map(|it| format!("--property={it}")).collect();
        question.extend(properties.iter().map(String::as_str));
        question.extend(["--", &name]);
        let shown = self.ask(&question).unwrap_or_default();
        let result = shown.lines().find_map(|line| line.strip_prefix("Result="));
        let question = ["journalctl", "--boot", "--no-pager", "--output=cat", "--lines", LINES];
        let unit = format!("--unit={name}");
        let log = self.ask(&[&question[..], &[&unit]].concat()).unwrap_or_default();
        let log: Vec<String> = log.lines().map(str::to_owned).collect();
        let named = missed::named(&shown, &log);
        let missed = today.map(|today| missed::missed(&named, today, root, declared));
        FailedUnit {
            result: result.unwrap_or_default().to_owned(),
            missed: missed.unwrap_or_default(),
            name,
            log,
        }
    }

    /// What a program inside prints, whatever its status.
    fn ask(&self, command: &[&str]) -> Option<String> {
        let output = self.inside(command)?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn inside(&self, command: &[&str]) -> Option<Output> {
        let leader = self.leader?.to_string();
        Command::new("setpriv")
            .args([RIGHTS, "timeout", "--kill-after=5", PATIENCE, "nsenter", "--target", &leader])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"])
            .args(["env", "--ignore-environment", "LC_ALL=C.UTF-8", PATH])
            .args(command)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()
    }

    fn ended(&self, status: std::process::ExitStatus) -> Failure {
        let console = fs::read(&self.console).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let last = console.lines().rev().map(str::trim).find(|line| !line.is_empty());
        let cause = last.map_or_else(
            || format!("systemd-nspawn ended: {status}"),
            |line| ebbtide_sys::escape(line.as_bytes()),
        );
        Failure::new("the root does not boot in a container").caused_by(cause)
    }

    /// Has it power off, and kills it if that takes long.
    pub(super) fn power_off(mut self) {
        if self.inside(&["systemctl", "--no-block", "poweroff"]).is_none() {
            return;
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline && matches!(self.outside.try_wait(), Ok(None)) {
            sleep(PAUSE);
        }
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // It has ended already, perhaps.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

/// Whether a program is in one of the places in which programs are.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|place| place.join(program).is_file())
}

fn first_words(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.split_whitespace().next());
    lines.map(str::to_owned).collect()
}

/// The first child of a process; `None` as long as it has none.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}
