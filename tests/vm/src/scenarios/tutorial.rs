//! The tutorial, run from its text: what it says to type is typed, and what it says is printed is
//! compared with what is.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use testkit::disk::Disk;
use testkit::guest::{self, BootFiles, kernel_arguments};
use testkit::mount::Filesystem;
use testkit::process::run as run_program;
use testkit::vm::{Machine, Vm};

use crate::manual::{Block, Kind, blocks, matches, words};

const TEXT: &str = include_str!("../../../../docs/tutorial/debian-that-forgets.md");

/// The command that boots the machine, word by word, up to what it tells the kernel.
const QEMU: &[&str] = &[
    "qemu-system-x86_64",
    "-m",
    "1024",
    "-smp",
    "2",
    "-nographic",
    "-drive",
    "file=system.img,format=raw,if=virtio",
    "-kernel",
    "kernel",
    "-initrd",
    "initrd",
    "-append",
];
const CONSOLE: &str = "console=ttyS0 ";

pub fn run(directory: &Path) -> Result<()> {
    let mut reader = Reader::new(directory)?;
    let mut wrong = String::new();
    for block in blocks(TEXT)? {
        let said = reader
            .follow(&block)
            .with_context(|| format!("line {} of the tutorial", block.line))?;
        reader.note(&block, &said)?;
        if let Some(shown) = block.shows.filter(|shown| !matches(shown, &said)) {
            let line = block.line;
            write!(wrong, "\nline {line} shows:\n{shown}\nbut this was printed:\n{said}\n")?;
        }
    }
    ensure!(wrong.is_empty(), "the tutorial is not true:{wrong}");
    ensure!(reader.boots == 2 && reader.vm.is_none(), "the tutorial has {} boots", reader.boots);
    Ok(())
}

/// Somebody who does what the text says.
struct Reader {
    /// Where they work: the text's `/var/tmp/forgets`.
    place: PathBuf,
    directory: PathBuf,
    transcript: String,
    agent: bool,
    vm: Option<Vm>,
    boots: u32,
}

impl Reader {
    fn new(directory: &Path) -> Result<Self> {
        let place = directory.join("forgets");
        fs::create_dir(&place).with_context(|| format!("cannot create {}", place.display()))?;
        Ok(Self {
            place,
            directory: directory.to_owned(),
            transcript: String::new(),
            agent: false,
            vm: None,
            boots: 0,
        })
    }

    /// Does what one block says and returns what that printed.
    fn follow(&mut self, block: &Block) -> Result<String> {
        match (block.kind, &mut self.vm) {
            // Whoever runs the scenarios has made the package.
            (Kind::Package, None) => Ok(String::new()),
            (Kind::Host, None) => self.type_outside(block),
            (Kind::Qemu, None) => self.boot(block),
            (Kind::Guest, Some(vm)) => {
                if block.text == "systemctl poweroff" {
                    if let Some(vm) = self.vm.take() {
                        vm.power_off_cleanly()?;
                    }
                    return Ok(String::new());
                }
                if block.text == "systemctl reboot" {
                    vm.reboot()?;
                    self.boots += 1;
                    vm.assert_healthy()?;
                    return Ok(String::new());
                }
                let output = vm.run(&format!("exec 2>&1\n{}", block.text))?;
                let said = output.text();
                // Some commands are there to fail; what they say is shown then.
                ensure!(output.success() || block.shows.is_some(), "{said}");
                Ok(said)
            }
            (kind, vm) => bail!("{kind:?} while the machine is on: {}", vm.is_some()),
        }
    }

    fn type_outside(&mut self, block: &Block) -> Result<String> {
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{}", block.text)])
            .current_dir(&self.place)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .context("cannot start bash")?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(output.status.success(), "{}\n{said}", output.status);
        // The one thing that the text has not: a way in for the test.
        let tree = self.place.join("tree");
        if !self.agent && tree.is_dir() {
            guest::install_agent(&tree)?;
            self.agent = true;
        }
        Ok(said)
    }

    /// Boots what the text boots: it must say exactly what is used here.
    fn boot(&mut self, block: &Block) -> Result<String> {
        let words = words(&block.text)?;
        let Some((arguments, machine)) = words.split_last() else { bail!("there is no command") };
        ensure!(machine == QEMU, "the text boots {machine:?}, the scenario {QEMU:?}");
        let arguments = arguments.strip_prefix(CONSOLE).context("the console is not first")?;
        let disk = Disk::existing(&self.place.join("system.img"), Filesystem::Ext4)?;
        let files =
            BootFiles { kernel: self.place.join("kernel"), initrd: self.place.join("initrd") };
        let mut vm = Machine::new(&self.directory)
            .disk(&disk)
            .kernel(&files, &kernel_arguments(arguments))
            .start()?;
        vm.wait_for_boot()?;
        self.boots += 1;
        vm.assert_healthy()?;
        self.vm = Some(vm);
        Ok(String::new())
    }

    /// Keeps what happened, for whoever wants to write it into the text.
    fn note(&mut self, block: &Block, said: &str) -> Result<()> {
        write!(self.transcript, "--- {}\n{}\n--- printed\n{said}\n", block.line, block.text)?;
        let path = self.directory.join("transcript.log");
        fs::write(&path, &self.transcript)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Reader {
    /// Unmounts what the text has mounted: its loop device goes with that.
    fn drop(&mut self) {
        let volume = self.place.join("volume");
        let _ = run_program(Command::new("umount").args(["--recursive", "--quiet"]).arg(volume));
    }
}
