//! What a store is known to have kept: the notes of first content, and of what is not declared any more.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, metadata};
use serde::{Deserialize, Serialize};

use super::{open_own, own_directory, own_subdirectory};
use crate::compiled::sha256;
use crate::container;
use crate::failure::{Context, Result};
use crate::record::BootNumber;

const SEEDS: &str = "seeds";
/// Notes of paths that were declared.
const FORGOTTEN: &str = "forgotten";

/// Where a path's first content came from: noted once, so that it is never seeded again, even when
/// it was deleted since.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SeedNote {
    version: u32,
    path: PathBuf,
    source: String,
    /// The base that the root of that time was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base: Option<u64>,
    /// SHA-256 of a file's bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

/// Notes durably that a path of the store has had its first content.
pub(crate) fn note_seed(
    store: BorrowedFd<'_>,
    path: &Path,
    source: &str,
    base: Option<u64>,
    hash: Option<String>,
) -> Result<()> {
    let seeds = own_subdirectory(store, SEEDS)?;
    let note = SeedNote {
        version: container::VERSION,
        path: path.to_owned(),
        source: source.to_owned(),
        base,
        hash,
    };
    container::write(seeds.as_fd(), &file_name(path), &note)
}

/// Whether a path of the store has had its first content.
pub(crate) fn was_seeded(store: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    let Some(own) = own_directory(store)? else { return Ok(false) };
    let note: Option<SeedNote> =
        container::read(own.as_fd(), &Path::new(SEEDS).join(file_name(path)))?;
    Ok(note.is_some_and(|note| note.path == path))
}

fn file_name(path: &Path) -> String {
    format!("{}.json", sha256(path.as_os_str().as_encoded_bytes()))
}

/// Removes the note that a path has had its first content, durably.
pub(crate) fn remove_seed(store: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let seeds = own_subdirectory(store, SEEDS)?;
    file::remove_file_durably(seeds.as_fd(), OsStr::new(&file_name(path)))
        .map(drop)
        .context(|| "cannot remove the note of it")
}

/// Since when something is not declared any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Since {
    /// The boot in which that was.
    pub boot: BootNumber,
    /// Seconds since 1970 by the clock, which may have been wrong.
    pub clock: i64,
}

/// Noted when a declaration without the path came into force.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ForgottenNote {
    version: u32,
    path: PathBuf,
    boot: BootNumber,
    clock: i64,
}

/// Notes durably that a path of the store is not declared any more.
#[cfg(feature = "declaration")]
pub(crate) fn note_forgotten(store: BorrowedFd<'_>, path: &Path, since: Since) -> Result<()> {
    let directory = own_subdirectory(store, FORGOTTEN)?;
    let Since { boot, clock } = since;
    let note = ForgottenNote { version: container::VERSION, path: path.to_owned(), boot, clock };
    container::write(directory.as_fd(), &file_name(path), &note)
}

/// A path that the store is known to have kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// Since when it is not declared, where that was noted.
    pub(crate) since: Option<Since>,
}

/// All paths that the store is known to have kept. A note that can't be read says nothing.
pub(crate) fn known(store: BorrowedFd<'_>) -> Result<BTreeMap<PathBuf, Known>> {
    let mut known = BTreeMap::new();
    each(store, SEEDS, &mut |_, note: SeedNote| {
        known.insert(note.path, Known { since: None });
        Ok(())
    })?;
    each(store, FORGOTTEN, &mut |_, note: ForgottenNote| {
        let since = Some(Since { boot: note.boot, clock: note.clock });
        known.insert(note.path, Known { since });
        Ok(())
    })?;
    Ok(known)
}

/// Removes all notes of a path and of what is below it, durably: what the store has of it is going to
/// leave it, and its first content is to come again.
pub(crate) fn forget(store: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let what = || "cannot remove the note of it";
    let remove = |name: &Name<'_>, of: &Path| {
        if of.starts_with(path) { name.remove().context(what) } else { Ok(()) }
    };
    each(store, SEEDS, &mut |name, note: SeedNote| remove(&name, &note.path))?;
    each(store, FORGOTTEN, &mut |name, note: ForgottenNote| remove(&name, &note.path))
}

/// A note's own file.
struct Name<'d> {
    directory: BorrowedFd<'d>,
    name: &'d OsStr,
}

impl Name<'_> {
    fn remove(&self) -> ebbtide_sys::Result<()> {
        file::remove_file_durably(self.directory, self.name).map(drop)
    }
}

fn each<T: serde::de::DeserializeOwned>(
    store: BorrowedFd<'_>,
    kind: &str,
    look: &mut dyn FnMut(Name<'_>, T) -> Result<()>,
) -> Result<()> {
    let Some(own) = own_directory(store)? else { return Ok(()) };
    let what = || format!("cannot list the notes in .ebbtide/{kind} of the store");
    if metadata::metadata_beneath(own.as_fd(), Path::new(kind)).context(what)?.is_none() {
        return Ok(());
    }
    let directory = open_own(own.as_fd(), kind)?;
    for entry in file::read_directory(directory.as_fd()).context(what)? {
        if let Ok(Some(note)) = container::read::<T>(directory.as_fd(), Path::new(&entry.name)) {
            look(Name { directory: directory.as_fd(), name: &entry.name }, note)?;
        }
    }
    Ok(())
}
