//! Doing what was planned: each step is whole or not there at all after a power cut.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;

use ebbtide_sys::file;

use super::plan::{Plan, Source, Step};
use super::{btrfs, identity, overlay};
use crate::compiled::Backend;
use crate::container::{Container, name};
use crate::failure::{Context, Level, Log, Problem, Result};
use crate::harvest::Manifest;
use crate::record::{BootNumber, Record};

/// Applies a plan; fills in and writes `record` when it comes to that step.
///
/// Nothing waits for the disk until all of it is done, except that a file has its content there before
/// it gets its name. That takes one sync instead of one for each step, and loses nothing: btrfs, ext4 and
/// XFS keep what was done to names in its order, so after a power cut the container is as it was after
/// one of the steps, as the plan has it, and the machine has not gone on with any of them before the sync.
///
/// An error means that `root` is what it was. What fails after the exchange is a problem of the
/// record: the new root is there, and the next boot finds the old one under the temporary name.
pub fn apply(
    container: &Container,
    plan: &Plan,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    for step in &plan.steps {
        log(Level::Debug, &step.to_string());
        let done = apply_step(container, step, record).context(|| format!("cannot {step}"));
        match (done, step) {
            (Ok(()), _) => {}
            (Err(failure), Step::PutAway(_)) => {
                let problem = Problem::from_failure(Level::Warning, &failure);
                log(problem.level, &problem.to_string());
                record.problems.push(problem);
                record.put_away = None;
            }
            (Err(failure), _) => return Err(failure),
        }
    }
    container.settle().inspect_err(|_| take_back(container, plan, record))
}

/// What is not known to be on the disk is taken back, so that `root` is what it was.
fn take_back(container: &Container, plan: &Plan, record: &Record) {
    let directory = container.directory();
    let (new, root) = (OsStr::new(name::NEW), OsStr::new(name::ROOT));
    // What fails here leaves an old root under a name that the next boot knows.
    if let Some(number) = record.put_away
        && let Ok(past) = container.open_directory(Path::new(name::PAST))
    {
        let number = number.to_string();
        let _ = file::rename_noreplace(past.as_fd(), OsStr::new(&number), directory, new);
    }
    if plan.steps.contains(&Step::Exchange) {
        let _ = file::exchange(directory, new, directory, root);
    }
}

fn apply_step(container: &Container, step: &Step, record: &mut Record) -> Result<()> {
    let directory = container.directory();
    match step {
        Step::GiveOut(number) => container.give_out_unsettled(*number),
        Step::Make(base) => match container.backend() {
            Backend::Btrfs => btrfs::make(container, *base),
            Backend::Overlay | Backend::Tmpfs => overlay::make(container, *base),
        },
        Step::BringBack(number) => bring_back(container, *number),
        Step::Record(source) => {
            record.root = Some(match source {
                Source::Root => identity(container, Path::new(name::ROOT))?,
                Source::New => identity(container, Path::new(name::NEW))?,
                Source::Ram => overlay::in_ram(container)?,
            });
            container.set_record_unsettled(record)
        }
        Step::Exchange => {
            file::exchange(directory, OsStr::new(name::NEW), directory, OsStr::new(name::ROOT))
                .context(|| "exchange")
        }
        Step::Install => file::rename_noreplace(
            directory,
            OsStr::new(name::NEW),
            directory,
            OsStr::new(name::ROOT),
        )
        .context(|| "rename"),
        Step::PutAway(number) | Step::PutAwayLeftover(number) => put_away(container, *number),
    }
}

fn bring_back(container: &Container, number: BootNumber) -> Result<()> {
    let past = container.open_directory(Path::new(name::PAST))?;
    let place = Path::new(name::PAST).join(number.to_string());
    Manifest::remove_unsettled(container, identity(container, &place)?.uuid())?;
    file::rename_noreplace(
        past.as_fd(),
        OsStr::new(&number.to_string()),
        container.directory(),
        OsStr::new(name::NEW),
    )
    .context(|| "rename")
}

fn put_away(container: &Container, number: BootNumber) -> Result<()> {
    let past = container.open_directory(Path::new(name::PAST))?;
    file::rename_noreplace(
        container.directory(),
        OsStr::new(name::NEW),
        past.as_fd(),
        OsStr::new(&number.to_string()),
    )
    .context(|| "rename")
}
