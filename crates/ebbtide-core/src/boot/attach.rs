//! The second half of a boot: entries are put in place on the mounted root, and verified.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::mountinfo::{self, MountEntry};
use ebbtide_sys::{file, mount};

use super::reset::Stores;
use super::{Boot, STORES, open_directory, report, root};
use crate::attach::{self as entries, Directories, Places, Policy};
use crate::backend;
use crate::compiled::{Backend, Compiled, Entry, Method};
use crate::container::Container;
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::harvest::{self, Manifest};
use crate::record::{Attached, Outcome, Record, RootIdentity, Switch};
use crate::store;

/// Attaches all entries below `sysroot`, verifies them, and writes the record of the boot.
pub fn attach(boot: &Boot, sysroot: &Path, log: &mut Log<'_>) -> Record {
    let mut record = boot.read_record().unwrap_or_else(|| {
        let mut record = Boot::new_record();
        let problem = Problem {
            level: Level::Error,
            message: "the root is not reset: that step did not run in this boot".to_owned(),
            hint: Some("build the initramfs again, and look into the kernel log".to_owned()),
        };
        report(&mut record, log, problem);
        record
    });
    let container = match boot.open_container() {
        Ok(container) => Some(container),
        Err(failure) => {
            report(&mut record, log, Problem::from_failure(Level::Error, &failure));
            None
        }
    };
    if let Some(container) = &container
        && record.number.0 == 0
        && let Err(failure) = container.remove_clean_mark()
    {
        // It could not be opened when the root was to be reset: its mark is from an earlier boot.
        report(&mut record, log, Problem::from_failure(Level::Warning, &failure));
    }
    if let Some(container) = &container
        && let Err(failure) = attach_in(boot, container, sysroot, &mut record, log)
    {
        let mut problem = Problem::from_failure(Level::Error, &failure);
        problem.message = format!("entries are not attached: {}", problem.message);
        report(&mut record, log, problem);
    }
    if let Err(failure) = boot.write_record(&record) {
        report(&mut record, log, Problem::from_failure(Level::Error, &failure));
    }
    if let Some(container) = container
        && record.number.0 > 0
        && let Err(failure) = container.set_record(&record)
    {
        log(Level::Error, &failure.chain());
    }
    record
}

fn attach_in(
    boot: &Boot,
    container: &Container,
    sysroot: &Path,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    let sysroot =
        sysroot.canonicalize().context(|| format!("cannot find the root {}", sysroot.display()))?;
    let policy = policy(boot.locator.backend, &sysroot, record, log)?;
    let loaded = boot.load(container)?;
    if record.declaration.as_ref() != Some(&loaded.hash)
        && let Some(problem) = loaded.problem
    {
        report(record, log, problem);
    }
    record.declaration = Some(loaded.hash);
    let is_ours = policy.is_some();
    let policy = policy.unwrap_or(Policy::AsItWas);
    if is_ours && let Err(error) = mount::remount_writable(&sysroot) {
        let message = format!("cannot make the root writable: {error}");
        report(record, log, Problem::new(Level::Error, message));
    }
    if let Err(failure) = boot.write_declaration(&loaded.compiled) {
        report(record, log, Problem::from_failure(Level::Warning, &failure));
    }
    let stores = mount_stores(boot, &loaded.compiled)?;
    let mut places = places(&sysroot, stores, boot, container, policy, record, log)?;
    if is_ours {
        root::prepare(boot, &loaded.compiled, places.root.as_fd(), policy, record, log);
    }
    // While mounting, stores are told by where they are now; links name where they will be.
    let now = boot.run.join(STORES).canonicalize().context(|| "cannot find the stores")?;
    let later = boot.run_later.join(STORES);

    let declared = &loaded.compiled.entries;
    let mut told: BTreeSet<usize> = BTreeSet::new();
    let together = if policy == Policy::Full { set_of_accounts(declared) } else { BTreeSet::new() };
    let mut postponed: BTreeSet<usize> = BTreeSet::new();
    if !together.is_empty() {
        let some: Vec<Entry> =
            together.iter().filter_map(|it| declared.get(*it)).cloned().collect();
        let observed = entries::observe(&some, &places, &mounts(&now, &later)?)?;
        if !attach_accounts(&some, &observed, &mut places, record, log) {
            told.extend(&together);
        }
    }
    // Of what is mounted from here on, each wave looks only at what it mounts itself, and the last look
    // at all of it is one at a new table.
    let before = mounts(&now, &later)?;
    for wave in entries::waves(declared) {
        let wave: Vec<usize> = wave.into_iter().filter(|it| !together.contains(it)).collect();
        let some: Vec<Entry> = wave.iter().filter_map(|it| declared.get(*it)).cloned().collect();
        let directories = Directories::new();
        let observed = entries::observe_with(&directories, &some, &places, &before)?;
        let mut plan = entries::plan(&some, &observed, policy);
        if let Some(limit) = places.import_limit {
            plan.postpone_imports_beyond(limit, &observed);
            postponed.extend(plan.postponed.iter().filter_map(|index| wave.get(*index)));
        }
        let applied = entries::apply_with(&directories, &plan, &some, &places, record.number, log);
        for (index, problem) in plan.problems.iter().chain(&applied) {
            told.extend(wave.get(*index).copied());
            report(record, log, problem.clone());
        }
    }
    if is_ours {
        root::mount_inside(&loaded.compiled, places.root.as_fd(), record, log);
    }
    let observed = entries::observe(declared, &places, &mounts(&now, &later)?)?;
    let mut verified = verify(declared, &observed, policy);
    verified.missing.retain(|index| !postponed.contains(index));
    verified.postponed.extend(postponed);
    report_unattached(declared, &verified, &told, record, log);
    if policy == Policy::Full
        && let Some(root) = &record.root
        && let Err(failure) =
            write_manifest(container, root.uuid(), &loaded.compiled, &places, &observed, &verified)
    {
        report(record, log, Problem::from_failure(Level::Error, &failure));
    }
    let mounted = declared
        .iter()
        .zip(&observed)
        .filter(|(entry, seen)| entry.method == Method::Bind && seen.in_place);
    let mounted = mounted.map(|(entry, _)| (entry.path.clone(), entry.store.clone())).collect();
    let paths = |indices: &[usize]| -> Vec<PathBuf> {
        let entries = indices.iter().filter_map(|index| declared.get(*index));
        entries.map(|entry| entry.path.clone()).collect()
    };
    let attached = Attached {
        entries: verified.in_place,
        missing: paths(&verified.missing),
        waiting: paths(&verified.waiting),
        pending: paths(&verified.postponed),
        mounted,
    };
    log(
        if attached.missing.is_empty() { Level::Info } else { Level::Warning },
        &format!(
            "{} entries in place, {} not, {} have no data yet",
            attached.entries,
            attached.missing.len(),
            attached.waiting.len()
        ),
    );
    // On another root than that of this boot, nothing is said about that of this boot.
    if is_ours {
        record.attached = Some(attached);
        root::seal(&loaded.compiled, places.root.as_fd())?;
    }
    Ok(())
}

/// Says which entries are not in place, where nothing else has said so.
fn report_unattached(
    declared: &[Entry],
    verified: &Verified,
    told: &BTreeSet<usize>,
    record: &mut Record,
    log: &mut Log<'_>,
) {
    for index in verified.missing.iter().filter(|index| !told.contains(*index)) {
        if let Some(entry) = declared.get(*index) {
            let path = entry.path.display();
            let message = format!("{path} was attached, and is not in place when looked at again");
            report(record, log, Problem::new(Level::Error, message));
        }
    }
    // If the root was kept for their sake, that was said.
    if record.outcome != Outcome::Postponed {
        for entry in verified.postponed.iter().filter_map(|index| declared.get(*index)) {
            report(record, log, too_much(&entry.path));
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

/// Notes what was copied in, once that is durable: the harvest of this root goes by it.
fn write_manifest(
    container: &Container,
    root: uuid::Uuid,
    compiled: &Compiled,
    places: &Places,
    observed: &[entries::Observation],
    verified: &Verified,
) -> Result<()> {
    let before = Manifest::read(container, root)?.map(|manifest| manifest.items);
    let mut items = Vec::new();
    for (index, entry) in compiled.entries.iter().enumerate() {
        if entry.method != Method::Sync {
            continue;
        }
        if verified.missing.contains(&index) || verified.postponed.contains(&index) {
            // What an earlier boot put on this root is taken back when its store is there again.
            let earlier = before.iter().flatten().find(|item| item.path == entry.path);
            items.extend(earlier.cloned());
        } else if let Some(store) = compiled.stores.get(&entry.store) {
            let seen = observed.get(index).and_then(|seen| seen.content.clone());
            items.push(match seen {
                Some(seen) => harvest::item_with(entry, store.uuid, Some(seen)),
                None => harvest::item(entry, store.uuid, places.root.as_fd())?,
            });
        }
    }
    if items.is_empty() {
        return Ok(());
    }
    file::sync_filesystem(places.root.as_fd()).context(|| "cannot sync the root")?;
    Manifest { version: harvest::VERSION, root, items }
        .write(container)
        .context(|| "cannot write the manifest of this root")
}

/// How much may be changed on this root: all of it only if it is the one that this boot made, or
/// was told to keep. `None` if it is not the root of this boot at all.
fn policy(
    backend: Backend,
    sysroot: &Path,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<Option<Policy>> {
    let mounted = backend::mounted(backend, sysroot)?;
    let expected = record.root.as_ref().map(RootIdentity::uuid);
    if expected != Some(mounted.uuid()) {
        let problem = Problem {
            level: Level::Error,
            message: format!("the root that is mounted ({mounted}) is not the one of this boot"),
            hint: Some("remove subvol= from rootflags= on the kernel command line".to_owned()),
        };
        report(record, log, problem);
        return Ok(None);
    }
    Ok(Some(match record.outcome {
        // It is a new one, whatever was asked for: nothing is left of the last one.
        Outcome::Kept(_) | Outcome::Refused if mounted.is_in_ram() => Policy::RootOnly,
        Outcome::Reset | Outcome::Kept(Switch::Keep) | Outcome::Postponed => Policy::Full,
        Outcome::Kept(Switch::Off) | Outcome::Refused => Policy::AsItWas,
    }))
}

/// Mounts the stores in the run directory. One that is missing takes only its entries with it.
fn mount_stores(boot: &Boot, compiled: &Compiled) -> Result<Stores> {
    use std::os::unix::fs::DirBuilderExt;
    let directory = boot.run.join(STORES);
    let make = |path: &Path, mode: u32| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .context(|| format!("cannot make {}", path.display()))
    };
    // Only where a symbolic link leads into a store, people other than root have to get there.
    let linked = compiled.entries.iter().any(|entry| entry.method == Method::Symlink);
    make(&directory, if linked { 0o711 } else { 0o700 })?;
    let mut stores = Stores::new();
    for (name, wanted) in &compiled.stores {
        let path = directory.join(&name.0);
        make(&path, 0o700)?;
        let mounted = store::attach(wanted.place(), wanted.uuid, &path);
        stores.insert(name.clone(), mounted.map_err(|failure| failure.chain()));
    }
    Ok(stores)
}

fn places(
    sysroot: &Path,
    stores: Stores,
    boot: &Boot,
    container: &Container,
    policy: Policy,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<Places> {
    let root = open_directory(sysroot)?;
    let accounts = accounts(root.as_fd(), record, log);
    let fresh = record.outcome == Outcome::Reset;
    let old_roots =
        if fresh { entries::old_roots(container, record.number, &boot.run) } else { Vec::new() };
    Ok(Places {
        root,
        root_path: sysroot.to_owned(),
        stores,
        stores_path: boot.run_later.join(STORES),
        old_roots,
        accounts,
        in_use: policy == Policy::AsItWas,
        fresh,
        base: record.base.as_ref().map(|base| base.number),
        // A new root was made in the knowledge of what it takes.
        import_limit: (!fresh).then_some(boot.import_limit),
    })
}

fn accounts(root: BorrowedFd<'_>, record: &mut Record, log: &mut Log<'_>) -> Accounts {
    Accounts::read(root).unwrap_or_else(|error| {
        let message = format!("cannot read the root's accounts, so owners stay: {error}");
        report(record, log, Problem::new(Level::Warning, message));
        Accounts::default()
    })
}

/// The account files among the entries: the owners of all others are looked up in them.
fn set_of_accounts(declared: &[Entry]) -> BTreeSet<usize> {
    let is_account =
        |entry: &Entry| entry.method == Method::Sync && harvest::set_of(&entry.path).is_some();
    let found = declared.iter().enumerate().filter(|(_, entry)| is_account(entry));
    found.map(|(index, _)| index).collect()
}

/// Attaches the account files; whether that worked. Otherwise those of the base stay.
fn attach_accounts(
    entries: &[Entry],
    observed: &[entries::Observation],
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
    places.accounts = accounts(places.root.as_fd(), record, log);
    attached.is_ok()
}

/// Attaches files that belong together, all or none.
fn attach_together(
    entries: &[Entry],
    observed: &[entries::Observation],
    places: &Places,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    let plan = entries::plan(entries, observed, Policy::Full);
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
    for (_, problem) in entries::apply(&filling, entries, places, record.number, log) {
        if problem.level == Level::Error {
            return Err(Failure::new(problem.message));
        }
        report(record, log, problem);
    }
    for problem in entries::copy_together(&plan, entries, places)? {
        report(record, log, problem);
    }
    Ok(())
}

/// The mount table, with the stores where they are going to be.
fn mounts(now: &Path, later: &Path) -> Result<Vec<MountEntry>> {
    let mut mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    for mount in &mut mounts {
        if let Ok(below) = mount.mount_point.strip_prefix(now) {
            mount.mount_point = later.join(below);
        }
    }
    Ok(mounts)
}

struct Verified {
    in_place: usize,
    missing: Vec<usize>,
    waiting: Vec<usize>,
    /// In the root still, because copying it into its store is too much for a boot.
    postponed: Vec<usize>,
}

/// An entry is in place when there is nothing left to do for it.
fn verify(declared: &[Entry], observed: &[entries::Observation], policy: Policy) -> Verified {
    let plan = entries::plan(declared, observed, policy);
    let to_do = |index: usize| plan.steps.iter().any(|(other, _)| *other == index);
    let mut verified = Verified {
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

/// Looks at the entries of a running system: those that are not in place, and what would have to be
/// done. Changes nothing.
pub fn observe_running(
    compiled: &Compiled,
    sysroot: &Path,
    run: &Path,
) -> Result<(entries::Plan, Vec<entries::Observation>)> {
    let stores_path = run.join(STORES);
    let mut stores = Stores::new();
    for name in compiled.stores.keys() {
        let opened = open_directory(&stores_path.join(&name.0)).map_err(|failure| failure.chain());
        stores.insert(name.clone(), opened);
    }
    let places = Places::of_running(open_directory(sysroot)?, sysroot, stores, stores_path, None)?;
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let observed = entries::observe(&compiled.entries, &places, &mounts)?;
    let plan = entries::plan(&compiled.entries, &observed, Policy::Full);
    Ok((plan, observed))
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::from_failure(Level::Error, &failure)
    }
}
