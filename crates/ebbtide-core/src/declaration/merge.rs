//! From files and presets to one set of tables and entries: later layers win, and what is declared
//! by itself wins over presets.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::path::PathBuf;

use super::file::{At, Attachment, Entry, File, Root, Store, User};
use super::preset::{Library, Preset, PresetEntry};
use super::problem::{Problem, Severity, quote};
use super::surroundings::Surroundings;
use super::users::{Resident, at_home, residents};
use super::value::did_you_mean;
use crate::compiled::{Class, Kind, StoreName};

/// What all layers together declare.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub root: Option<Root>,
    pub stores: BTreeMap<StoreName, Store>,
    /// By path, so that parents precede children.
    pub entries: BTreeMap<PathBuf, Entry>,
    /// Absolute patterns of what is only counted.
    pub ignored: Vec<At<PathBuf>>,
    /// Entries of earlier layers that a later one replaced.
    pub overridden: Vec<Entry>,
}

/// Merges files in the order of layers, and notes paths that stand twice in one file.
pub(super) fn merge(
    files: impl IntoIterator<Item = File>,
    library: &Library,
    surroundings: &Surroundings,
    problems: &mut Vec<Problem>,
) -> Merged {
    let mut merged = Merged::default();
    let mut presets: BTreeMap<String, At<String>> = BTreeMap::new();
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for file in files {
        merged.root = file.root.or(merged.root);
        merged.stores.extend(file.store);
        merged.ignored.extend(file.ignore.paths);
        for entry in file.keep.directories.into_iter().chain(file.keep.files) {
            insert(&mut merged, entry, problems);
        }
        for preset in file.keep.presets {
            presets.entry(preset.value.clone()).or_insert(preset);
        }
        for (name, later) in file.users {
            match users.entry(name) {
                btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(later);
                }
                btree_map::Entry::Occupied(mut earlier) => earlier.get_mut().extend(later),
            }
        }
    }
    let residents = residents(users, &surroundings.homes, problems);
    for (name, resident) in &residents {
        for entry in resident.user.directories.iter().chain(&resident.user.files) {
            insert(&mut merged, at_home(name, &resident.home, entry), problems);
        }
    }
    for resident in residents.values() {
        merged.ignored.extend(resident.ignored());
    }
    from_presets(&mut merged, library, &presets, &residents, problems);
    move_to_private(&mut merged, surroundings, problems);
    for entry in merged.entries.values_mut() {
        choose(entry, library, surroundings);
    }
    merged
}

/// Entries for the state of services with `DynamicUser=` move to where it really lies: bound at the
/// link's place, the service would fail (status 238).
fn move_to_private(merged: &mut Merged, surroundings: &Surroundings, problems: &mut Vec<Problem>) {
    for (link, target) in &surroundings.private {
        let covered = merged.entries.contains_key(target);
        let Some(mut entry) = merged.entries.remove(link) else { continue };
        problems.push(Problem {
            severity: Severity::Note,
            message: format!(
                "{} is kept at {}",
                quote(&link.to_string_lossy()),
                quote(&target.to_string_lossy())
            ),
            mark: entry.path.place.mark("a link, for a service with `DynamicUser=`"),
            other: None,
            hint: None,
        });
        if !covered {
            entry.path.value.clone_from(target);
            merged.entries.insert(target.clone(), entry);
        }
    }
}

fn insert(merged: &mut Merged, entry: Entry, problems: &mut Vec<Problem>) {
    match merged.entries.entry(entry.path.value.clone()) {
        btree_map::Entry::Vacant(vacant) => {
            vacant.insert(entry);
        }
        btree_map::Entry::Occupied(mut earlier) => {
            problems.extend(repetition(earlier.get(), &entry));
            merged.overridden.push(earlier.insert(entry));
        }
    }
}

/// Adds the entries of presets, below all that is declared by itself.
fn from_presets(
    merged: &mut Merged,
    library: &Library,
    presets: &BTreeMap<String, At<String>>,
    residents: &BTreeMap<String, Resident>,
    problems: &mut Vec<Problem>,
) {
    let mut wanted: Vec<(Entry, Class, &Preset)> = Vec::new();
    let mut named = Vec::new();
    for preset in presets.values() {
        named.push(&preset.value);
        let Some(found) = find(library, preset, problems) else { continue };
        if found.entries.is_empty() && library.is_sound(&preset.value) {
            let hint = "name it in `presets` of `[users.NAME]`";
            problems.push(empty(preset, "is for users", hint));
        }
        wanted.extend(found.entries.iter().map(|it| (it.entry.clone(), it.class, found)));
    }
    for (name, resident) in residents {
        for preset in &resident.user.presets {
            named.push(&preset.value);
            let Some(found) = find(library, preset, problems) else { continue };
            if found.user_entries.is_empty() && library.is_sound(&preset.value) {
                let hint = "name it in `presets` of `[keep]`";
                problems.push(empty(preset, "has nothing for users", hint));
            }
            let mine =
                |it: &PresetEntry| (at_home(name, &resident.home, &it.entry), it.class, found);
            wanted.extend(found.user_entries.iter().map(mine));
        }
    }
    named.sort();
    named.dedup();
    let of_presets = named.into_iter().filter_map(|name| library.problems.get(name)).flatten();
    problems.extend(of_presets.cloned());
    // Outer paths first, so that what they cover is seen to be covered.
    wanted.sort_by(|(a, ..), (b, ..)| a.path.value.cmp(&b.path.value));
    for (mut entry, class, preset) in wanted {
        entry.store = store_of(&merged.stores, class, &entry);
        entry.units.clone_from(&preset.units);
        if let Some(declared) = merged.entries.get_mut(&entry.path.value) {
            declared.fill_from(entry);
        } else if !is_covered(&merged.entries, &entry) {
            merged.entries.insert(entry.path.value.clone(), entry);
        }
    }
}

fn find<'l>(
    library: &'l Library,
    wanted: &At<String>,
    problems: &mut Vec<Problem>,
) -> Option<&'l Preset> {
    let found = library.presets.get(&wanted.value);
    if found.is_none() && !library.problems.contains_key(&wanted.value) {
        let names = library.presets.keys().map(String::as_str);
        let hint = did_you_mean(&wanted.value, names)
            .unwrap_or_else(|| "`ebbtide check --presets` lists those that are there".to_owned());
        problems.push(Problem {
            severity: Severity::Error,
            message: format!("there is no preset {}", quote(&wanted.value)),
            mark: wanted.place.mark(""),
            other: None,
            hint: Some(hint),
        });
    }
    found
}

fn empty(preset: &At<String>, what: &str, hint: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        message: format!("the preset {} {what}", quote(&preset.value)),
        mark: preset.place.mark(""),
        other: None,
        hint: Some(hint.to_owned()),
    }
}

/// The store for a class: the one of that name, else the first of that class, else none, which means
/// `state`.
fn store_of(
    stores: &BTreeMap<StoreName, Store>,
    class: Class,
    entry: &Entry,
) -> Option<At<StoreName>> {
    let is_of =
        |store: &Store| store.class.as_ref().map(|it| it.value).unwrap_or_default() == class;
    let called = StoreName(class.name().to_owned());
    let named = stores.get_key_value(&called).filter(|(_, store)| is_of(store));
    let (name, _) = named.or_else(|| stores.iter().find(|(_, store)| is_of(store)))?;
    Some(At { value: name.clone(), place: entry.path.place.clone() })
}

/// Whether a directory above keeps it already, in the same store, or so that it can't be anything but
/// a part of it.
fn is_covered(entries: &BTreeMap<PathBuf, Entry>, entry: &Entry) -> bool {
    let outer = entry.path.value.ancestors().skip(1).find_map(|above| entries.get(above));
    outer.is_some_and(|outer| {
        let copied = entry.method.as_ref().is_some_and(|it| it.value == Attachment::Sync);
        let state = |store: &Option<At<StoreName>>| {
            store.as_ref().map_or(StoreName::STATE.to_owned(), |store| store.value.0.clone())
        };
        copied || state(&outer.store) == state(&entry.store)
    })
}

/// Decides how an entry is kept that does not say it.
fn choose(entry: &mut Entry, library: &Library, surroundings: &Surroundings) {
    let says = entry.method.as_ref().is_some_and(|method| method.value != Attachment::Auto);
    if says || entry.kind == Kind::Directory {
        return;
    }
    let relative = surroundings.in_home(entry);
    if library.is_replaced(&entry.path.value, relative.as_deref()) {
        entry.chosen = Some(Attachment::Sync);
    }
}

/// What is wrong, if anything, with a path being declared again.
fn repetition(earlier: &Entry, later: &Entry) -> Option<Problem> {
    let path = quote(&later.path.value.to_string_lossy());
    let same_file = earlier.path.place.file == later.path.place.file;
    let (severity, message, hint) = match (same_file, earlier.kind == later.kind) {
        (false, true) => return None,
        (true, true) => {
            (Severity::Error, format!("{path} is declared twice"), "remove one of them")
        }
        (true, false) => (
            Severity::Error,
            format!("{path} is declared as a directory and as a file"),
            "keep the one that it is",
        ),
        (false, false) => (
            Severity::Warning,
            format!("{path} is a {} here and a {} in an earlier layer", later.kind, earlier.kind),
            "the later layer wins; check what the path is",
        ),
    };
    Some(Problem {
        severity,
        message,
        mark: later.path.place.mark(""),
        other: Some(earlier.path.place.mark(format!("declared as a {} here", earlier.kind))),
        hint: Some(hint.to_owned()),
    })
}
