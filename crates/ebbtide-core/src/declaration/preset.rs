//! Presets: named lists of entries, one file for each application.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::de::DeTable;

use super::file::{At, Attachment, Entry};
use super::problem::Problem;
use super::read::{CLASSES, METHODS, syntax};
use super::value::{Reader, Table, Value};
use super::{SourceFile, path};
use crate::compiled::{Class, Kind};

/// Those that come with Ebbtide: name and text.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/presets.rs"));

pub(super) const PRESET_KEYS: [&str; 8] =
    ["version", "description", "packages", "units", "needs", "directories", "files", "user"];
const ENTRY_KEYS: [&str; 9] =
    ["path", "reason", "class", "method", "user", "group", "mode", "required", "exists"];
const USER_KEYS: [&str; 2] = ["directories", "files"];
const NEEDS: [(&str, Need); 3] = [("suid", Need::Suid), ("dev", Need::Dev), ("exec", Need::Exec)];

/// What paths need of the mount that they are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Setuid programs that work.
    Suid,
    /// Device nodes that work.
    Dev,
    /// Programs that may be run.
    Exec,
}

/// A preset's file, before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresetFile {
    /// The preset's name.
    pub name: String,
    /// Its file.
    pub source: SourceFile,
}

/// The presets that come with Ebbtide.
pub fn built_in() -> Vec<PresetFile> {
    let file = |(name, text): &(&str, &str)| PresetFile {
        name: (*name).to_owned(),
        source: SourceFile { name: format!("preset {name}"), text: (*text).to_owned() },
    };
    BUILT_IN.iter().map(file).collect()
}

/// Presets of those who hold whole systems, containers and machines, with the paths of their data.
pub(super) fn storage(files: &[PresetFile]) -> Vec<(String, Vec<PathBuf>)> {
    let mut found = Vec::new();
    // Few are, and each command asks: the others need not be understood.
    for file in files.iter().filter(|file| file.source.text.contains("suid")) {
        let Some(preset) = read(0, &file.source, &mut Vec::new()) else { continue };
        if preset.needs.contains(&Need::Suid) {
            let state = preset.entries.iter().filter(|it| it.class == Class::State);
            found.push((file.name.clone(), state.map(|it| it.path().to_owned()).collect()));
        }
    }
    found
}

/// One application.
#[derive(Debug, Clone)]
pub struct Preset {
    /// What it is, in a few words.
    pub description: String,
    /// Packages that bring it, Debian's name first.
    pub packages: Vec<String>,
    /// Units that must not start while a required path is absent.
    pub units: Vec<String>,
    /// What its paths need of their store's mount.
    pub needs: Vec<Need>,
    /// Its paths.
    pub entries: Vec<PresetEntry>,
    /// Its paths in a home, relative to it.
    pub user_entries: Vec<PresetEntry>,
}

/// One path of a preset.
#[derive(Debug, Clone)]
pub struct PresetEntry {
    pub(super) entry: Entry,
    /// What kind of data it is.
    pub class: Class,
    /// Why it is kept.
    pub reason: String,
    /// Whether installing and starting the application makes it.
    pub exists: bool,
}

impl PresetEntry {
    /// The path: absolute, or relative to a home.
    pub fn path(&self) -> &std::path::Path {
        &self.entry.path.value
    }

    /// Whether it is of this path. Paths of declarations and presets have one spelling each, and bytes are
    /// compared faster than components.
    fn is_at(&self, path: &std::path::Path) -> bool {
        self.path().as_os_str() == path.as_os_str()
    }

    /// Directory or file.
    pub fn kind(&self) -> Kind {
        self.entry.kind
    }

    /// Its owner, group and mode, as far as the preset knows them.
    pub fn attributes(
        &self,
    ) -> (
        Option<&crate::compiled::Principal>,
        Option<&crate::compiled::Principal>,
        Option<crate::compiled::Mode>,
    ) {
        (self.entry.user.as_ref(), self.entry.group.as_ref(), self.entry.mode)
    }

    /// Whether programs replace it by rename.
    pub fn is_replaced(&self) -> bool {
        self.entry.method.as_ref().is_some_and(|method| method.value == Attachment::Sync)
    }
}

/// Reads a preset. `file` is the index that its problems carry.
pub fn read(file: usize, source: &SourceFile, problems: &mut Vec<Problem>) -> Option<Preset> {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        syntax(file, &source.text, &errors, problems);
        return None;
    }
    let mut reader = Reader { file, problems };
    let table = document.get_ref();
    match table.get("version") {
        Some(version) if !reader.version(version) => return None,
        Some(_) => {}
        None => {
            let hint = Some(format!("write `version = {}` as the first line", super::VERSION));
            reader.error(0..0, "the format version is missing", "", hint);
            return None;
        }
    }
    let table = reader.document(table, &PRESET_KEYS, |_| None);
    let texts = |reader: &mut Reader<'_>, key: &str| {
        reader.each(table, key, |reader, value| reader.text(value, key).map(str::to_owned))
    };
    let description = table
        .get("description")
        .and_then(|value| reader.text(value, "description"))
        .unwrap_or_default()
        .to_owned();
    let (packages, units) = (texts(&mut reader, "packages"), texts(&mut reader, "units"));
    let needs = reader.each(table, "needs", |reader, value| {
        reader.choice(value, "need", &NEEDS, |_| None).map(|need| need.value)
    });
    let entries = reader.preset_entries(table, path::absolute);
    let user_entries = table
        .get("user")
        .and_then(|value| reader.table(value, "user", &USER_KEYS))
        .map(|user| reader.preset_entries(user, path::in_home))
        .unwrap_or_default();
    Some(Preset { description, packages, units, needs, entries, user_entries })
}

type PathCheck = fn(&str) -> Result<PathBuf, path::Fault>;

impl Reader<'_> {
    fn preset_entries(&mut self, table: Table<'_, '_>, check: PathCheck) -> Vec<PresetEntry> {
        let mut entries = Vec::new();
        for (key, kind) in [("directories", Kind::Directory), ("files", Kind::File)] {
            entries.extend(
                self.each(table, key, |reader, value| reader.preset_entry(value, kind, check)),
            );
        }
        entries
    }

    fn preset_entry(
        &mut self,
        value: &Value<'_>,
        kind: Kind,
        check: PathCheck,
    ) -> Option<PresetEntry> {
        let table = self.table(value, "entry", &ENTRY_KEYS)?;
        let place = self.place(value.span());
        self.required(table, &place, "entry", &[("path", "/…"), ("reason", "…")]);
        let reason = table.get("reason").and_then(|value| self.text(value, "reason"));
        let path: At<PathBuf> = table.get("path").and_then(|it| self.path(it, "path", check))?;
        let mut flag = |key: &str, default: bool| {
            table.get(key).and_then(|value| self.boolean(value, key)).unwrap_or(default)
        };
        let (required, exists) = (flag("required", false), flag("exists", true));
        let class = table.get("class").and_then(|it| self.choice(it, "class", &CLASSES, |_| None));
        let entry = Entry {
            method: table
                .get("method")
                .and_then(|it| self.choice(it, "method", &METHODS, |_| None)),
            user: table.get("user").and_then(|value| self.principal(value, "user")),
            group: table.get("group").and_then(|value| self.principal(value, "group")),
            mode: table.get("mode").and_then(|value| self.mode(value)),
            lazy: !required,
            ..Entry::new(kind, path)
        };
        Some(PresetEntry {
            entry,
            class: class.map(|class| class.value).unwrap_or_default(),
            reason: reason.unwrap_or_default().to_owned(),
            exists,
        })
    }
}

/// All presets that can be read, by name, and the files that they came from.
#[derive(Debug, Default)]
pub(super) struct Library {
    pub presets: BTreeMap<String, Preset>,
    /// What is wrong with those that can't, or with a part of them.
    pub problems: BTreeMap<String, Vec<Problem>>,
    pub sources: Vec<SourceFile>,
}

impl Library {
    /// Reads all files; of two with one name the later one counts. `first` is the index of the first
    /// of their sources.
    pub(super) fn read(files: &[PresetFile], first: usize) -> Self {
        let mut library = Self::default();
        for file in files {
            let mut problems = Vec::new();
            let preset = read(first + library.sources.len(), &file.source, &mut problems);
            library.sources.push(file.source.clone());
            library.presets.remove(&file.name);
            library.presets.extend(preset.map(|preset| (file.name.clone(), preset)));
            library.problems.insert(file.name.clone(), problems);
        }
        library
    }

    /// What a preset says of a path.
    pub(super) fn entry(&self, path: &std::path::Path) -> Option<&PresetEntry> {
        self.presets.values().flat_map(|preset| &preset.entries).find(|it| it.is_at(path))
    }

    /// What the applications whose data an entry keeps need of its mount: of the entry's own path, or
    /// of one below it where there is data.
    pub(super) fn needs(
        &self,
        path: &std::path::Path,
        storage: &BTreeMap<PathBuf, String>,
    ) -> Vec<Need> {
        let kept = |it: &PresetEntry| {
            it.is_at(path) || (it.path().starts_with(path) && storage.contains_key(it.path()))
        };
        let demanding = self.presets.values().filter(|preset| !preset.needs.is_empty());
        let named = demanding.filter(|preset| preset.entries.iter().any(kept));
        let mut needs: Vec<Need> = named.flat_map(|preset| preset.needs.clone()).collect();
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    /// Whether a preset has no mistakes in it.
    pub(super) fn is_sound(&self, name: &str) -> bool {
        self.problems.get(name).is_none_or(Vec::is_empty)
    }

    /// Whether a file is known to be replaced by rename: `relative` to a home, if it lies in one.
    pub(super) fn is_replaced(
        &self,
        path: &std::path::Path,
        relative: Option<&std::path::Path>,
    ) -> bool {
        self.presets.values().any(|preset| {
            let named = |entries: &[PresetEntry], path: &std::path::Path| {
                entries.iter().any(|it| it.is_replaced() && it.is_at(path))
            };
            named(&preset.entries, path)
                || relative.is_some_and(|relative| named(&preset.user_entries, relative))
        })
    }
}
