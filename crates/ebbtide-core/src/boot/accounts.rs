//! The account files, which are attached before everything else, and all or none of them.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use ebbtide_sys::accounts::Accounts;

use super::report;
use crate::attach::{self, Observation, Places, Policy};
use crate::compiled::{Entry, Method};
use crate::failure::{Failure, Level, Log, Problem, Result};
use crate::harvest;
use crate::record::Record;

/// The account files among the entries: the owners of all others are looked up in them.
pub(super) fn set_of(declared: &[Entry]) -> BTreeSet<usize> {
    let is_account =
        |entry: &Entry| entry.method == Method::Sync && harvest::set_of(&entry.path).is_some();
    let found = declared.iter().enumerate().filter(|(_, entry)| is_account(entry));
    found.map(|(index, _)| index).collect()
}

/// Attaches the account files; whether that worked. Otherwise those of the base stay.
pub(super) fn attach(
    entries: &[Entry],
    observed: &[Observation],
    places: &mut Places,
    record: &mut Record,
    log: &mut Log<'_>,
) -> bool {
    let attached = attach_together(entries, observed, places, record, log);
    if let Err(failure) = &attached {
        let mut problem = Problem::from_failure(Level::Error, failure);
        problem.message = format!("the account files are those of the base: {}", problem.message);
        report(record, log, problem);
    }
    // A user who was added in an earlier boot is known from here on.
    places.accounts = read(places.root.as_fd(), record, log);
    attached.is_ok()
}

/// Attaches files that belong together, all or none.
fn attach_together(
    entries: &[Entry],
    observed: &[Observation],
    places: &Places,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    let plan = attach::plan(entries, observed, Policy::Full);
    let (broken, told): (Vec<_>, Vec<_>) =
        plan.problems.iter().partition(|(_, problem)| problem.level == Level::Error);
    for (_, problem) in told {
        report(record, log, problem.clone());
    }
    if let Some((_, problem)) = broken.first() {
        return Err(Failure::new(problem.message.clone()));
    }
    let mut filling = plan.clone();
    filling.steps.retain(|(_, step)| step.fills_store());
    for (_, problem) in attach::apply(&filling, entries, places, record.number, log) {
        if problem.level == Level::Error {
            return Err(Failure::new(problem.message));
        }
        report(record, log, problem);
    }
    for problem in attach::copy_together(&plan, entries, places)? {
        report(record, log, problem);
    }
    Ok(())
}

/// The accounts that the root has now.
pub(super) fn read(root: BorrowedFd<'_>, record: &mut Record, log: &mut Log<'_>) -> Accounts {
    Accounts::read(root).unwrap_or_else(|error| {
        let message = format!("cannot read the root's accounts, so owners stay: {error}");
        report(record, log, Problem::new(Level::Warning, message));
        Accounts::default()
    })
}
