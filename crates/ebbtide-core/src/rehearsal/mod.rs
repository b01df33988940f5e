//! The next boot, without a reboot: a new root from the base, with its entries, in namespaces.
//!
//! It is made by the code of a boot, in a container in RAM that is a copy of the machine's: its base is
//! the machine's, the root that it puts away lies over the one of today, and its stores are the machine's
//! under overlays. All of the machine's own is mounted for reading only, so nothing that happens in a
//! rehearsal reaches it.

mod copy;
mod covers;
mod machine;
mod missed;
mod system;
mod work;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ebbtide_sys::mount::{self, MountAttributes};

use self::covers::Covers;
use self::machine::Machine;
pub use self::missed::Missed;
use self::system::System;
pub use self::system::{Came, FailedUnit};
use self::work::Work;
use crate::boot::{self, Boot, IMPORT_LIMIT, RUN};
use crate::compiled::{Compiled, DeclarationHash, RamSize};
use crate::enclosure::mounts::open_directory;
use crate::enclosure::{self, Program, Running, surface};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::record::{Outcome, Record};
use crate::store;
use crate::switches::Switches;

/// How much RAM what is written in a rehearsal may take, if nobody says otherwise.
pub const SIZE: RamSize = RamSize::Percent(25);

/// A root as the next boot would make it.
#[derive(Debug)]
pub struct Rehearsal {
    work: Work,
    record: Record,
    declaration: DeclarationHash,
    compiled: Compiled,
    notes: Vec<Problem>,
    /// Where the root of today can be seen.
    today: Option<PathBuf>,
    console: Option<(OwnedFd, PathBuf)>,
}

impl Rehearsal {
    /// Makes the root of the machine's next boot, with its entries in place. `sysroot`: where the machine
    /// sees its root of today. `size`: how much RAM what is written may take. The calling thread moves to
    /// a mount namespace of its own.
    ///
    /// # Errors
    ///
    /// Fails where the next boot would not make a new root, with its reason, and where the kernel or a
    /// container forbids mounts.
    pub fn make(machine: &Boot, sysroot: &Path, size: RamSize, log: &mut Log<'_>) -> Result<Self> {
        enclosure::enter_private_namespace()?;
        let work = Work::mount(&machine.run, size)?;
        work::make(&work.root())?;
        work::make(&work.run())?;

        let found = Machine::open(machine, &work)?;
        let (base, tree) = found.base(&work)?;
        let mut covers = Covers::default();
        let place = &machine.locator.state;
        let state = covers
            .store(place.place(), place.uuid, &work)
            .context(|| "the state store is not there")?;
        let opened = open_directory(&state)?;
        let (declaration, compiled, problem) = store::load(opened.as_fd(), &found.pins()?)?;
        if let Some(problem) = problem {
            covers.notes.push(problem);
        }
        let covered = covers.of(&compiled, &work)?;
        let old_roots = found.old_roots(sysroot, &work)?;
        let locator =
            copy::make(&found, (base, &tree), &old_roots, (&state, place.uuid), covered, &work)?;

        surface::make_run(&work.run(), &tree)?;
        let boot = Boot {
            locator,
            run: work.run().join("ebbtide"),
            run_later: PathBuf::from(RUN),
            switches: Switches::default(),
            // What the next boot would put off is more than fits here.
            import_limit: IMPORT_LIMIT,
        };
        let record = reset(&boot, &mut covers, log)?;
        boot.mount_root(&work.root(), &record)?;
        let record = boot::attach(&boot, &work.root(), log);
        let root = open_directory(&work.root())?;
        mount::set_attributes(root.as_fd(), MountAttributes::NODEV, false)
            .context(|| "cannot do without devices in the root")?;
        let notes = covers.notes;
        let today = old_roots.into_iter().next().map(|root| root.tree);
        Ok(Self { work, record, declaration, compiled, notes, today, console: None })
    }

    /// Where the root is mounted for this process.
    pub fn root(&self) -> PathBuf {
        self.work.root()
    }

    /// The run directory of the rehearsed boot.
    pub fn run(&self) -> PathBuf {
        self.work.run().join("ebbtide")
    }

    /// What the boot wrote down.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The compiled declaration that it went by, as the machine has it.
    pub fn declaration(&self) -> (&DeclarationHash, &Compiled) {
        (&self.declaration, &self.compiled)
    }

    /// What is not as the next boot would have it.
    pub fn notes(&self) -> &[Problem] {
        &self.notes
    }

    /// Puts around the root what a program needs and what keeps the machine out of its reach. `console`:
    /// whether it has a terminal of the root's own.
    pub fn furnish(&mut self, console: bool) -> Result<()> {
        let root = self.work.root();
        self.console = surface::mount_devices(&root, console)?;
        surface::mount_run(&root, &self.work.run())
    }

    /// Boots the root, which is not furnished, in a container, waits until its system has settled, or for
    /// so long at most, looks what became of it, and has it power off.
    ///
    /// # Errors
    ///
    /// Fails where there is no systemd-nspawn, and if what is on the root does not boot.
    pub fn boot(&self, limit: Duration) -> Result<Came> {
        let (root, console) = (self.work.root(), self.work.console());
        let declared: Vec<_> = self.compiled.entries.iter().map(|it| it.path.clone()).collect();
        let mut system = System::start(&root, &self.run(), Path::new(RUN), &console)?;
        let came = system.settle(limit, self.today.as_deref(), &root, &declared)?;
        system.power_off();
        Ok(came)
    }

    /// Starts a program in the root, which is furnished.
    pub fn start(&self, program: &Program) -> Result<Running<'_>> {
        enclosure::start(&self.work.root(), self.console.as_ref(), program)
    }
}

/// The first half of the boot: a new root. Unlike a machine, which must boot, nobody is helped
/// by the root of today.
fn reset(boot: &Boot, covers: &mut Covers, log: &mut Log<'_>) -> Result<Record> {
    let mut first = None;
    let record = boot::reset(boot, &mut |level, message| {
        if level <= Level::Warning && first.is_none() {
            first = Some(message.to_owned());
        }
        log(level, message);
    });
    let what = "the next boot would not make a new root";
    match record.outcome {
        Outcome::Reset => Ok(record),
        Outcome::Postponed => Err(Failure::new("the next boot cannot be rehearsed yet")
            .caused_by(first.unwrap_or_default())
            .hint("run `ebbtide apply`, which copies it while the system runs")),
        Outcome::Kept(_) | Outcome::Refused => {
            // What the boot says of it is said of its cover.
            let missing = covers.missing.pop_first();
            Err(match missing {
                Some((name, failure)) => Failure::new(format!("{what}: store {name} is not there"))
                    .caused_by(failure)
                    .hint("connect its disk, or declare `optional` what lies in it"),
                None => Failure::new(what).caused_by(first.unwrap_or_default()),
            })
        }
    }
}
