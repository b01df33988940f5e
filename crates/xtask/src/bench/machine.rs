//! A machine to measure: a btrfs in a file with a container, a base, a store that has the data of all
//! entries already, and boots of it, each in a mount namespace of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, bail, ensure};
use ebbtide_sys::mount::enter_private_mount_namespace;
use ebbtide_sys::mountinfo::{self, MountEntry};
use testkit::mount::{Filesystem, Volume};
use testkit::process::run;

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `ebbtide-boot`, static, as it is in an initramfs.
    pub boot: PathBuf,
    /// `ebbtide`.
    pub command_line: PathBuf,
}

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub enum Kept {
    /// Entries that are mounted: of five, three are directories and two are files.
    Bound(usize),
    /// Files that are copied.
    Synced(usize),
}

/// Where the command line looks; in a `/run` that is hidden from the host.
const RUN: &str = "/run/ebbtide";

/// How many entries have the same parent.
const SIBLINGS: usize = 20;

/// One entry.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Without the leading slash.
    pub path: String,
    pub is_directory: bool,
}

impl Kept {
    /// The entries, sorted as they are declared.
    pub fn entries(self) -> Vec<Entry> {
        let (count, all_files) = match self {
            Self::Bound(count) => (count, false),
            Self::Synced(count) => (count, true),
        };
        let entry = |index: usize| Entry {
            path: format!("var/lib/bench/app{:03}/entry{index:04}", index / SIBLINGS),
            is_directory: !all_files && index % 5 < 3,
        };
        (0..count).map(entry).collect()
    }

    fn declaration(self) -> String {
        let list = |wanted: bool, more: &str| -> String {
            let entries = self.entries();
            let some = entries.iter().filter(|entry| entry.is_directory == wanted);
            let lines = some.map(|entry| format!("  {{ path = \"/{}\"{more} }}", entry.path));
            lines.collect::<Vec<_>>().join(",\n")
        };
        let method = if matches!(self, Self::Synced(_)) { ", method = \"sync\"" } else { "" };
        format!(
            "[keep]\ndirectories = [\n{}]\nfiles = [\n{}]\n",
            list(true, ""),
            list(false, method)
        )
    }
}

/// A machine that is off.
pub struct Machine {
    volume: Volume,
    device: PathBuf,
    is_btrfs: bool,
    directory: tempfile::TempDir,
    programs: Programs,
    locator: PathBuf,
    command_line: PathBuf,
}

/// A mounted root with its run directory; it goes with the namespace that it was made in.
pub struct Life<'a> {
    machine: &'a Machine,
    pub run: PathBuf,
    pub root: PathBuf,
}

impl Machine {
    /// Sets one up, and boots it once: what comes after is the steady state. `more` changes the tree
    /// before it becomes the base.
    pub fn new(
        programs: &Programs,
        filesystem: Filesystem,
        kept: Kept,
        more: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let backend = if filesystem == Filesystem::Btrfs { "btrfs" } else { "overlay" };
        Self::booted(programs, filesystem, backend, kept, more)
    }

    /// The same on ext4, with a root in RAM.
    pub fn in_ram(programs: &Programs, more: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        Self::booted(programs, Filesystem::Ext4, "tmpfs", Kept::Bound(0), more)
    }

    fn booted(
        programs: &Programs,
        filesystem: Filesystem,
        backend: &str,
        kept: Kept,
        more: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let machine = Self::set_up(programs, filesystem, backend, &kept.declaration(), more)?;
        for entry in kept.entries() {
            fill(&machine.state().join(&entry.path), entry.is_directory)?;
        }
        machine.live(|life| timed(&mut life.boot("up")))?;
        Ok(machine)
    }

    /// Sets one up with this in its declaration, besides the root and the store. `more` changes the tree
    /// before it becomes the base.
    pub fn declared(
        programs: &Programs,
        filesystem: Filesystem,
        keep: &str,
        more: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let backend = if filesystem == Filesystem::Btrfs { "btrfs" } else { "overlay" };
        Self::set_up(programs, filesystem, backend, keep, more)
    }

    fn set_up(
        programs: &Programs,
        filesystem: Filesystem,
        backend: &str,
        keep: &str,
        more: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let store = if filesystem == Filesystem::Btrfs { "subvolume" } else { "directory" };
        // Sparse: only what is written takes room.
        let volume = Volume::new(filesystem, 16 << 30)?;
        let directory = tempfile::Builder::new().prefix("ebbtide-bench-").tempdir()?;
        let tree = directory.path().join("tree");
        small_system(&tree)?;
        more(&tree)?;
        let device = volume.device()?;
        let declaration = format!(
            "version = 1\n[root]\nbackend = \"{backend}\"\ndevice = \"{}\"\nuuid = \"{}\"\n\
             ephemeral = [\"/home\", \"/root\", \"/srv\"]\n[store.state]\n{store} = \"state\"\n{}",
            device.display(),
            ebbtide_sys::random::uuid_v4(),
            keep
        );
        let config = directory.path().join("ebbtide.toml");
        fs::write(&config, declaration)?;
        run(Command::new(&programs.command_line)
            .args(["init", "--yes", "--updaters", "keep", "--device"])
            .arg(&device)
            .arg("--base-directory")
            .arg(&tree)
            .arg("--config")
            .arg(&config))
        .context("cannot set the machine up")?;
        fs::remove_dir_all(&tree)?;
        let state = volume.path().join("state");
        let locator = directory.path().join("locator.json");
        let kept_config = state.join("etc/ebbtide/ebbtide.toml");
        fs::write(
            &locator,
            run(Command::new(&programs.command_line)
                .args(["locator", "--config"])
                .arg(kept_config))?,
        )?;
        let command_line = directory.path().join("cmdline");
        fs::write(&command_line, "")?;
        let programs = programs.clone();
        let is_btrfs = filesystem == Filesystem::Btrfs;
        Ok(Self { volume, device, is_btrfs, directory, programs, locator, command_line })
    }

    /// Makes it keep something else from the next boot on.
    pub fn declare(&self, kept: Kept) -> Result<()> {
        let config = self.state().join("etc/ebbtide/ebbtide.toml");
        let text = fs::read_to_string(&config)?;
        let (before, _) = text.split_once("[keep]").context("nothing was kept")?;
        fs::write(&config, format!("{before}{}", kept.declaration()))?;
        for entry in kept.entries() {
            fill(&self.state().join(&entry.path), entry.is_directory)?;
        }
        self.live(|life| {
            life.up()?;
            run(life.ebbtide().args(["internal", "recompile"])).map(drop)
        })
    }

    /// Mounts what the store keeps beside all that Ebbtide mounts.
    pub fn mount_store(&self, life: &Life<'_>) -> Result<PathBuf> {
        let store = life.run.join("bare");
        fs::create_dir(&store)?;
        run(Command::new("mount").args(["-o", "subvol=state"]).arg(self.device()).arg(&store))?;
        Ok(store)
    }

    /// The top level of the volume.
    pub fn top(&self) -> &Path {
        self.volume.path()
    }

    /// What the store keeps.
    pub fn state(&self) -> PathBuf {
        self.top().join("state")
    }

    /// The directory for what a measurement writes.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its device.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// As [`Self::live`], while the volume is mounted nowhere else: what `work` unmounts is out of memory.
    pub fn alone<T: Send>(&self, work: impl FnOnce(&Life<'_>) -> Result<T> + Send) -> Result<T> {
        // A loop device that nobody has open detaches itself.
        let _held = fs::File::open(&self.device)?;
        let top = self.top();
        run(Command::new("umount").arg(top))?;
        let done = self.live(work);
        run(Command::new("mount").arg(&self.device).arg(top))?;
        done
    }

    /// Lets `work` use the machine, in a mount namespace of its own with an empty run directory.
    pub fn live<T: Send>(&self, work: impl FnOnce(&Life<'_>) -> Result<T> + Send) -> Result<T> {
        let place = |name: &str| -> Result<PathBuf> {
            let path = self.directory.path().join(name);
            fs::create_dir_all(&path)?;
            Ok(path)
        };
        fs::create_dir_all(RUN)?;
        let life = Life { machine: self, run: PathBuf::from(RUN), root: place("root")? };
        in_namespace(|| {
            run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&life.run))?;
            work(&life)
        })
    }
}

impl Life<'_> {
    /// Prepares a call of the boot binary with all its paths.
    pub fn boot(&self, verb: &str) -> Command {
        self.after(&mut Command::new(&self.machine.programs.boot), verb)
    }

    /// The same, as the last arguments of another program.
    pub fn traced(&self, tracer: &mut Command, verb: &str) -> Command {
        self.after(tracer.arg(&self.machine.programs.boot), verb)
    }

    fn after(&self, program: &mut Command, verb: &str) -> Command {
        let mut command = std::mem::replace(program, Command::new("true"));
        command.arg(verb).arg("--config").arg(&self.machine.locator).arg("--run").arg(&self.run);
        command.arg("--cmdline").arg(&self.machine.command_line);
        if verb != "reset" {
            command.arg("--sysroot").arg(&self.root);
        }
        command
    }

    /// Boots in one go.
    pub fn up(&self) -> Result<Duration> {
        timed(&mut self.boot("up"))
    }

    /// Resets, and mounts the root as an initramfs does.
    pub fn reset(&self) -> Result<()> {
        let options = String::from_utf8(run(&mut self.boot("reset"))?)?;
        run(Command::new("mount")
            .args(["-t", "btrfs", "-o", options.trim_end()])
            .arg(self.machine.device())
            .arg(&self.root))
        .map(drop)
    }

    /// Mounts the top level of the volume beside the root, and returns where. As roots are: an access time
    /// that is noted is a change.
    pub fn mount_top(&self) -> Result<PathBuf> {
        let top = self.machine.directory().join("top");
        fs::create_dir_all(&top)?;
        let mut mount = Command::new("mount");
        if self.machine.is_btrfs {
            mount.args(["-o", "subvolid=5"]);
        }
        run(mount.args(["-o", "noatime"]).arg(self.machine.device()).arg(&top))?;
        Ok(top)
    }

    /// Unmounts all of the volume and mounts root and top level again: what was read of it is forgotten, but
    /// for what lies below the loop device. Only for a btrfs, in [`Machine::alone`].
    pub fn forget(&self) -> Result<()> {
        let device = self.machine.device();
        let is_of_it = |mount: &&MountEntry| Path::new(&mount.source) == device;
        let mounts = mountinfo::read_self()?;
        for mount in mounts.iter().filter(is_of_it).rev() {
            run(Command::new("umount").arg(&mount.mount_point))?;
        }
        let uses = |entry: io::Result<fs::DirEntry>| -> Result<bool> {
            Ok(fs::read_dir(entry?.path().join("devices")).is_ok_and(|devices| {
                devices.flatten().any(|it| Some(it.file_name().as_os_str()) == device.file_name())
            }))
        };
        for filesystem in fs::read_dir("/sys/fs/btrfs")? {
            ensure!(!uses(filesystem)?, "the volume is mounted still: nothing would be cold");
        }
        run(Command::new("mount")
            .args(["-o", "noatime,subvol=ebbtide/root"])
            .arg(device)
            .arg(&self.root))?;
        self.mount_top().map(drop)
    }

    /// Prepares a call of the command line for this root.
    pub fn ebbtide(&self) -> Command {
        let mut command = Command::new(&self.machine.programs.command_line);
        command.arg("--sysroot").arg(&self.root);
        command
    }
}

/// Runs in a mount namespace that ends with it.
pub fn in_namespace<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = || {
        enter_private_mount_namespace()?;
        work()
    };
    let result = std::thread::scope(|scope| scope.spawn(inside).join());
    result.unwrap_or_else(|_| bail!("a measurement panicked"))
}

/// How long a command takes, its start included. It has to succeed.
pub fn timed(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    run(command)?;
    Ok(started.elapsed())
}

/// The data of an entry, or the mount point for it.
pub fn fill(path: &Path, is_directory: bool) -> Result<()> {
    if is_directory {
        fs::create_dir_all(path)?;
    } else {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, format!("content of {}\n", path.display()))?;
    }
    Ok(())
}

fn small_system(root: &Path) -> Result<()> {
    for directory in
        ["dev", "proc", "sys", "run", "tmp", "usr", "etc", "home", "root", "srv", "var"]
    {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700))?;
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    fs::write(root.join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n")?;
    Ok(())
}
