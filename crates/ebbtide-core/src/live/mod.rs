//! Live: bringing the running system to a declaration without a reboot.
//!
//! What can be done now is done now, each group of mounts in one step. Nothing in use is unmounted or
//! hidden: what a process writes to waits for its user's next login, or for the next boot, which
//! does it all.

mod apply;
mod back;
mod observe;
mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::mountinfo;

use crate::attach::{self, Places};
use crate::backend;
use crate::boot::{Boot, STORES};
use crate::compiled::{Compiled, DeclarationHash, Entry, Method, Store, StoreName};
use crate::container::{self, Container};
use crate::failure::{Context, Failure, Log, Problem, Result};
use crate::harvest::{self, Manifest};
use crate::record::{Attached, Outcome, Record, Switch};
use crate::store;

pub use back::{Back, How, MovedBack, Step};
pub use plan::{Change, InUse, Plan, When, Work};

/// Where it is noted, in the run directory, for which users something waits for their next login: a
/// file for each, named by the number of the user.
pub const LOGIN: &str = "login";

/// The running system, and the declaration that it is to be brought to.
#[derive(Debug)]
pub struct Live {
    run: PathBuf,
    container: Container,
    record: Record,
    compiled: Compiled,
    manifest: Manifest,
    places: Places,
    /// Stores that no entry of this boot needed so far.
    unmounted: Vec<StoreName>,
    /// Whose entries are wanted; all without.
    only: Option<u32>,
}

/// What was done.
#[derive(Debug)]
pub struct Applied {
    /// The plan as it came out: what did not work waits for the next boot.
    pub plan: Plan,
    /// What did not work.
    pub problems: Vec<Problem>,
    /// Whether a path that was missing since the boot is in place now.
    pub found: bool,
}

impl Live {
    /// Looks whether the system that runs is one that can be changed; changes nothing. `Err` says
    /// why all of it has to wait for the next boot.
    ///
    /// `only`: the number of a user that logs in; then nothing but what lies in their home is done.
    pub fn open(
        boot: &Boot,
        sysroot: &Path,
        compiled: &Compiled,
        only: Option<u32>,
    ) -> Result<std::result::Result<Self, String>> {
        let Some(record) = boot.read_record() else {
            return Ok(Err("this root was not made by Ebbtide".to_owned()));
        };
        let root = open_directory(sysroot)?;
        let identity = backend::mounted(boot.locator.backend, sysroot).ok();
        let Some(identity) = identity.filter(|found| record.root.as_ref() == Some(found)) else {
            return Ok(Err("/ is not the root of this boot".to_owned()));
        };
        if matches!(record.outcome, Outcome::Refused | Outcome::Kept(Switch::Off)) {
            return Ok(Err("this boot runs on the last root as it was".to_owned()));
        }
        if record.attached.is_none() {
            return Ok(Err("entries were never attached in this boot".to_owned()));
        }
        let container = boot.open_container()?;
        let uuid = identity.uuid();
        let empty = || Manifest { version: harvest::VERSION, root: uuid, items: Vec::new() };
        let manifest = Manifest::read(&container, uuid)?.unwrap_or_else(empty);
        let stores_path = boot.run.join(STORES);
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        let mut stores = BTreeMap::new();
        let mut unmounted = Vec::new();
        for (name, wanted) in &compiled.stores {
            let path = stores_path.join(&name.0);
            let opened = if mounts.iter().any(|mount| mount.mount_point == path) {
                open_store(&path, wanted)
            } else {
                unmounted.push(name.clone());
                store::open(wanted.place(), wanted.uuid)
            };
            stores.insert(name.clone(), opened.map_err(|failure| failure.chain()));
        }
        let base = record.base.as_ref().map(|base| base.number);
        let places = Places::of_running(root, sysroot, stores, stores_path, base)?;
        Ok(Ok(Self {
            run: boot.run.clone(),
            container,
            record,
            compiled: compiled.clone(),
            manifest,
            places,
            unmounted,
            only,
        }))
    }

    /// Says what can be done, and when.
    pub fn plan(&self) -> Result<Plan> {
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        let (seen, leftovers) =
            observe::observe(&self.compiled.entries, &self.places, &mounts, &self.manifest)?;
        let mut plan = plan::plan(&self.compiled.entries, &seen, &leftovers);
        if let Some(uid) = self.only {
            // What is theirs waits no longer, unless somebody else uses it too.
            plan.changes.retain(|change| {
                change.entry.is_some_and(|index| {
                    let entry = self.compiled.entries.get(index);
                    entry.is_some_and(|it| it.home.is_some() && self.owner(it) == Some(uid))
                })
            });
        }
        Ok(plan)
    }

    fn owner(&self, entry: &Entry) -> Option<u32> {
        match entry.user.as_ref()? {
            crate::compiled::Principal::Id(id) => Some(*id),
            crate::compiled::Principal::Name(name) => self.places.accounts.uid(name),
        }
    }

    /// Does what the plan has for now, and notes what is in place in the records of this boot.
    ///
    /// A change that fails is undone and waits for the next boot, like those that depend on it; the
    /// others are done.
    pub fn apply(mut self, hash: &DeclarationHash, log: &mut Log<'_>) -> Result<Applied> {
        let _lock = self.container.lock()?;
        self.mount_stores()?;
        let mut plan = self.plan()?;
        let problems = apply::apply(&self, &mut plan, log)?;
        let found = self.note(&plan, hash)?;
        Ok(Applied { plan, problems, found })
    }

    /// Mounts the stores that are new since the boot.
    fn mount_stores(&mut self) -> Result<()> {
        for name in std::mem::take(&mut self.unmounted) {
            let needed = self.compiled.entries.iter().any(|entry| entry.store == name);
            let there = matches!(self.places.stores.get(&name), Some(Ok(_)));
            let Some(store) = self.compiled.stores.get(&name).filter(|_| needed && there) else {
                continue;
            };
            let path = self.places.stores_path.join(&name.0);
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .context(|| format!("cannot make {}", path.display()))?;
            let mounted = store::attach(store.place(), store.uuid, &path)
                .context(|| format!("cannot mount store {name} at {}", path.display()))?;
            self.places.stores.insert(name, Ok(mounted));
        }
        Ok(())
    }

    /// The records of this boot say what is in place now, and what waits. Returns whether something
    /// is there that was missing.
    fn note(mut self, plan: &Plan, hash: &DeclarationHash) -> Result<bool> {
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        let observed = attach::observe(&self.compiled.entries, &self.places, &mounts)?;
        let later = |change: &&Change| change.when != When::Now;
        let pending: BTreeSet<PathBuf> =
            plan.changes.iter().filter(later).map(|change| change.path.clone()).collect();
        let mut attached = Attached {
            entries: 0,
            missing: Vec::new(),
            waiting: Vec::new(),
            pending: pending.iter().cloned().collect(),
            partial: self.record.attached.as_ref().is_some_and(|it| it.partial),
            mounted: BTreeMap::new(),
        };
        if self.only.is_some() {
            // The others were not looked at.
            attached.pending =
                self.record.attached.iter().flat_map(|it| &it.pending).cloned().collect();
            attached.pending.retain(|path| {
                let index = self.compiled.entries.iter().position(|entry| entry.path == *path);
                index.and_then(|index| observed.get(index)).is_none_or(|seen| !seen.in_place)
            });
        }
        for (index, (entry, seen)) in self.compiled.entries.iter().zip(&observed).enumerate() {
            if seen.in_place {
                attached.entries += 1;
                if entry.method == Method::Bind {
                    attached.mounted.insert(entry.path.clone(), entry.store.clone());
                }
            } else if plan.waiting.contains(&index) {
                attached.waiting.push(entry.path.clone());
            } else if !attached.pending.contains(&entry.path) {
                attached.missing.push(entry.path.clone());
            }
        }
        // What is still mounted, though not declared any more, has its data elsewhere all the same.
        let before = self.record.attached.take();
        let missed = before.as_ref().map(|it| it.missing.as_slice()).unwrap_or_default();
        let found = missed.iter().any(|path| !attached.missing.contains(path));
        let before = before.as_ref().map(|it| it.mounted.clone()).unwrap_or_default();
        for change in plan.changes.iter().filter(later).filter(|it| it.work == Work::Detach) {
            if let Some(store) = before.get(&change.path) {
                attached.mounted.insert(change.path.clone(), store.clone());
            }
        }
        let all_done = attached.pending.is_empty();
        self.record.attached = Some(attached);
        if all_done && self.only.is_none() {
            self.record.declaration = Some(hash.clone());
        }
        self.container
            .set_record(&self.record)
            .context(|| "cannot write the record of this boot")?;
        let run = open_directory(&self.run)?;
        container::write_with_mode(run.as_fd(), crate::boot::RECORD, &self.record, 0o644)?;
        crate::boot::write_declaration(&self.run, &self.compiled)?;
        self.note_logins(plan)?;
        Ok(found)
    }

    /// Leaves a file for each user whose next login has something to do.
    fn note_logins(&self, plan: &Plan) -> Result<()> {
        let directory = self.run.join(LOGIN);
        let what = || format!("cannot note in {} who waits for a login", directory.display());
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory).context(what)?;
        let waits = plan.changes.iter().filter(|change| change.when == When::NextLogin);
        let users: BTreeSet<u32> = waits
            .filter_map(|change| self.owner(self.compiled.entries.get(change.entry?)?))
            .collect();
        for entry in std::fs::read_dir(&directory).context(what)?.flatten() {
            let name = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let theirs = name.is_some_and(|uid: u32| self.only.is_none_or(|only| only == uid));
            if theirs && !name.is_some_and(|uid| users.contains(&uid)) {
                std::fs::remove_file(entry.path()).context(what)?;
            }
        }
        for uid in users {
            std::fs::write(directory.join(uid.to_string()), "").context(what)?;
        }
        Ok(())
    }

    /// The accounts of the running root, once more.
    fn accounts(&self) -> Result<Accounts> {
        Accounts::read(self.places.root.as_fd()).context(|| "cannot read the root's accounts")
    }
}

fn open_store(path: &Path, wanted: &Store) -> Result<OwnedFd> {
    let opened = open_directory(path)?;
    match store::identity(opened.as_fd())? {
        Some(found) if found == wanted.uuid => Ok(opened),
        _ => Err(Failure::new(format!(
            "what is mounted at {} is another store than the declared one",
            path.display()
        ))
        .hint("the next boot mounts the declared one")),
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .context(|| format!("cannot open {}", path.display()))
}
