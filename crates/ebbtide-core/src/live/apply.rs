//! Doing now what can be done now. Each group of mounts appears in one step, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::Time;
use ebbtide_sys::{file, metadata, mount, mountinfo, resolve, tree};
use rustix::io::Errno;

use super::Live;
use super::plan::{Plan, When, Work, attributes};
use crate::attach::{self, Places, Policy, Step};
use crate::compiled::{Entry, Kind, MountOption, StoreName};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::harvest::{self, Manifest};
use crate::staging::{self, Staging};
use crate::store;
use crate::{labels, moment};

/// Does all that the plan has for now, and puts off in the plan what turned out not to work.
pub(super) fn apply(live: &Live, plan: &mut Plan, log: &mut Log<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for group in plan.groups() {
        let Some(head) = group.first().and_then(|index| live.compiled.entries.get(*index)) else {
            continue;
        };
        let done = attach_group(live, &group, log);
        problems.extend(done.as_ref().ok().cloned().flatten());
        if let Err(failure) = done {
            let mut problem = Problem::from_failure(Level::Warning, &failure);
            problem.message =
                format!("{} is not attached now: {}", shown(&head.path), problem.message);
            problems.push(problem);
            plan.put_off(&head.path, "it did not work now");
        }
    }
    for index in 0..plan.changes.len() {
        let Some(change) = plan.changes.get(index).filter(|it| it.when == When::Now) else {
            continue;
        };
        let change = change.clone();
        let entry = change.entry.and_then(|index| live.compiled.entries.get(index));
        let done = match (&change.work, entry) {
            (Work::Link, Some(entry)) => link(live, entry, log),
            (Work::Options, Some(entry)) => options(live, entry),
            (Work::Attributes, Some(entry)) => set_attributes(live, entry, log),
            (Work::Detach, _) => match unmount(live, &change.path)? {
                // Also if it is busy in the namespace of a service only, which nothing here sees.
                Err(error) if error.errno() == Errno::BUSY => {
                    plan.put_off(&change.path, "something uses it");
                    Ok(())
                }
                done => done.context(|| "cannot unmount it"),
            },
            _ => Ok(()),
        };
        if let Err(failure) = done {
            let mut problem = Problem::from_failure(Level::Warning, &failure);
            problem.message = format!("{}: {}", shown(&change.path), problem.message);
            problems.push(problem);
            plan.put_off(&change.path, "it did not work now");
        }
    }
    problems.extend(sync(live, plan, log)?);
    Ok(problems)
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}

/// Fills the stores, puts the mounts together beside the root, and attaches them in one step.
fn attach_group(live: &Live, group: &[usize], log: &mut Log<'_>) -> Result<Option<Problem>> {
    let entries: Vec<Entry> =
        group.iter().filter_map(|index| live.compiled.entries.get(*index)).cloned().collect();
    let Some(head) = entries.first() else { return Ok(None) };
    let began = moment::now();
    let mut originals = Vec::new();
    let mut made = BTreeSet::new();
    let done = fill(live, &entries, &mut originals, &mut made, log)
        .and_then(|()| staged(live, &entries, log))
        .and_then(|staged| swap(live, head, &staged, &originals, began));
    if done.is_err() {
        for (entry, _) in originals.iter().rev() {
            take_back_import(live, entry)?;
        }
        return done;
    }
    if let Err(failure) = labels::correct(&made) {
        log(Level::Warning, &failure.chain());
    }
    done
}

/// Gives the stores what they lack, and the root its mount point. Notes what is copied, with a
/// descriptor of the original, and what is made and no user could exchange.
fn fill(
    live: &Live,
    entries: &[Entry],
    originals: &mut Vec<(Entry, OwnedFd)>,
    made: &mut BTreeSet<PathBuf>,
    log: &mut Log<'_>,
) -> Result<()> {
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    for (at, entry) in entries.iter().enumerate() {
        let one = std::slice::from_ref(entry);
        let observed = attach::observe(one, &live.places, &mounts)?;
        let mut plan = attach::plan(one, &observed, Policy::Full);
        // Inside the group, mount points are made in what is going to be there.
        plan.steps
            .retain(|(_, step)| step.fills_store() || (at == 0 && !matches!(step, Step::Bind(_))));
        if entry.home.is_none() {
            made.extend(plan.steps.iter().filter_map(|(_, step)| match step {
                Step::MakeParent(_, path, _) => Some(path.clone()),
                Step::Make(..) | Step::NewMachineId => Some(entry.path.clone()),
                _ => None,
            }));
        }
        if plan.steps.iter().any(|(_, step)| matches!(step, Step::Import(_))) {
            let root = live.places.root.as_fd();
            let original = match entry.kind {
                Kind::Directory => resolve::open_directory(root, entry.relative()),
                Kind::File => resolve::open_path(root, entry.relative()),
            };
            originals.push((entry.clone(), original.context(|| "cannot open the original")?));
        }
        run(&plan, one, &live.places, live, log)?;
    }
    Ok(())
}

/// Applies a plan of attaching; the first failure is the result.
fn run(
    plan: &attach::Plan,
    entries: &[Entry],
    places: &Places,
    live: &Live,
    log: &mut Log<'_>,
) -> Result<()> {
    let told = attach::apply(plan, entries, places, live.record.number, log);
    match told.into_iter().find(|(_, problem)| problem.level == Level::Error) {
        Some((_, problem)) => Err(Failure::new(problem.message)),
        None => Ok(()),
    }
}

/// Puts the mounts of a group together where nobody sees them, and verifies them there.
fn staged(live: &Live, entries: &[Entry], log: &mut Log<'_>) -> Result<OwnedFd> {
    let head = entries.first().ok_or_else(|| Failure::new("there is nothing to attach"))?;
    let mut messages: Vec<(Level, String)> = Vec::new();
    let clone = staging::within(&live.run, |staging| {
        let mut log = |level: Level, text: &str| messages.push((level, text.to_owned()));
        build(live, entries, staging, &mut log)?;
        mount::clone_mount(staging.root()?.as_fd(), head.relative(), true)
            .context(|| "cannot clone what was put together")
    });
    for (level, text) in messages {
        log(level, &text);
    }
    clone
}

fn build(live: &Live, entries: &[Entry], staging: &Staging, log: &mut Log<'_>) -> Result<()> {
    // A mount can only be cloned in the namespace that it is in.
    let open = |name: &StoreName| {
        let path = live.places.stores_path.join(&name.0);
        super::open_directory(&path).map_err(|failure| failure.chain())
    };
    let places = Places {
        root: staging.root()?,
        root_path: staging.path().to_owned(),
        stores: live.places.stores.keys().map(|name| (name.clone(), open(name))).collect(),
        stores_path: live.places.stores_path.clone(),
        old_roots: Vec::new(),
        accounts: live.accounts()?,
        in_use: false,
        fresh: true,
        base: live.places.base,
        import_limit: None,
    };
    let look = |entries: &[Entry]| -> Result<Vec<attach::Observation>> {
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        attach::observe(entries, &places, &mounts)
    };
    for wave in attach::waves(entries) {
        let some: Vec<Entry> = wave.iter().filter_map(|it| entries.get(*it)).cloned().collect();
        run(&attach::plan(&some, &look(&some)?, Policy::Full), &some, &places, live, log)?;
    }
    match entries.iter().zip(look(entries)?).find(|(_, seen)| !seen.in_place) {
        Some((entry, _)) => Err(Failure::new(format!(
            "{} was mounted, and is not in place when looked at again",
            shown(&entry.path)
        ))),
        None => Ok(()),
    }
}

/// Attaches what is staged. If somebody wrote to what was copied since that began, the old state
/// comes back: what they wrote would be hidden, and not in the store. If that is impossible, because
/// they use the mount by now, it is told.
fn swap(
    live: &Live,
    head: &Entry,
    staged: &OwnedFd,
    originals: &[(Entry, OwnedFd)],
    began: Time,
) -> Result<Option<Problem>> {
    let root = live.places.root.as_fd();
    let target = resolve::open_path(root, head.relative()).context(|| "cannot open the target")?;
    if let Some(path) = written_to(originals, began)? {
        return Err(changed(&path));
    }
    mount::attach(staged.as_fd(), target.as_fd()).context(|| "cannot attach it")?;
    // The originals are known by descriptors from before, which lead below the mount.
    let Some(path) = written_to(originals, began)? else { return Ok(None) };
    match unmount(live, &head.path)? {
        Ok(()) => Err(changed(&path)),
        Err(error) if error.errno() == Errno::BUSY => Ok(Some(Problem {
            level: Level::Warning,
            message: format!(
                "{} was written to while it was copied, and is in use since: the store may have it \
                 as it was a moment before",
                shown(&path)
            ),
            hint: Some("the other one is in the running root, below the mount".to_owned()),
        })),
        Err(error) => Err(error).context(|| "cannot take the mount back"),
    }
}

fn changed(path: &Path) -> Failure {
    Failure::new(format!("{} was written to meanwhile", shown(path))).hint(
        "stop what writes there, and apply again; what was written in the moment of the change \
             is in the store's .ebbtide/trash",
    )
}

/// The first path that changed since a point in time.
fn written_to(originals: &[(Entry, OwnedFd)], began: Time) -> Result<Option<PathBuf>> {
    for (entry, original) in originals {
        let what = || format!("cannot look at {} again", shown(&entry.path));
        let changed = match entry.kind {
            Kind::Directory => tree::changed_since(original.as_fd(), Path::new(""), began),
            Kind::File => metadata::metadata(original.as_fd())
                .map(|found| (found.changed > began).then(PathBuf::new)),
        };
        if let Some(inner) = changed.context(what)? {
            return Ok(Some(entry.path.join(inner)));
        }
    }
    Ok(None)
}

/// Puts what was imported a moment ago and is not going to be used into the store's trash: the
/// original is where it was.
fn take_back_import(live: &Live, entry: &Entry) -> Result<()> {
    let store = live.places.store(&entry.store).map_err(Failure::new)?;
    store::take_out(store, live.record.number, &entry.path)
        .map(drop)
        .context(|| format!("cannot take the copy of {} out of its store", shown(&entry.path)))
}

fn link(live: &Live, entry: &Entry, log: &mut Log<'_>) -> Result<()> {
    whole(live, entry, log)
}

/// Does all that attaching has for an entry.
fn whole(live: &Live, entry: &Entry, log: &mut Log<'_>) -> Result<()> {
    let one = std::slice::from_ref(entry);
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let observed = attach::observe(one, &live.places, &mounts)?;
    run(&attach::plan(one, &observed, Policy::Full), one, &live.places, live, log)
}

fn set_attributes(live: &Live, entry: &Entry, log: &mut Log<'_>) -> Result<()> {
    let one = std::slice::from_ref(entry);
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let observed = attach::observe(one, &live.places, &mounts)?;
    let plan = attach::plan(one, &observed, Policy::Full);
    match attributes(&plan) {
        Some(_) => run(&plan, one, &live.places, live, log),
        None => Ok(()),
    }
}

/// Gives a mount the options of its store and of its entry, and no others.
fn options(live: &Live, entry: &Entry) -> Result<()> {
    let all = [MountOption::Ro, MountOption::Nosuid, MountOption::Nodev, MountOption::Noexec];
    let of_store = live.compiled.stores.get(&entry.store).map(|store| store.options.as_slice());
    let wanted: Vec<MountOption> =
        of_store.unwrap_or_default().iter().chain(&entry.options).copied().collect();
    let unwanted: Vec<MountOption> =
        all.into_iter().filter(|option| !wanted.contains(option)).collect();
    let mounted = resolve::open_path(live.places.root.as_fd(), entry.relative())
        .context(|| "cannot open it")?;
    mount::replace_attributes(
        mounted.as_fd(),
        store::attributes(&wanted),
        store::attributes(&unwanted),
    )
    .context(|| "cannot set its mount options")
}

/// Unmounts what is mounted at a declared path. No link on the way is followed, whoever makes one.
pub(super) fn unmount(live: &Live, path: &Path) -> Result<ebbtide_sys::Result<()>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let (parent, name) = resolve::split_parent(relative)
        .ok_or_else(|| Failure::new(format!("{} has no name", shown(path))))?;
    let parent = resolve::open_directory(live.places.root.as_fd(), parent)
        .context(|| format!("cannot open the directory above {}", shown(path)))?;
    Ok(mount::unmount_entry(parent.as_fd(), name, false))
}

/// Takes files that are going to be synced into their stores, or out of them, and then lists them in
/// the manifest of this root.
fn sync(live: &Live, plan: &mut Plan, log: &mut Log<'_>) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let root = live.places.root.as_fd();
    let mut items = live.manifest.items.clone();
    // Files that belong together are listed all or none: so they are harvested.
    let mut sets: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
    for index in plan.now(&Work::Sync) {
        let set = live.compiled.entries.get(index).and_then(|entry| harvest::set_of(&entry.path));
        let alone = set.is_none().then(|| index.to_string());
        sets.entry(set.or(alone)).or_default().push(index);
    }
    if sets.is_empty() {
        return Ok(problems);
    }
    for set in sets.values() {
        let entries: Vec<&Entry> =
            set.iter().filter_map(|it| live.compiled.entries.get(*it)).collect();
        let mut listed = Vec::new();
        let done = entries.iter().try_for_each(|entry| -> Result<()> {
            let Some(store) = live.compiled.stores.get(&entry.store) else { return Ok(()) };
            sync_one(live, entry, log)
                .context(|| format!("cannot take {} over", shown(&entry.path)))?;
            listed.push(harvest::item(entry, store.uuid, root)?);
            Ok(())
        });
        match done {
            Ok(()) => {
                items.retain(|item| !listed.iter().any(|it| it.path == item.path));
                items.extend(listed);
            }
            Err(failure) => {
                problems.push(Problem::from_failure(Level::Warning, &failure));
                for entry in entries {
                    plan.put_off(&entry.path, "it did not work now");
                }
            }
        }
    }
    file::sync_filesystem(root).context(|| "cannot sync the root")?;
    Manifest { items, ..live.manifest.clone() }
        .write(&live.container)
        .context(|| "cannot write the manifest of this root")?;
    Ok(problems)
}

/// `Places::in_use` takes every copy for one in place; here it decides what to copy where.
fn sync_one(live: &Live, entry: &Entry, log: &mut Log<'_>) -> Result<()> {
    let one = std::slice::from_ref(entry);
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let mut observed = attach::observe(one, &live.places, &mounts)?;
    let Some(seen) = observed.first_mut() else { return Ok(()) };
    let has_source = seen.source != Ok(attach::Node::Absent);
    let has_target = seen.target != attach::Node::Absent;
    if has_source == has_target {
        return Ok(());
    }
    // A file of the root goes into the store and stays where it is.
    seen.in_place = false;
    let mut plan = attach::plan(one, &observed, Policy::Full);
    if has_target {
        plan.steps.retain(|(_, step)| step.fills_store());
    }
    run(&plan, one, &live.places, live, log)
}
