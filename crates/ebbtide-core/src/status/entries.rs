//! The entries of a running system: which are in place, and which services have to wait for one.

use std::collections::BTreeMap;
use std::path::Path;

use ebbtide_sys::mountinfo;

use super::Status;
use crate::attach::{self, Directories, Observation, Places, Plan, Policy};
use crate::boot::{Boot, STORES, Stores, open_directory};
use crate::compiled::{Compiled, DeclarationHash};
use crate::failure::{Context, Level, Problem, Result};
use crate::held;
use crate::record::Record;

/// Looks at every entry again, now.
pub(super) fn look_at(
    boot: &Boot,
    (hash, compiled): (&DeclarationHash, &Compiled),
    left: Option<Record>,
    sysroot: &Path,
    status: &mut Status,
) -> Result<()> {
    let is_newer = status.declaration.as_ref().is_some_and(|used| used != hash);
    if is_newer {
        status.problem(
            Level::Notice,
            "the declaration was changed since this boot: what is new comes with the next one",
            "",
        );
    }
    let (plan, observed) = observe(compiled, sysroot, &boot.run)?;
    let is_fallback = left.as_ref().is_some_and(|record| record.fallback.is_some());
    let attached = left.and_then(|record| record.attached);
    let is_complete = attached.as_ref().is_some_and(|attached| attached.missing.is_empty());
    let pending = attached.map(|attached| attached.pending).unwrap_or_default();
    status.declared = compiled.entries.len();
    // From a root in RAM they have been copied into their store, and are put in place by the next boot.
    let imported = crate::flush::imported(&boot.run);
    let mut absent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (index, (entry, seen)) in compiled.entries.iter().zip(&observed).enumerate() {
        if seen.in_place {
            status.in_place += 1;
        } else if is_fallback && entry.optional {
            // Left out on purpose; the record says why.
        } else if pending.contains(&entry.path) {
            // It lies in the root still; whoever put it off said so.
        } else if let Err(why) = &seen.source {
            absent.entry(why.clone()).or_default().push(entry.path.display().to_string());
        } else if plan.waiting.contains(&index) || imported.contains(&entry.path) {
            status.waiting += 1;
        } else {
            // Where there is something to do, what is said of it is not why it is not in place.
            let refused = !plan.steps.iter().any(|(other, _)| *other == index);
            let known = plan.problems.iter().find(|(other, _)| refused && *other == index);
            let why = match known {
                Some((_, problem)) => problem.clone(),
                None if is_newer => continue,
                None => Problem {
                    level: Level::Error,
                    message: format!("{} is declared and not in place", entry.path.display()),
                    hint: Some(
                        "it was declared after this boot, or something unmounted it: reboot"
                            .to_owned(),
                    ),
                },
            };
            if !status.problems.contains(&why) {
                status.problems.push(why);
            }
        }
    }
    report_absent(absent, status);
    let held = if is_complete { held::Held::new() } else { held::held(sysroot, &boot.run)? };
    for (unit, paths) in held {
        let unit = ebbtide_sys::text::escape(unit.as_bytes());
        let paths: Vec<_> = paths.iter().map(|it| it.display().to_string()).collect();
        let message = format!("{unit} does not start, because it needs {}", paths.join(", "));
        status.problem(Level::Warning, message, "mend what is missing, then run `ebbtide apply`");
    }
    Ok(())
}

/// One line for each store that is not there, however much it keeps.
fn report_absent(absent: BTreeMap<String, Vec<String>>, status: &mut Status) {
    for (why, paths) in absent {
        let message = format!("{why}; so these are not in place: {}", paths.join(", "));
        status.problem(Level::Error, message, "");
    }
}

/// Looks at the entries of a running system: those that are not in place, and what would have to be
/// done. Changes nothing.
pub fn observe(
    compiled: &Compiled,
    sysroot: &Path,
    run: &Path,
) -> Result<(Plan, Vec<Observation>)> {
    let stores_path = run.join(STORES);
    let mut stores = Stores::new();
    for name in compiled.stores.keys() {
        let opened = open_directory(&stores_path.join(&name.0)).map_err(|failure| failure.chain());
        stores.insert(name.clone(), opened);
    }
    let places = Places::of_running(open_directory(sysroot)?, sysroot, stores, stores_path, None)?;
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let observed = attach::observe_each(&Directories::new(), &compiled.entries, &places, &mounts);
    let plan = attach::plan(&compiled.entries, &observed, Policy::Full);
    Ok((plan, observed))
}
