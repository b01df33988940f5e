//! Publishing a declaration: compiled for this machine, pinned in its container, read by the next
//! boot.

mod differences;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::{resolve, xattr};
use uuid::Uuid;

use crate::attach::{self, OldRoot, Places, Policy};
use crate::backend;
use crate::boot::{LOCATOR, RUN, STORES};
use crate::compiled::{Backend, Compiled, ContainerRef, DeclarationHash, Entry, Method, StoreName};
use crate::container::{self, Container};
use crate::declaration::{Declaration, RootDeclaration, StoreDeclaration};
use crate::failure::{Context, Failure, Problem, Result};
use crate::harvest;
use crate::locator::Locator;
use crate::store::{self, Since};

pub use differences::{Became, Difference, Pinned, container_difference, other_container};

/// What publishing will do, and what that means.
#[derive(Debug, Default)]
pub struct Preview {
    /// Stores that are made or marked first.
    pub new_stores: Vec<StoreName>,
    /// Paths that are kept from the next boot on, and were not before.
    pub added: Vec<PathBuf>,
    /// Paths that are not kept any more. Their data stays in the store.
    pub removed: Vec<PathBuf>,
    /// Stores that are declared in another place than before. What they keep stays where it was.
    pub moved_stores: Vec<StoreName>,
    /// Whether what finds the container changed, so that the initramfs has to be built again.
    pub rebuild_initramfs: bool,
    /// How the next boot will make its root, step by step, if nothing speaks against it.
    pub next_reset: Vec<String>,
    /// What it will do on that root, step by step.
    pub next_boot: Vec<String>,
    /// What it will not be able to do.
    pub problems: Vec<Problem>,
}

/// A declaration that the next boot reads.
#[derive(Debug)]
pub struct Published {
    /// The hash of what was compiled.
    pub hash: DeclarationHash,
    /// Whether it is another than before.
    pub changed: bool,
    /// What was compiled.
    pub compiled: Compiled,
}

/// A declaration on its way into a container.
#[derive(Debug)]
pub struct Publication {
    /// With the methods that were decided by what was seen.
    declaration: Declaration,
    root: RootDeclaration,
    container: Container,
    /// Stores that are there, and their markers.
    stores: BTreeMap<StoreName, (OwnedFd, Option<Uuid>)>,
    previous: Option<Compiled>,
    /// The UUIDs that stores in the same place had so far.
    recorded: BTreeMap<StoreName, Uuid>,
    /// What the initramfs of this boot carried, where this is a boot of that container.
    booted_with: Option<Locator>,
    /// The system whose `/etc/ebbtide` a state store without one gets.
    system: Option<OwnedFd>,
}

impl Publication {
    /// Opens the container and the stores that a declaration names; changes nothing.
    pub fn open(declaration: &Declaration) -> Result<Self> {
        let root = declaration
            .root
            .as_ref()
            .ok_or_else(|| Failure::new("the declaration has no [root]"))?;
        let uuid = root.uuid.ok_or_else(|| {
            Failure::new("the declaration does not pin a container: [root] has no uuid")
                .hint("`ebbtide init` makes a container and writes its UUID there")
        })?;
        let volume = container::open_volume(root.backend, &root.device, &[])?;
        let at = ContainerRef { path: root.container.clone(), uuid };
        let container = Container::open(volume, root.backend, &at)?;
        let mut stores = BTreeMap::new();
        for (name, wanted) in &declaration.stores {
            if is_missing(wanted, root, &container)
                .context(|| format!("cannot look at store {name}"))?
            {
                continue;
            }
            let opened =
                store::open_any(wanted.place()).context(|| format!("store {name} is not there"))?;
            let found = store::identity(opened.as_fd())?;
            stores.insert(name.clone(), (opened, found));
        }
        let state = stores.get(&StoreName(StoreName::STATE.to_owned()));
        // One that can't be read is no reason not to write a new one.
        let previous = match (state, container.pins()) {
            (Some((state, _)), Ok(Some(pins))) => {
                store::load(state.as_fd(), &pins).ok().map(|(_, compiled, _)| compiled)
            }
            _ => None,
        };
        let booted_with = booted_with().filter(|locator| locator.container.uuid == uuid);
        let recorded = recorded(declaration, previous.as_ref(), booted_with.as_ref());
        let mut publication = Self {
            declaration: declaration.clone(),
            root: root.clone(),
            container,
            stores,
            previous,
            recorded,
            booted_with,
            system: None,
        };
        publication.decide()?;
        Ok(publication)
    }

    /// Turns files that are mounted only because nothing spoke for another method into synced ones, if
    /// a program was seen to replace them: once seen, always.
    fn decide(&mut self) -> Result<()> {
        if self.declaration.auto.is_empty() {
            return Ok(());
        }
        let base = backend::open_base(&self.container, self.container.base()?)?;
        let roots = attach::roots_of_today(&self.container, Path::new(RUN));
        let auto = std::mem::take(&mut self.declaration.auto);
        let is_open = |entry: &&mut Entry| auto.contains(&entry.path);
        let before = self.previous.iter().flat_map(|it| &it.entries);
        let synced = before.filter(|was| was.method == Method::Sync);
        let synced: BTreeSet<_> = synced.map(|was| (was.path.as_os_str(), was.kind)).collect();
        for entry in self.declaration.entries.iter_mut().filter(is_open) {
            let decided = synced.contains(&(entry.path.as_os_str(), entry.kind));
            let seen = || {
                let mut roots = roots.iter().filter(|root| root.store_of(&entry.path).is_none());
                roots.any(|root| {
                    was_replaced(self.root.backend, base.as_fd(), root, entry.relative())
                })
            };
            if decided || seen() {
                entry.method = Method::Sync;
            }
        }
        self.declaration.auto = auto;
        Ok(())
    }

    /// The same, and a state store that has no `/etc/ebbtide` gets that of this system.
    #[must_use]
    pub fn with_configuration_of(self, system: OwnedFd) -> Self {
        Self { system: Some(system), ..self }
    }

    /// Says what publishing will do.
    pub fn preview(&self) -> Result<Preview> {
        let unmarked =
            |name: &&StoreName| self.stores.get(*name).is_none_or(|(_, marker)| marker.is_none());
        let new_stores = self.declaration.stores.keys().filter(unmarked).cloned().collect();
        let paths = |entries: &[crate::compiled::Entry]| -> BTreeSet<PathBuf> {
            entries.iter().map(|entry| entry.path.clone()).collect()
        };
        let before = self.previous.as_ref().map(|it| paths(&it.entries)).unwrap_or_default();
        let after = paths(&self.declaration.entries);
        let moved_stores = self.moved_stores();
        let (reset, _) = backend::observe(&self.container)?;
        let reset = backend::plan(&reset);
        let (next_boot, problems) = self.next_boot()?;
        Ok(Preview {
            new_stores,
            added: after.difference(&before).cloned().collect(),
            removed: before.difference(&after).cloned().collect(),
            moved_stores,
            rebuild_initramfs: self.rebuild_initramfs(),
            next_reset: reset.steps.iter().map(ToString::to_string).collect(),
            next_boot,
            problems,
        })
    }

    /// The declaration as it is going to be compiled, if all its stores are there.
    pub fn compiled(&self) -> Option<Compiled> {
        let known = self.stores.iter().filter_map(|(name, (_, marker))| {
            Some((name.clone(), marker.or_else(|| self.recorded.get(name).copied())?))
        });
        self.declaration.compile(self.container.uuid(), &known.collect()).ok()
    }

    /// Makes what is missing of the stores, compiles, and pins the result.
    pub fn publish(self) -> Result<Published> {
        let _lock = self.container.lock()?;
        let mut stores = self.stores;
        for (name, wanted) in &self.declaration.stores {
            if is_missing(wanted, &self.root, &self.container)? {
                store::make(wanted.place(), self.container.volume().as_fd())
                    .context(|| format!("cannot make store {name}"))?;
            }
            if !stores.contains_key(name) {
                stores.insert(name.clone(), (store::open_any(wanted.place())?, None));
            }
        }
        let mut uuids = BTreeMap::new();
        for (name, (opened, _)) in &stores {
            // A store that was restored without its marker is the one that it was.
            let known = self.recorded.get(name).copied();
            let uuid = known.unwrap_or_else(ebbtide_sys::random::uuid_v4);
            let uuid = store::establish_as(opened.as_fd(), uuid)
                .context(|| format!("cannot mark store {name}"))?;
            uuids.insert(name.clone(), uuid);
        }
        let compiled =
            self.declaration.compile(self.container.uuid(), &uuids).map_err(|error| {
                let hint = error.hint();
                Failure::new("cannot compile the declaration").caused_by(error).hint(hint)
            })?;
        let (state, _) = stores
            .get(&StoreName(StoreName::STATE.to_owned()))
            .ok_or_else(|| Failure::new("the declaration has no store \"state\""))?;
        if let Some(system) = &self.system {
            differences::keep_configuration(state.as_fd(), system.as_fd())?;
        }
        let (hash, changed) = store::publish(state.as_fd(), &self.container, &compiled)?;
        if let Some(previous) = &self.previous {
            note_forgotten(previous, &compiled, &stores, &self.container);
        }
        Ok(Published { hash, changed, compiled })
    }

    /// Stores in another place than the previous declaration has them.
    pub fn moved_stores(&self) -> Vec<StoreName> {
        let previous = self.previous.iter().flat_map(|previous| &previous.stores);
        let moved = previous.filter(|(name, was)| {
            self.declaration.stores.get(name).is_some_and(|is| !is.place().is_at(&was.place()))
        });
        moved.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the initramfs that this machine booted with would not find what is declared now.
    fn rebuild_initramfs(&self) -> bool {
        let Some(booted) = &self.booted_with else { return false };
        let state = StoreName(StoreName::STATE.to_owned());
        let is = self.declaration.stores.get(&state);
        let found = self.stores.get(&state).and_then(|(_, marker)| *marker);
        let uuid = found.or_else(|| self.recorded.get(&state).copied());
        booted.device != self.root.device
            || booted.options != self.root.options
            || booted.backend != self.root.backend
            || is.is_none_or(|is| !is.place().is_at(&booted.state.place()))
            || uuid != Some(booted.state.uuid)
    }

    /// The attach plan of the next boot: on a new root from the base, with the root of today as the
    /// old one.
    fn next_boot(&self) -> Result<(Vec<String>, Vec<Problem>)> {
        let root = backend::open_base(&self.container, self.container.base()?)?;
        let old_roots = attach::roots_of_today(&self.container, Path::new(RUN));
        let mut stores = BTreeMap::new();
        for store in self.declaration.stores.keys() {
            let opened = match self.stores.get(store) {
                Some((opened, _)) => resolve::open_directory(opened.as_fd(), Path::new(""))
                    .map_err(|e| e.to_string()),
                None => Err("it is going to be made".to_owned()),
            };
            stores.insert(store.clone(), opened);
        }
        let places = Places {
            accounts: Accounts::read(root.as_fd()).context(|| "cannot read the base's accounts")?,
            root,
            root_path: PathBuf::from("/"),
            stores,
            stores_path: Path::new(RUN).join(STORES),
            old_roots,
            in_use: false,
            fresh: true,
            base: None,
            import_limit: None,
        };
        let entries = &self.declaration.entries;
        let observed = attach::observe(entries, &places, &[])?;
        let plan = attach::plan(entries, &observed, Policy::Full);
        let steps = plan
            .steps
            .iter()
            .filter_map(|(index, step)| entries.get(*index).map(|entry| step.describe(entry)));
        // What is going to be made for them is no problem of theirs.
        let made = |index: &usize| {
            entries.get(*index).is_some_and(|entry| !self.stores.contains_key(&entry.store))
        };
        let problems = plan.problems.iter().filter(|(index, _)| !made(index));
        let problems = problems.map(|(_, problem)| problem.clone()).collect();
        Ok((steps.collect(), problems))
    }
}

/// Notes in their stores which paths are not declared any more. Without such a note, it is only not known
/// since when that is: no failure.
fn note_forgotten(
    previous: &Compiled,
    compiled: &Compiled,
    stores: &BTreeMap<StoreName, (OwnedFd, Option<Uuid>)>,
    container: &Container,
) {
    let Ok(boot) = container.last_number() else { return };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = Since { boot, clock: i64::try_from(since.as_secs()).unwrap_or(i64::MAX) };
    let keeps = |was: &Entry| {
        compiled.entries.iter().any(|is| (&is.path, &is.store) == (&was.path, &was.store))
    };
    for was in previous.entries.iter().filter(|was| !keeps(was)) {
        if let Some((opened, _)) = stores.get(&was.store) {
            let _ = store::notes::note_forgotten(opened.as_fd(), &was.path, since);
        }
    }
}

/// Whether a file of a root is another than the base's under the same name.
///
/// In a snapshot every file keeps the inode number that it has in the base, until another one takes its
/// place. In an overlay, a file of the base that was written to has a note of where it comes from.
fn was_replaced(backend: Backend, base: BorrowedFd<'_>, root: &OldRoot, path: &Path) -> bool {
    let file = |tree| {
        let found = metadata::metadata_beneath(tree, path).ok().flatten()?;
        (found.kind == FileKind::Regular).then_some(found.inode)
    };
    let Some(was) = file(base) else { return false };
    let replaced = match (backend, &root.upper) {
        (Backend::Btrfs, _) => root.tree().ok().and_then(file).is_some_and(|is| was != is),
        (_, None) => false,
        (_, Some(upper)) => {
            let written = file(upper.as_fd()).and_then(|_| {
                let opened = resolve::open_path(upper.as_fd(), path).ok()?;
                xattr::get(opened.as_fd(), OsStr::new("trusted.overlay.origin")).ok()
            });
            written == Some(None)
        }
    };
    replaced
        && root
            .tree()
            .is_ok_and(|tree| matches!(harvest::look(tree, path), Ok(harvest::Found::File(_))))
}

/// What the initramfs of this boot carried.
fn booted_with() -> Option<Locator> {
    let text = std::fs::read(Path::new(RUN).join(LOCATOR)).ok()?;
    Locator::from_bytes(&text).ok()
}

/// The UUIDs of stores by name, as far as they are declared in the place that they had.
fn recorded(
    declaration: &Declaration,
    previous: Option<&Compiled>,
    booted: Option<&Locator>,
) -> BTreeMap<StoreName, Uuid> {
    let mut uuids = BTreeMap::new();
    for (name, is) in &declaration.stores {
        let was = previous.and_then(|previous| previous.stores.get(name));
        let same = was.filter(|was| was.place().is_at(&is.place()));
        let state = booted
            .map(|booted| &booted.state)
            .filter(|state| name.0 == StoreName::STATE && state.place().is_at(&is.place()));
        if let Some(uuid) = same.map(|was| was.uuid).or(state.map(|state| state.uuid)) {
            uuids.insert(name.clone(), uuid);
        }
    }
    uuids
}

/// Whether a store on the volume itself is not there yet: it is made then.
fn is_missing(
    wanted: &StoreDeclaration,
    root: &RootDeclaration,
    container: &Container,
) -> Result<bool> {
    let place = wanted.subvolume.as_deref().or(wanted.directory.as_deref());
    let Some(place) = place.filter(|_| wanted.device == root.device) else { return Ok(false) };
    match resolve::open_directory(container.volume().as_fd(), place) {
        Ok(_) => Ok(false),
        Err(error) if error.is_not_found() => Ok(true),
        Err(error) => Err(error).context(|| format!("cannot open {}", place.display())),
    }
}
