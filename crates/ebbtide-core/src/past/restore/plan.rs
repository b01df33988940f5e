//! Deciding what is brought back, and where it goes: touches nothing.

use std::path::{Path, PathBuf};

use ebbtide_sys::escape;
use serde::{Deserialize, Serialize};

use crate::compiled::StoreName;
use crate::failure::{Failure, Result};
use crate::past::history::KeptBy;
use crate::past::sources::Place;
use crate::past::version::{State, Version};
use crate::record::BootNumber;

/// Which version is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The newest one that is not what is there now.
    Newest,
    /// That of the past root of this boot.
    Boot(BootNumber),
    /// That of the newest base.
    Base,
}

/// What to bring back.
#[derive(Debug, Clone)]
pub struct Request {
    /// Absolute and normalised.
    pub path: PathBuf,
    /// Which version.
    pub wanted: Wanted,
    /// Into this directory, and not to its own place.
    pub to: Option<PathBuf>,
    /// Whether what is there may be replaced.
    pub force: bool,
}

/// The place that something is restored to, and why it may be no good.
#[derive(Debug, Clone)]
pub struct Target {
    /// As the running system has it: absolute.
    pub path: PathBuf,
    /// What sort of place it is.
    pub area: Area,
    /// What is there.
    pub existing: Existing,
    /// Directories above it that are not there, the outermost first: absolute.
    pub parents: Vec<PathBuf>,
    /// Where something is mounted, at it or below it: absolute.
    pub mounts: Vec<PathBuf>,
    /// What a restore that was cut off left beside it.
    pub leftover: Option<PathBuf>,
}

/// What sort of place it is: decides what keeps it, and where its trash is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Area {
    /// The root of this boot; how much of it is kept.
    Root(Fate),
    /// In what an entry keeps.
    Store(KeptBy),
    /// Another filesystem, mounted on the root.
    Mounted,
    /// The directory that was asked for.
    Given,
}

/// What becomes of something on the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The next reset takes it away.
    Forgotten,
    /// An entry of the method `sync` takes it into its store.
    Synced(KeptBy),
    /// An entry that has no data yet takes it into its store.
    First(KeptBy),
}

/// What is at the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing.
    Nothing,
    /// A directory without anything in it.
    EmptyDirectory,
    /// The mount point of the entry itself, with nothing in it yet.
    EmptyEntry {
        /// Whether owner or mode are declared, so that those of the past do not count.
        declared: bool,
    },
    /// Anything else.
    Data,
}

/// All that is known when it is decided.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Versions in past roots and bases, the newest first.
    pub versions: &'a [(Place, State)],
    /// What is there now.
    pub now: &'a State,
    /// The place.
    pub target: &'a Target,
}

/// What becomes of what is at the place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Replaced {
    /// Nothing is there.
    Nothing,
    /// An empty directory gives way.
    EmptyDirectory,
    /// An empty directory that is mounted from its store stays, and is filled.
    EmptyEntry,
    /// It goes to the trash.
    Trash,
}

/// What is kept of the restored version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// The next reset takes it away.
    Forgotten,
    /// An entry keeps it.
    Kept(KeptBy),
    /// An entry takes it into its store, at shutdown or with `ebbtide flush`.
    Synced(KeptBy),
    /// An entry takes it into its store, at the next boot or with `ebbtide apply`.
    First(KeptBy),
    /// It is not on the root: whether it is kept is not known.
    Elsewhere,
}

/// What will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What is brought back: absolute.
    pub path: PathBuf,
    /// From where.
    pub from: Place,
    /// Which version.
    pub version: Version,
    /// To where: absolute.
    pub to: PathBuf,
    /// Directories that are made first, as they were: absolute.
    pub parents: Vec<PathBuf>,
    /// What becomes of what is there.
    pub replaced: Replaced,
    /// What an earlier restore left, which goes to the trash: absolute.
    pub leftover: Option<PathBuf>,
    /// What is kept of it.
    pub after: After,
}

/// Decides, or says why not.
pub fn plan(request: &Request, seen: &Seen<'_>) -> Result<Plan> {
    let shown = shown(&request.path);
    let cannot = |why: String| Failure::new(format!("cannot restore {shown}: {why}"));
    let (from, version) = choose(request, seen.versions, seen.now)?;
    let target = seen.target;
    let elsewhere = format!("`ebbtide restore --to DIR {shown}` puts it elsewhere");
    let filled = matches!(target.existing, Existing::EmptyEntry { .. });
    if let Some(mount) = target.mounts.iter().find(|mount| !filled || **mount != target.path) {
        if let Some(leftover) = target.leftover.as_ref().filter(|_| *mount == target.path) {
            return Err(cannot(format!(
                "a restore that was cut off has filled it in part; the rest is in {}",
                self::shown(leftover)
            ))
            .hint("nothing of the past root is lost: empty it, then restore it again"));
        }
        let place = if *mount == target.path { "it" } else { "a directory below it" };
        return Err(cannot(format!("{place} is a mount point ({})", self::shown(mount)))
            .hint(format!("restore what lies in it, path by path; or {elsewhere}")));
    }
    let replaced = match target.existing {
        Existing::Nothing => Replaced::Nothing,
        Existing::EmptyDirectory if version.entries.is_some() => Replaced::EmptyDirectory,
        Existing::EmptyEntry { .. } if version.entries.is_some() => Replaced::EmptyEntry,
        // A file can't be mounted on a directory.
        Existing::EmptyEntry { .. } => {
            return Err(cannot("it is kept as a directory, and was something else".to_owned())
                .hint(elsewhere));
        }
        _ if !request.force => {
            return Err(cannot(format!("{} is there already", self::shown(&target.path))).hint(
                match target.area {
                    Area::Given => "choose an empty directory".to_owned(),
                    _ => format!("with `--force` it goes to the trash; {elsewhere}"),
                },
            ));
        }
        _ => Replaced::Trash,
    };
    let trashed = replaced == Replaced::Trash || target.leftover.is_some();
    if trashed && matches!(target.area, Area::Mounted | Area::Given) {
        let place = target.leftover.as_ref().filter(|_| replaced != Replaced::Trash);
        return Err(match place {
            Some(leftover) => {
                cannot(format!("{} is what a restore that was cut off left", self::shown(leftover)))
                    .hint("it may hold what was replaced: look into it, then move it away")
            }
            None => cannot(format!(
                "{} is on another filesystem than the root, where there is no trash for it",
                self::shown(&target.path)
            ))
            .hint(format!("move it away first; or {elsewhere}")),
        });
    }
    Ok(Plan {
        path: request.path.clone(),
        from,
        version,
        to: target.path.clone(),
        parents: target.parents.clone(),
        replaced,
        leftover: target.leftover.clone(),
        after: match &target.area {
            Area::Root(Fate::Forgotten) => After::Forgotten,
            Area::Root(Fate::Synced(kept)) => After::Synced(kept.clone()),
            Area::Root(Fate::First(kept)) => After::First(kept.clone()),
            Area::Store(kept) => After::Kept(kept.clone()),
            // What is mounted there is no part of a root.
            Area::Mounted | Area::Given => After::Elsewhere,
        },
    })
}

/// Why there is no such version, and what to do.
type Refused = (String, Option<String>);

/// Chooses the version that is meant.
pub(super) fn choose(
    request: &Request,
    versions: &[(Place, State)],
    now: &State,
) -> Result<(Place, Version)> {
    chosen(request, versions, now).map_err(|(why, hint)| {
        let failure = Failure::new(format!("cannot restore {}: {why}", shown(&request.path)));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    })
}

fn chosen(
    request: &Request,
    versions: &[(Place, State)],
    now: &State,
) -> std::result::Result<(Place, Version), Refused> {
    let log = format!("`ebbtide log {}` lists the versions that there are", shown(&request.path));
    let wanted = |place: &Place| match request.wanted {
        Wanted::Newest => true,
        Wanted::Boot(number) => *place == Place::Boot(number),
        Wanted::Base => matches!(place, Place::Base(_)),
    };
    let mut found = versions.iter().filter(|(place, _)| wanted(place));
    match request.wanted {
        Wanted::Newest => {
            let there: Vec<_> = found
                .filter_map(|(place, state)| match state {
                    State::Present(version) => Some((place, version)),
                    _ => None,
                })
                .collect();
            let differs = |(_, version): &&(&Place, &Version)| match now {
                State::Present(now) => !version.is_same(now),
                _ => true,
            };
            // Elsewhere, what is there now is of use as well.
            let first = there
                .iter()
                .find(differs)
                .or_else(|| there.first().filter(|_| request.to.is_some()));
            match first {
                Some((place, version)) => Ok(((*place).clone(), (*version).clone())),
                None if there.is_empty() => {
                    Err(("no past root and no base has it".to_owned(), Some(log)))
                }
                None => {
                    Err(("every version that there is, is what is there now".to_owned(), Some(log)))
                }
            }
        }
        Wanted::Boot(number) => match found.next() {
            None => Err((
                format!("there is no past root of boot {number}"),
                Some("`ebbtide boots` lists those that there are".to_owned()),
            )),
            Some((place, state)) => present(place, state, &format!("boot {number}"), log),
        },
        Wanted::Base => match found.next() {
            None => Err(("there is no base".to_owned(), None)),
            Some((place, state)) => present(place, state, "the base", log),
        },
    }
}

fn present(
    place: &Place,
    state: &State,
    name: &str,
    log: String,
) -> std::result::Result<(Place, Version), Refused> {
    match state {
        State::Present(version) => Ok((place.clone(), version.clone())),
        State::Absent | State::Deleted => Err((format!("{name} does not have it"), Some(log))),
        State::Kept(StoreName(store)) => Err((
            format!(
                "in {name} it was mounted from store {store}, so that past root does not have it"
            ),
            Some(format!("what left the store since then is in its trash, .ebbtide/trash; {log}")),
        )),
        State::Unknown(why) => Err((format!("that of {name} can't be looked at: {why}"), None)),
    }
}

/// A path for a message.
pub(super) fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests;
