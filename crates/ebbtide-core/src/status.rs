//! Is this root really new? The kernel is asked; what was written down is only compared with it.

mod entries;
mod stores;
mod upkeep;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, kernel, metadata};
pub use entries::observe;
use serde::Serialize;
pub use stores::StoreUsage;

use crate::backend;
use crate::boot::{self, Boot};
use crate::compiled::{Backend, Compiled, DeclarationHash};
use crate::container::{Container, Pins, name};
use crate::failure::{Context, Failure, Level, Problem, Result};
use crate::login;
use crate::once;
use crate::ram::{self, Usage};
use crate::record::{BootNumber, Outcome, Record, RootIdentity, Switch};
use crate::refused::{self, Refused};
use crate::store;

/// What `status` found.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Status {
    /// Whether everything is as it should be: no problem is an error or a warning.
    pub ok: bool,
    /// Whether `/` was proved to be the root that this boot made from the base.
    pub proved: bool,
    /// The number of this boot.
    pub boot: Option<BootNumber>,
    /// What happened to the root.
    pub outcome: Option<Outcome>,
    /// What the kernel says that `/` is.
    pub root: Option<RootIdentity>,
    /// The base it was made from.
    pub base: Option<u64>,
    /// The compiled declaration that this boot used.
    pub declaration: Option<DeclarationHash>,
    /// Entries that are in place.
    pub in_place: usize,
    /// Entries that have no data anywhere yet.
    pub waiting: usize,
    /// Entries that are declared.
    pub declared: usize,
    /// How full each store is.
    pub stores: Vec<StoreUsage>,
    /// Paths that are carried over the next reset, once.
    pub carried: Vec<PathBuf>,
    /// How full the RAM of the root is, if it is in RAM.
    pub ram: Option<Usage>,
    /// What tried to write to a root that is not for writing, if that is noted.
    pub refused: Vec<Refused>,
    /// What is wrong, gravest first.
    pub problems: Vec<Problem>,
}

impl Status {
    fn problem(&mut self, level: Level, message: impl Into<String>, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.problems.push(Problem { level, message: message.into(), hint });
    }

    /// What a person who logs in should know, on one line; `None` if all is as it should be.
    pub fn brief(&self) -> Option<String> {
        if self.ok {
            return None;
        }
        let line = match self.problems.first() {
            Some(problem) => problem.message.lines().next().unwrap_or_default(),
            None => "it is not proved that / is a new root",
        };
        let more =
            match self.problems.iter().skip(1).filter(|it| it.level <= Level::Warning).count() {
                0 => String::new(),
                count => format!(" (and {count} more)"),
            };
        let line = ebbtide_sys::escape(line.as_bytes());
        Some(format!("ebbtide: {line}{more}: see `sudo ebbtide status`"))
    }

    fn failure(&mut self, failure: &Failure) {
        self.problems.push(Problem::from_failure(Level::Error, failure));
    }
}

/// Looks at the running system. Needs root, because the container is readable for root only.
pub fn status(boot: &Boot, sysroot: &Path) -> Status {
    let mut status = Status {
        ok: false,
        proved: false,
        boot: None,
        outcome: None,
        root: None,
        base: None,
        declaration: None,
        in_place: 0,
        waiting: 0,
        declared: 0,
        stores: Vec::new(),
        carried: Vec::new(),
        ram: None,
        refused: Vec::new(),
        problems: Vec::new(),
    };
    match backend::mounted(boot.locator.backend, sysroot) {
        Ok(root) => status.root = Some(root),
        Err(failure) => status.failure(&failure),
    }
    // What the next boot reads is as a rule what is in force.
    let mut audited = None;
    match boot.open_container() {
        Ok(container) => {
            // It is as long as the declaration, and read once.
            let left = boot.read_record();
            let carried = left.as_ref().is_some_and(|record| record.carried.is_some());
            let record = prove(boot, &container, left.as_ref(), &mut status);
            let record = record.unwrap_or_else(|failure| {
                status.failure(&failure);
                None
            });
            let declared = match declaration(boot, &container) {
                Ok(declared) => Some(declared),
                Err(failure) => {
                    status.failure(&failure);
                    None
                }
            };
            if let Some((hash, compiled)) = &declared
                && let Err(failure) =
                    entries::look_at(boot, (hash, compiled), left, sysroot, &mut status)
            {
                status.failure(&failure);
            }
            if let Err(failure) = look_at_wishes(boot, &mut status, carried) {
                status.problems.push(Problem::from_failure(Level::Warning, &failure));
            }
            if let Err(failure) = look_at_kernels(&container, sysroot, &mut status) {
                status.failure(&failure);
            }
            let compiled = declared.as_ref().map(|(_, compiled)| compiled);
            audited = declared.as_ref().and_then(|(hash, compiled)| {
                (status.declaration.as_ref() == Some(hash)).then_some(compiled.root.audit)
            });
            if let Err(failure) =
                upkeep::look(boot, &container, compiled, record.as_ref(), &mut status)
            {
                status.failure(&failure);
            }
            let lost = compiled.and_then(|it| look_at_logins(&container, sysroot, it));
            status.problems.extend(lost);
        }
        Err(failure) => status.failure(&failure),
    }
    if status.root.as_ref().is_some_and(RootIdentity::is_in_ram) {
        match ram::usage(&boot.run) {
            Ok(usage) => {
                status.problems.extend(usage.problem());
                status.ram = Some(usage);
            }
            Err(failure) => status.failure(&failure),
        }
    }
    if audited.unwrap_or_else(|| matches!(boot.in_force(), Ok(Some(it)) if it.root.audit)) {
        status.refused = refused::refused(sysroot, began());
    }
    status.problems.sort_by_key(|problem| problem.level);
    status.ok = status.proved && status.problems.iter().all(|it| it.level > Level::Warning);
    status
}

/// When the kernel started, in seconds since 1970 by the clock as it is now.
fn began() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    now.unwrap_or_default().as_secs().saturating_sub(u64::try_from(up).unwrap_or(0))
}

/// Compares what the container's record of this boot says with what the kernel says. Returns that record.
fn prove(
    boot: &Boot,
    container: &Container,
    left: Option<&Record>,
    status: &mut Status,
) -> Result<Option<Record>> {
    let this = kernel::boot_id().context(|| "cannot read the kernel's boot id")?;
    let Some(record) = record_of(container, &this)? else {
        match left.filter(|left| left.kernel_boot_id == this) {
            Some(left) => unrecorded(boot, left, status),
            None => status.problem(
                Level::Error,
                "the container has no record of this boot: the initramfs did not run Ebbtide",
                "build the initramfs again; the root is the one of an earlier boot",
            ),
        }
        return Ok(None);
    };
    status.boot = Some(record.number);
    status.outcome = Some(record.outcome.clone());
    status.declaration.clone_from(&record.declaration);
    status.base = record.base.as_ref().map(|base| base.number);
    status.problems.extend(record.problems.iter().filter(|it| it.level <= Level::Notice).cloned());
    let mut proved = true;
    let mut deny = |status: &mut Status, message: String, hint: &str| {
        proved = false;
        status.problem(Level::Error, message, hint);
    };

    let same = left.is_some_and(|left| {
        (left.number, &left.root, &left.outcome, &left.attached)
            == (record.number, &record.root, &record.outcome, &record.attached)
    });
    if !same {
        deny(
            status,
            format!(
                "{}/{} is not what the container recorded for this boot: it was changed or lost",
                boot.run.display(),
                boot::RECORD
            ),
            "find out what changed it; the container's record counts",
        );
    }
    if status.root.is_none() || status.root != record.root {
        deny(
            status,
            format!(
                "/ is {}, and the root of this boot is {}",
                describe(status.root.as_ref()),
                describe(record.root.as_ref())
            ),
            "something else was mounted as root: look at rootflags= on the kernel command line",
        );
    }
    // In RAM there is none that a next boot could take.
    if container.backend() != Backend::Tmpfs
        && backend::identity(container, Path::new(name::ROOT)).ok() != record.root
    {
        deny(
            status,
            "the container's `root` is not the root of this boot: the next boot would take another"
                .to_owned(),
            "find out what renamed it",
        );
    }
    match &record.outcome {
        Outcome::Reset => {
            if let Err(why) = made_from_base(container, &record) {
                deny(status, why.chain(), "the reset did nothing: look into the kernel log");
            }
        }
        Outcome::Kept(switch) => {
            proved = false;
            let word = match switch {
                Switch::Off => "off",
                Switch::Keep => "keep",
            };
            let root = if record.root.as_ref().is_some_and(RootIdentity::is_in_ram) {
                "the root is the base with the entries that are required"
            } else {
                "the root is that of an earlier boot"
            };
            status.problem(
                Level::Warning,
                format!("{root}: ebbtide={word} was on the kernel command line"),
                "reboot without it to have a new root",
            );
        }
        // The record says why.
        Outcome::Postponed => proved = false,
        Outcome::Refused => {
            proved = false;
            if record.gravest() != Some(Level::Error) {
                status.problem(Level::Error, "the root was not reset", "");
            }
        }
    }
    if record.attached.is_none() {
        status.problem(Level::Error, "entries were never attached in this boot", "");
    }
    status.proved = proved;
    Ok(Some(record))
}

/// Of a boot that could not write into the container there is only what it left in the run directory, and that
/// proves nothing.
fn unrecorded(boot: &Boot, left: &Record, status: &mut Status) {
    status.boot = Some(left.number).filter(|number| number.0 > 0);
    status.outcome = Some(left.outcome.clone());
    status.declaration.clone_from(&left.declaration);
    status.problems.extend(left.problems.iter().filter(|it| it.level <= Level::Notice).cloned());
    let place = boot.run.join(boot::RECORD);
    status.problem(
        Level::Error,
        format!("the container has no record of this boot, only {} has one", place.display()),
        "nothing could be written to the volume: see whether it is full, or its disk bad",
    );
}

/// A root that was reset is a snapshot of its base, and no earlier boot ever ran on it.
fn made_from_base(container: &Container, record: &Record) -> Result<()> {
    let (Some(root), Some(base)) = (&record.root, &record.base) else {
        return Err(Failure::new("the record of this boot does not know its root and base"));
    };
    if root.base() != Some(base.uuid) {
        return Err(Failure::new("/ was not made from the base of this boot"));
    }
    if backend::base(container, base.number)?.uuid != base.uuid {
        return Err(Failure::new(format!(
            "base {} is not the one of this boot any more",
            base.number
        )));
    }
    let numbers = container.numbers(name::BOOTS)?;
    for number in numbers.into_iter().filter(|number| *number < record.number) {
        if let Ok(Some(earlier)) = container.record(number)
            && earlier.attached.is_some()
            && earlier.root.as_ref().map(RootIdentity::uuid) == Some(root.uuid())
        {
            return Err(Failure::new(format!("/ is the root that boot {number} ran on")));
        }
    }
    Ok(())
}

fn describe(root: Option<&RootIdentity>) -> String {
    match root {
        Some(root) => root.to_string(),
        None => "unknown".to_owned(),
    }
}

fn record_of(container: &Container, kernel_boot_id: &str) -> Result<Option<Record>> {
    for number in container.numbers(name::BOOTS)?.into_iter().rev() {
        let Ok(Some(record)) = container.record(number) else { continue };
        if record.kernel_boot_id == kernel_boot_id {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// The declaration that the next boot is going to read, with its hash.
pub fn declaration(boot: &Boot, container: &Container) -> Result<(DeclarationHash, Compiled)> {
    let pins = pins(container)?;
    load(boot.open_state()?.as_fd(), &pins)
}

/// The same, in a state store that is open already.
pub(crate) fn declaration_in(
    state: BorrowedFd<'_>,
    container: &Container,
) -> Result<(DeclarationHash, Compiled)> {
    load(state, &pins(container)?)
}

fn pins(container: &Container) -> Result<Pins> {
    container
        .pins()?
        .ok_or_else(|| Failure::new("no declaration was ever compiled").hint("run `ebbtide apply`"))
}

fn load(state: BorrowedFd<'_>, pins: &Pins) -> Result<(DeclarationHash, Compiled)> {
    let (hash, compiled, _) = store::load(state, pins)?;
    Ok((hash, compiled))
}

/// What was to be carried over a reset that has gone by was not heard by the boot.
fn look_at_wishes(boot: &Boot, status: &mut Status, done: bool) -> Result<()> {
    let Some(root) = &status.root else { return Ok(()) };
    let once::Carried { paths, left } = once::carried(boot, root.uuid())?;
    status.carried = paths;
    if !left.is_empty() && !done {
        status.problem(
            Level::Warning,
            format!("not carried over the last reset: {}", once::listed(&left)),
            "build the initramfs again: it is older than the wish; `ebbtide restore` brings it back",
        );
    }
    Ok(())
}

/// Who can log in now and could not after a reset. Before one in RAM, no boot can see that.
fn look_at_logins(container: &Container, sysroot: &Path, compiled: &Compiled) -> Option<Problem> {
    if container.backend() == Backend::Tmpfs {
        return None;
    }
    let root = std::fs::File::open(sysroot).ok()?;
    let number = container.base().ok()?;
    let base = backend::open_base(container, number).ok()?;
    let lost = login::lost(root.as_fd(), (number, base.as_fd()), compiled)?;
    Some(lost.ahead(compiled.root.require_login))
}

/// A kernel in `/boot` whose modules the base does not have comes up without its drivers.
fn look_at_kernels(container: &Container, sysroot: &Path, status: &mut Status) -> Result<()> {
    let base = backend::open_base(container, container.base()?)?;
    let modules = |release: &str| {
        ["usr/lib/modules", "lib/modules"].iter().any(|directory| {
            let path = Path::new(directory).join(release);
            matches!(metadata::metadata_beneath(base.as_fd(), &path), Ok(Some(_)))
        })
    };
    let blank = !["usr/lib/modules", "lib/modules"].iter().any(|directory| {
        matches!(metadata::metadata_beneath(base.as_fd(), Path::new(directory)), Ok(Some(_)))
    });
    if blank {
        return Ok(());
    }
    let Ok(directory) = std::fs::File::open(sysroot.join("boot")) else { return Ok(()) };
    let names = file::read_directory(directory.as_fd()).context(|| "cannot list /boot")?;
    for entry in names {
        let Some(release) = entry.name.to_str().and_then(|name| name.strip_prefix("vmlinuz-"))
        else {
            continue;
        };
        if !modules(release) {
            status.problem(
                Level::Warning,
                format!(
                    "kernel {} is in /boot, and the base has no modules for it",
                    ebbtide_sys::text::escape(release.as_bytes())
                ),
                "boot refuses to reset with it; put it into the base first",
            );
        }
    }
    Ok(())
}
