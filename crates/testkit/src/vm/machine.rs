//! What a machine is made of, and the emulator that is started for it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use super::Vm;
use super::channel::Channel;
use super::console::Console;
use super::monitor::Monitor;
use crate::disk::Disk;
use crate::guest::BootFiles;
use crate::write_log;

const QEMU_START: Duration = Duration::from_secs(60);

const CONSOLE_LOG: &str = "console.log";

/// What the disk that is plugged in later is called in QEMU.
pub(super) const LATE: &str = "late";

/// The name of the port that the agent in the guest looks for.
const PORT: &str = "ebbtide.testkit";

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing can be read from it.
    Reads,
    /// Nothing can be written to it, which it says only when asked to.
    Writes,
    /// It is protected, and says so.
    Protected,
}

/// What a machine is made of, before it runs.
#[derive(Debug, Clone)]
pub struct Machine {
    directory: PathBuf,
    disks: Vec<PathBuf>,
    faults: Vec<(usize, Fault)>,
    late: Option<PathBuf>,
    pub(super) tolerated: Vec<&'static str>,
    kernel: Option<(BootFiles, String)>,
    log: Option<PathBuf>,
}

impl Machine {
    /// Begins with a machine that boots from its first disk and writes its logs, `console.log` and
    /// `qemu.log`, in `directory`.
    pub fn new(directory: &Path) -> Self {
        let (disks, tolerated) = (Vec::new(), Vec::new());
        let directory = directory.to_owned();
        let faults = Vec::new();
        Self { directory, disks, faults, late: None, tolerated, kernel: None, log: None }
    }

    /// Adds a disk: the first is `/dev/vda`.
    #[must_use]
    pub fn disk(mut self, disk: &Disk) -> Self {
        self.disks.push(disk.path().to_owned());
        self
    }

    /// Adds a disk with which something is wrong.
    #[must_use]
    pub fn bad_disk(mut self, disk: &Disk, fault: Fault) -> Self {
        self.faults.push((self.disks.len(), fault));
        self.disk(disk)
    }

    /// Adds a disk from an image file.
    #[must_use]
    pub fn image(mut self, path: &Path) -> Self {
        self.disks.push(path.to_owned());
        self
    }

    /// Has all that is written to the first disk recorded in `log`, over reboots too, with its flushes:
    /// see [`WriteLog`](crate::write_log::WriteLog). The machine has to end by itself, or the end of the
    /// record is missing.
    ///
    /// # Errors
    ///
    /// Fails when there is such a file, or it cannot be made.
    pub fn record_writes(mut self, log: &Path) -> Result<Self> {
        write_log::create(log)?;
        self.log = Some(log.to_owned());
        Ok(self)
    }

    /// Adds a disk that is not there until [`Vm::plug_in`].
    #[must_use]
    pub fn disk_to_plug_in(mut self, disk: &Disk) -> Self {
        self.late = Some(disk.path().to_owned());
        self
    }

    /// Has a healthy machine write lines with these words to its console: trouble that every system with
    /// its layout has.
    #[must_use]
    pub fn tolerate(mut self, words: &'static str) -> Self {
        self.tolerated.push(words);
        self
    }

    /// Boots `files` with the command line `arguments` instead of the first disk's loader; at every
    /// reboot again.
    #[must_use]
    pub fn kernel(mut self, files: &BootFiles, arguments: &str) -> Self {
        self.kernel = Some((files.clone(), arguments.to_owned()));
        self
    }

    /// Switches it on. The next thing to call is [`Vm::wait_for_boot`].
    ///
    /// # Errors
    ///
    /// Fails when QEMU does not start.
    pub fn start(&self) -> Result<Vm> {
        fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot create {}", self.directory.display()))?;
        let log = self.directory.join(CONSOLE_LOG);
        File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let console = Console::default();
        let (qemu, channel, monitor) = self.run_qemu(&console)?;
        let machine = self.clone();
        Ok(Vm { machine, qemu, console, channel, monitor, boot_id: String::new(), mark: 0 })
    }

    /// Starts QEMU, with its agent's channel and its monitor.
    pub(super) fn run_qemu(&self, console: &Console) -> Result<(Qemu, Channel, Monitor)> {
        // Not in the machine's directory: the path of a socket has at most 107 bytes.
        let sockets = tempfile::Builder::new().prefix("ebbtide-vm-").tempdir()?;
        let listen = |name: &str| {
            let socket = sockets.path().join(name);
            let listener = UnixListener::bind(&socket)
                .with_context(|| format!("cannot listen on {}", socket.display()))?;
            anyhow::Ok((socket, listener))
        };
        let (socket, listener) = listen("agent")?;
        let (monitor_socket, monitor) = listen("monitor")?;

        let log = self.directory.join("qemu.log");
        let errors =
            File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut qemu = Qemu(
            self.qemu(&socket, &monitor_socket)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(errors)
                .spawn()
                .context("cannot start QEMU")?,
        );
        console.read(qemu.0.stdout.take().context("QEMU has no standard output")?);
        let channel = Channel::accept(&listener, QEMU_START, || match qemu.0.try_wait()? {
            Some(status) => Err(anyhow!("QEMU: {status}")),
            None => Ok(()),
        })
        .map_err(|error| {
            error.context(format!("QEMU said: {}", fs::read_to_string(&log).unwrap_or_default()))
        })?;
        // QEMU has connected to it before: chardevs are opened in the order in which they are named.
        let (monitor, _) = monitor.accept().context("cannot accept QEMU's monitor")?;
        Ok((qemu, channel, Monitor::new(monitor)))
    }

    fn qemu(&self, socket: &Path, monitor: &Path) -> Command {
        let mut command = Command::new("setpriv");
        // It ends with the thread that started it, should that end without running its guard.
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"])
            .args(["-M", "q35", "-nodefaults", "-no-user-config", "-display", "none"])
            .arg("-chardev")
            .arg(option(
                "stdio,id=console,signal=off,logfile=",
                &self.directory.join("console.log"),
            ))
            .args(["-serial", "chardev:console"])
            .arg("-chardev")
            .arg(option("socket,id=monitor,path=", monitor))
            .args(["-mon", "chardev=monitor,mode=control"])
            .arg("-chardev")
            .arg(option("socket,id=agent,path=", socket))
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", &format!("virtserialport,chardev=agent,name={PORT}")]);
        for (number, disk) in self.disks.iter().enumerate() {
            if let (0, Some(log)) = (number, &self.log) {
                command.args(recorded(disk, log));
                continue;
            }
            if let Some((_, fault)) = self.faults.iter().find(|(faulty, _)| *faulty == number) {
                command.args(faulty(number, disk, *fault));
                continue;
            }
            // Fast and safe enough: what the guest has submitted outlives QEMU in the page cache.
            let drive = format!("if=none,id=disk{number},format=raw,cache=unsafe,file=");
            command.arg("-drive").arg(option(&drive, disk)).args([
                "-device",
                &format!("virtio-blk-pci,drive=disk{number},bootindex={}", number + 1),
            ]);
        }
        if let Some(disk) = &self.late {
            let drive = format!("if=none,id={LATE},format=raw,cache=unsafe,file=");
            // What is plugged in needs a port that allows for it.
            let port = format!("pcie-root-port,id={LATE}-port,chassis=1");
            command.arg("-drive").arg(option(&drive, disk)).args(["-device", &port]);
        }
        if let Some((files, arguments)) = &self.kernel {
            command.arg("-kernel").arg(&files.kernel).arg("-initrd").arg(&files.initrd);
            command.args(["-append", arguments]);
        }
        // A second boot in the same process takes twice as long as the first: see `Vm::revive`.
        command.arg("-no-reboot");
        command
    }
}

/// The first disk, with a record of what is written to it.
fn recorded(disk: &Path, log: &Path) -> Vec<OsString> {
    let file = |name: &str, path: &Path| {
        option(&format!("driver=file,node-name={name},cache.no-flush=on,filename="), path)
    };
    let filter = "driver=blklogwrites,node-name=disk0,file=data,log=log,log-append=on";
    let device = "virtio-blk-pci,drive=disk0,write-cache=on,bootindex=1";
    let arguments = [
        ("-blockdev", file("data", disk)),
        ("-blockdev", file("log", log)),
        ("-blockdev", filter.to_owned()),
        ("-device", device.to_owned()),
    ];
    arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

/// A disk with which something is wrong. The guest is told of the errors, and goes on.
fn faulty(number: usize, disk: &Path, fault: Fault) -> Vec<OsString> {
    // The event is the start: from then on each such request fails.
    let error = |kind: &str| {
        let rule = "inject-error.0";
        format!(",{rule}.event=none,{rule}.iotype={kind},{rule}.errno=5")
    };
    let (node, read_only, errors) = match fault {
        Fault::Reads => ("blkdebug", "off", error("read")),
        Fault::Writes => ("blkdebug", "off", error("write")),
        Fault::Protected => ("raw", "on", String::new()),
    };
    let image = if node == "raw" { "file" } else { "image" };
    let file = format!("driver=file,node-name=image{number},read-only={read_only},filename=");
    let node = format!(
        "driver={node},node-name=disk{number},read-only={read_only},{image}=image{number}{errors}"
    );
    let device = format!("virtio-blk-pci,drive=disk{number},rerror=report,werror=report");
    let arguments = [("-blockdev", option(&file, disk)), ("-blockdev", node), ("-device", device)];
    arguments.into_iter().flat_map(|(name, value)| [name.into(), value.into()]).collect()
}

/// Writes a path as the last part of a QEMU option, where a comma is doubled.
fn option(start: &str, path: &Path) -> String {
    format!("{start}{}", path.display().to_string().replace(',', ",,"))
}

/// The emulator's process, killed when dropped.
#[derive(Debug)]
pub(super) struct Qemu(pub(super) Child);

impl Qemu {
    pub(super) fn kill(&mut self) -> Result<()> {
        self.0.kill().context("cannot kill QEMU")?;
        self.0.wait().context("cannot wait for QEMU")?;
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
