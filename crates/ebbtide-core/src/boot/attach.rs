//! The second half of a boot: entries are put in place on the mounted root, and verified.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;

use ebbtide_sys::mountinfo::{self, MountEntry};
use ebbtide_sys::{file, kernel, mount};

use super::reset::Stores;
use super::verify::Verified;
use super::{Boot, Loaded, STORES, accounts, open_directory, report, root};
use crate::attach::{self as entries, Directories, Places, Policy};
use crate::backend;
use crate::compiled::{Backend, Compiled, Entry, Method};
use crate::container::{Container, name};
use crate::failure::{Context, Level, Log, Problem, Result};
use crate::harvest::{self, Manifest};
use crate::once;
use crate::record::{Outcome, Record, RootIdentity, Switch};
use crate::store;

/// Attaches all entries below `sysroot`, verifies them, and writes the record of the boot.
pub fn attach(boot: &Boot, sysroot: &Path, log: &mut Log<'_>) -> Record {
    let opened = boot.open_container();
    let mut record = found(boot, opened.as_ref().ok(), log);
    let container = match opened {
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
    let mut fulfilled = false;
    if let Some(container) = &container
        && let Err(failure) = attach_in(boot, container, sysroot, &mut fulfilled, &mut record, log)
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
    {
        let written = container.set_record(&record);
        // Not before: what that record says is what keeps it from being done twice.
        let done = written.and_then(|()| if fulfilled { once::end(boot) } else { Ok(()) });
        if let Err(failure) = done {
            log(Level::Error, &failure.chain());
        }
    }
    record
}

/// What the reset of this boot noted. If there is nothing of it, or nobody can read it, that is said.
fn found(boot: &Boot, container: Option<&Container>, log: &mut Log<'_>) -> Record {
    let found = boot.find_record();
    if !matches!(found, Ok(Some(_)))
        && let Some(record) = container.and_then(newest_of_this_boot)
    {
        return record;
    }
    let message = match found {
        Ok(Some(record)) => return record,
        Ok(None) => "the root is not reset: that step did not run in this boot".to_owned(),
        Err(failure) => format!("it is not known whether the root is reset: {}", failure.chain()),
    };
    let mut record = Boot::new_record(log);
    let hint = Some("build the initramfs again, and look into the kernel log".to_owned());
    report(&mut record, log, Problem { level: Level::Error, message, hint });
    record
}

/// The same as the container has it: where the run directory has no room, that is all there is.
fn newest_of_this_boot(container: &Container) -> Option<Record> {
    let this = kernel::boot_id().ok()?;
    let newest = container.numbers(name::BOOTS).ok()?.into_iter().next_back()?;
    container.record(newest).ok().flatten().filter(|record| record.kernel_boot_id == this)
}

fn attach_in(
    boot: &Boot,
    container: &Container,
    sysroot: &Path,
    fulfilled: &mut bool,
    record: &mut Record,
    log: &mut Log<'_>,
) -> Result<()> {
    let sysroot =
        sysroot.canonicalize().context(|| format!("cannot find the root {}", sysroot.display()))?;
    let policy = policy(boot.locator.backend, &sysroot, record, log)?;
    let mut loaded = boot.load(container)?;
    if record.declaration.as_ref() != Some(&loaded.hash)
        && let Some(problem) = loaded.problem.take()
    {
        report(record, log, problem);
    }
    record.declaration = Some(loaded.hash.clone());
    let left_out = leave_out_if_fallback(record, &mut loaded.compiled);
    // Where only the root is in RAM, no older root was looked at for first content.
    let is_partial = loaded.is_previous || left_out || policy == Some(Policy::RootOnly);
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
    if is_ours && record.outcome == Outcome::Reset {
        // Before anything is mounted on the root.
        *fulfilled = carry_over(boot, container, &sysroot, &loaded, record, log);
    }
    if is_ours {
        root::prepare(boot, &loaded.compiled, places.root.as_fd(), policy, record, log);
    }
    // While mounting, stores are told by where they are now; links name where they will be.
    let now = boot.run.join(STORES).canonicalize().context(|| "cannot find the stores")?;
    let later = boot.run_later.join(STORES);

    let declared = &loaded.compiled.entries;
    let mut told: BTreeSet<usize> = BTreeSet::new();
    let together =
        if policy == Policy::Full { accounts::set_of(declared) } else { BTreeSet::new() };
    let mut postponed: BTreeSet<usize> = BTreeSet::new();
    if !together.is_empty() {
        let some: Vec<Entry> =
            together.iter().filter_map(|it| declared.get(*it)).cloned().collect();
        let observed =
            entries::observe_each(&Directories::new(), &some, &places, &mounts(&now, &later)?);
        if !accounts::attach(&some, &observed, &mut places, record, log) {
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
        let observed = entries::observe_each(&directories, &some, &places, &before);
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
        root::complete(container, &loaded.compiled, &places, record, log);
    }
    let table = mounts(&now, &later)?;
    let observed = entries::observe_each(&Directories::new(), declared, &places, &table);
    let mut verified = Verified::of(declared, &observed, policy);
    verified.missing.retain(|index| !postponed.contains(index));
    verified.postponed.extend(postponed);
    verified.report(declared, &observed, &told, record, log);
    if policy == Policy::Full
        && let Some(root) = &record.root
        && let Err(failure) =
            write_manifest(container, root.uuid(), &loaded.compiled, &places, &observed, &verified)
    {
        report(record, log, Problem::from_failure(Level::Error, &failure));
    }
    let mut attached = verified.attached(declared, &observed);
    attached.partial = is_partial;
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

/// Carries over what is to be there once. Returns whether that is done with.
fn carry_over(
    boot: &Boot,
    container: &Container,
    sysroot: &Path,
    loaded: &Loaded,
    record: &mut Record,
    log: &mut Log<'_>,
) -> bool {
    match &loaded.wish {
        Ok(Some(wish)) => {
            once::carry(boot, container, sysroot, &loaded.compiled, wish, record, log)
        }
        Ok(None) => false,
        Err(failure) => {
            report(record, log, Problem::from_failure(Level::Warning, failure));
            false
        }
    }
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

/// On the root of a boot that falls back, only what is required is put in place. Returns whether
/// that is the case.
fn leave_out_if_fallback(record: &Record, compiled: &mut Compiled) -> bool {
    if record.fallback.is_some() {
        compiled.entries.retain(|entry| !entry.optional);
    }
    record.fallback.is_some()
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
    let accounts = accounts::read(root.as_fd(), record, log);
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
