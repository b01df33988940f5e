//! One boot, as the initramfs runs it: reset, attach, verify. Whatever goes wrong, it ends with a
//! root to run on and a record that says what happened.

mod accounts;
mod attach;
mod failed;
mod hibernated;
mod initramfs;
mod reset;
mod root;
mod up;
mod verify;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use attach::attach;
use ebbtide_sys::device;
use ebbtide_sys::{file, kernel, mount, resolve};
pub use initramfs::{wait_for_devices, write_mount_unit};
pub(crate) use reset::Stores;
pub use reset::reset;
pub use up::{take_over, up};

use crate::backend::overlay;
use crate::compiled::{Backend, Compiled, DeclarationHash};
use crate::container::{self, Container, name};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::locator::Locator;
use crate::once::{self, Wish};
use crate::record::{self, BootNumber, Outcome, Record};
use crate::store;
use crate::switches::Switches;
use crate::volume::{self, Volume};

/// Where the record of this boot lies in the run directory.
pub const RECORD: &str = "boot.json";
/// Where the locator that this boot used lies in the run directory.
pub const LOCATOR: &str = "locator.json";
/// Where the compiled declaration that is in force lies in the run directory, for root to read.
pub const DECLARATION: &str = "declaration.json";
/// Where stores are mounted in the run directory.
pub const STORES: &str = "stores";
/// The most that a boot copies into stores unasked, in bytes: nobody waits long before a dark console.
pub const IMPORT_LIMIT: u64 = 1 << 30;
/// The run directory of a real boot.
pub const RUN: &str = "/run/ebbtide";

/// Where a boot finds things and leaves things.
#[derive(Debug)]
pub struct Boot {
    /// What finds the container.
    pub locator: Locator,
    /// The run directory as it is now.
    pub run: PathBuf,
    /// The run directory as the booted system is going to see it, for symbolic links into stores.
    pub run_later: PathBuf,
    /// What the kernel command line asks for.
    pub switches: Switches,
    /// How many bytes of first content are copied before the root is kept once instead.
    pub import_limit: u64,
}

impl Boot {
    /// Reads the locator and the kernel command line.
    pub fn read(locator: &Path, run: PathBuf, command_line: Option<&Path>) -> Result<Self> {
        let text = std::fs::read(locator)
            .context(|| format!("cannot read the locator {}", locator.display()))?;
        let locator = Locator::from_bytes(&text)?;
        let command_line = match command_line {
            Some(path) => {
                std::fs::read(path).context(|| format!("cannot read {}", path.display()))?
            }
            None => kernel::command_line().context(|| "cannot read the kernel command line")?,
        };
        let switches = Switches::parse(&command_line);
        let run_later = PathBuf::from(RUN);
        Ok(Self { locator, run, run_later, switches, import_limit: IMPORT_LIMIT })
    }

    /// The mount options of the root, for the initramfs. `None`: what the kernel command line says
    /// stays in force, because these options would not fit what is going to be mounted.
    ///
    /// A `subvol=` on the kernel command line is heeded where it names a past root: that is a person
    /// at the boot menu who wants to look at it. Other flags, such as `degraded`, are passed on.
    pub fn root_mount_options(&self, record: &Record) -> Option<String> {
        if self.locator.backend != Backend::Btrfs {
            return None;
        }
        if self.names_another_volume() || (record.root.is_none() && self.has_no_root()) {
            return None;
        }
        let container = &self.locator.container.path;
        if self.visits_a_past_root() {
            return None;
        }
        let root = container.join(name::ROOT);
        let mut options = format!("subvol={},noatime", root.display());
        for option in self.locator.options.iter().chain(&self.switches.flags) {
            options.push(',');
            options.push_str(option);
        }
        Some(options)
    }

    /// Whether `subvol=` on the kernel command line names a past root.
    fn visits_a_past_root(&self) -> bool {
        use std::os::unix::ffi::OsStrExt;
        self.switches.subvolume.as_ref().is_some_and(|wanted| {
            let wanted = Path::new(std::ffi::OsStr::from_bytes(wanted));
            let wanted = wanted.strip_prefix("/").unwrap_or(wanted);
            wanted.starts_with(self.locator.container.path.join(name::PAST))
        })
    }

    /// Whether `root=` on the kernel command line names another volume than the container's. What
    /// can't be found out counts as no.
    fn names_another_volume(&self) -> bool {
        let uuid = |spec: &str| {
            let path = device::find(spec).ok()?;
            Some(device::probe(&path).ok()??.uuid)
        };
        let wanted = self.switches.device.as_deref().and_then(|it| std::str::from_utf8(it).ok());
        match (wanted.and_then(uuid), uuid(&self.locator.device.0)) {
            (Some(wanted), Some(ours)) => wanted != ours,
            _ => false,
        }
    }

    /// Whether the volume is there and nothing in it is called as our root is: it is not ours.
    fn has_no_root(&self) -> bool {
        let root = self.locator.container.path.join(name::ROOT);
        self.open_volume().is_ok_and(|top| {
            resolve::open_directory(top.as_fd(), &root).is_err_and(|error| error.is_not_found())
        })
    }

    /// Mounts the root at a directory, as the initramfs would.
    pub fn mount_root(&self, sysroot: &Path, record: &Record) -> Result<()> {
        let what = || format!("cannot mount the root at {}", sysroot.display());
        let mounted = match (self.locator.backend, &record.root) {
            (Backend::Btrfs, _) => self.mount_subvolume(record)?,
            (_, Some(root)) if root.is_in_ram() => {
                overlay::mount_in_ram(&self.open_container()?, root, &self.run)?
            }
            (_, Some(_)) => {
                overlay::mount(&self.open_container()?, Path::new(name::ROOT), &self.run)?
            }
            (_, None) => return Err(Failure::new(format!("{}: there is none", what()))),
        };
        mount::attach(mounted.as_fd(), open_directory(sysroot)?.as_fd()).context(what)
    }

    /// Whether the root is made before the initramfs mounts it. An overlay is made on what the
    /// initramfs has mounted, because that has been checked by then.
    pub fn resets_before_mount(&self) -> bool {
        self.locator.backend == Backend::Btrfs
    }

    fn mount_subvolume(&self, record: &Record) -> Result<OwnedFd> {
        let device = device::find(&self.locator.device.0)
            .context(|| format!("cannot find the device {}", self.locator.device))?;
        let subvolume = match (self.root_mount_options(record), &self.switches.subvolume) {
            (None, Some(wanted)) => String::from_utf8_lossy(wanted).into_owned(),
            _ => self.locator.container.path.join(name::ROOT).display().to_string(),
        };
        let mut options = vec![("subvol", Some(subvolume.as_str()))];
        let more = self.locator.options.iter().chain(&self.switches.flags);
        options.extend(more.map(|option| volume::option(option)));
        mount::mount_detached("btrfs", Some(&device), &options, mount::MountAttributes::NOATIME)
            .context(|| format!("cannot mount the root {subvolume}"))
    }

    fn open_volume(&self) -> Result<Volume> {
        container::open_volume(self.locator.backend, &self.locator.device, &self.switches.flags)
    }

    /// Opens the container that the locator names.
    pub fn open_container(&self) -> Result<Container> {
        Container::open(self.open_volume()?, self.locator.backend, &self.locator.container)
    }

    /// The same for reading only, with whatever is opened through it.
    pub fn open_container_for_reading(&self) -> Result<Container> {
        let Locator { backend, device, container, .. } = &self.locator;
        let volume = container::open_volume_for_reading(*backend, device, &self.switches.flags)?;
        Container::open(volume, *backend, container)
    }

    /// Opens the state store that the locator names.
    pub(crate) fn open_state(&self) -> Result<OwnedFd> {
        store::open(self.locator.state.place(), self.locator.state.uuid)
    }

    /// Opens what lies in the container's place, even if it is another container, or one without a
    /// marker: nothing is changed.
    fn open_any_container(&self) -> Result<Container> {
        let Locator { backend, container, .. } = &self.locator;
        Container::open_unmarked(self.open_volume()?, *backend, container)
    }

    /// Reads the compiled declaration from the state store.
    fn load(&self, container: &Container) -> Result<Loaded> {
        let pins = container.pins()?.ok_or_else(|| {
            Failure::new("no declaration was ever compiled for this container")
                .hint("run `ebbtide apply`")
        })?;
        let place = &self.locator.state;
        let state = recorded(place.place(), place.uuid, "the state store")?;
        let (hash, compiled, problem) = store::load(state.as_fd(), &pins)?;
        if compiled.root.container != self.locator.container {
            return Err(Failure::new("the compiled declaration is for another container")
                .hint("run `ebbtide apply`, then build the initramfs again"));
        }
        let wish = once::read(state.as_fd());
        let is_previous = problem.is_some();
        Ok(Loaded { hash, compiled, is_previous, problem, wish })
    }

    /// A record of this boot that says nothing yet.
    fn new_record(log: &mut Log<'_>) -> Record {
        let boot_id = kernel::boot_id().context(|| "cannot tell which boot this is");
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .ok()
            .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok());
        let mut record = Record {
            version: record::VERSION,
            number: BootNumber(0),
            kernel_boot_id: boot_id.as_ref().cloned().unwrap_or_default(),
            kernel_release: kernel::release(),
            clock: clock.unwrap_or(0),
            outcome: Outcome::Refused,
            root: None,
            base: None,
            put_away: None,
            declaration: None,
            attached: None,
            fallback: None,
            carried: None,
            problems: Vec::new(),
            ended: None,
        };
        if let Err(failure) = boot_id {
            report(&mut record, log, Problem::from_failure(Level::Error, &failure));
        }
        record
    }

    /// The record that an earlier step of this same boot left in the run directory.
    pub fn read_record(&self) -> Option<Record> {
        self.find_record().ok().flatten()
    }

    /// The same; fails if it is not known whether there is one.
    fn find_record(&self) -> Result<Option<Record>> {
        let run = open_directory(&self.run)?;
        let record: Option<Record> = container::read(run.as_fd(), Path::new(RECORD))?;
        let this = kernel::boot_id().context(|| "cannot tell which boot this is")?;
        let record = record.filter(|it| {
            // With none, it could not be told when that was written.
            it.version == record::VERSION && [this.as_str(), ""].contains(&&*it.kernel_boot_id)
        });
        Ok(record.map(|record| Record { kernel_boot_id: this, ..record }))
    }

    /// The compiled declaration that is in force in this boot; `None` if there is none.
    pub fn in_force(&self) -> Result<Option<Compiled>> {
        let run = open_directory(&self.run)?;
        container::read(run.as_fd(), Path::new(DECLARATION))
    }

    /// Leaves the compiled declaration that is in force.
    fn write_declaration(&self, compiled: &Compiled) -> Result<()> {
        write_declaration(&self.run, compiled)
    }

    fn write_record(&self, record: &Record) -> Result<()> {
        file::create_directories(&self.run)
            .context(|| format!("cannot make {}", self.run.display()))?;
        let run = open_directory(&self.run)?;
        let written = container::write_with_mode(run.as_fd(), RECORD, record, 0o644);
        // At shutdown the declaration is gone with the other entries; this stays.
        let located = container::write_with_mode(run.as_fd(), LOCATOR, &self.locator, 0o644);
        written.and(located)
    }
}

pub(crate) fn write_declaration(run: &Path, compiled: &Compiled) -> Result<()> {
    let run = open_directory(run)?;
    container::write_with_mode(run.as_fd(), DECLARATION, compiled, 0o600)
}

struct Loaded {
    hash: DeclarationHash,
    compiled: Compiled,
    /// Whether it is the one before the one that should be in force, which cannot be used.
    is_previous: bool,
    problem: Option<Problem>,
    /// What is to be carried over the next reset.
    wish: Result<Option<Wish>>,
}

pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .context(|| format!("cannot open {}", path.display()))
}

/// Opens a store as it was recorded.
fn recorded(place: store::Place<'_>, uuid: uuid::Uuid, name: &str) -> Result<OwnedFd> {
    store::open(place, uuid).map_err(|failure| {
        // What is wrong with a store that is there says more.
        let advice = failure.advice().unwrap_or("`ebbtide accept` shows what differs").to_owned();
        Failure::new(format!("{name} is not there")).caused_by(failure).hint(advice)
    })
}

/// Notes a problem in the record and says it.
fn report(record: &mut Record, log: &mut Log<'_>, problem: Problem) {
    log(problem.level, &problem.to_string());
    if problem.level < Level::Info {
        record.problems.push(problem);
    }
}
