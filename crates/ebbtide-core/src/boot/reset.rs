//! The first half of a boot: checks, and a new root where nothing speaks against it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::{kernel, metadata};

use super::{Boot, STORES, failed, hibernated, recorded, report};
use crate::attach::{self as entries, Directories, Places, Policy};
use crate::backend;
use crate::compiled::{Backend, Compiled, DeclarationHash, Entry, StoreName};
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::harvest::{self, Manifest};
use crate::login;
use crate::record::{
    Attached, BaseIdentity, BootNumber, CleanMark, Ending, Outcome, Record, Switch,
};
use crate::store;

/// Makes a new root, or says why the last one runs on. Always leaves a record.
pub fn reset(boot: &Boot, log: &mut Log<'_>) -> Record {
    let mut record = Boot::new_record(log);
    for word in &boot.switches.unknown {
        let message = format!("ebbtide={word} on the kernel command line means nothing");
        let mut problem = Problem::new(Level::Warning, message);
        problem.hint = Some("known are off, keep and debug".to_owned());
        report(&mut record, log, problem);
    }
    match boot.open_container() {
        Ok(container) => in_container(boot, &container, &mut record, log),
        Err(failure) => refuse(&mut record, log, &failure),
    }
    if let Err(failure) = boot.write_record(&record) {
        log(Level::Error, &failure.chain());
    }
    record
}

fn refuse(record: &mut Record, log: &mut Log<'_>, failure: &Failure) {
    record.outcome = Outcome::Refused;
    let mut problem = Problem::from_failure(Level::Error, failure);
    problem.message = format!("the root is not reset, the last one runs on: {}", problem.message);
    report(record, log, problem);
}

fn in_container(boot: &Boot, container: &Container, record: &mut Record, log: &mut Log<'_>) {
    if let Err(failure) = note_how_the_last_boot_ended(container) {
        report(record, log, Problem::from_failure(Level::Warning, &failure));
    }
    if let Some(switch) = boot.switches.root {
        record.outcome = Outcome::Kept(switch);
        let word = match switch {
            Switch::Off => "off",
            Switch::Keep => "keep",
        };
        log(Level::Notice, &format!("ebbtide={word}: the last root runs on"));
        if switch == Switch::Keep
            && let Err(failure) = boot
                .load(container)
                .and_then(|loaded| harvest_root(boot, container, &loaded.compiled, record, log))
        {
            report(record, log, Problem::from_failure(Level::Error, &failure));
        }
        keep(container, record, log);
        return;
    }
    let made = checked(boot, container, record, log).and_then(|checked| {
        let fallback = failed::after_too_many(container)?;
        // A root that nobody wrote to has nothing to take back.
        if checked.observed.root.as_ref().is_some_and(|root| !root.pristine) {
            somebody_can_log_in(boot, container, &checked, fallback.is_none(), record, log)?;
            harvest_root(boot, container, &checked.compiled, record, log)?;
            if fallback.is_none()
                && let Some(problem) = too_much_to_import(boot, container, &checked, log)
            {
                record.outcome = Outcome::Postponed;
                report(record, log, problem);
                return Ok(());
            }
        }
        record.fallback = fallback;
        let Some(last) = fallback else {
            return make(container, &checked.observed, checked.base, record, log);
        };
        if bring_back_what_came_up(container, &checked.observed, record, log)? {
            report(record, log, failed::problem_of_both(last));
            return Ok(());
        }
        make(container, &checked.observed, checked.base, record, log)?;
        report(record, log, failed::problem(last));
        Ok(())
    });
    match made {
        Ok(()) if record.outcome == Outcome::Postponed => keep(container, record, log),
        Ok(()) if record.outcome == Outcome::Refused => {}
        Ok(()) => {
            let put_away = match record.put_away {
                Some(number) => format!(", the old one is past root {number}"),
                None => String::new(),
            };
            log(Level::Info, &format!("boot {}: new root from the base{put_away}", record.number));
        }
        Err(failure) => {
            refuse(record, log, &failure);
            keep(container, record, log);
        }
    }
}

/// Gives a boot on the last root its number and its record.
fn keep(container: &Container, record: &mut Record, log: &mut Log<'_>) {
    let mut kept = || -> Result<()> {
        record.root = Some(match container.backend() {
            // Nothing is left of the last one.
            Backend::Tmpfs => backend::overlay::in_ram(container)?,
            _ => backend::identity(container, Path::new(name::ROOT))?,
        });
        if record.number == BootNumber(0) {
            let number = BootNumber(container.last_number()?.0 + 1);
            container.give_out(number)?;
            record.number = number;
        }
        container.set_record(record)
    };
    if let Err(failure) = kept() {
        report(record, log, Problem::from_failure(Level::Error, &failure));
    }
}

/// Reads the mark of a clean end into the record of the boot that wrote it, and removes it durably:
/// from here on, this boot has not ended.
fn note_how_the_last_boot_ended(container: &Container) -> Result<()> {
    let mark = container.clean_mark();
    // The mark goes whatever else happens. One sync makes both durable: a journal keeps what was done to
    // names in its order, so the mark is not gone before the record has what it says. It waits even where
    // there was no mark: an earlier removal may be in memory only.
    let noted = note_end(container, mark);
    let removed = container.remove_clean_mark_unsettled();
    removed.and(container.settle()).and(noted)
}

fn note_end(container: &Container, mark: Option<CleanMark>) -> Result<()> {
    let last = container.numbers(name::BOOTS)?.into_iter().next_back();
    if let Some(last) = last
        && let Some(mut record) = container.record(last)?
        && record.ended.is_none()
    {
        let clean = mark.is_some_and(|mark| {
            (mark.number, &mark.kernel_boot_id) == (record.number, &record.kernel_boot_id)
                && record.root.as_ref().is_some_and(|root| root.uuid() == mark.root)
        });
        record.ended = Some(if clean { Ending::Clean } else { Ending::Unclean });
        container.set_record_unsettled(&record)?;
    }
    Ok(())
}

/// What a reset goes by.
struct Checked {
    compiled: Compiled,
    declaration: DeclarationHash,
    observed: backend::Observation,
    base: BaseIdentity,
}

/// Everything that must be so before a root is reset.
fn checked(
    boot: &Boot,
    container: &Container,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<Checked> {
    if boot.names_another_volume() {
        return Err(Failure::new(format!(
            "root= on the kernel command line names another volume than {}",
            boot.locator.device
        ))
        .hint("set root= to the volume of the container"));
    }
    if boot.visits_a_past_root() {
        return Err(Failure::new("the kernel command line asks for a past root")
            .hint("boot without subvol= in rootflags= to go on"));
    }
    hibernated::nobody_is(boot, container, record, log)?;
    let loaded = boot.load(container)?;
    let declaration = loaded.hash;
    record.declaration = Some(declaration.clone());
    if let Some(problem) = loaded.problem {
        report(record, log, problem);
    }
    stores_are_there(&loaded.compiled)?;
    root_is_not_mounted(container)?;
    let (observed, base) = backend::observe(container)?;
    base_fits_the_kernel(container, &base)?;
    Ok(Checked { compiled: loaded.compiled, declaration, observed, base })
}

/// A store that is missing, or another than the recorded one, means that kept data is missing: its
/// paths would be filled with something else on a new root.
fn stores_are_there(compiled: &Compiled) -> Result<()> {
    for (name, wanted) in &compiled.stores {
        if needed(compiled, name) {
            recorded(wanted.place(), wanted.uuid, &format!("store {name}"))?;
        }
    }
    Ok(())
}

fn needed(compiled: &Compiled, store: &StoreName) -> bool {
    compiled.entries.iter().any(|entry| entry.store == *store && !entry.optional)
}

/// A root that something runs on now is not exchanged under its feet.
fn root_is_not_mounted(container: &Container) -> Result<()> {
    let Some(place) = backend::mount_of_root(container)? else { return Ok(()) };
    Err(Failure::new(format!(
        "the root is mounted at {}",
        ebbtide_sys::text::escape(place.as_os_str().as_encoded_bytes())
    ))
    .hint("a root is reset before it is mounted: unmount it first"))
}

/// A base without modules for the running kernel would come up without its drivers.
fn base_fits_the_kernel(container: &Container, base: &BaseIdentity) -> Result<()> {
    if !kernel::is_modular() || container.volume().is_directory() {
        // What is only tried out has booted already.
        return Ok(());
    }
    let release = kernel::release();
    let directory = backend::open_base(container, base.number)?;
    let mut has_modules = false;
    for modules in ["usr/lib/modules", "lib/modules"] {
        let all = matches!(
            metadata::metadata_beneath(directory.as_fd(), Path::new(modules)),
            Ok(Some(_))
        );
        let own = Path::new(modules).join(&release);
        if matches!(metadata::metadata_beneath(directory.as_fd(), &own), Ok(Some(_))) {
            return Ok(());
        }
        has_modules |= all;
    }
    if !has_modules {
        // Modules come from elsewhere: from the store of NixOS or Guix, or with a /usr that is a filesystem
        // of its own. The last root has the same ones, so that to keep it would help nobody.
        return Ok(());
    }
    Err(Failure::new(format!(
        "base {} has no modules for the running kernel {release}",
        base.number
    ))
    .hint("boot the kernel that the base was made with"))
}

/// A new root that nobody can log in to, after one that somebody could log in to, helps nobody.
/// `comes_up`: whether the last root may do so; one that does not lets nobody in either.
fn somebody_can_log_in(
    boot: &Boot,
    container: &Container,
    checked: &Checked,
    comes_up: bool,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    let Checked { compiled, base: BaseIdentity { number, .. }, .. } = checked;
    let required = compiled.root.require_login;
    if container.volume().is_directory() && !required {
        // Nobody logs in to what is only tried out.
        return Ok(());
    }
    // What can't be looked at is not held against the reset.
    let root = backend::tree(container, Path::new(name::ROOT), &boot.run);
    let (Ok(root), Ok(base)) = (root, backend::open_base(container, *number)) else {
        return Ok(());
    };
    let Some(lost) = login::lost(root.as_fd(), (*number, base.as_fd()), compiled) else {
        return Ok(());
    };
    if lost.nobody && required && comes_up {
        return Err(lost.refusal());
    }
    report(record, log, lost.warning(required));
    Ok(())
}

/// Takes `sync` entries back from the last root, as its manifest says. An error means that not all
/// of it is in its store: that root must not be put away then. If it is kept, one store that is missing
/// takes only its own files along.
fn harvest_root(
    boot: &Boot,
    container: &Container,
    compiled: &Compiled,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    if container.backend() == Backend::Tmpfs {
        // It went with the power, and what was flushed before is in the stores.
        return Ok(());
    }
    let place = Path::new(name::ROOT);
    let uuid = backend::identity(container, place)?.uuid();
    let Some(manifest) = Manifest::read(container, uuid)? else { return Ok(()) };
    let root = backend::tree(container, place, &boot.run)?;
    let mut stores = harvest::Stores::new();
    for wanted in compiled.stores.values() {
        if manifest.items.iter().any(|item| item.store_uuid == wanted.uuid) {
            match store::open(wanted.place(), wanted.uuid) {
                Ok(opened) => drop(stores.insert(wanted.uuid, opened)),
                // Attaching says the same of it.
                Err(_) if record.outcome == Outcome::Kept(Switch::Keep) => {}
                Err(failure) => return Err(failure),
            }
        }
    }
    let last = backend::last_boot_on(container, uuid)?;
    let clean = harvest::ended_cleanly(container, uuid, None)?;
    let last = last.unwrap_or(BootNumber(0));
    let harvested = harvest::harvest(&manifest, root.as_fd(), &stores, clean, last, log)
        .context(|| "cannot take kept files back from the last root")?;
    for problem in harvested.problems {
        report(record, log, problem);
    }
    if harvested.updated + harvested.deleted > 0 {
        let (updated, deleted) = (harvested.updated, harvested.deleted);
        log(Level::Info, &format!("{updated} kept files taken back, {deleted} deleted"));
    }
    Ok(())
}

/// What a new root would have to copy into its stores, if that is so much that the machine would seem
/// to hang. The last root is kept once for it, so that it can be copied while the system runs; at the
/// boot after that it is copied, however long it takes. What can't be measured is not held against
/// the reset: the import says what is wrong with it.
fn too_much_to_import(
    boot: &Boot,
    container: &Container,
    checked: &Checked,
    log: &mut Log<'_>,
) -> Option<Problem> {
    let uuid = backend::identity(container, Path::new(name::ROOT)).ok()?.uuid();
    let last = backend::last_boot_on(container, uuid).ok().flatten();
    let record = last.and_then(|last| container.record(last).ok().flatten());
    let was_told = record.as_ref().is_some_and(|record| record.outcome == Outcome::Postponed);
    let declared: Vec<Entry> = match record {
        // What was in place has its first content.
        Some(Record { declaration: Some(declaration), attached: Some(attached), .. })
            if declaration == checked.declaration =>
        {
            let Attached { missing, waiting, pending, .. } = attached;
            let open: BTreeSet<PathBuf> =
                missing.into_iter().chain(waiting).chain(pending).collect();
            let entries = checked.compiled.entries.iter();
            entries.filter(|entry| open.contains(&entry.path)).cloned().collect()
        }
        _ => checked.compiled.entries.clone(),
    };
    if declared.is_empty() {
        return None;
    }
    let stores = checked.compiled.stores.iter().map(|(name, wanted)| {
        let opened = store::open(wanted.place(), wanted.uuid);
        (name.clone(), opened.map_err(|failure| failure.chain()))
    });
    let base = backend::open_base(container, checked.base.number).ok()?;
    let places = Places {
        accounts: Accounts::read(base.as_fd()).unwrap_or_default(),
        root: base,
        root_path: PathBuf::from("/"),
        stores: stores.collect(),
        stores_path: boot.run_later.join(STORES),
        old_roots: entries::roots_of_today(container, &boot.run),
        in_use: false,
        fresh: true,
        base: Some(checked.base.number),
        import_limit: Some(boot.import_limit),
    };
    let observed = entries::observe_each(&Directories::new(), &declared, &places, &[]);
    let mut plan = entries::plan(&declared, &observed, Policy::Full);
    plan.postpone_imports_beyond(boot.import_limit, &observed);
    let postponed = plan.postponed.iter().filter_map(|index| declared.get(*index));
    let paths: Vec<String> = postponed
        .map(|entry| ebbtide_sys::escape(entry.path.as_os_str().as_encoded_bytes()))
        .collect();
    if paths.is_empty() {
        return None;
    }
    if was_told {
        let paths = paths.join(", ");
        log(
            Level::Notice,
            &format!("{paths}: copied into its store in this boot, which takes a while"),
        );
        return None;
    }
    let mut problem = Problem::new(
        Level::Warning,
        format!(
            "the root is not reset this once: to copy what lies at {} into its store would take long",
            paths.join(", ")
        ),
    );
    let hint = "run `ebbtide apply` to copy it while the system runs; else the next boot copies it, \
                however long it takes";
    problem.hint = Some(hint.to_owned());
    Some(problem)
}

fn make(
    container: &Container,
    observed: &backend::Observation,
    base: BaseIdentity,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    let plan = backend::plan(observed);
    record.outcome = Outcome::Reset;
    record.base = Some(base);
    record.number = plan.boot;
    record.put_away = plan.put_away;
    let made = backend::apply(container, &plan, record, log);
    if made.is_err() {
        record.put_away = None;
        record.base = None;
        record.fallback = None;
    }
    made
}

/// Runs on the root that came up last, if a boot fell back and failed as well. Returns whether it does: where no
/// such root is left, the base is tried again.
fn bring_back_what_came_up(
    container: &Container,
    observed: &backend::Observation,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<bool> {
    let Some(past) = failed::root_that_came_up(container)? else { return Ok(false) };
    let plan = backend::plan_to_bring_back(observed, past);
    record.outcome = Outcome::Refused;
    record.number = plan.boot;
    record.put_away = plan.put_away;
    backend::apply(container, &plan, record, log).inspect_err(|_| {
        record.put_away = None;
        record.fallback = None;
    })?;
    Ok(true)
}

/// The stores that a declaration names, each mounted or with the reason why not.
pub(crate) type Stores = BTreeMap<StoreName, std::result::Result<std::os::fd::OwnedFd, String>>;
