//! A Debian in a container that forgets: its boots are `ebbtide-boot up`, outside, and a container on
//! the root that this assembles; its ends are what Ebbtide's units do at shutdown, or nothing.
//!
//! Many lives of such a machine take as long as one boot of a virtual one. What only a kernel or an
//! initramfs of its own can show is not shown here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use testkit::container::Container;
use testkit::disk::Disk;
use testkit::guest::Guest;
use testkit::mount::{Filesystem, Mount};
use testkit::process::run;

/// Where Ebbtide keeps what belongs to one boot.
pub const RUN: &str = "/run/ebbtide";

/// The machine between its lives.
pub struct Forgetful {
    directory: PathBuf,
    // Found by their devices for as long as they are mounted.
    system: Mount,
    _cache: Mount,
    locator: PathBuf,
    _run: HiddenRun,
}

/// One life: a root, and the system that runs on it.
pub struct Life<'a> {
    machine: &'a Forgetful,
    container: Option<Container>,
    mounted: bool,
}

impl Forgetful {
    /// Sets a machine up: a btrfs for root and stores, an ext4 for another store. In `declaration`,
    /// `@SYSTEM@` and `@CACHE@` become their devices; `prepare` changes the Debian before it becomes
    /// the base.
    pub fn set_up(
        directory: &Path,
        declaration: &str,
        prepare: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let hidden = HiddenRun::new()?;
        unpack(&directory.join("ebbtide"))?;
        let tree = directory.join("tree");
        fs::create_dir(&tree)?;
        Guest::debian_12()?.copy_to(&tree)?;
        // The kernel is the host's, and the base has no modules for it.
        let modules = tree.join("usr/lib/modules");
        fs::remove_dir_all(&modules)
            .with_context(|| format!("cannot delete {}", modules.display()))?;
        prepare(&tree)?;

        let disk = |name: &str, size: u64, filesystem: Filesystem| {
            Disk::new_plain(&directory.join(name), size, filesystem, name)?.mount()
        };
        let system = disk("system", 4 << 30, Filesystem::Btrfs)?;
        let cache = disk("cache", 256 << 20, Filesystem::Ext4)?;
        let device = system.device()?;
        let text = declaration
            .replace("@SYSTEM@", &device.display().to_string())
            .replace("@CACHE@", &cache.device()?.display().to_string());
        let first = directory.join("ebbtide.toml");
        fs::write(&first, text)?;
        let machine = Self {
            directory: directory.to_owned(),
            system,
            _cache: cache,
            locator: directory.join("locator.json"),
            _run: hidden,
        };
        run(machine
            .ebbtide()
            .args(["init", "--yes", "--updaters", "keep", "--device"])
            .arg(&device)
            .arg("--base-directory")
            .arg(&tree)
            .arg("--config")
            .arg(&first))
        .context("cannot set the machine up")?;
        run(Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(&tree))?;
        let kept = machine.state().join("etc/ebbtide/ebbtide.toml");
        let locator = run(machine.ebbtide().arg("locator").arg("--config").arg(kept))?;
        fs::write(&machine.locator, locator)?;
        Ok(machine)
    }

    /// Returns the directory of the store `state`, as the volume has it.
    pub fn state(&self) -> PathBuf {
        self.system.path().join("state")
    }

    /// Boots, with these words on the kernel command line.
    pub fn boot(&self, words: &str) -> Result<Life<'_>> {
        self.boot_with(&self.directory.join("ebbtide/usr/lib/ebbtide/ebbtide-boot"), words)
    }

    /// As [`Self::boot`], with another boot binary than the package's.
    pub fn boot_with(&self, boot: &Path, words: &str) -> Result<Life<'_>> {
        let mut life = Life { machine: self, container: None, mounted: true };
        let root = self.root();
        fs::create_dir_all(&root)?;
        fs::create_dir_all(RUN)?;
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", RUN]))?;
        // Its status is 1 if an entry could not be attached; the record says what came of it.
        let said = up(boot, &root, &self.locator, words)?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(root.join("etc").exists(), "no root was made:\n{said}");
        let console = self.directory.join("console.log");
        life.container = Some(
            Container::boot(&root, Path::new(RUN), &console)
                .with_context(|| format!("ebbtide-boot said\n{said}"))?,
        );
        Ok(life)
    }

    fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    fn ebbtide(&self) -> Command {
        Command::new(self.directory.join("ebbtide/usr/bin/ebbtide"))
    }
}

/// Has `ebbtide-boot` make a root here, with these words on the kernel command line. Where Ebbtide keeps
/// what belongs to one boot, [`RUN`], is there and empty.
pub fn up(boot: &Path, root: &Path, locator: &Path, words: &str) -> Result<Output> {
    let command_line = locator.with_file_name("cmdline");
    fs::write(&command_line, words)?;
    Command::new(boot)
        .args(["up", "--run", RUN, "--sysroot"])
        .arg(root)
        .arg("--config")
        .arg(locator)
        .arg("--cmdline")
        .arg(&command_line)
        .output()
        .context("cannot start ebbtide-boot")
}

impl Life<'_> {
    /// Runs a command in the system, which has to succeed, and returns what it printed.
    pub fn check(&self, command: &str) -> Result<String> {
        self.container.as_ref().context("it has ended")?.check(command)
    }

    /// `ebbtide status`, with its exit status.
    pub fn status(&self) -> Result<(i32, Value)> {
        let output = self.outside().args(["status", "--json"]).output()?;
        let status = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("status said {}", String::from_utf8_lossy(&output.stderr)))?;
        Ok((output.status.code().unwrap_or(-1), status))
    }

    /// Runs `ebbtide` for this machine, from outside.
    pub fn ebbtide(&self, arguments: &[&str]) -> Result<Output> {
        self.outside().args(arguments).output().context("cannot start ebbtide")
    }

    /// Fails unless the kernel says that the root is new, and everything is in place.
    pub fn assert_proved(&self) -> Result<()> {
        let (code, status) = self.status()?;
        let proved = code == 0 && status["proved"] == true;
        let mounts = || fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        ensure!(proved, "not proved: {status:#}\nthe mount table is\n{}", mounts());
        Ok(())
    }

    /// Powers off, and does what Ebbtide's units do then, in their order.
    pub fn power_off(mut self) -> Result<()> {
        self.container.take().context("it has ended")?.power_off()?;
        run(self.outside().arg("flush"))?;
        run(self.outside().args(["internal", "detach"]))?;
        run(self.outside().args(["internal", "mark-clean"]))?;
        self.unmount()
    }

    /// Kills all of it, and does nothing more.
    pub fn kill(mut self) -> Result<()> {
        self.container.take().context("it has ended")?.kill()?;
        self.unmount()
    }

    fn outside(&self) -> Command {
        let mut command = self.machine.ebbtide();
        command.arg("--sysroot").arg(self.machine.root());
        command
    }

    fn unmount(&mut self) -> Result<()> {
        self.mounted = false;
        for path in [self.machine.root().as_path(), Path::new(RUN)] {
            run(Command::new("umount").arg("--recursive").arg(path))?;
        }
        Ok(())
    }
}

impl Drop for Life<'_> {
    fn drop(&mut self) {
        drop(self.container.take());
        if self.mounted && self.unmount().is_err() {
            for path in [self.machine.root().as_path(), Path::new(RUN)] {
                let _ = run(Command::new("umount").args(["--recursive", "--lazy"]).arg(path));
            }
        }
    }
}

/// An empty `/run` over the host's, in the mount namespace of the scenarios: neither finds what the
/// other left there.
pub struct HiddenRun;

impl HiddenRun {
    pub fn new() -> Result<Self> {
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"]))?;
        Ok(Self)
    }
}

impl Drop for HiddenRun {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").args(["--recursive", "--lazy", "/run"]));
    }
}

/// Unpacks the package to test: nothing of it is installed, here or there.
pub fn unpack(to: &Path) -> Result<()> {
    let Some(package) = std::env::var_os("EBBTIDE_DEB") else {
        bail!("run this with `cargo xtask vm`");
    };
    run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(to)).map(drop)
}
