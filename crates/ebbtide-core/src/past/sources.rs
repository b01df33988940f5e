//! The trees in which a path can have a version: the running system, a store, past roots, bases.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, resolve};
use serde::{Deserialize, Serialize};

use crate::backend;
use crate::boot::Boot;
use crate::compiled::{Compiled, Entry, StoreName};
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Level, Problem, Result};
use crate::record::BootNumber;
use crate::{status, store};

/// Where a version lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// The running system, with all that is mounted; the container's root, if that does not run.
    Now,
    /// A store that keeps the path.
    Store(StoreName),
    /// The past root of this boot.
    Boot(BootNumber),
    /// A base.
    Base(u64),
    /// What left a store in a boot, and is in its trash.
    Trash {
        /// The store.
        store: StoreName,
        /// The boot.
        boot: BootNumber,
    },
}

/// One tree.
#[derive(Debug)]
pub struct Source {
    /// Which one it is.
    pub place: Place,
    /// The tree, or why it can't be opened.
    tree: std::result::Result<OwnedFd, String>,
    /// What was mounted on it, and from which store. It is not in the tree.
    mounted: BTreeMap<PathBuf, StoreName>,
    /// Whether it is not known that the user who asks had their number in it.
    pub(super) is_strange: bool,
}

impl Source {
    fn new(place: Place, tree: Result<OwnedFd>) -> Self {
        let tree = tree.map_err(|failure| failure.chain());
        Self { place, tree, mounted: BTreeMap::new(), is_strange: false }
    }

    /// The boot that it is of.
    pub(super) fn number(&self) -> Option<BootNumber> {
        match self.place {
            Place::Boot(number) | Place::Trash { boot: number, .. } => Some(number),
            Place::Now | Place::Store(_) | Place::Base(_) => None,
        }
    }

    /// The tree, or why it can't be opened.
    pub fn tree(&self) -> std::result::Result<BorrowedFd<'_>, &str> {
        self.tree.as_ref().map(AsFd::as_fd).map_err(String::as_str)
    }

    /// The store that was mounted at a path of this root, or above it: what was there is in the store.
    pub fn mounted_over(&self, path: &Path) -> Option<&StoreName> {
        path.ancestors().find_map(|above| self.mounted.get(above))
    }

    /// The paths below another one at which a store was mounted.
    pub fn mounted_below(&self, path: &Path) -> Vec<(&Path, &StoreName)> {
        let below = |it: &(&PathBuf, &StoreName)| it.0.starts_with(path) && it.0 != path;
        self.mounted.iter().filter(below).map(|(path, store)| (path.as_path(), store)).collect()
    }
}

/// All trees, the newest first: the running system, past roots, bases.
#[derive(Debug)]
pub struct Sources {
    /// The running system comes first, if there is one.
    pub all: Vec<Source>,
    /// Whether the system runs on a root of this container.
    pub running: bool,
    /// The declaration that is going to be in force at the next boot.
    compiled: Option<Compiled>,
    /// What could not be looked at, and is no tree.
    pub problems: Vec<Problem>,
    /// What left the stores, the newest first; see [`Self::with_trash`].
    pub trash: Vec<Source>,
    /// Stores that were looked into.
    opened: RefCell<BTreeMap<StoreName, OwnedFd>>,
}

impl Sources {
    /// Opens all of them. What can't be opened says so where it is asked for.
    pub fn open(boot: &Boot, container: &Container, sysroot: &Path) -> Result<Self> {
        let mut problems = Vec::new();
        let compiled = match status::declaration(boot, container) {
            Ok((_, compiled)) => Some(compiled),
            Err(failure) => {
                problems.push(Problem::from_failure(Level::Warning, &failure));
                None
            }
        };
        let running = runs(boot, container, sysroot);
        let mut all = Vec::new();
        let now = if running {
            Some(std::fs::File::open(sysroot).map(OwnedFd::from).context(|| "cannot open the root"))
        } else {
            backend::root_of_today(container, &boot.run).map(|(_, tree)| Ok(tree))
        };
        all.extend(now.map(|tree| Source::new(Place::Now, tree)));
        for number in container.numbers(name::PAST)?.into_iter().rev() {
            all.push(Self::past(boot, container, number));
        }
        for number in bases(container)?.into_iter().rev() {
            all.push(Source::new(Place::Base(number), backend::open_base(container, number)));
        }
        Ok(Self { all, running, compiled, problems, trash: Vec::new(), opened: RefCell::default() })
    }

    /// Opens only the running system and the past root of one boot.
    pub(super) fn of_boot(
        boot: &Boot,
        container: &Container,
        sysroot: &Path,
        number: BootNumber,
    ) -> Result<Self> {
        let (_, compiled) = status::declaration(boot, container)?;
        let root =
            std::fs::File::open(sysroot).map(OwnedFd::from).context(|| "cannot open the root");
        let now = Source::new(Place::Now, root);
        let past = Self::past(boot, container, number);
        Ok(Self {
            all: vec![now, past],
            running: runs(boot, container, sysroot),
            compiled: Some(compiled),
            problems: Vec::new(),
            trash: Vec::new(),
            opened: RefCell::default(),
        })
    }

    fn past(boot: &Boot, container: &Container, number: BootNumber) -> Source {
        let mut source =
            Source::new(Place::Boot(number), backend::past(container, number, &boot.run));
        // One that can't be read takes nothing but what it knows of mounts away.
        let record = container.record(number).ok().flatten();
        source.mounted = record.and_then(|it| it.attached).map(|it| it.mounted).unwrap_or_default();
        source
    }

    /// Opens what left the stores, too. What can't be opened has nothing in it.
    #[must_use]
    pub fn with_trash(mut self) -> Self {
        for (name, wanted) in self.compiled.iter().flat_map(|compiled| &compiled.stores) {
            let Ok(opened) = store::open(wanted.place(), wanted.uuid) else { continue };
            let Ok(Some(trash)) = store::trash(opened.as_fd()) else { continue };
            let names = file::read_directory(trash.as_fd()).unwrap_or_default();
            for entry in names {
                let boot = entry.name.to_str().and_then(|it| it.parse().ok()).map(BootNumber);
                let tree = resolve::open_directory(trash.as_fd(), Path::new(&entry.name));
                if let (Some(boot), Ok(tree)) = (boot, tree) {
                    let place = Place::Trash { store: name.clone(), boot };
                    self.trash.push(Source::new(place, Ok(tree)));
                }
            }
        }
        self.trash.sort_by_key(|source| std::cmp::Reverse(source.number()));
        self
    }

    /// The stores that keep something below a path, opened.
    pub fn stores_below(&self, path: &Path) -> Vec<Source> {
        let mut found: Vec<Source> = Vec::new();
        let entries = self.compiled.iter().flat_map(|compiled| &compiled.entries);
        for entry in entries.filter(|entry| entry.path.starts_with(path)) {
            if found.iter().all(|it| it.place != Place::Store(entry.store.clone())) {
                found.push(self.store(entry));
            }
        }
        found
    }

    /// The entry that keeps a path: the innermost one at it or above it.
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        let covers = |entry: &&Entry| path.starts_with(&entry.path);
        let entries = &self.compiled.as_ref()?.entries;
        entries.iter().filter(covers).max_by_key(|entry| entry.path.as_os_str().len())
    }

    /// Opens the store of an entry, attached nowhere.
    pub fn open_store(&self, entry: &Entry) -> Result<OwnedFd> {
        let stores = self.compiled.as_ref().map(|compiled| &compiled.stores);
        let wanted = stores
            .and_then(|stores| stores.get(&entry.store))
            .ok_or_else(|| Failure::new(format!("the declaration has no store {}", entry.store)))?;
        store::open(wanted.place(), wanted.uuid)
            .context(|| format!("cannot open store {}", entry.store))
    }

    /// The store's own copy of what an entry keeps.
    pub(super) fn store(&self, entry: &Entry) -> Source {
        Source::new(Place::Store(entry.store.clone()), self.open_store_again(entry))
    }

    /// As [`Self::open_store`]: of many paths in it, only the first has it mounted.
    fn open_store_again(&self, entry: &Entry) -> Result<OwnedFd> {
        let mut opened = self.opened.borrow_mut();
        if !opened.contains_key(&entry.store) {
            opened.insert(entry.store.clone(), self.open_store(entry)?);
        }
        opened
            .get(&entry.store)
            .map(OwnedFd::try_clone)
            .transpose()
            .context(|| format!("cannot open store {} again", entry.store))?
            .ok_or_else(|| Failure::new(format!("store {} is not there", entry.store)))
    }
}

/// Whether what is mounted at `sysroot` is the root that this container made for this boot.
pub(crate) fn runs(boot: &Boot, container: &Container, sysroot: &Path) -> bool {
    let Ok(mounted) = backend::mounted(container.backend(), sysroot) else { return false };
    let recorded = boot.read_record().and_then(|record| record.root);
    recorded.as_ref() == Some(&mounted)
        || backend::identity(container, Path::new(name::ROOT)).is_ok_and(|root| root == mounted)
}

/// The numbers of all bases.
fn bases(container: &Container) -> Result<BTreeSet<u64>> {
    let directory = container.open_directory(Path::new(name::BASES))?;
    let names = file::read_directory(directory.as_fd()).context(|| "cannot list the bases")?;
    // Of an overlay, a base that lies on another volume has its description only.
    let number = |name: &str| name.strip_suffix(".json").unwrap_or(name).parse::<u64>().ok();
    Ok(names.iter().filter_map(|entry| number(entry.name.to_str()?)).collect())
}
