//! All versions of a path, with those that are the same folded.

use std::path::Path;

use serde::{Deserialize, Serialize};

#[cfg(feature = "declaration")]
use super::grep::{Grep, Matches};
use super::sources::{Place, Source, Sources};
use super::theirs;
use super::version::{self, Contents, State, Version};
use crate::compiled::{Entry, Method, StoreName};

/// Neighbours in time that have the same version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Run {
    /// Where it is, the newest first.
    pub places: Vec<Place>,
    /// What is there. Times are those of the newest place.
    pub state: State,
    /// What was looked for in it.
    #[cfg(feature = "declaration")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<Matches>,
}

impl Run {
    /// One place.
    pub fn new(places: Vec<Place>, state: State) -> Self {
        Self {
            places,
            state,
            #[cfg(feature = "declaration")]
            matches: None,
        }
    }
}

/// The entry that keeps a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct KeptBy {
    /// The entry's path.
    pub entry: String,
    /// Its store.
    pub store: StoreName,
    /// How it is put in place.
    pub method: String,
}

impl KeptBy {
    pub(super) fn new(entry: &Entry) -> Self {
        Self {
            entry: ebbtide_sys::escape(entry.path.as_os_str().as_encoded_bytes()),
            store: entry.store.clone(),
            method: entry.method.to_string(),
        }
    }
}

/// All versions of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct History {
    /// The path, escaped.
    pub path: String,
    /// The entry that keeps it; null if none does.
    pub kept: Option<KeptBy>,
    /// The newest first.
    pub runs: Vec<Run>,
}

impl History {
    /// Whether any tree has it.
    pub fn is_known(&self) -> bool {
        self.runs.iter().any(|run| matches!(run.state, State::Present(_)))
    }
}

/// Looks at a path in all trees. It is absolute and normalised.
pub fn history(sources: &Sources, path: &Path, contents: &mut Contents) -> History {
    let store = store_of(sources, path, contents);
    let seen = trees(sources, store.as_ref()).into_iter();
    let seen = seen.map(|source| (source.place.clone(), at(source, path, contents)));
    // What never left a store is no news.
    let is_told = |(place, state): &(Place, State)| {
        !matches!((place, state), (Place::Trash { .. }, State::Absent))
    };
    History {
        path: ebbtide_sys::escape(path.as_os_str().as_encoded_bytes()),
        kept: sources.entry(path).map(KeptBy::new),
        runs: fold(seen.filter(is_told).collect()),
    }
}

/// The versions of a path that have what is looked for; `None` if none does.
#[cfg(feature = "declaration")]
pub fn matching(
    sources: &Sources,
    path: &Path,
    grep: &mut Grep,
    contents: &mut Contents,
) -> Option<History> {
    let store = store_of(sources, path, contents);
    let trees = trees(sources, store.as_ref());
    // Most files have it in no version: those need not be known any better.
    let mut found: Vec<(&Place, Matches)> = Vec::new();
    for source in trees {
        found.extend(grep.look(source, path).map(|matches| (&source.place, matches)));
    }
    if found.is_empty() {
        return None;
    }
    let mut history = history(sources, path, contents);
    for run in &mut history.runs {
        let of_run = |(place, _): &&(&Place, Matches)| run.places.first() == Some(*place);
        run.matches = found.iter().find(of_run).map(|(_, matches)| matches.clone());
    }
    history.runs.retain(|run| run.matches.is_some());
    Some(history)
}

/// The store that keeps a path, opened.
fn store_of(sources: &Sources, path: &Path, contents: &Contents) -> Option<Source> {
    let entry = sources.entry(path).filter(|entry| entry.method != Method::Copy);
    // To users it is what is there now, and to open it is for root.
    let entry = entry.filter(|_| contents.only.is_none());
    entry.map(|entry| sources.store(entry))
}

/// All trees, the newest first. What left a store in a boot is older than what
/// that boot left.
fn trees<'s>(sources: &'s Sources, store: Option<&'s Source>) -> Vec<&'s Source> {
    let newest = sources.all.iter().take_while(|source| source.place == Place::Now).count();
    let (now, earlier) = sources.all.split_at_checked(newest).unwrap_or((&[], &sources.all));
    let mut trees: Vec<&Source> = now.iter().chain(store).collect();
    let mut trash = sources.trash.iter().peekable();
    for source in earlier {
        while let Some(left) = trash.next_if(|left| left.number() > source.number()) {
            trees.push(left);
        }
        trees.push(source);
    }
    trees.extend(trash);
    trees
}

/// What is at a path in one tree.
pub(super) fn at(source: &Source, path: &Path, contents: &mut Contents) -> State {
    if !theirs::sees(source, path, contents.only) {
        return State::Absent;
    }
    if let Some(store) = source.mounted_over(path) {
        return State::Kept(store.clone());
    }
    match source.tree() {
        Ok(tree) => version::look(tree, path, contents),
        Err(why) => State::Unknown(why.to_owned()),
    }
}

/// Folds neighbours, and tells what was deleted from what was never there.
fn fold(seen: Vec<(Place, State)>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (place, state) in seen {
        match runs.last_mut().filter(|run| is_same(&run.state, &state)) {
            Some(run) => run.places.push(place),
            None => runs.push(Run::new(vec![place], state)),
        }
    }
    let mut there_before = false;
    for run in runs.iter_mut().rev() {
        match run.state {
            State::Present(_) => there_before = true,
            State::Absent if there_before => run.state = State::Deleted,
            _ => {}
        }
    }
    runs
}

fn is_same(one: &State, other: &State) -> bool {
    match (one, other) {
        (State::Present(one), State::Present(other)) => Version::is_same(one, other),
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::past::version::{Identity, Kind};
    use crate::record::BootNumber;

    fn version(identity: u8, complete: bool) -> State {
        State::Present(Version {
            kind: Kind::File,
            bytes: 1,
            modified: identity.into(),
            uid: 0,
            gid: 0,
            mode: 0o644,
            content: None,
            target: None,
            entries: None,
            complete,
            identity: Identity([identity; 32]),
        })
    }

    fn kept() -> State {
        State::Kept(StoreName("state".to_owned()))
    }

    /// Folds states of boots, the newest first, and shows how many each run has.
    fn folded(states: Vec<State>) -> Vec<(usize, State)> {
        let boots = (1..).map(|number| Place::Boot(BootNumber(number)));
        let runs = fold(boots.zip(states).collect());
        runs.into_iter().map(|run| (run.places.len(), run.state)).collect()
    }

    #[test]
    fn neighbours_are_folded_and_deletions_told() {
        let one = || version(1, true);
        assert_eq!(folded(vec![]), []);
        assert_eq!(
            folded(vec![State::Absent, one(), one(), State::Absent, one()]),
            [(1, State::Deleted), (2, one()), (1, State::Deleted), (1, one())]
        );
        assert_eq!(
            folded(vec![one(), kept(), kept(), State::Absent, State::Absent]),
            [(1, one()), (2, kept()), (2, State::Absent)]
        );
        let part = || version(1, false);
        assert_eq!(folded(vec![part(), part()]), [(1, part()), (1, part())], "nobody knows");
        assert_eq!(folded(vec![one(), version(2, true)]).len(), 2);
    }
}
