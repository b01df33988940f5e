//! What stores must be to each other and to the container.

use std::path::Path;

use super::DEFAULT_CONTAINER;
use super::file::{Place, Store};
use super::merge::Merged;
use super::path::nearest_ancestors;
use super::problem::{Mark, Problem, Severity, quote, toml_string};
use super::value::did_you_mean;
use crate::compiled::{Backend, Class, StoreName};

/// Checks all stores. `whole` tells whether every file could be read, without which nothing can be
/// called missing.
pub(super) fn check(merged: &Merged, whole: bool, problems: &mut Vec<Problem>) {
    if let Some(root) = &merged.root
        && whole
        && !merged.stores.contains_key(&StoreName(StoreName::STATE.to_owned()))
    {
        problems.push(error(
            "there is no store named `state`".to_owned(),
            root.place.mark("needs `[store.state]`"),
            None,
            "add `[store.state]`, with `subvolume = \"state\"` if it shares this device",
        ));
    }
    // The store of an entry is known to be missing only where all stores are known.
    if merged.root.is_some() && whole {
        unknown_stores(merged, problems);
    }
    let sound_root = merged.root.as_ref().is_none_or(|root| root.sound);
    for (name, store) in &merged.stores {
        if let (Some(subvolume), Some(directory)) = (&store.subvolume, &store.directory) {
            problems.push(error(
                format!("the store `{name}` has a `subvolume` and a `directory`"),
                directory.place.mark(""),
                Some(subvolume.place.mark("its subvolume")),
                "it is one of the two: keep `subvolume` on btrfs, `directory` elsewhere",
            ));
        }
    }
    for (name, store) in merged.stores.iter().filter(|(_, store)| store.sound) {
        only_of_caches(name, store, problems);
    }
    for (name, store) in merged.stores.iter().filter(|(_, store)| store.sound && sound_root) {
        place_of_store(merged, name, store, whole, problems);
    }
    overlaps(merged, problems);
}

/// Nothing but a cache loses data for its age or its size.
fn only_of_caches(name: &StoreName, store: &Store, problems: &mut Vec<Problem>) {
    let class = store.class.as_ref().map(|at| at.value).unwrap_or_default();
    if class == Class::Cache {
        return;
    }
    let declared = [("limit", store.limit.as_ref()), ("max-age", store.max_age.as_ref())];
    for (key, at) in declared {
        let Some(at) = at else { continue };
        problems.push(error(
            format!("the store `{name}` has a `{key}`, and is of class `{}`", class.name()),
            at.place.mark("only a cache may lose data for its age or size"),
            store.class.as_ref().map(|class| class.place.mark("its class")),
            "take it out; or, if all of the store can be had again, say `class = \"cache\"`",
        ));
    }
}

fn unknown_stores(merged: &Merged, problems: &mut Vec<Problem>) {
    for entry in merged.entries.values() {
        let Some(store) = &entry.store else { continue };
        // That `state` is missing has been said once.
        if merged.stores.contains_key(&store.value) || store.value.0 == StoreName::STATE {
            continue;
        }
        // Nobody has so many stores; comparing with more would only take time.
        let names = merged.stores.keys().take(100).map(|name| name.0.as_str());
        let hint = did_you_mean(&store.value.0, names);
        problems.push(error(
            format!("there is no store named `{}`", store.value),
            store.place.mark(""),
            None,
            &hint.unwrap_or_else(|| format!("declare it as `[store.{}]`", store.value)),
        ));
    }
}

/// Checks one store against the root.
fn place_of_store(
    merged: &Merged,
    name: &StoreName,
    store: &Store,
    whole: bool,
    problems: &mut Vec<Problem>,
) {
    let Some(root) = &merged.root else {
        if store.device.is_none() && whole {
            problems.push(error(
                format!(
                    "the store `{name}` has no `device`, and there is no `[root]` to take it from"
                ),
                store.place.mark("`device` is missing"),
                None,
                "add `device = \"LABEL=…\"`, or check it together with the file that has `[root]`",
            ));
        }
        return;
    };
    if !on_root_device(merged, store) {
        return;
    }
    let container = root.container.as_ref();
    let container_path = container.map_or(Path::new(DEFAULT_CONTAINER), |at| &at.value);
    let Some(subvolume) = store.below() else {
        let backend = root.backend.as_ref().map(|at| at.value);
        let key =
            if backend.is_none_or(|it| it == Backend::Btrfs) { "subvolume" } else { "directory" };
        problems.push(error(
            format!("the store `{name}` shares the root's device and has no `{key}`"),
            store.place.mark(format!("`{key}` is missing")),
            None,
            &format!("add `{key} = \"{name}\"`"),
        ));
        return;
    };
    let inside = subvolume.value.starts_with(container_path);
    if inside || container_path.starts_with(&subvolume.value) {
        let relation = if inside { "lies inside" } else { "contains" };
        problems.push(error(
            format!(
                "the store `{name}` {relation} the container {}",
                quote(&container_path.to_string_lossy())
            ),
            subvolume.place.mark(""),
            container.map(|at| at.place.mark("the container")),
            &format!("put it beside the container, as in `subvolume = {}`", toml_string(&name.0)),
        ));
    }
}

fn on_root_device(merged: &Merged, store: &Store) -> bool {
    match (&store.device, merged.root.as_ref().and_then(|root| root.device.as_ref())) {
        (None, _) => true,
        (Some(own), Some(root)) => own.value == root.value,
        (Some(_), None) => false,
    }
}

/// Notes stores that are the same place, or one inside the other.
fn overlaps(merged: &Merged, problems: &mut Vec<Problem>) {
    let root_device = merged.root.as_ref().and_then(|root| root.device.as_ref());
    let mut volumes: Vec<_> = merged
        .stores
        .iter()
        .filter_map(|(name, store)| {
            let device = store.device.as_ref().or(root_device)?;
            // Without a subvolume, a store is its whole device; on the root's that is an error of
            // its own.
            let path = store.below().map_or(Path::new(""), |at| &at.value);
            let missing = store.below().is_none() && on_root_device(merged, store);
            (!missing && store.sound).then_some((&device.value.0, path, name, store))
        })
        .collect();
    volumes.sort_by_key(|&(device, path, name, _)| (device, path, name));
    for group in volumes.chunk_by(|a, b| a.0 == b.0) {
        let nearest = nearest_ancestors(group.iter().map(|&(_, path, ..)| path));
        for (&inner, ancestor) in group.iter().zip(nearest) {
            let Some(&outer) = ancestor.and_then(|index| group.get(index)) else { continue };
            // Of two that are equal, the later one is to blame.
            let same = inner.1 == outer.1;
            let swap = same && place(inner.3).is_before(place(outer.3));
            let (inner, outer) = if swap { (outer, inner) } else { (inner, outer) };
            let relation = if same { "the same place as" } else { "inside" };
            problems.push(error(
                format!("the store `{}` is {relation} the store `{}`", inner.2, outer.2),
                place(inner.3).mark(""),
                Some(place(outer.3).mark(format!("the store `{}`", outer.2))),
                "every store needs a place of its own, beside the others",
            ));
        }
    }
}

/// Where to point for the place that a store is in.
fn place(store: &Store) -> &Place {
    store.below().map_or(&store.place, |at| &at.place)
}

fn error(message: String, mark: Mark, other: Option<Mark>, hint: &str) -> Problem {
    Problem { severity: Severity::Error, message, mark, other, hint: Some(hint.to_owned()) }
}
