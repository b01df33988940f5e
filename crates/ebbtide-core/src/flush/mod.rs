//! Flush: harvesting a running root on demand, before a backup or at shutdown.

mod import;
mod watch;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::backend;
use crate::boot::{Boot, STORES};
use crate::container::Container;
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::harvest::{self, Action, Manifest};
use crate::record::{Outcome, Record, Switch};
use crate::store;

use import::Imports;
pub(crate) use import::imported;
pub use watch::{Pace, watch};

/// The root that runs, its manifest, and the stores that it goes back to.
#[derive(Debug)]
pub struct Flush {
    container: Container,
    record: Record,
    root: OwnedFd,
    stores: harvest::Stores,
    manifest: Manifest,
    /// Whether what is not there was deleted, and not lost in a power cut before this boot.
    believed: bool,
    /// What a root in RAM has for entries without data; an error of that stops nothing else.
    imports: std::result::Result<Option<Imports>, Problem>,
}

/// What flushing did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// How many files went back into their store.
    pub updated: usize,
    /// How many left it for its trash.
    pub deleted: usize,
    /// How many entries were taken from a root in RAM because they had no data yet, or again because
    /// that had changed.
    pub imported: usize,
    /// What was not taken, and why.
    pub problems: Vec<Problem>,
}

impl Flush {
    /// Opens everything; changes nothing.
    pub fn open(boot: &Boot, sysroot: &Path) -> Result<Self> {
        let record = boot
            .read_record()
            .ok_or_else(|| Failure::new("this boot has no record: nothing was copied in"))?;
        let root = open(sysroot)?;
        let identity = backend::mounted(boot.locator.backend, sysroot)?;
        if record.root.as_ref() != Some(&identity) {
            return Err(Failure::new(format!(
                "{} is not the root of this boot",
                sysroot.display()
            )));
        }
        if record.outcome == Outcome::Kept(Switch::Off) {
            return Err(Failure::new(
                "this boot runs with ebbtide=off: nothing is taken back from it",
            )
            .hint("the next boot without it takes back what changed"));
        }
        let container = boot.open_container()?;
        let uuid = identity.uuid();
        let empty = || Manifest { version: harvest::VERSION, root: uuid, items: Vec::new() };
        let manifest = Manifest::read(&container, uuid)?.unwrap_or_else(empty);
        let mut stores = harvest::Stores::new();
        let directory = boot.run.join(STORES);
        for item in &manifest.items {
            if stores.contains_key(&item.store_uuid) {
                continue;
            }
            let opened = open(&directory.join(&item.store.0))?;
            if store::identity(opened.as_fd())? == Some(item.store_uuid) {
                stores.insert(item.store_uuid, opened);
            }
        }
        let believed = harvest::ended_cleanly(&container, uuid, Some(record.number))?;
        let imports = Imports::open(boot, sysroot, &container, &record, &manifest)
            .map_err(|failure| Problem::from_failure(Level::Warning, &failure));
        Ok(Self { container, record, root, stores, manifest, believed, imports })
    }

    /// Says what flushing will do, a line for each file that is not as it was.
    pub fn preview(&self) -> Result<Vec<String>> {
        let observed = harvest::observe(&self.manifest.items, self.root.as_fd(), &self.stores)?;
        let plan = harvest::plan(&self.manifest.items, &observed, self.believed);
        let lines = self.manifest.items.iter().zip(plan).filter_map(|(item, action)| {
            let path = item.path.display();
            let store = &item.store;
            match action {
                Action::Nothing => None,
                Action::Update => Some(format!("take {path} back into store {store}")),
                Action::Delete => Some(format!("move {path} to the trash of store {store}")),
                Action::Doubt(why) | Action::Refuse(why) => {
                    Some(format!("leave {path} as store {store} has it: {why}"))
                }
            }
        });
        let mut lines: Vec<String> = lines.collect();
        if let Ok(Some(imports)) = &self.imports {
            lines.extend(imports.preview()?);
        }
        Ok(lines)
    }

    /// Harvests, and then notes in the manifest what is in the stores now. From a root in RAM, entries
    /// that have no data yet get theirs.
    pub fn apply(mut self, log: &mut Log<'_>) -> Result<Flushed> {
        let _lock = self.container.lock()?;
        let root = self.root.as_fd();
        let boot = self.record.number;
        let believed = self.believed;
        let harvested = harvest::harvest(&self.manifest, root, &self.stores, believed, boot, log)?;
        if harvested.updated + harvested.deleted > 0 {
            for item in &mut self.manifest.items {
                let path = item.path.strip_prefix("/").unwrap_or(&item.path);
                let Some(store) = self.stores.get(&item.store_uuid) else { continue };
                item.content = harvest::content_of(store.as_fd(), path)?;
                // What was written since then is looked at in full the next time.
                let witness = harvest::witness_of(root, path)?;
                let same = harvest::content_of(root, path).is_ok_and(|now| now == item.content);
                item.witness = witness.filter(|_| same);
            }
            self.manifest.write(&self.container).context(|| "cannot write the manifest")?;
        }
        let mut flushed = Flushed {
            updated: harvested.updated,
            deleted: harvested.deleted,
            imported: 0,
            problems: harvested.problems,
        };
        match self.imports {
            Ok(None) => {}
            Ok(Some(imports)) => {
                let imported = imports.apply(log)?;
                flushed.imported = imported.count;
                flushed.problems.extend(imported.problems);
            }
            Err(problem) => flushed.problems.push(problem),
        }
        Ok(flushed)
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .context(|| format!("cannot open {}", path.display()))
}
