//! From the text of one file to what it says.

mod root;

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeTable;

use super::file::{
    At, Attachment, Entry, File, Ignore, Keep, Place, Report, Store, StoreOption, User,
};
use super::path;
use super::problem::{Lines, Mark, Problem, Severity, quote};
use super::value::{Reader, Table, Value, is_account_name};
use super::{SourceFile, VERSION};
use crate::compiled::{Class, Kind, MountOption, Parent};

pub(super) use root::ROOT_KEYS;

pub(super) const FILE_KEYS: [&str; 7] =
    ["version", "root", "store", "keep", "ignore", "report", "users"];
pub(super) const STORE_KEYS: [&str; 8] =
    ["device", "subvolume", "directory", "class", "options", "trash", "limit", "max-age"];
const STORE_OPTIONS: [(&str, StoreOption); 4] = [
    ("suid", StoreOption::Suid),
    ("dev", StoreOption::Dev),
    ("exec", StoreOption::Exec),
    ("noexec", StoreOption::Noexec),
];
pub(super) const KEEP_KEYS: [&str; 3] = ["presets", "directories", "files"];
pub(super) const IGNORE_KEYS: [&str; 1] = ["paths"];
pub(super) const REPORT_KEYS: [&str; 2] = ["login", "shutdown"];
pub(super) const USER_KEYS: [&str; 5] = ["home", "presets", "directories", "files", "ignore"];
pub(super) const USER_ENTRY_KEYS: [&str; 6] =
    ["path", "store", "method", "mode", "options", "optional"];
pub(super) const ENTRY_KEYS: [&str; 9] =
    ["path", "store", "method", "user", "group", "mode", "parent", "options", "optional"];
pub(super) const PARENT_KEYS: [&str; 3] = ["user", "group", "mode"];

pub(super) const CLASSES: [(&str, Class); 4] = [
    ("state", Class::State),
    ("cache", Class::Cache),
    ("secret", Class::Secret),
    ("log", Class::Log),
];
pub(super) const METHODS: [(&str, Attachment); 4] = [
    ("auto", Attachment::Auto),
    ("bind", Attachment::Bind),
    ("symlink", Attachment::Symlink),
    ("sync", Attachment::Sync),
];
const MOUNT_OPTIONS: [(&str, MountOption); 5] = [
    ("ro", MountOption::Ro),
    ("nosuid", MountOption::Nosuid),
    ("nodev", MountOption::Nodev),
    ("noexec", MountOption::Noexec),
    ("noatime", MountOption::Noatime),
];

/// Reads a file. Without a result, nothing is known of what it declares.
pub(super) fn read(file: usize, source: &SourceFile, problems: &mut Vec<Problem>) -> Option<File> {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        syntax(file, &source.text, &errors, problems);
        return None;
    }
    let mut reader = Reader { file, problems };
    let table = document.get_ref();
    if let Some(version) = table.get("version")
        && !reader.version(version)
    {
        return None;
    }
    let table = reader.document(table, &FILE_KEYS, |key| {
        let tables = [
            ("root", &ROOT_KEYS[..]),
            ("keep", &KEEP_KEYS),
            ("ignore", &IGNORE_KEYS),
            ("report", &REPORT_KEYS),
            ("store.NAME", &STORE_KEYS),
            ("users.NAME", &USER_KEYS),
        ];
        tables.into_iter().find(|(_, keys)| keys.contains(&key)).map(|(table, _)| table)
    });
    if table.get("version").is_none() {
        let hint = Some(format!("write `version = {VERSION}` as the first line"));
        reader.error(0..0, "the format version is missing", "", hint);
    }
    Some(File {
        version: (),
        root: table.get("root").and_then(|value| reader.root(table, value)),
        store: table.get("store").map(|value| reader.stores(value)).unwrap_or_default(),
        keep: table.get("keep").map(|value| reader.keep(value)).unwrap_or_default(),
        ignore: table.get("ignore").map(|value| reader.ignore(value)).unwrap_or_default(),
        report: table.get("report").map(|value| reader.report(value)).unwrap_or_default(),
        users: table.get("users").map(|value| reader.users(value)).unwrap_or_default(),
    })
}

/// Notes syntax errors, one per line: what follows on the same line is rarely another mistake.
pub(super) fn syntax(
    file: usize,
    text: &str,
    errors: &[toml::de::Error],
    problems: &mut Vec<Problem>,
) {
    let lines = Lines::of(text);
    let mut seen = BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        if !seen.insert(lines.line(span.start)) {
            continue;
        }
        let before = text.get(..span.start).unwrap_or_default();
        let content = before.rsplit('\n').next().unwrap_or_default();
        let bare_mode = content.contains("mode") && error.message().contains("leading zero");
        problems.push(Problem {
            severity: Severity::Error,
            message: error.message().to_owned(),
            mark: Mark { file, span, label: String::new() },
            other: None,
            hint: bare_mode.then(|| "a mode is written in quotes, as in \"0750\"".to_owned()),
        });
    }
}

impl Reader<'_> {
    /// Whether the rest of the file can be understood.
    pub(super) fn version(&mut self, value: &Value<'_>) -> bool {
        let Some(version) = value.get_ref().as_integer() else {
            let hint = Some(format!("write `version = {VERSION}`"));
            self.error(value.span(), "`version` must be an integer", "", hint);
            return false;
        };
        let known = u32::from_str_radix(version.as_str(), version.radix()) == Ok(VERSION);
        if !known {
            let message = format!("format version {version} is not known");
            let hint = Some(format!("this program reads version {VERSION} only"));
            self.error(value.span(), message, "", hint);
        }
        known
    }

    /// Notes keys that a table must have.
    pub(super) fn required(
        &mut self,
        table: Table<'_, '_>,
        place: &Place,
        name: &str,
        keys: &[(&str, &str)],
    ) {
        for (key, example) in keys {
            if table.get(key).is_none() {
                let message = format!("`{name}` has no `{key}`");
                let hint = Some(format!("add `{key} = \"{example}\"`"));
                self.error(place.span.clone(), message, format!("`{key}` is missing"), hint);
            }
        }
    }

    /// Reads each element of an array, if there is one.
    pub(super) fn each<T>(
        &mut self,
        table: Table<'_, '_>,
        key: &str,
        read: impl Fn(&mut Self, &Value<'_>) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = table.get(key) else { return Vec::new() };
        self.list(value, key).iter().filter_map(|element| read(self, element)).collect()
    }

    fn stores(&mut self, value: &Value<'_>) -> BTreeMap<crate::compiled::StoreName, Store> {
        let mut stores = BTreeMap::new();
        let Some(table) = self.open_table(value, "[store]") else { return stores };
        for (key, value) in table.iter() {
            let text = key.get_ref().as_ref();
            if STORE_KEYS.contains(&text) && !value.get_ref().is_table() {
                let hint = Some(format!("a store has a name: `[store.state]`, then `{text} = …`"));
                self.error(key.span(), "`store` is a table of tables", "", hint);
                continue;
            }
            let name = self.store_name(key.span(), text);
            let store = self.store(value, &format!("[store.{text}]"), self.place(key.span()));
            if let (Some(name), Some(store)) = (name, store) {
                stores.insert(name, store);
            }
        }
        stores
    }

    fn store(&mut self, value: &Value<'_>, name: &str, place: Place) -> Option<Store> {
        let before = self.problems.len();
        let table = self.table(value, name, &STORE_KEYS)?;
        let store = Store {
            place,
            sound: true,
            device: table.get("device").and_then(|value| self.device(value)),
            subvolume: table
                .get("subvolume")
                .and_then(|value| self.path(value, "subvolume", path::relative)),
            directory: table
                .get("directory")
                .and_then(|value| self.path(value, "directory", path::relative)),
            class: table
                .get("class")
                .and_then(|value| self.choice(value, "class", &CLASSES, |_| None)),
            options: self.each(table, "options", |reader, value| {
                reader.choice(value, "option of a store", &STORE_OPTIONS, |text| match text {
                    "nosuid" | "nodev" => {
                        Some("every store has it, unless it says `suid` or `dev`")
                    }
                    "ro" => Some("what is kept has to be written; `ro` is an option of an entry"),
                    _ => None,
                })
            }),
            trash: table.get("trash").and_then(|value| self.keep_trash(value)),
            limit: table.get("limit").and_then(|value| self.limit(value)),
            max_age: table.get("max-age").and_then(|value| self.max_age(value)),
        };
        self.contradictions("store", &store.options, StoreOption::meaning);
        Some(Store { sound: self.problems.len() == before, ..store })
    }

    /// Notes options that decide the same thing; `meaning` says what each decides.
    fn contradictions<T: Copy>(
        &mut self,
        what: &str,
        options: &[At<T>],
        meaning: fn(T) -> (MountOption, bool),
    ) {
        for (index, option) in options.iter().enumerate() {
            let same = |other: &&At<T>| meaning(other.value).0 == meaning(option.value).0;
            if let Some(first) = options.get(..index).and_then(|before| before.iter().find(same)) {
                self.problems.push(Problem {
                    severity: Severity::Error,
                    message: format!("one option of a {what} decides the same as another"),
                    mark: option.place.mark(""),
                    other: Some(first.place.mark("decided here")),
                    hint: Some("keep one of them".to_owned()),
                });
            }
        }
    }

    fn keep(&mut self, value: &Value<'_>) -> Keep {
        let Some(table) = self.table(value, "[keep]", &KEEP_KEYS) else { return Keep::default() };
        Keep {
            presets: self.presets(table),
            directories: self
                .each(table, "directories", |reader, value| reader.entry(value, Kind::Directory)),
            files: self.each(table, "files", |reader, value| reader.entry(value, Kind::File)),
        }
    }

    fn ignore(&mut self, value: &Value<'_>) -> Ignore {
        let Some(table) = self.table(value, "[ignore]", &IGNORE_KEYS) else {
            return Ignore::default();
        };
        let paths =
            self.each(table, "paths", |reader, value| reader.path(value, "pattern", path::pattern));
        Ignore { paths }
    }

    fn report(&mut self, value: &Value<'_>) -> Report {
        let Some(table) = self.table(value, "[report]", &REPORT_KEYS) else {
            return Report::default();
        };
        let mut boolean = |key| table.get(key).and_then(|value| self.boolean(value, key));
        Report { login: boolean("login"), shutdown: boolean("shutdown") }
    }

    fn presets(&mut self, table: Table<'_, '_>) -> Vec<At<String>> {
        self.each(table, "presets", |reader, value| {
            let name = reader.text(value, "preset")?;
            Some(reader.at(value, name.to_owned()))
        })
    }

    fn users(&mut self, value: &Value<'_>) -> BTreeMap<String, User> {
        let mut users = BTreeMap::new();
        let Some(table) = self.open_table(value, "[users]") else { return users };
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            if USER_KEYS.contains(&name) && !value.get_ref().is_table() {
                let hint = Some(format!("a user has a name: `[users.alice]`, then `{name} = …`"));
                self.error(key.span(), "`users` is a table of tables", "", hint);
                continue;
            }
            if !is_account_name(name) || name.ends_with('$') {
                let hint =
                    "at most 32 letters, digits, `_`, `.` and `-`, not starting with a digit";
                let message = format!("{} is not the name of a user", quote(name));
                self.error(key.span(), message, "", Some(hint.to_owned()));
                continue;
            }
            let place = self.place(key.span());
            users.extend(self.user(value, name, place).map(|user| (name.to_owned(), user)));
        }
        users
    }

    fn user(&mut self, value: &Value<'_>, name: &str, place: Place) -> Option<User> {
        let table = self.table(value, &format!("[users.{name}]"), &USER_KEYS)?;
        Some(User {
            place,
            home: table.get("home").and_then(|value| self.path(value, "home", path::absolute)),
            presets: self.presets(table),
            directories: self.each(table, "directories", |reader, value| {
                reader.user_entry(value, Kind::Directory)
            }),
            files: self.each(table, "files", |reader, value| reader.user_entry(value, Kind::File)),
            ignore: self.each(table, "ignore", |reader, value| {
                reader.path(value, "pattern", path::pattern_in_home)
            }),
        })
    }

    /// An entry of a user: its owner is the user, so none is declared.
    fn user_entry(&mut self, value: &Value<'_>, kind: Kind) -> Option<Entry> {
        self.entry_of(value, kind, path::in_home, &USER_ENTRY_KEYS)
    }

    /// An entry, in its short form or its long one.
    fn entry(&mut self, value: &Value<'_>, kind: Kind) -> Option<Entry> {
        self.entry_of(value, kind, path::absolute, &ENTRY_KEYS)
    }

    fn entry_of(
        &mut self,
        value: &Value<'_>,
        kind: Kind,
        check: fn(&str) -> Result<std::path::PathBuf, path::Fault>,
        keys: &[&str],
    ) -> Option<Entry> {
        if value.get_ref().is_table() {
            return self.long_entry(value, kind, check, keys);
        }
        if !value.get_ref().is_str() {
            let message = "an entry must be a path or a table with a `path`";
            self.error(value.span(), message, "expected a string or a table", None);
            return None;
        }
        let path = self.path(value, "path", check)?;
        Some(Entry::new(kind, path))
    }

    fn long_entry(
        &mut self,
        value: &Value<'_>,
        kind: Kind,
        check: fn(&str) -> Result<std::path::PathBuf, path::Fault>,
        keys: &[&str],
    ) -> Option<Entry> {
        let table = self.table(value, "entry", keys)?;
        let place = self.place(value.span());
        self.required(table, &place, "entry", &[("path", "/…")]);
        let path = table.get("path").and_then(|value| self.path(value, "path", check));
        // All keys are read before a bad path ends it, so that all their problems are noted.
        let store = table.get("store").and_then(|value| {
            let name = self.text(value, "store")?;
            let name = self.store_name(value.span(), name)?;
            Some(self.at(value, name))
        });
        let method = table.get("method").and_then(|value| {
            self.choice(value, "method", &METHODS, |text| match text {
                "copy" => Some("only `auto`, `bind`, `symlink` and `sync` can be declared"),
                _ => None,
            })
        });
        let user = table.get("user").and_then(|value| self.principal(value, "user"));
        let group = table.get("group").and_then(|value| self.principal(value, "group"));
        let mode = table.get("mode").and_then(|value| self.mode(value));
        let parent = table.get("parent").and_then(|value| self.parent(value));
        let options = self.each(table, "options", |reader, value| {
            reader.choice(value, "mount option", &MOUNT_OPTIONS, |_| None)
        });
        let optional = table.get("optional").and_then(|value| self.boolean(value, "optional"));
        let optional = optional.unwrap_or_default();
        let entry = Entry::new(kind, path?);
        Some(Entry { store, method, user, group, mode, parent, options, optional, ..entry })
    }

    fn parent(&mut self, value: &Value<'_>) -> Option<Parent> {
        let table = self.table(value, "parent", &PARENT_KEYS)?;
        Some(Parent {
            user: table.get("user").and_then(|value| self.principal(value, "user")),
            group: table.get("group").and_then(|value| self.principal(value, "group")),
            mode: table.get("mode").and_then(|value| self.mode(value)),
        })
    }
}
