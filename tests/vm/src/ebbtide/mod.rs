//! The machine of the scenarios: a Debian that `ebbtide init` set up, was used for one boot, and
//! was made a mess of.

pub mod checks;
pub mod encrypted;
pub mod mess;
pub mod separate;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, ensure};
use testkit::disk::Disk;
use testkit::guest::{self, BootFiles, Distribution, Guest, kernel_arguments};
use testkit::mount::Filesystem;
use testkit::privileged::chroot;
use testkit::process::run;
use testkit::vm::{Machine, Vm};

use crate::prepared;

const DECLARATION: &str = include_str!("declaration.toml");
const SITE: &str = include_str!("site.service");
const WITNESS: &str = include_str!("witness.service");

/// What a machine makes its roots of, and what runs on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kind {
    pub backend: &'static str,
    pub filesystem: Filesystem,
    pub guest: Distribution,
}

pub const BTRFS: Kind = kind("btrfs", Filesystem::Btrfs);
pub const OVERLAY_ON_EXT4: Kind = kind("overlay", Filesystem::Ext4);
pub const OVERLAY_ON_XFS: Kind = kind("overlay", Filesystem::Xfs);
pub const TMPFS: Kind = kind("tmpfs", Filesystem::Ext4);

const fn kind(backend: &'static str, filesystem: Filesystem) -> Kind {
    Kind { backend, filesystem, guest: Distribution::Debian12 }
}

impl Kind {
    /// As in `overlay-on-ext4`.
    pub fn name(self) -> String {
        let mut name = format!("{}-on-{}", self.backend, self.filesystem.name());
        if self.guest != Distribution::Debian12 {
            name = format!("{name}-{}", self.guest.name());
        }
        name
    }

    /// Whether its roots are subvolumes.
    pub fn is_btrfs(self) -> bool {
        self.backend == "btrfs"
    }

    /// The same on another distribution.
    pub const fn on(self, guest: Distribution) -> Self {
        Self { guest, ..self }
    }

    /// The declaration of its machine.
    fn declaration(self) -> String {
        let limits = if self == TMPFS { "\nsize = \"400M\"\narchive = \"200M\"" } else { "" };
        let backend = format!("backend = {:?}{limits}", self.backend);
        let text = DECLARATION.replace("backend = \"btrfs\"", &backend);
        if self.filesystem == Filesystem::Btrfs {
            return text;
        }
        text.replace("subvolume = \"state\"", "directory = \"state\"")
    }

    /// Where a past root has what was written to it, below the top level of the volume.
    pub fn written(self, number: u32) -> PathBuf {
        let past = Path::new("ebbtide/past").join(number.to_string());
        if self.is_btrfs() { past } else { past.join("upper") }
    }
}

/// Machines of which there is one of each kind at most.
type Each = Mutex<BTreeMap<String, &'static OnceLock<Result<Ebbtide>>>>;

fn cell(each: &'static Each, kind: Kind) -> &'static OnceLock<Result<Ebbtide>> {
    let mut each = each.lock().unwrap_or_else(PoisonError::into_inner);
    each.entry(kind.name()).or_insert_with(|| Box::leak(Box::default()))
}

/// The machine's disks, with the kernel and the initramfs that its base has.
pub struct Ebbtide {
    pub kind: Kind,
    pub system: Disk,
    pub big: Disk,
    pub boot: BootFiles,
    directory: PathBuf,
}

impl Ebbtide {
    /// A copy of the machine as `ebbtide init` left it.
    pub fn fresh(directory: &Path, kind: Kind) -> Result<Self> {
        static FRESH: Each = Mutex::new(BTreeMap::new());
        let place = prepared::directory().join(kind.name());
        prepared::once(cell(&FRESH, kind), || Self::set_up(&place, kind))?.copy(directory)
    }

    /// A copy of the machine after its first boot, in which it was used, and made a mess of.
    pub fn messed_up(directory: &Path, kind: Kind) -> Result<Self> {
        static MESSED_UP: Each = Mutex::new(BTreeMap::new());
        prepared::once(cell(&MESSED_UP, kind), || {
            let place = prepared::directory().join(format!("messed-up-{}", kind.name()));
            let machine = Self::fresh(&place, kind)?;
            let mut vm = machine.start("")?;
            checks::healthy(&mut vm)?;
            checks::proved(&mut vm)?;
            mess::make(&mut vm)?;
            vm.power_off_cleanly()?;
            Ok(machine)
        })?
        .copy(directory)
    }

    /// A copy of it as it is now. It must not run.
    pub fn copy(&self, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            kind: self.kind,
            system: self.system.copy_to(&directory.join("system"))?,
            big: self.big.copy_to(&directory.join("big"))?,
            boot: self.boot.clone(),
            directory: directory.to_owned(),
        })
    }

    /// Installs the package with apt in a Debian, and has the installed `ebbtide` set the disk up.
    fn set_up(directory: &Path, kind: Kind) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let tree = directory.join("tree");
        fs::create_dir(&tree)?;
        install(kind, &tree)?;
        let system =
            Disk::new_system(&directory.join("system"), 4 << 30, kind.filesystem, "system")?;
        let big = Disk::new_plain(&directory.join("big"), 512 << 20, Filesystem::Ext4, "big")?;
        let declaration = directory.join("ebbtide.toml");
        fs::write(&declaration, kind.declaration())?;
        // Mounted, so that the store is found by its label.
        let store = big.mount()?;
        let boot = system.with_system("", |disk, top| {
            init(&tree, &declaration, Some(disk))?;
            BootFiles::copy(&top.join("ebbtide/bases/1"), directory)
        })?;
        store.close()?;
        run(Command::new("rm").args(["-rf", "--one-file-system"]).arg(&tree))?;
        Ok(Self { kind, system, big, boot, directory: directory.to_owned() })
    }

    /// The machine, with more words on its kernel command line.
    pub fn machine(&self, words: &str) -> Machine {
        let mut arguments = kernel_arguments(&format!("root=LABEL=system ro {words}"));
        if self.kind.guest.has_selinux() {
            arguments = arguments.replace("apparmor=0 audit=0", "security=selinux audit=1");
        }
        self.without_loader(&self.boot, &arguments)
    }

    /// The machine with another initramfs or command line.
    pub fn without_loader(&self, boot: &BootFiles, arguments: &str) -> Machine {
        Machine::new(&self.directory).disk(&self.system).disk(&self.big).kernel(boot, arguments)
    }

    /// The machine as it boots by itself, through GRUB.
    pub fn through_grub(&self) -> Machine {
        Machine::new(&self.directory).disk(&self.system).disk(&self.big)
    }

    /// Boots it, and waits until it has settled.
    pub fn start(&self, words: &str) -> Result<Vm> {
        let mut vm = self.machine(words).start()?;
        vm.wait_for_boot()?;
        Ok(vm)
    }
}

/// Makes an installed system below a directory, with Ebbtide's package and what scenarios look at.
fn install(kind: Kind, tree: &Path) -> Result<()> {
    Guest::of(kind.guest)?.copy_to(tree)?;
    guest::install_package(tree, &package()?)?;
    ensure!(!tree.join("etc/ebbtide").exists(), "installing the package configured something");
    // Some boots of it are made here, where another kernel runs.
    let here = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    fs::create_dir_all(tree.join("usr/lib/modules").join(here.trim()))?;
    let units = tree.join("usr/lib/systemd/system");
    fs::write(units.join("witness.service"), WITNESS)?;
    let wants = units.join("sysinit.target.wants/witness.service");
    std::os::unix::fs::symlink("../witness.service", wants)?;
    fs::write(units.join("site.service"), SITE)?;
    let wants = units.join("multi-user.target.wants/site.service");
    std::os::unix::fs::symlink("../site.service", wants)?;
    if kind.guest.has_selinux() {
        run(chroot(tree, "semodule").args([
            "--noreload",
            "-i",
            "/usr/share/ebbtide/selinux/ebbtide.cil",
        ]))?;
        guest::label(tree)?;
    }
    Ok(())
}

/// Has the installed `ebbtide` set a volume up with that system as base 1; returns what it said.
/// With `disk`, GRUB is installed there.
fn init(tree: &Path, declaration: &Path, disk: Option<&Path>) -> Result<String> {
    let mut init = Command::new(tree.join("usr/bin/ebbtide"));
    init.args(["init", "--yes", "--device", "LABEL=system", "--updaters", "disable"])
        .arg("--base-directory")
        .arg(tree)
        .arg("--config")
        .arg(declaration)
        .stdin(Stdio::null());
    if let Some(disk) = disk {
        init.arg("--grub").arg(disk);
    }
    let output = init.output().context("cannot start ebbtide init")?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot set the machine up: {}\n{said}", output.status);
    Ok(said.into_owned())
}

/// The package to test: `cargo xtask vm` builds it and says where it is.
fn package() -> Result<PathBuf> {
    std::env::var_os("EBBTIDE_DEB").map(PathBuf::from).context("run this with `cargo xtask vm`")
}
