//! Which file and line decides what about a path.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use super::entries::{covering, is_built_in, method, store};
use super::file::{Attachment, Entry, Place};
use super::merge::{Merged, merge};
use super::preset::Library;
use super::problem::Lines;
use super::surroundings::Surroundings;
use super::{SourceFile, read};
use crate::compiled::{Kind, StoreName};

/// What is decided about a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Explanation {
    /// The path that was asked about.
    pub path: PathBuf,
    /// The entry that keeps it: its own, or one of a directory above.
    pub kept: Option<Kept>,
    /// Entries below it.
    pub below: Vec<PathBuf>,
}

/// An entry, with where everything about it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Kept {
    /// The entry's path.
    pub entry: PathBuf,
    /// Where it is declared.
    pub origin: String,
    /// What holds for it.
    pub attributes: Vec<Attribute>,
    /// Declarations of the same path in earlier layers, which do not count.
    pub overridden: Vec<String>,
}

/// One thing that is decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Attribute {
    /// What: `store`, `method`, `user`, …
    pub name: &'static str,
    /// How it is decided.
    pub value: String,
    /// By which file and line, or by what else.
    pub origin: String,
}

/// Explains a path, given in its normal spelling. Mistakes in the files are passed over.
pub fn explain(sources: &[SourceFile], surroundings: &Surroundings, path: &Path) -> Explanation {
    let mut problems = Vec::new();
    let files: Vec<_> = sources
        .iter()
        .enumerate()
        .filter_map(|(index, source)| read::read(index, source, &mut problems))
        .collect();
    let library = Library::read(&surroundings.presets, sources.len());
    let merged = merge(files, &library, surroundings, &mut problems);
    let sources: Vec<SourceFile> = sources.iter().chain(&library.sources).cloned().collect();
    let origins = Origins { sources: &sources };
    let entry = merged.entries.get(path).or_else(|| covering(&merged.entries, path));
    let built_in = || {
        is_built_in(path).map(|entry| Kept {
            entry,
            origin: "built in".to_owned(),
            attributes: Vec::new(),
            overridden: Vec::new(),
        })
    };
    let below = merged.entries.keys().filter(|it| it.starts_with(path) && it.as_path() != path);
    Explanation {
        path: path.to_owned(),
        kept: entry.map(|entry| origins.of_entry(entry, &merged)).or_else(built_in),
        below: below.cloned().collect(),
    }
}

struct Origins<'s> {
    sources: &'s [SourceFile],
}

impl Origins<'_> {
    fn of_place(&self, place: &Place) -> String {
        let Some(source) = self.sources.get(place.file) else { return String::new() };
        format!("{}:{}", source.name, Lines::of(&source.text).line(place.span.start))
    }

    fn of_entry(&self, entry: &Entry, merged: &Merged) -> Kept {
        let own = self.of_place(&entry.path.place);
        let filled = |name: &str| {
            let (place, names) = entry.filled.as_ref()?;
            names.contains(&name).then(|| self.of_place(place))
        };
        let says = |name: &'static str, value: String| Attribute {
            name,
            value,
            origin: filled(name).unwrap_or_else(|| own.clone()),
        };
        let mut attributes = Vec::new();
        let class = |name: &StoreName| {
            let store = merged.stores.get(name).and_then(|store| store.class.as_ref());
            store.map_or("state", |class| class.value.name())
        };
        let name = store(entry);
        let origin = match &entry.store {
            // The place of a store that a preset chose by class is that of the preset's entry.
            Some(chosen) if chosen.place == entry.path.place || filled("store").is_some() => {
                format!("the store of class {}", class(&name))
            }
            Some(chosen) => self.of_place(&chosen.place),
            None => "the default".to_owned(),
        };
        attributes.push(Attribute { name: "store", value: name.to_string(), origin });
        let declared = entry.method.as_ref().filter(|it| it.value != Attachment::Auto);
        let origin = match (declared, entry.chosen) {
            (Some(declared), _) => self.of_place(&declared.place),
            (None, Some(_)) => "a preset knows that programs replace it".to_owned(),
            (None, None) if entry.kind == Kind::Directory => "directories are mounted".to_owned(),
            (None, None) => "nothing speaks for another one so far".to_owned(),
        };
        attributes.push(Attribute { name: "method", value: method(entry).to_string(), origin });
        attributes.extend(entry.user.as_ref().map(|user| says("user", user.to_string())));
        attributes.extend(entry.group.as_ref().map(|group| says("group", group.to_string())));
        attributes.extend(entry.mode.map(|mode| says("mode", mode.to_string())));
        attributes.extend(entry.options.iter().map(|option| Attribute {
            name: "option",
            value: option.value.to_string(),
            origin: self.of_place(&option.place),
        }));
        attributes.extend(entry.optional.then(|| says("optional", "true".to_owned())));
        attributes.extend(entry.units.iter().map(|unit| says("unit", unit.clone())));
        let earlier = merged.overridden.iter().filter(|it| it.path.value == entry.path.value);
        Kept {
            entry: entry.path.value.clone(),
            origin: own.clone(),
            attributes,
            overridden: earlier.map(|it| self.of_place(&it.path.place)).collect(),
        }
    }
}
