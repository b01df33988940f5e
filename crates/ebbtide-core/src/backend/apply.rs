//! Doing what was planned: each step is whole or not there at all after a power cut.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ebbtide_sys::file;

use super::plan::{Plan, Source, Step};
use super::{btrfs, identity, overlay};
use crate::compiled::Backend;
use crate::container::{Container, name};
use crate::failure::{Context, Level, Log, Problem, Result};
use crate::record::{BootNumber, Record};

/// Applies a plan; fills in and writes `record` when it comes to that step.
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
    Ok(())
}

fn apply_step(container: &Container, step: &Step, record: &mut Record) -> Result<()> {
    let directory = container.directory();
    match step {
        Step::GiveOut(number) => container.give_out(*number),
        Step::Make(base) => match container.backend() {
            Backend::Btrfs => btrfs::make(container, *base),
            Backend::Overlay | Backend::Tmpfs => overlay::make(container, *base),
        },
        Step::Record(source) => {
            record.root = Some(match source {
                Source::Root => identity(container, Path::new(name::ROOT))?,
                Source::New => identity(container, Path::new(name::NEW))?,
                Source::Ram => overlay::in_ram(container)?,
            });
            container.set_record(record)
        }
        Step::Exchange => {
            file::exchange(directory, OsStr::new(name::NEW), directory, OsStr::new(name::ROOT))
                .context(|| "exchange")?;
            durable(directory).inspect_err(|_| {
                // What is not known to be on the disk is taken back, so that `root` is what it was.
                let _ = file::exchange(
                    directory,
                    OsStr::new(name::NEW),
                    directory,
                    OsStr::new(name::ROOT),
                );
            })
        }
        Step::Install => {
            file::rename_noreplace(
                directory,
                OsStr::new(name::NEW),
                directory,
                OsStr::new(name::ROOT),
            )
            .context(|| "rename")?;
            durable(directory)
        }
        Step::PutAway(number) | Step::PutAwayLeftover(number) => put_away(container, *number),
    }
}

fn put_away(container: &Container, number: BootNumber) -> Result<()> {
    let past = container.open_directory(Path::new(name::PAST))?;
    file::rename_noreplace(
        container.directory(),
        OsStr::new(name::NEW),
        past.as_fd(),
        OsStr::new(&number.to_string()),
    )
    .context(|| "rename")?;
    durable(container.directory())
}

fn durable(directory: BorrowedFd<'_>) -> Result<()> {
    file::sync_filesystem(directory).context(|| "sync the volume")
}
