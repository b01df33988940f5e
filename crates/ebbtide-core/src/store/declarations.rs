//! Compiled declarations in the state store: named by their content, which hashes in the container
//! vouch for.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ebbtide_sys::{file, resolve};
use rustix::io::Errno;

use super::{OWN, make_directory, move_to_trash, own_directory};
use crate::compiled::{Compiled, DeclarationHash};
use crate::container::{self, Container, Pins};
use crate::failure::{Context, Failure, Level, Problem, Result};

pub(super) const DIRECTORY: &str = "declarations";

/// The longest compiled declaration that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// Whether a store has compiled declarations, as the state store of a container has.
pub fn has_declarations(store: BorrowedFd<'_>) -> bool {
    let path = Path::new(OWN).join(DIRECTORY);
    resolve::open_directory(store, &path)
        .and_then(|directory| file::read_directory(directory.as_fd()))
        .is_ok_and(|names| !names.is_empty())
}

/// Writes a compiled declaration into the state store and pins it in the container: first the
/// content under its own hash, then the pins in one atomic step, then what no pin names is removed.
/// Returns the hash, and whether it is another than before.
pub fn publish(
    state: BorrowedFd<'_>,
    container: &Container,
    compiled: &Compiled,
) -> Result<(DeclarationHash, bool)> {
    let bytes = compiled.to_bytes();
    let hash = DeclarationHash::of(&bytes);
    let pinned = container.pins()?;
    // A path unit and every shutdown compile again, and nearly always it is the same.
    if pinned.is_some_and(|pins| pins.current == hash) && read(state, &hash).is_ok() {
        return Ok((hash, false));
    }
    let own = own_directory(state)?
        .ok_or_else(|| Failure::new("the state store has no .ebbtide directory"))?;
    let directory = make_directory(own.as_fd(), DIRECTORY)?;
    let name = file_name(&hash);
    let write = || file::replace_file(directory.as_fd(), OsStr::new(&name), &bytes, 0o600);
    match write() {
        Err(error) if error.errno() == Errno::ISDIR => {
            clear(state, container, directory.as_fd(), OsStr::new(&name))?;
            write()
        }
        written => written,
    }
    .context(|| "cannot write the compiled declaration")?;
    let old = container.pins()?;
    let changed = old.as_ref().is_none_or(|pins| pins.current != hash);
    let previous = match old {
        Some(pins) if pins.current == hash => pins.previous,
        Some(pins) => Some(pins.current),
        None => None,
    };
    let pins = Pins { version: container::VERSION, current: hash.clone(), previous };
    container.set_pins(&pins)?;
    let kept: Vec<_> = [Some(&pins.current), pins.previous.as_ref()]
        .into_iter()
        .flatten()
        .map(file_name)
        .collect();
    let names = file::read_directory(directory.as_fd()).context(|| "cannot list declarations")?;
    for entry in names {
        if !kept.iter().any(|name| OsStr::new(name) == entry.name) {
            match file::remove_file_durably(directory.as_fd(), &entry.name) {
                Err(error) if error.errno() == Errno::ISDIR => {
                    clear(state, container, directory.as_fd(), &entry.name)?;
                }
                removed => drop(removed.context(|| "cannot remove an old compiled declaration")?),
            }
        }
    }
    Ok((hash, changed))
}

/// Moves a directory, which nothing of Ebbtide made there, into the trash.
fn clear(
    state: BorrowedFd<'_>,
    container: &Container,
    directory: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<()> {
    let place = Path::new(OWN).join(DIRECTORY).join(name);
    move_to_trash(state, container.last_number()?, directory, name, &place).map(drop)
}

/// Reads the pinned compiled declaration, or the previous one with a warning.
pub fn load(
    state: BorrowedFd<'_>,
    pins: &Pins,
) -> Result<(DeclarationHash, Compiled, Option<Problem>)> {
    let failure = match read(state, &pins.current) {
        Ok(compiled) => return Ok((pins.current.clone(), compiled, None)),
        Err(failure) => failure,
    };
    let Some(previous) = &pins.previous else { return Err(failure) };
    let compiled = read(state, previous).map_err(|second| {
        Failure::new(format!("{}; nor the previous one: {}", failure.chain(), second.chain()))
            .hint("run `ebbtide apply` to compile the declaration again")
    })?;
    let problem = Problem {
        level: Level::Error,
        message: format!("{}; the previous one is used", failure.chain()),
        hint: Some("run `ebbtide apply` to compile the declaration again".to_owned()),
    };
    Ok((previous.clone(), compiled, Some(problem)))
}

fn read(state: BorrowedFd<'_>, hash: &DeclarationHash) -> Result<Compiled> {
    let what = || format!("cannot use the compiled declaration {}", short(hash));
    let own = own_directory(state)?
        .ok_or_else(|| Failure::new("the state store has no .ebbtide directory"))?;
    let path = Path::new(DIRECTORY).join(file_name(hash));
    let bytes = file::read_trusted(own.as_fd(), &path, LIMIT)
        .map_err(|error| container::advised(Failure::new(what()), &error).caused_by(error))?;
    Compiled::from_bytes(&bytes, hash).context(what)
}

fn file_name(hash: &DeclarationHash) -> String {
    format!("{hash}.json")
}

fn short(hash: &DeclarationHash) -> &str {
    hash.as_str().get(..12).unwrap_or_default()
}
