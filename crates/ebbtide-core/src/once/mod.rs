//! Paths that are carried over the next reset, once: taken from the root that it puts away into the new one,
//! without being declared.
//!
//! The wish lies in the state store and names the root that it is about, so that a boot which resets
//! nothing leaves it as it is. The boot that fulfils it writes that into its record first, and removes the
//! wish only then: after a cut in between, the record says that it is done.

#[cfg(feature = "declaration")]
mod ask;
mod carry;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{escape, file};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[cfg(feature = "declaration")]
pub use ask::{Once, Plan};
pub(crate) use carry::carry;

use crate::boot::Boot;
use crate::container;
use crate::failure::{Context, Failure, Result};
use crate::store;

const FILE: &str = "once.json";

/// What is to be carried over the reset that puts a root away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    version: u32,
    /// The root that has the paths.
    root: Uuid,
    /// Absolute and normalised, none below another one.
    paths: Vec<PathBuf>,
}

/// Reads the wish in a state store; `None` if there is none.
///
/// # Errors
///
/// If it can't be understood, or if others than root could have changed it.
pub(crate) fn read(state: BorrowedFd<'_>) -> Result<Option<Wish>> {
    let what =
        || format!("cannot read which paths are carried over, .ebbtide/{FILE} in the state store");
    let Some(own) = store::own_directory(state).context(what)? else { return Ok(None) };
    let wish: Option<Wish> = container::read(own.as_fd(), Path::new(FILE))
        .context(what)
        .map_err(|failure| failure.hint("remove that file; then ask for it again"))?;
    let Some(wish) = wish else { return Ok(None) };
    container::check_version("the list of carried paths", wish.version)?;
    let is_normal = |path: &PathBuf| {
        use std::path::Component::{Normal, RootDir};
        path.is_absolute()
            && path.parent().is_some()
            && path.components().all(|it| matches!(it, Normal(_) | RootDir))
    };
    if !wish.paths.iter().all(is_normal) {
        return Err(Failure::new(what()).caused_by("it names something that is no absolute path"));
    }
    Ok(Some(wish))
}

/// Writes a wish durably, or removes it if it is about no path.
#[cfg(feature = "declaration")]
pub(crate) fn write(state: BorrowedFd<'_>, root: Uuid, paths: Vec<PathBuf>) -> Result<()> {
    if paths.is_empty() {
        return remove(state);
    }
    let own = store::own_directory(state)?
        .ok_or_else(|| Failure::new("the state store has no .ebbtide directory"))?;
    container::write(own.as_fd(), FILE, &Wish { version: container::VERSION, root, paths })
        .context(|| "cannot write down which paths are carried over")
}

/// Removes a wish durably.
pub(crate) fn remove(state: BorrowedFd<'_>) -> Result<()> {
    let Some(own) = store::own_directory(state)? else { return Ok(()) };
    file::remove_file_durably(own.as_fd(), OsStr::new(FILE))
        .map(drop)
        .context(|| "cannot remove the list of paths that were carried over")
}

/// Removes the wish of a machine, once the record of the boot that fulfilled it is durable.
pub(crate) fn end(boot: &Boot) -> Result<()> {
    remove(boot.open_state()?.as_fd())
}

/// What a machine is going to carry over its next reset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Paths on the root of today.
    pub paths: Vec<PathBuf>,
    /// Paths that were on an earlier root: its reset has gone by, and did not take them along.
    pub left: Vec<PathBuf>,
}

/// Looks what is going to be carried over the reset that puts `root` away.
pub fn carried(boot: &Boot, root: Uuid) -> Result<Carried> {
    carried_in(boot.open_state()?.as_fd(), root)
}

/// The same, in a state store that is open already.
pub(crate) fn carried_in(state: BorrowedFd<'_>, root: Uuid) -> Result<Carried> {
    Ok(match read(state)? {
        Some(wish) if wish.root == root => Carried { paths: wish.paths, left: Vec::new() },
        Some(wish) => Carried { paths: Vec::new(), left: wish.paths },
        None => Carried::default(),
    })
}

/// Makes a wish about one root one about another, which stands for it in a rehearsal.
#[cfg(feature = "declaration")]
pub(crate) fn transfer(state: BorrowedFd<'_>, from: Uuid, to: Uuid) -> Result<()> {
    match read(state) {
        Ok(Some(wish)) if wish.root == from => write(state, to, wish.paths),
        // The boot that is rehearsed says what is wrong with it.
        _ => Ok(()),
    }
}

/// Paths for a message.
fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// The same for several.
pub fn listed<'p>(paths: impl IntoIterator<Item = &'p PathBuf>) -> String {
    paths.into_iter().map(|path| shown(path)).collect::<Vec<_>>().join(", ")
}
