//! First content from a root in RAM: the next boot finds no old root that it could come from.
//!
//! Where roots are on a disk, an entry that has no data yet gets it at the next boot, from the root that
//! was put away. In RAM it is taken into its store while the system runs. It is not put in place then:
//! what writes there goes on writing to the root, so it is copied again when it has changed.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::Time;
use ebbtide_sys::{mountinfo, tree};
use serde::{Deserialize, Serialize};

use super::open;
use crate::attach::{self, Node, Observation, Places, Policy};
use crate::boot::{Boot, STORES};
use crate::compiled::{Compiled, Entry, Kind, Method, Store, StoreName};
use crate::container::{self, Container};
use crate::failure::{Context, Level, Log, Problem, Result};
use crate::harvest::Manifest;
use crate::moment;
use crate::record::{BootNumber, Outcome, Record, RootIdentity};
use crate::{status, store};

/// Where it is noted, in the run directory, what was imported.
const NOTES: &str = "imports.json";

/// What was imported from the running root: when the copying began, by path.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    version: u32,
    paths: BTreeMap<PathBuf, Time>,
}

/// What has data on the running root, and none in its store.
#[derive(Debug)]
pub(super) struct Imports {
    run: PathBuf,
    boot: BootNumber,
    compiled: Compiled,
    places: Places,
    /// What goes back by the manifest.
    synced: Vec<PathBuf>,
    notes: Notes,
}

/// What importing did.
#[derive(Debug, Default)]
pub(super) struct Imported {
    pub count: usize,
    pub problems: Vec<Problem>,
}

/// Why an entry is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    Again,
}

/// Paths that were imported from the running root in this boot, and are not in place.
pub(crate) fn imported(run: &Path) -> Vec<PathBuf> {
    read_notes(run).paths.into_keys().collect()
}

fn read_notes(run: &Path) -> Notes {
    // Without them, what was imported is not looked at again, and nothing else.
    let notes = open(run).and_then(|run| container::read(run.as_fd(), Path::new(NOTES)));
    let notes: Option<Notes> = notes.ok().flatten();
    notes
        .filter(|notes| notes.version == container::VERSION)
        .unwrap_or(Notes { version: container::VERSION, paths: BTreeMap::new() })
}

impl Imports {
    /// Opens the stores; `None` where there is nothing to import, because the next boot does it or
    /// because this one changes no store.
    pub(super) fn open(
        boot: &Boot,
        sysroot: &Path,
        container: &Container,
        record: &Record,
        manifest: &Manifest,
    ) -> Result<Option<Self>> {
        let in_ram = record.root.as_ref().is_some_and(RootIdentity::is_in_ram);
        if !in_ram || record.outcome != Outcome::Reset {
            return Ok(None);
        }
        // What the next boot goes by counts, not what this one did.
        let (_, compiled) = status::declaration(boot, container)?;
        let stores_path = boot.run.join(STORES);
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        let opened = |(name, wanted): (&StoreName, &Store)| {
            let path = stores_path.join(&name.0);
            let store = if mounts.iter().any(|mount| mount.mount_point == path) {
                open_mounted(&path, wanted)
            } else {
                store::open(wanted.place(), wanted.uuid)
            };
            (name.clone(), store.map_err(|failure| failure.chain()))
        };
        let stores = compiled.stores.iter().map(opened).collect();
        let base = record.base.as_ref().map(|base| base.number);
        let places = Places::of_running(open(sysroot)?, sysroot, stores, stores_path, base)?;
        Ok(Some(Self {
            run: boot.run.clone(),
            boot: record.number,
            compiled,
            places,
            synced: manifest.items.iter().map(|item| item.path.clone()).collect(),
            notes: read_notes(&boot.run),
        }))
    }

    /// A line for each entry that will be copied.
    pub(super) fn preview(&self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for wave in attach::waves(&self.compiled.entries) {
            for (entry, _) in self.due(&wave)? {
                let step = attach::Step::Import(attach::SeedSource::Running);
                lines.push(step.describe(&entry));
            }
        }
        Ok(lines)
    }

    /// Entries that have no data in their store, or only what was copied there in this boot.
    pub(super) fn paths(&self) -> Result<Vec<(PathBuf, Kind)>> {
        let seen = self.observe(&self.compiled.entries)?;
        let open = |(entry, seen): &(&Entry, Observation)| {
            let empty = seen.source == Ok(Node::Absent) && !seen.deleted;
            let placed = seen.in_place && entry.method != Method::Sync;
            !placed
                && !self.synced.contains(&entry.path)
                && (empty || self.notes.paths.contains_key(&entry.path))
        };
        let open = self.compiled.entries.iter().zip(seen).filter(open);
        Ok(open.map(|(entry, _)| (entry.path.clone(), entry.kind)).collect())
    }

    /// The entries of a wave that are to be copied.
    fn due(&self, wave: &[usize]) -> Result<Vec<(Entry, Turn)>> {
        let all = wave.iter().filter_map(|index| self.compiled.entries.get(*index));
        let some: Vec<Entry> =
            all.filter(|entry| !self.synced.contains(&entry.path)).cloned().collect();
        let mut due = Vec::new();
        for (entry, seen) in some.iter().zip(self.observe(&some)?) {
            if let Some(turn) = self.turn(entry, &seen)? {
                due.push((entry.clone(), turn));
            }
        }
        Ok(due)
    }

    fn observe(&self, entries: &[Entry]) -> Result<Vec<Observation>> {
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        attach::observe(entries, &self.places, &mounts)
    }

    fn turn(&self, entry: &Entry, seen: &Observation) -> Result<Option<Turn>> {
        // Every copy counts as in place while the root is in use.
        if seen.in_place && entry.method != Method::Sync {
            return Ok(None);
        }
        if seen.source == Ok(Node::Absent) {
            return Ok(seen.seed.as_ref().map(|_| Turn::First));
        }
        let Some(since) = self.notes.paths.get(&entry.path) else { return Ok(None) };
        let there = matches!(seen.target, Node::Directory(_) | Node::File(_));
        if seen.source.is_err() || !there {
            return Ok(None);
        }
        let root = self.places.root.as_fd();
        let changed = tree::changed_since(root, entry.relative(), *since)
            .context(|| format!("cannot look at {}", shown(&entry.path)))?;
        Ok(changed.map(|_| Turn::Again))
    }

    /// Copies all of it; what fails does not stop the others.
    pub(super) fn apply(mut self, log: &mut Log<'_>) -> Result<Imported> {
        let mut done = Imported::default();
        for wave in attach::waves(&self.compiled.entries) {
            for (entry, turn) in self.due(&wave)? {
                let began = moment::now();
                if self.copy(&entry, turn, &mut done.problems, log)? {
                    done.count += 1;
                    self.notes.paths.insert(entry.path.clone(), began);
                    self.note()?;
                }
            }
        }
        Ok(done)
    }

    /// Returns whether the store has it now as the root had it.
    fn copy(
        &self,
        entry: &Entry,
        turn: Turn,
        problems: &mut Vec<Problem>,
        log: &mut Log<'_>,
    ) -> Result<bool> {
        let one = std::slice::from_ref(entry);
        if turn == Turn::Again {
            let again = attach::import_again(entry, &self.places, self.boot)
                .context(|| format!("cannot copy {} again", shown(&entry.path)));
            match again {
                Ok(told) => problems.extend(told),
                Err(failure) => {
                    problems.push(Problem::from_failure(Level::Warning, &failure));
                    return Ok(false);
                }
            }
        }
        let mut plan = attach::plan(one, &self.observe(one)?, Policy::Full);
        plan.steps.retain(|(_, step)| step.fills_store());
        let applied = attach::apply(&plan, one, &self.places, self.boot, log);
        problems.extend(plan.problems.into_iter().chain(applied).map(|(_, problem)| problem));
        let seen = self.observe(one)?;
        Ok(seen.first().is_some_and(|seen| seen.source != Ok(Node::Absent)))
    }

    fn note(&self) -> Result<()> {
        let run = open(&self.run)?;
        container::write(run.as_fd(), NOTES, &self.notes)
    }
}

fn open_mounted(path: &Path, wanted: &Store) -> Result<OwnedFd> {
    let opened = open(path)?;
    match store::identity(opened.as_fd())? {
        Some(found) if found == wanted.uuid => Ok(opened),
        _ => store::open(wanted.place(), wanted.uuid),
    }
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}
