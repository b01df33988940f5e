//! Publishing a declaration: compiled for this machine, pinned in its container, read by the next
//! boot.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::{btrfs, resolve};
use uuid::Uuid;

use crate::attach::{self, Places, Policy};
use crate::backend::btrfs as btrfs_backend;
use crate::boot::{RUN, STORES};
use crate::compiled::{Compiled, ContainerRef, DeclarationHash, StoreName};
use crate::container::{self, Container, name};
use crate::declaration::{Declaration, RootDeclaration};
use crate::failure::{Context, Failure, Problem, Result};
use crate::store;

/// What publishing will do, and what that means.
#[derive(Debug)]
pub struct Preview {
    /// Stores that are made or marked first.
    pub new_stores: Vec<StoreName>,
    /// Stores that are another than the recorded one, with both UUIDs.
    pub exchanged_stores: Vec<(StoreName, Uuid, Uuid)>,
    /// Paths that are kept from the next boot on, and were not before.
    pub added: Vec<PathBuf>,
    /// Paths that are not kept any more. Their data stays in the store.
    pub removed: Vec<PathBuf>,
    /// Whether what finds the container changed, so that the initramfs has to be built again.
    pub rebuild_initramfs: bool,
    /// How the next boot will make its root, step by step, if nothing speaks against it.
    pub next_reset: Vec<String>,
    /// What it will do on that root, step by step.
    pub next_boot: Vec<String>,
    /// What it will not be able to do.
    pub problems: Vec<Problem>,
}

/// A declaration on its way into a container.
#[derive(Debug)]
pub struct Publication<'a> {
    declaration: &'a Declaration,
    root: &'a RootDeclaration,
    container: Container,
    /// Stores that are there, and their markers.
    stores: BTreeMap<StoreName, (OwnedFd, Option<Uuid>)>,
    previous: Option<Compiled>,
}

impl<'a> Publication<'a> {
    /// Opens the container and the stores that a declaration names; changes nothing.
    pub fn open(declaration: &'a Declaration) -> Result<Self> {
        let root = declaration
            .root
            .as_ref()
            .ok_or_else(|| Failure::new("the declaration has no [root]"))?;
        let uuid = root.uuid.ok_or_else(|| {
            Failure::new("the declaration does not pin a container: [root] has no uuid")
                .hint("`ebbtide init` makes a container and writes its UUID there")
        })?;
        let top = container::open_volume(&root.device)?;
        let container = Container::open(top, &ContainerRef { path: root.container.clone(), uuid })?;
        let mut stores = BTreeMap::new();
        for (name, wanted) in &declaration.stores {
            if missing_subvolume(declaration, name, &container)?.is_some() {
                continue;
            }
            let opened = store::open_any(&wanted.device, wanted.subvolume.as_deref(), wanted.class)
                .context(|| format!("store {name} is not there"))?;
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
        Ok(Self { declaration, root, container, stores, previous })
    }

    /// Says what publishing will do.
    pub fn preview(&self) -> Result<Preview> {
        let unmarked =
            |name: &&StoreName| self.stores.get(*name).is_none_or(|(_, marker)| marker.is_none());
        let new_stores = self.declaration.stores.keys().filter(unmarked).cloned().collect();
        let recorded = self.previous.iter().flat_map(|previous| &previous.stores);
        let exchanged_stores = recorded
            .filter_map(|(name, store)| {
                let (_, found) = self.stores.get(name)?;
                let found = (*found)?;
                (found != store.uuid).then(|| (name.clone(), store.uuid, found))
            })
            .collect();
        let paths = |entries: &[crate::compiled::Entry]| -> BTreeSet<PathBuf> {
            entries.iter().map(|entry| entry.path.clone()).collect()
        };
        let before = self.previous.as_ref().map(|it| paths(&it.entries)).unwrap_or_default();
        let after = paths(&self.declaration.entries);
        let rebuild_initramfs = self.previous.as_ref().is_some_and(|previous| {
            let state = StoreName(StoreName::STATE.to_owned());
            let place = |device, subvolume| (device, subvolume);
            let was = previous.stores.get(&state).map(|it| place(&it.device, &it.subvolume));
            let is = self.declaration.stores.get(&state).map(|it| place(&it.device, &it.subvolume));
            (&previous.root.device, &previous.root.options, was)
                != (&self.root.device, &self.root.options, is)
        });
        let (reset, _) = btrfs_backend::observe(&self.container)?;
        let reset = btrfs_backend::plan(&reset);
        let (next_boot, problems) = self.next_boot()?;
        Ok(Preview {
            new_stores,
            exchanged_stores,
            added: after.difference(&before).cloned().collect(),
            removed: before.difference(&after).cloned().collect(),
            rebuild_initramfs,
            next_reset: reset.steps.iter().map(ToString::to_string).collect(),
            next_boot,
            problems,
        })
    }

    /// Makes what is missing of the stores, compiles, and pins the result. Returns its hash, and
    /// whether it is another than before.
    pub fn publish(self) -> Result<(DeclarationHash, bool)> {
        let mut stores = self.stores;
        for name in self.declaration.stores.keys() {
            if let Some(subvolume) = missing_subvolume(self.declaration, name, &self.container)? {
                make_subvolume(self.container.top(), &subvolume)
                    .context(|| format!("cannot make store {name}"))?;
            }
            if let (false, Some(wanted)) =
                (stores.contains_key(name), self.declaration.stores.get(name))
            {
                let opened =
                    store::open_any(&wanted.device, wanted.subvolume.as_deref(), wanted.class)?;
                stores.insert(name.clone(), (opened, None));
            }
        }
        let mut uuids = BTreeMap::new();
        for (name, (opened, _)) in &stores {
            let uuid =
                store::establish(opened.as_fd()).context(|| format!("cannot mark store {name}"))?;
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
        store::publish(state.as_fd(), &self.container, &compiled)
    }

    /// The attach plan of the next boot: on a new root from the base, with the root of today as the
    /// old one.
    fn next_boot(&self) -> Result<(Vec<String>, Vec<Problem>)> {
        let base = Path::new(name::BASES).join(self.container.base()?.to_string());
        let root = self.container.open_directory(&base)?;
        let old_root = self.container.open_directory(Path::new(name::ROOT)).ok();
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
            old_root,
            in_use: false,
        };
        let entries = &self.declaration.entries;
        let observed = attach::observe(entries, &places, &[])?;
        let plan = attach::plan(entries, &observed, Policy::Full);
        let steps = plan
            .steps
            .iter()
            .filter_map(|(index, step)| entries.get(*index).map(|entry| step.describe(entry)));
        let problems = plan.problems.iter().map(|(_, problem)| problem.clone()).collect();
        Ok((steps.collect(), problems))
    }
}

/// The subvolume of a store on the volume itself that is not there yet.
fn missing_subvolume(
    declaration: &Declaration,
    name: &StoreName,
    container: &Container,
) -> Result<Option<PathBuf>> {
    let root = declaration.root.as_ref().map(|root| &root.device);
    let Some(wanted) = declaration.stores.get(name).filter(|it| Some(&it.device) == root) else {
        return Ok(None);
    };
    let Some(subvolume) = &wanted.subvolume else { return Ok(None) };
    match resolve::open_directory(container.top(), subvolume) {
        Ok(_) => Ok(None),
        Err(error) if error.is_not_found() => Ok(Some(subvolume.clone())),
        Err(error) => Err(error).context(|| format!("cannot look at store {name}")),
    }
}

fn make_subvolume(top: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let (parent, name) = resolve::split_parent(path)
        .ok_or_else(|| Failure::new(format!("{} has no name", path.display())))?;
    let parent = resolve::open_directory(top, parent)
        .context(|| format!("cannot open the directory above {}", path.display()))?;
    let name: &OsStr = name;
    btrfs::create_subvolume(parent.as_fd(), name).context(|| "cannot make the subvolume")
}
