//! Garbage collection: past roots, records, manifests and trash that are kept no longer.
//!
//! A boot deletes nothing; this does, later, while the system runs. What goes is first renamed into a
//! directory of gc's own, durably, so that there is never half a past root, and so that whatever a cut
//! leaves is known for what it is.

mod apply;
mod caches;
mod observe;
mod plan;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use apply::Done;
pub use plan::{
    Boot as ObservedBoot, Cache, Cached, Now, Observation, PastRoot, Plan, Policy, RECORDS, Step,
    Trash, Why, plan,
};

use crate::backend;
use crate::boot::{Boot, STORES};
use crate::compiled::{Class, Compiled, StoreName};
use crate::container::{self, Container};
use crate::failure::{Level, Log, Problem, Result};
use crate::record::{BootNumber, RootIdentity};
use crate::status;
use crate::store;

/// What the last run left in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    version: u32,
    /// The boot in which it ran.
    pub boot: BootNumber,
    /// Seconds since 1970 by the clock, which may have been wrong.
    pub clock: i64,
    /// What it saw of each store that was there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stores: BTreeMap<StoreName, Measured>,
}

/// What a run saw of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// What it took, in bytes: of a cache with a rule all files below its entries, which the limit is about; of
    /// any other store everything in it.
    pub bytes: u64,
    /// For such a cache: since when reads leave their time, in seconds since 1970; absent if they did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads_since: Option<i64>,
}

impl LastRun {
    /// Reads it; `None` before the first run.
    pub fn read(container: &Container) -> Result<Option<Self>> {
        let run: Option<Self> =
            container::read(container.directory(), Path::new(container::name::LAST_GC))?;
        if let Some(run) = &run {
            container::check_version("the note of the last gc", run.version)?;
        }
        Ok(run)
    }

    fn write(&self, container: &Container) -> Result<()> {
        container::write(container.directory(), container::name::LAST_GC, self)
    }
}

/// The container, the stores and the policy.
#[derive(Debug)]
pub struct Gc {
    container: Container,
    stores: BTreeMap<StoreName, OwnedFd>,
    policy: Policy,
    compiled: Compiled,
    running: Option<RootIdentity>,
    sysroot: PathBuf,
    /// Where stores are mounted.
    mounted_stores: PathBuf,
    problems: Vec<Problem>,
}

impl Gc {
    /// Opens everything; changes nothing. `sysroot`: the root of the running system.
    pub fn open(boot: &Boot, sysroot: &Path) -> Result<Self> {
        let container = boot.open_container()?;
        let (_, compiled) = status::declaration(boot, &container)?;
        let mut problems = Vec::new();
        let mut stores = BTreeMap::new();
        for (name, wanted) in &compiled.stores {
            match store::open(wanted.place(), wanted.uuid) {
                Ok(opened) => drop(stores.insert(name.clone(), opened)),
                Err(failure) => {
                    let mut problem = Problem::from_failure(Level::Warning, &failure);
                    problem.message =
                        format!("the trash of store {name} stays as it is: {}", problem.message);
                    problems.push(problem);
                }
            }
        }
        let running = backend::mounted(boot.locator.backend, sysroot).ok();
        let policy = policy(&compiled);
        let (sysroot, mounted_stores) = (sysroot.to_owned(), boot.run.join(STORES));
        Ok(Self { container, stores, policy, compiled, running, sysroot, mounted_stores, problems })
    }

    /// Whether data that no entry keeps are moved to the trash of their stores.
    #[must_use]
    pub fn with_undeclared(mut self, moved: bool) -> Self {
        self.policy.undeclared = moved;
        self
    }

    fn observe(&self) -> Result<Observation> {
        let trees = observe::Trees {
            container: &self.container,
            stores: &self.stores,
            compiled: &self.compiled,
            caches: &self.policy.caches,
            sysroot: &self.sysroot,
            mounted_stores: &self.mounted_stores,
        };
        observe::observe(&trees, self.running.as_ref())
    }

    /// What a run would do now.
    pub fn preview(&self) -> Result<Plan> {
        Ok(plan(&self.observe()?, &self.policy))
    }

    /// Plans and does it. What fails does not stop what comes after it.
    pub fn apply(self, log: &mut Log<'_>) -> Result<Done> {
        apply::apply(self, log)
    }
}

/// What a compiled declaration says about the past.
pub fn policy(compiled: &Compiled) -> Policy {
    let trash = |(name, store): (&StoreName, &crate::compiled::Store)| {
        (name.clone(), store.trash.unwrap_or_default())
    };
    // The class is asked once more: whatever a file says, only a cache loses data by itself.
    let cache = |(name, store): (&StoreName, &crate::compiled::Store)| {
        let expiry = store.expiry.filter(|it| store.class == Class::Cache && !it.is_all());
        expiry.map(|expiry| (name.clone(), expiry))
    };
    Policy {
        boots: compiled.root.keep_boots.unwrap_or_default(),
        trash: compiled.stores.iter().map(trash).collect(),
        caches: compiled.stores.iter().filter_map(cache).collect(),
        undeclared: false,
    }
}
