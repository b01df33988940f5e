//! Whether what was attached is in place, when looked at again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::report;
use crate::attach::{self, Node, Observation, Policy};
use crate::compiled::{Entry, Method};
use crate::failure::{Level, Log, Problem};
use crate::record::{Attached, Outcome, Record};

/// What became of each entry, by its index in the declaration.
pub(super) struct Verified {
    pub(super) in_place: usize,
    pub(super) missing: Vec<usize>,
    /// There is no data for them anywhere yet.
    pub(super) waiting: Vec<usize>,
    /// In the root still, because copying it into its store is too much for a boot.
    pub(super) postponed: Vec<usize>,
}

impl Verified {
    /// An entry is in place when there is nothing left to do for it.
    pub(super) fn of(declared: &[Entry], observed: &[Observation], policy: Policy) -> Self {
        let plan = attach::plan(declared, observed, policy);
        let to_do = |index: usize| plan.steps.iter().any(|(other, _)| *other == index);
        let mut verified = Self {
            in_place: 0,
            missing: Vec::new(),
            waiting: plan.waiting.clone(),
            postponed: Vec::new(),
        };
        for (index, seen) in observed.iter().enumerate() {
            if verified.waiting.contains(&index) {
                continue;
            }
            if seen.in_place && !to_do(index) {
                verified.in_place += 1;
            } else {
                verified.missing.push(index);
            }
        }
        verified
    }

    /// The same for the record of the boot.
    pub(super) fn attached(&self, declared: &[Entry], observed: &[Observation]) -> Attached {
        let mounted = declared
            .iter()
            .zip(observed)
            .filter(|(entry, seen)| entry.method == Method::Bind && seen.in_place);
        let mounted = mounted.map(|(entry, _)| (entry.path.clone(), entry.store.clone())).collect();
        let paths = |indices: &[usize]| -> Vec<PathBuf> {
            let entries = indices.iter().filter_map(|index| declared.get(*index));
            entries.map(|entry| entry.path.clone()).collect()
        };
        Attached {
            entries: self.in_place,
            missing: paths(&self.missing),
            waiting: paths(&self.waiting),
            pending: paths(&self.postponed),
            partial: false,
            mounted,
        }
    }

    /// Says which entries are not in place, where nothing else has said so.
    pub(super) fn report(
        &self,
        declared: &[Entry],
        observed: &[Observation],
        told: &BTreeSet<usize>,
        record: &mut Record,
        log: &mut Log<'_>,
    ) {
        for index in self.missing.iter().filter(|index| !told.contains(*index)) {
            if let Some(entry) = declared.get(*index) {
                let mut message = entry.path.display().to_string();
                message.push_str(" was attached, and is not in place when looked at again");
                let why =
                    observed.get(*index).and_then(|seen| match (&seen.source, &seen.target) {
                        (Err(why) | Ok(Node::Unusable(why)), _) | (_, Node::Unusable(why)) => {
                            Some(why)
                        }
                        _ => None,
                    });
                if let Some(why) = why {
                    message.push_str(": ");
                    message.push_str(why);
                }
                report(record, log, Problem::new(Level::Error, message));
            }
        }
        // If the root was kept for their sake, that was said.
        if record.outcome != Outcome::Postponed {
            for entry in self.postponed.iter().filter_map(|index| declared.get(*index)) {
                report(record, log, too_much(&entry.path));
            }
        }
    }
}

fn too_much(path: &Path) -> Problem {
    let path = ebbtide_sys::escape(path.as_os_str().as_encoded_bytes());
    let message = format!("{path} is not in its store yet: it is more than a boot copies");
    let mut problem = Problem::new(Level::Notice, message);
    problem.hint = Some("run `ebbtide apply` to copy it while the system runs".to_owned());
    problem
}
