//! A system that boots in a container: its systemd, on a root that was assembled before, in about a
//! second. There is no initramfs and no kernel of its own, so what those do is done outside.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::{run, tail};

const BOOT: Duration = Duration::from_secs(120);
const SHUTDOWN: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// A running container. Dropping it kills everything in it at once.
#[derive(Debug)]
pub struct Container {
    /// unshare(1), whose end is that of a process namespace around all of it: to kill nspawn alone
    /// leaves the system in it running.
    outside: Child,
    /// The system's first process, as it is numbered here.
    leader: u32,
    console: PathBuf,
}

impl Container {
    /// Boots the system below `root`, with what is mounted there, and with the directory `shared` in
    /// the same place inside. Returns when it has settled; the console goes to `console`.
    ///
    /// # Errors
    ///
    /// Fails when it does not boot, or any of its units failed.
    pub fn boot(root: &Path, shared: &Path, console: &Path) -> Result<Self> {
        let mut container = Self::start(root, shared, console)?;
        container.settle().map_err(|error| container.explain(error))?;
        Ok(container)
    }

    /// Boots the system as [`Self::boot`] does, and waits until it has powered off by itself. Returns how
    /// long both took together; nobody looked at it meanwhile.
    ///
    /// # Errors
    ///
    /// Fails when it does not end in time, or not in good order.
    pub fn boot_to_the_end(root: &Path, shared: &Path, console: &Path) -> Result<Duration> {
        let started = Instant::now();
        let mut container = Self::start(root, shared, console)?;
        let ended = loop {
            if let Some(status) = container.outside.try_wait()? {
                break status;
            }
            if started.elapsed() > BOOT + SHUTDOWN {
                let error = anyhow::anyhow!("no power off within {:?}", BOOT + SHUTDOWN);
                bail!(container.explain(error));
            }
            sleep(Duration::from_millis(1));
        };
        let took = started.elapsed();
        if !ended.success() {
            bail!(container.explain(anyhow::anyhow!("systemd-nspawn ended: {ended}")));
        }
        Ok(took)
    }

    fn start(root: &Path, shared: &Path, console: &Path) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(console)
            .with_context(|| format!("cannot open {}", console.display()))?;
        let mut bind = std::ffi::OsString::from("--bind=");
        bind.push(shared);
        let mut directory = std::ffi::OsString::from("--directory=");
        directory.push(root);
        let outside = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "systemd-nspawn", "--boot", "--quiet", "--register=no"])
            .args(["--keep-unit", "--private-network", "--console=read-only"])
            .args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"])
            .arg(bind)
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start systemd-nspawn")?;
        Ok(Self { outside, leader: 0, console: console.to_owned() })
    }

    fn settle(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        loop {
            if let Some(status) = self.outside.try_wait()? {
                bail!("systemd-nspawn ended: {status}");
            }
            // Nobody answers before systemd has begun to listen.
            let leader = child_of(self.outside.id()).and_then(child_of);
            self.leader = leader.unwrap_or(0);
            let state = leader.and_then(|_| self.inside("systemctl is-system-running").ok());
            match state.as_deref().map(str::trim) {
                Some("running") => return Ok(()),
                Some("degraded" | "maintenance") => {
                    bail!("units failed:\n{}", self.inside("systemctl --failed --no-legend")?);
                }
                _ => {}
            }
            ensure!(Instant::now() < deadline, "no boot within {BOOT:?}");
            sleep(PAUSE);
        }
    }

    /// What a command prints, whatever its status.
    fn inside(&self, command: &str) -> Result<String> {
        let output = self.enter(command).output().context("cannot start nsenter")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn enter(&self, command: &str) -> Command {
        let mut enter = Command::new("nsenter");
        enter
            .args(["--target", &self.leader.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"])
            .args(["env", "--ignore-environment", "HOME=/root", "LC_ALL=C.UTF-8"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .args(["bash", "-c", command])
            .stdin(Stdio::null());
        enter
    }

    /// Runs `command` with bash, as root, which has to succeed, and returns its standard output.
    ///
    /// # Errors
    ///
    /// Fails when the command does, with what it wrote.
    pub fn check(&self, command: &str) -> Result<String> {
        let printed = run(&mut self.enter(command)).map_err(|error| self.explain(error))?;
        Ok(String::from_utf8_lossy(&printed).trim().to_owned())
    }

    /// Has the system power off in good order.
    ///
    /// # Errors
    ///
    /// Fails when it does not end in time.
    pub fn power_off(mut self) -> Result<()> {
        run(&mut self.enter("systemctl --no-block poweroff"))?;
        let deadline = Instant::now() + SHUTDOWN;
        while self.outside.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!(self.explain(anyhow::anyhow!("no power off within {SHUTDOWN:?}")));
            }
            sleep(PAUSE);
        }
        Ok(())
    }

    /// Kills everything in it at once. What was written stays, on disk or on the way there: this is an
    /// end that nobody was told of, and no power cut.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let leader = PathBuf::from(format!("/proc/{}", self.leader));
        // It has ended already, perhaps.
        let _ = self.outside.kill();
        self.outside.wait().context("cannot wait for the container")?;
        let deadline = Instant::now() + SHUTDOWN;
        while self.leader != 0 && leader.exists() {
            ensure!(Instant::now() < deadline, "the container lives on");
            sleep(PAUSE);
        }
        Ok(())
    }

    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let console = fs::read_to_string(&self.console).unwrap_or_default();
        error.context(format!("the console ends with\n{}", tail(&console, 30)))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// The first child of a process; `None` as long as it has none.
fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_ascii_whitespace().next()?.parse().ok()
}
