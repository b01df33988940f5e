//! What lies in the container and in the trash of the stores.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mountinfo::{self, MountEntry};
use ebbtide_sys::{btrfs, escape, file, kernel, metadata, process, resolve, tree};
use uuid::Uuid;

use super::plan::{Boot, Cache, Now, Observation, PastRoot, Trash};
use super::{LastRun, caches};
use crate::backend::{self, overlay};
use crate::compiled::{Backend, Compiled, StoreName};
use crate::container::{Container, name};
use crate::failure::{Context, Level, Result};
use crate::record::{BootNumber, Ending, Record, RootIdentity};
use crate::retention::KeepCache;
use crate::{store, undeclared};

/// What is looked at.
pub(super) struct Trees<'a> {
    pub(super) container: &'a Container,
    pub(super) stores: &'a BTreeMap<StoreName, OwnedFd>,
    /// The declaration of the next boot.
    pub(super) compiled: &'a Compiled,
    /// The stores whose files do not all stay.
    pub(super) caches: &'a BTreeMap<StoreName, KeepCache>,
    pub(super) sysroot: &'a Path,
    /// Where stores are mounted.
    pub(super) mounted_stores: &'a Path,
}

/// Looks at everything. `running`: what the kernel says that `/` is.
pub(super) fn observe(trees: &Trees<'_>, running: Option<&RootIdentity>) -> Result<Observation> {
    let Trees { container, stores, compiled, .. } = *trees;
    // What is pending is in no count of bytes.
    file::sync_filesystem(container.directory()).context(|| "cannot sync the volume")?;
    let mut seen = Seen { roots: BTreeSet::new(), all_known: true };
    seen.roots.extend(running.map(RootIdentity::uuid));
    for place in [name::ROOT, name::NEW] {
        seen.look(container, Path::new(place))?;
    }
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let (mut roots, mut strange) = (Vec::new(), Vec::new());
    let numbers = container.numbers(name::PAST)?;
    let came_up = container.came_up().map(|mark| mark.root);
    for number in &numbers {
        let place = Path::new(name::PAST).join(number.to_string());
        if !seen.look(container, &place)? {
            strange.push(number.to_string().into());
            continue;
        }
        roots.push(PastRoot {
            number: *number,
            own_bytes: backend::own_bytes(container, &place).ok(),
            mounted: mounted(container, &mounts, &place)?,
            came_up: came_up.is_some_and(|root| {
                backend::identity(container, &place).is_ok_and(|it| it.uuid() == root)
            }),
        });
    }
    let past = list(container, name::PAST)?;
    let is_number = |it: &&OsString| numbers.iter().any(|n| *n.to_string() == ***it);
    strange.extend(past.iter().filter(|it| !is_number(it)).cloned());
    let this = kernel::boot_id().context(|| "cannot read the kernel's boot id")?;
    let mut observation = Observation {
        now: now()?,
        roots,
        all_known: seen.all_known,
        unfinished: list(container, name::GC)?,
        strange,
        room: file::room(container.directory()).ok(),
        ..Observation::default()
    };
    // One that can't be read says nothing, and stays.
    let numbers = container.numbers(name::BOOTS)?.into_iter();
    let read = |number| Some((number, container.record(number).ok()??));
    let records: Vec<_> = numbers.filter_map(read).collect();
    if let Some((number, record)) = records.iter().rev().find(|(_, it)| it.kernel_boot_id == this) {
        observation.running = Some(*number);
        seen.roots.extend(record.root.as_ref().map(RootIdentity::uuid));
    }
    let boots = records.iter().map(|(number, record)| boot_of(*number, record, &seen.roots));
    observation.boots = boots.collect();
    for manifest in list(container, name::MANIFESTS)? {
        let uuid = manifest.to_str().and_then(|it| Uuid::parse_str(it.strip_suffix(".json")?).ok());
        let there = |uuid: Uuid| (uuid, seen.roots.contains(&uuid));
        observation.manifests.extend(uuid.map(there));
    }
    let of_running = records.iter().find(|(number, _)| Some(*number) == observation.running);
    let in_use = undeclared::in_use(container, of_running.map(|(_, record)| record))?;
    for (name, opened) in stores {
        observation.trash.insert(name.clone(), trash(opened.as_fd())?);
        let found = undeclared::measured(name, opened.as_fd(), compiled, &in_use)?;
        observation.undeclared.extend(found);
    }
    observation.caches = caches(trees, &mounts, observation.now.clock)?;
    Ok(observation)
}

/// Looks at caches of which not all stays, and since when reads of them leave their time.
fn caches(
    trees: &Trees<'_>,
    mounts: &[MountEntry],
    clock: i64,
) -> Result<BTreeMap<StoreName, Cache>> {
    let mut found = BTreeMap::new();
    if trees.caches.is_empty() {
        return Ok(found);
    }
    let open = process::open_files().context(|| "cannot look at what processes have open")?;
    let last = LastRun::read(trees.container)?;
    for name in trees.caches.keys() {
        let Some(store) = trees.stores.get(name) else { continue };
        let mut cache = caches::look(name, store.as_fd(), trees.compiled, &open)
            .context(|| format!("cannot look at the files of store {name}"))?;
        let (compiled, at) = (trees.compiled, trees.mounted_stores);
        if caches::are_reads_noted(name, compiled, mounts, at, trees.sysroot) {
            let known = last.as_ref().and_then(|it| it.stores.get(name)?.reads_since);
            // A clock that was ahead then says nothing.
            cache.reads_since = Some(known.filter(|since| *since <= clock).unwrap_or(clock));
        }
        found.insert(name.clone(), cache);
    }
    Ok(found)
}

fn boot_of(number: BootNumber, record: &Record, roots: &BTreeSet<Uuid>) -> Boot {
    let whole = record.attached.as_ref().is_some_and(|attached| attached.missing.is_empty());
    let sound = record.gravest().is_none_or(|level| level > Level::Error);
    let root = record.root.as_ref().map(RootIdentity::uuid);
    Boot {
        number,
        clock: record.clock,
        good: whole && sound && record.ended == Some(Ending::Clean),
        has_root: root.is_some_and(|root| roots.contains(&root)),
    }
}

fn now() -> Result<Now> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let uptime = kernel::uptime().context(|| "cannot read for how long the kernel runs")?;
    Ok(Now { clock: i64::try_from(seconds).unwrap_or(i64::MAX), uptime: uptime.as_secs() })
}

/// Roots that were found.
struct Seen {
    roots: BTreeSet<Uuid>,
    all_known: bool,
}

impl Seen {
    /// Notes what lies at a place in the container; false if that is no root.
    fn look(&mut self, container: &Container, place: &Path) -> Result<bool> {
        let Ok(directory) = container.open_directory(place) else { return Ok(false) };
        if !is_root(container.backend(), directory.as_fd())? {
            return Ok(false);
        }
        match backend::identity(container, place) {
            Ok(root) => drop(self.roots.insert(root.uuid())),
            Err(_) => self.all_known = false,
        }
        Ok(true)
    }
}

/// Whether a directory is or was a root, by what it is.
pub(super) fn is_root(backend: Backend, directory: BorrowedFd<'_>) -> Result<bool> {
    match backend {
        Backend::Btrfs => {
            btrfs::is_subvolume(directory).context(|| "cannot tell whether it is a subvolume")
        }
        Backend::Overlay | Backend::Tmpfs => {
            let upper = metadata::metadata_beneath(directory, Path::new(overlay::UPPER));
            Ok(upper.context(|| "cannot look at what was written to it")?.is_some())
        }
    }
}

/// Where a past root, or a part of it, is mounted.
fn mounted(container: &Container, mounts: &[MountEntry], place: &Path) -> Result<Option<String>> {
    let top = metadata::metadata(container.volume().as_fd())
        .context(|| "cannot look at the volume")?
        .device;
    let inside = Path::new("/").join(container.path()).join(place);
    let of_it = |mount: &&MountEntry| {
        // Of btrfs, each subvolume has a number of its own, and the mount table shows another.
        (mount.fstype == "btrfs" || mount.device == top) && mount.root.starts_with(&inside)
    };
    let found: Option<PathBuf> = match mounts.iter().find(of_it) {
        Some(mount) => Some(mount.mount_point.clone()),
        None => match backend::identity(container, place) {
            Ok(RootIdentity::Overlay { uuid, .. }) => overlay::mount_of(uuid)?,
            _ => None,
        },
    };
    Ok(found.map(|point| escape(point.as_os_str().as_encoded_bytes())))
}

/// The names in a directory of the container; none if it is not there.
fn list(container: &Container, directory: &str) -> Result<Vec<OsString>> {
    let what = || format!("cannot list {directory} in the container");
    let opened = match resolve::open_directory(container.directory(), Path::new(directory)) {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        opened => opened.context(what)?,
    };
    let entries = file::read_directory(opened.as_fd()).context(what)?;
    let mut names: Vec<_> = entries.into_iter().map(|entry| entry.name).collect();
    names.sort();
    Ok(names)
}

/// What left a store, by boot.
pub(super) fn trash(opened: BorrowedFd<'_>) -> Result<Vec<Trash>> {
    let Some(directory) = store::trash(opened)? else { return Ok(Vec::new()) };
    let entries = file::read_directory(directory.as_fd()).context(|| "cannot list the trash")?;
    let mut found = Vec::new();
    for entry in entries {
        // Whatever has another name was put there by somebody else.
        let number = entry.name.to_str().and_then(|name| {
            let number: u64 = name.parse().ok()?;
            (number.to_string() == name).then_some(BootNumber(number))
        });
        if let Some(number) = number {
            let bytes = tree::tree_size(directory.as_fd(), Path::new(&entry.name))
                .context(|| format!("cannot measure the trash of boot {number}"))?;
            found.push(Trash { number, bytes });
        }
    }
    found.sort_by_key(|trash| trash.number);
    Ok(found)
}
