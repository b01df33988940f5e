//! Past roots: what earlier boots left behind, and how they ended.

pub mod glob;
#[cfg(feature = "declaration")]
pub mod grep;
pub mod history;
pub mod mounted;
pub mod restore;
pub mod sources;
pub mod taken;
pub mod theirs;
mod total;
pub mod version;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{metadata, tree};
use serde::{Deserialize, Serialize};

use crate::backend;
use crate::compiled::Backend;
use crate::compiled::StoreName;
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{BootNumber, Ending, Outcome, Record, RootIdentity};
use crate::store;

/// One boot, as `boots` lists it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct PastBoot {
    /// Its number.
    pub number: BootNumber,
    /// Whether the system runs on it now.
    pub current: bool,
    /// Seconds since 1970 by the clock when it started, which may have been wrong.
    pub clock: Option<i64>,
    /// What happened to its root.
    pub outcome: Option<Outcome>,
    /// How it ended; `None` while it runs, or when that is not known.
    pub ended: Option<Ending>,
    /// Where its root lies below the top level of the volume; `None` when it is not kept, or in RAM.
    pub root: Option<PathBuf>,
    /// The later boot that went on with the same root: that one's place has it.
    pub continued_as: Option<BootNumber>,
    /// Bytes of data that this boot wrote to its root and that are still there.
    pub own_bytes: Option<u64>,
    /// How many problems its record has.
    pub problems: usize,
}

/// All boots that left a root or a record, newest first. `path` is the container's own.
pub fn boots(container: &Container, path: &Path, kernel_boot_id: &str) -> Result<Vec<PastBoot>> {
    list(container, path, kernel_boot_id, None, true)
}

/// As [`boots`], without their sizes: quick, and nothing about what anybody has.
pub fn boots_without_sizes(
    container: &Container,
    path: &Path,
    kernel_boot_id: &str,
) -> Result<Vec<PastBoot>> {
    list(container, path, kernel_boot_id, None, false)
}

/// The boot whose root was put away last.
///
/// # Errors
///
/// Among others if there is no past root.
pub fn newest_root(container: &Container) -> Result<BootNumber> {
    container.numbers(name::PAST)?.last().copied().ok_or_else(|| {
        Failure::new("there is no past root").hint(
            "a reset puts one away; a root in RAM goes with the power, unless `archive` is declared",
        )
    })
}

/// Whether the container has the past root of a boot.
pub fn has_root(container: &Container, number: BootNumber) -> Result<bool> {
    Ok(container.numbers(name::PAST)?.contains(&number))
}

/// All that is known about one boot.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Shown {
    /// As `boots` lists it.
    #[serde(flatten)]
    pub boot: PastBoot,
    /// Its record; `None` if that is gone.
    pub record: Option<Record>,
    /// What left each store under its number.
    pub trash: Vec<Trash>,
}

/// What left one store in one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Trash {
    /// The store.
    pub store: StoreName,
    /// How many files, links and the like.
    pub files: u64,
    /// What they take.
    pub bytes: u64,
}

/// Looks at one boot; `None` if there is neither a root nor a record of it.
pub fn show(
    container: &Container,
    path: &Path,
    kernel_boot_id: &str,
    stores: &BTreeMap<StoreName, OwnedFd>,
    number: BootNumber,
) -> Result<Option<Shown>> {
    let found = list(container, path, kernel_boot_id, Some(number), true)?;
    let Some(boot) = found.into_iter().next() else { return Ok(None) };
    let mut trash = Vec::new();
    for (name, opened) in stores {
        let Some(directory) = store::trash(opened.as_fd())? else { continue };
        let place = PathBuf::from(number.to_string());
        let what = || format!("cannot look at the trash of store {name}");
        if metadata::metadata_beneath(directory.as_fd(), &place).context(what)?.is_none() {
            continue;
        }
        trash.push(Trash {
            store: name.clone(),
            files: tree::count_files(directory.as_fd(), &place).context(what)?,
            bytes: tree::tree_size(directory.as_fd(), &place).context(what)?,
        });
    }
    Ok(Some(Shown { boot, record: container.record(number)?, trash }))
}

fn list(
    container: &Container,
    path: &Path,
    kernel_boot_id: &str,
    only: Option<BootNumber>,
    sizes: bool,
) -> Result<Vec<PastBoot>> {
    let past = container.numbers(name::PAST)?;
    let mut numbers = container.numbers(name::BOOTS)?;
    numbers.extend(&past);
    numbers.sort_unstable();
    numbers.dedup();
    let roots: Vec<_> = numbers
        .iter()
        .map(|number| Some((*number, container.record(*number).ok()??.root?.uuid())))
        .collect();
    numbers
        .into_iter()
        .rev()
        .filter(|number| only.is_none_or(|only| only == *number))
        .map(|number| {
            // A record that can't be read takes nothing but its own columns away.
            let record = container.record(number).ok().flatten();
            let below =
                past.contains(&number).then(|| Path::new(name::PAST).join(number.to_string()));
            let current = record.as_ref().is_some_and(|it| it.kernel_boot_id == kernel_boot_id);
            let on_disk = current && container.backend() != Backend::Tmpfs;
            let place = below.or_else(|| on_disk.then(|| PathBuf::from(name::ROOT)));
            let root =
                record.as_ref().and_then(|record| record.root.as_ref()).map(RootIdentity::uuid);
            let mut same = roots.iter().flatten().filter(|(_, uuid)| Some(*uuid) == root);
            let last = same.next_back().map(|(number, _)| *number);
            let measured = place.as_deref().filter(|_| sizes);
            let own_bytes = measured.and_then(|it| backend::own_bytes(container, it).ok());
            Ok(PastBoot {
                number,
                current,
                clock: record.as_ref().map(|record| record.clock),
                outcome: record.as_ref().map(|record| record.outcome.clone()),
                ended: record.as_ref().and_then(|record| record.ended),
                root: place.map(|place| path.join(place)),
                continued_as: last.filter(|last| *last > number),
                own_bytes,
                problems: record.as_ref().map_or(0, |record: &Record| record.problems.len()),
            })
        })
        .collect()
}
