//! What gc will do: a pure function of what was observed.

mod caches;
mod display;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ebbtide_sys::escape;
use ebbtide_sys::file::Room;
use ebbtide_sys::metadata::Time;
use serde::Serialize;
use uuid::Uuid;

pub use caches::{Cache, Cached};

use crate::compiled::StoreName;
use crate::record::BootNumber;
use crate::retention::{KeepBoots, KeepCache, KeepTrash, Share};
use crate::undeclared::{Undeclared, shown};

/// Records of so many boots stay.
pub const RECORDS: u64 = 100;

/// A past root that holds less than this itself makes no room.
pub const WORTHWHILE: u64 = 1 << 20;

/// No boot of Ebbtide was earlier: 1 November 2026.
pub const EARLIEST: i64 = 1_793_491_200;

/// A clock that went this many seconds more or less than the kernel did, since it booted, was set.
const SET: u64 = 86_400;

const DAY: i64 = 86_400;

/// What gc needs to know. Lists are in the order of boot numbers.
#[derive(Debug, Clone, Default)]
pub struct Observation {
    /// The boot that runs; `None` if no record is about it.
    pub running: Option<BootNumber>,
    /// The clock, and for how many seconds the kernel runs.
    pub now: Now,
    /// Boots whose record can be read.
    pub boots: Vec<Boot>,
    /// Past roots.
    pub roots: Vec<PastRoot>,
    /// Whether the identity of every root in the container is known.
    pub all_known: bool,
    /// What an earlier run took out and did not finish, by its name.
    pub unfinished: Vec<OsString>,
    /// What lies among the past roots and is none.
    pub strange: Vec<OsString>,
    /// Manifests, by the root that they are about, and whether that root is there.
    pub manifests: Vec<(Uuid, bool)>,
    /// The room on the volume.
    pub room: Option<Room>,
    /// The trash of each store that is there.
    pub trash: BTreeMap<StoreName, Vec<Trash>>,
    /// What the stores have and no entry keeps.
    pub undeclared: Vec<Undeclared>,
    /// The files of caches of which not all stay.
    pub caches: BTreeMap<StoreName, Cache>,
}

/// The time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Seconds since 1970.
    pub clock: i64,
    /// Seconds since the kernel booted.
    pub uptime: u64,
}

/// One boot, by its record.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// Its number.
    pub number: BootNumber,
    /// Seconds since 1970 when it began, by a clock that may have been wrong.
    pub clock: i64,
    /// Whether it came up with all its entries, without an error, and ended cleanly.
    pub good: bool,
    /// Whether the root that it ran on is in the container.
    pub has_root: bool,
}

/// A past root.
#[derive(Debug, Clone)]
pub struct PastRoot {
    /// The boot that ran on it last.
    pub number: BootNumber,
    /// Bytes that it holds beside its base, if that is known.
    pub own_bytes: Option<u64>,
    /// Where it is mounted, if it is; `/` if the system runs on it.
    pub mounted: Option<String>,
    /// Whether no boot on a later root came up: a boot that nothing else helps runs on it.
    pub came_up: bool,
}

/// What left a store in one boot.
#[derive(Debug, Clone, Copy)]
pub struct Trash {
    /// The boot.
    pub number: BootNumber,
    /// What it takes.
    pub bytes: u64,
}

/// What the declaration says.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Which past roots stay.
    pub boots: KeepBoots,
    /// How much of each store's trash stays.
    pub trash: BTreeMap<StoreName, KeepTrash>,
    /// How much of caches stays, and for how long.
    pub caches: BTreeMap<StoreName, KeepCache>,
    /// Whether what no entry keeps goes to the trash of its store: only if that was asked for.
    pub undeclared: bool,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum Step {
    /// Finish what an earlier run began.
    Finish {
        /// Its name in the container's `gc`.
        #[serde(serialize_with = "escaped")]
        #[cfg_attr(feature = "declaration", schemars(with = "String"))]
        name: OsString,
    },
    /// Delete a past root.
    Root {
        /// Its number.
        boot: BootNumber,
        /// Why it does not stay.
        why: Why,
        /// Bytes that it holds itself.
        own_bytes: Option<u64>,
    },
    /// Delete the manifest of a root that is gone.
    Manifest {
        /// The root.
        root: Uuid,
    },
    /// Delete the record of a boot.
    Record {
        /// Its number.
        boot: BootNumber,
    },
    /// Delete what left a store in one boot.
    Trash {
        /// The store.
        store: StoreName,
        /// The boot.
        boot: BootNumber,
        /// Why it does not stay.
        why: Why,
        /// What it takes.
        bytes: u64,
    },
    /// Delete files of a cache that were not used for long. None that is open goes, or that is used before its
    /// turn comes.
    Cache {
        /// The store.
        store: StoreName,
        /// The entry that they lie below.
        #[serde(serialize_with = "escaped_path")]
        #[cfg_attr(feature = "declaration", schemars(with = "String"))]
        path: PathBuf,
        /// Why they do not stay.
        why: Why,
        /// So many; once it is done, so many as went.
        files: u64,
        /// What becomes free with them; once it is done, what became free.
        bytes: u64,
        /// None of them was used later than this, in seconds since 1970.
        #[serde(serialize_with = "seconds")]
        #[cfg_attr(feature = "declaration", schemars(with = "i64"))]
        last: Time,
    },
    /// Move what no entry keeps to the trash of its store.
    Undeclared {
        /// The store.
        store: StoreName,
        /// Where it lies there: as the path that it would be at.
        #[serde(serialize_with = "escaped_path")]
        #[cfg_attr(feature = "declaration", schemars(with = "String"))]
        path: PathBuf,
        /// What it takes.
        bytes: u64,
    },
}

/// Why something does not stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// There are more than this.
    Count(u32),
    /// It was put away more than so many days ago.
    Days(u32),
    /// It goes as long as less than this is free.
    Free(#[cfg_attr(feature = "declaration", schemars(with = "String"))] Share),
    /// The trash takes more bytes than this.
    Size(u64),
    /// It was not used for so many seconds.
    Unused(u64),
    /// The cache takes more bytes than this.
    Limit(u64),
}

/// The steps, in order, and what is worth knowing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Plan {
    /// What to do.
    pub steps: Vec<Step>,
    /// What a person should know: one sentence each.
    pub notes: Vec<String>,
    /// What the stores have and no entry keeps.
    pub undeclared: Vec<Undeclared>,
}

/// Plans a run.
///
/// A cut after any step leaves what the next run plans anew; the running root, the base and what is not
/// a past root never come up.
pub fn plan(observed: &Observation, policy: &Policy) -> Plan {
    let finish = observed.unfinished.iter().cloned().map(|name| Step::Finish { name });
    let mut steps: Vec<_> = finish.collect();
    // First what may go at any time: it may make room enough for the others.
    let clock = (!trusted(observed).is_empty()).then_some(observed.now.clock);
    for (store, cache) in &observed.caches {
        let keep = policy.caches.get(store).copied().unwrap_or_default();
        steps.extend(caches::steps(store, cache, keep, clock));
    }
    let roots = roots(observed, &policy.boots);
    steps.extend(roots);
    if observed.all_known {
        let gone = observed.manifests.iter().filter(|(_, there)| !there);
        steps.extend(gone.map(|(root, _)| Step::Manifest { root: *root }));
        steps.extend(records(observed));
    }
    for (store, trash) in &observed.trash {
        let keep = policy.trash.get(store).copied().unwrap_or_default();
        steps.extend(trash_of(store, trash, keep, observed));
    }
    // Anything else somebody put there, and it is theirs.
    let known = observed.undeclared.iter().filter(|it| policy.undeclared && it.known);
    steps.extend(known.map(|it| Step::Undeclared {
        store: it.store.clone(),
        path: it.path.clone(),
        bytes: it.bytes,
    }));
    Plan { steps, notes: notes(observed, policy), undeclared: observed.undeclared.clone() }
}

/// Past roots that do not stay, oldest first.
fn roots(observed: &Observation, keep: &KeepBoots) -> Vec<Step> {
    let roots = &observed.roots;
    let good: BTreeSet<_> =
        observed.boots.iter().filter(|boot| boot.good).map(|boot| boot.number).collect();
    let last_good = roots.iter().rev().map(|root| root.number).find(|it| good.contains(it));
    let expired = expired(observed, keep.days);
    let short = observed.room.is_some_and(|room| room.available < keep.free.of(room.total));
    let step = |(index, root): (usize, &PastRoot)| {
        let newer = roots.len() - 1 - index;
        let more = |than: u32| usize::try_from(than).is_ok_and(|than| newer >= than);
        let stays = !more(keep.min)
            || Some(root.number) == last_good
            || Some(root.number) == observed.running
            || root.mounted.is_some()
            || root.came_up;
        let makes_room = root.own_bytes.is_none_or(|bytes| bytes >= WORTHWHILE);
        let why = if stays {
            return None;
        } else if more(keep.count) {
            Why::Count(keep.count)
        } else if Some(root.number) <= expired {
            Why::Days(keep.days)
        } else if short && makes_room {
            Why::Free(keep.free)
        } else {
            return None;
        };
        Some(Step::Root { boot: root.number, why, own_bytes: root.own_bytes })
    };
    let mut steps: Vec<_> = roots.iter().enumerate().filter_map(step).collect();
    // What goes in any case may make room enough for the others.
    steps.sort_by_key(|step| matches!(step, Step::Root { why: Why::Free(_), .. }));
    steps
}

/// The newest boot that is known to have ended more than so many days ago; all before it did as well,
/// because numbers only grow.
fn expired(observed: &Observation, days: u32) -> Option<BootNumber> {
    let limit = observed.now.clock.saturating_sub(DAY.saturating_mul(days.into()));
    let trusted = trusted(observed);
    // What was used in a boot was put away when the next one began.
    let ended = trusted.windows(2).filter_map(|pair| match pair {
        [boot, next] => (next.clock < limit).then_some(boot.number),
        _ => None,
    });
    ended.max()
}

/// The boots, up to the one that runs, whose clocks can be believed: those since the last time that the
/// clock was wrong as far as anybody can tell. None if it is wrong now.
fn trusted(observed: &Observation) -> &[Boot] {
    let Some(running) = observed.running else { return &[] };
    let Some(end) = observed.boots.iter().position(|boot| boot.number == running) else {
        return &[];
    };
    let up_to_now = observed.boots.get(..=end).unwrap_or_default();
    let clock = observed.now.clock;
    let since = |boot: &Boot| clock.saturating_sub(boot.clock);
    let went = up_to_now.last().map(since).and_then(|went| u64::try_from(went).ok());
    if went.is_none_or(|went| went.abs_diff(observed.now.uptime) > SET) {
        return &[];
    }
    let mut first = end;
    let mut later = clock;
    for (index, boot) in up_to_now.iter().enumerate().rev() {
        if boot.clock < EARLIEST || boot.clock > later {
            break;
        }
        later = boot.clock;
        first = index;
    }
    if later > clock { &[] } else { up_to_now.get(first..).unwrap_or_default() }
}

/// Records of boots long ago, whose roots are gone.
fn records(observed: &Observation) -> impl Iterator<Item = Step> {
    let last = observed.boots.last().map_or(0, |boot| boot.number.0);
    let old = move |boot: &&Boot| {
        boot.number.0 + RECORDS <= last
            && !boot.has_root
            && Some(boot.number) != observed.running
            && observed.roots.iter().all(|root| root.number != boot.number)
    };
    observed.boots.iter().filter(old).map(|boot| Step::Record { boot: boot.number })
}

fn trash_of(
    store: &StoreName,
    trash: &[Trash],
    keep: KeepTrash,
    observed: &Observation,
) -> Vec<Step> {
    let expired = expired(observed, keep.days);
    // Without a record it is not known what came from the current boot. What its reset put there has
    // the number of the boot before.
    let before =
        |running| observed.boots.iter().rev().map(|boot| boot.number).find(|it| *it < running);
    let Some(recent) = observed.running.and_then(before) else { return Vec::new() };
    let mut left: u64 = trash.iter().map(|trash| trash.bytes).fold(0, u64::saturating_add);
    let mut steps = Vec::new();
    for trash in trash.iter().filter(|trash| trash.number < recent) {
        let why = if Some(trash.number) <= expired {
            Why::Days(keep.days)
        } else if left > keep.size {
            Why::Size(keep.size)
        } else {
            continue;
        };
        left = left.saturating_sub(trash.bytes);
        let (boot, bytes) = (trash.number, trash.bytes);
        steps.push(Step::Trash { store: store.clone(), boot, why, bytes });
    }
    steps
}

fn notes(observed: &Observation, policy: &Policy) -> Vec<String> {
    let mut notes: Vec<_> = observed
        .strange
        .iter()
        .map(|name| {
            let name = escape(name.as_encoded_bytes());
            format!("past/{name} in the container is no past root: it stays as it is")
        })
        .collect();
    let aged = |keep: &KeepCache| keep.max_age.is_some();
    let is_aged = !observed.roots.is_empty() || policy.caches.values().any(aged);
    if is_aged && trusted(observed).is_empty() {
        notes.push(
            "the clock is or was wrong, as far as the records tell: nothing is deleted for its age"
                .to_owned(),
        );
    }
    for root in &observed.roots {
        if let Some(place) = &root.mounted {
            notes.push(format!("past root {} is mounted at {place}: it stays", root.number));
        }
    }
    for (store, cache) in &observed.caches {
        let keep = policy.caches.get(store).copied().unwrap_or_default();
        notes.extend(caches::notes(store, cache, keep));
    }
    notes
}

fn escaped_path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(path))
}

fn seconds<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(time.0)
}

fn escaped<S: serde::Serializer>(name: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&escape(name.as_encoded_bytes()))
}

#[cfg(test)]
mod tests;
