//! What entries must be by themselves, to each other and to the root.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::DECISIONS;
use super::file::{Attachment, Entry};
use super::merge::Merged;
use super::path::{nearest_ancestors, reserved};
use super::problem::{Mark, Problem, Severity, join, quote};
use crate::compiled::{self, Kind, Method, Mode, Origin, StoreName};

/// The file that identifies the machine; it has a method of its own.
const MACHINE_ID: &str = "/etc/machine-id";
/// The administrator's declaration.
const CONFIGURATION: &str = "/etc/ebbtide";

/// Checks all entries.
pub(super) fn check(merged: &Merged, whole: bool, problems: &mut Vec<Problem>) {
    for entry in merged.entries.values() {
        by_itself(entry, problems);
    }
    shadows(&merged.entries, problems);
    covered_built_ins(&merged.entries, problems);
    decisions(merged, whole, problems);
}

/// The compiled entries, built-in ones included, sorted by path.
pub(super) fn resolve(
    entries: &BTreeMap<PathBuf, Entry>,
    origin: impl Fn(&Entry) -> Origin,
) -> Vec<compiled::Entry> {
    let declared = entries.values().map(|entry| compiled::Entry {
        path: entry.path.value.clone(),
        kind: entry.kind,
        store: store(entry),
        method: method(entry),
        user: entry.user.clone(),
        group: entry.group.clone(),
        mode: entry.mode.or_else(|| is_machine_id(entry).then_some(MACHINE_ID_MODE)),
        parent: entry.parent.clone(),
        options: entry.options.iter().map(|option| option.value).collect(),
        optional: entry.optional,
        lazy: entry.lazy,
        home: entry.home.clone(),
        units: entry.units.clone(),
        origin: origin(entry),
    });
    let missing = built_ins().into_iter().filter(|built_in| {
        !entries.contains_key(&built_in.path) && covering(entries, &built_in.path).is_none()
    });
    let mut resolved: Vec<_> = declared.chain(missing).collect();
    resolved.sort_by(|a, b| a.path.cmp(&b.path));
    resolved
}

/// Files whose method nothing decided: mounted, unless one is seen to be replaced by rename.
pub(super) fn undecided(entries: &BTreeMap<PathBuf, Entry>) -> BTreeSet<PathBuf> {
    let is_open = |entry: &&Entry| {
        let declared = entry.method.as_ref().map(|method| method.value);
        entry.kind == Kind::File
            && declared.is_none_or(|method| method == Attachment::Auto)
            && entry.chosen.is_none()
            && !is_machine_id(entry)
            && entry.options.is_empty()
    };
    entries.values().filter(is_open).map(|entry| entry.path.value.clone()).collect()
}

/// Mode of machine-id(5).
const MACHINE_ID_MODE: Mode = Mode(0o444);

/// What is kept without being declared.
fn built_ins() -> [compiled::Entry; 2] {
    let entry = |path: &str, kind, method, mode| compiled::Entry {
        path: PathBuf::from(path),
        kind,
        store: StoreName(StoreName::STATE.to_owned()),
        method,
        user: None,
        group: None,
        mode,
        parent: None,
        options: Vec::new(),
        optional: false,
        lazy: false,
        home: None,
        units: Vec::new(),
        origin: Origin { file: "built-in".to_owned(), line: 0 },
    };
    [
        entry(CONFIGURATION, Kind::Directory, Method::Bind, None),
        entry(MACHINE_ID, Kind::File, Method::Copy, Some(MACHINE_ID_MODE)),
    ]
}

/// The path of what is kept without being declared, at or above a path.
pub(super) fn is_built_in(path: &Path) -> Option<PathBuf> {
    built_ins().into_iter().map(|entry| entry.path).find(|kept| path.starts_with(kept))
}

/// The nearest declared entry that keeps a path by keeping a directory above it.
pub(super) fn covering<'e>(
    entries: &'e BTreeMap<PathBuf, Entry>,
    path: &Path,
) -> Option<&'e Entry> {
    path.ancestors().skip(1).find_map(|ancestor| entries.get(ancestor))
}

fn is_machine_id(entry: &Entry) -> bool {
    entry.path.value == Path::new(MACHINE_ID)
}

pub(super) fn store(entry: &Entry) -> StoreName {
    match &entry.store {
        Some(store) => store.value.clone(),
        None => StoreName(StoreName::STATE.to_owned()),
    }
}

pub(super) fn method(entry: &Entry) -> Method {
    let declared = entry.method.as_ref().map(|method| method.value);
    match declared.filter(|method| *method != Attachment::Auto).or(entry.chosen) {
        None if is_machine_id(entry) => Method::Copy,
        None | Some(Attachment::Auto | Attachment::Bind) => Method::Bind,
        Some(Attachment::Symlink) => Method::Symlink,
        Some(Attachment::Sync) => Method::Sync,
    }
}

fn name(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A directory can't be replaced by rename, so nothing is gained by copying one.
fn sync(entry: &Entry, problems: &mut Vec<Problem>) {
    if entry.kind == Kind::Directory {
        let place = entry.method.as_ref().map_or(&entry.path.place, |method| &method.place);
        let message = format!("{} cannot be kept by `sync`", name(&entry.path.value));
        let hint = "`sync` is for single files; a directory is kept by `bind`";
        problems.push(error(message, place.mark("")).hint(hint));
    }
}

fn by_itself(entry: &Entry, problems: &mut Vec<Problem>) {
    let path = &entry.path.value;
    let mark = || entry.path.place.mark("");
    if let Some(fault) = reserved(path) {
        let message = format!("{} cannot be kept", name(path));
        let mark = entry.path.place.mark(fault.message);
        problems.push(Problem { hint: fault.hint, ..error(message, mark) });
    }
    if entry.kind == Kind::File && DECISIONS.iter().any(|home| path == Path::new(home)) {
        let message = format!("{} is a directory", name(path));
        problems.push(error(message, mark()).hint("declare it under `directories`"));
    }
    if path.starts_with("/tmp") {
        let hint = "`/tmp` is for what is not kept; `/var/tmp` is for what outlives a boot";
        let message = format!("{} is kept", name(path));
        problems.push(warning(message, mark()).hint(hint));
    }
    if path.as_os_str().as_encoded_bytes().iter().any(|byte| b"*?".contains(byte)) {
        let message = format!("{} is taken as it is written", name(path));
        problems.push(warning(message, mark()).hint("there are no patterns in paths"));
    }
    if method(entry) == Method::Sync {
        sync(entry, problems);
    }
    if is_machine_id(entry) {
        machine_id(entry, problems);
    }
    if path.as_path() == Path::new(CONFIGURATION)
        && (entry.kind != Kind::Directory || method(entry) != Method::Bind || entry.optional)
    {
        let message = "`/etc/ebbtide` is always kept, as a directory, by `bind`".to_owned();
        problems.push(error(message, mark()).hint("remove the entry: it is built in"));
    }
    let unmounted = match method(entry) {
        Method::Symlink => Some(("a symbolic link is none", "linked, not mounted")),
        Method::Sync => Some(("a copy is none", "copied, not mounted")),
        Method::Bind | Method::Copy => None,
    };
    if let (Some(option), Some((what, label))) = (entry.options.first(), unmounted) {
        let message = format!("mount options need a mount, and {what}");
        let other = entry.method.as_ref().map(|method| method.place.mark(label));
        problems.push(Problem { other, ..error(message, option.place.mark("")) });
    }
    for (index, option) in entry.options.iter().enumerate() {
        if let Some(first) = entry.options[..index].iter().find(|o| o.value == option.value) {
            let message = format!("the option `{}` is given twice", option.value);
            let other = Some(first.place.mark("first here"));
            problems.push(Problem { other, ..error(message, option.place.mark("")) });
        }
    }
}

/// Checks the one file that systemd wants as a part of the root itself.
fn machine_id(entry: &Entry, problems: &mut Vec<Problem>) {
    let why = "remove the entry: Ebbtide keeps `/etc/machine-id` by itself, as a copy; on a mounted \
               one systemd-machine-id-commit.service fails, and a link is not read at early boot";
    if entry.kind != Kind::File {
        let message = "`/etc/machine-id` is a file, not a directory".to_owned();
        problems.push(error(message, entry.path.place.mark("")).hint(why));
    } else if let Some(method) = &entry.method {
        let message = "`/etc/machine-id` cannot be kept by this method".to_owned();
        problems.push(error(message, method.place.mark("")).hint(why));
    } else if let Some(option) = entry.options.first() {
        let message = "`/etc/machine-id` is copied, so it has no mount options".to_owned();
        problems.push(error(message, option.place.mark("")).hint(why));
    }
}

/// Notes entries that lie below another one, where that is impossible or pointless.
fn shadows(entries: &BTreeMap<PathBuf, Entry>, problems: &mut Vec<Problem>) {
    let sorted: Vec<&Entry> = entries.values().collect();
    let nearest = nearest_ancestors(entries.keys().map(PathBuf::as_path));
    for (&entry, ancestor) in sorted.iter().zip(nearest) {
        if let Some(&outer) = ancestor.and_then(|index| sorted.get(index)) {
            problems.extend(shadow(entry, outer));
        }
    }
    for entry in &sorted {
        let built_in = entry.path.value.ancestors().skip(1);
        for path in built_in {
            if path == Path::new(MACHINE_ID) && !entries.contains_key(path) {
                let message = format!("{} lies below a file", name(&entry.path.value));
                let hint = "`/etc/machine-id` is a file, which Ebbtide keeps by itself";
                problems.push(error(message, entry.path.place.mark("")).hint(hint));
            }
            if path == Path::new(CONFIGURATION)
                && covering(entries, &entry.path.value).is_none()
                && store(entry).0 == StoreName::STATE
            {
                let message = format!("{} is already kept", name(&entry.path.value));
                let hint = "`/etc/ebbtide` is kept by itself, with all that is below it";
                problems.push(warning(message, entry.path.place.mark("")).hint(hint));
            }
        }
    }
}

/// What is wrong, if anything, with an entry below another one.
fn shadow(entry: &Entry, outer: &Entry) -> Option<Problem> {
    let (path, outer_path) = (name(&entry.path.value), name(&outer.path.value));
    let mark = || entry.path.place.mark("");
    let other = |label: &str| Some(outer.path.place.mark(label));
    let same_store = store(entry) == store(outer);
    if outer.kind == Kind::File {
        let message = format!("{path} lies below a file");
        let other = other("declared as a file here");
        return Some(Problem { other, ..error(message, mark()) }.hint("one of the two has to go"));
    }
    if method(outer) == Method::Symlink {
        let message = format!("{path} lies below a symbolic link");
        let other = other("kept as a link here");
        let hint = format!("keep {outer_path} with `method = \"bind\"`, or only this one");
        return Some(Problem { other, ..error(message, mark()) }.hint(&hint));
    }
    if method(entry) == Method::Sync {
        // Taken back from a root without its mounts, it would always be found missing.
        let message = format!("{path} is copied into what {outer_path} keeps");
        let other = other("it is mounted there, and never part of the root");
        let hint = if same_store {
            "remove this entry: the directory keeps it, and lets programs replace it"
        } else {
            "keep one of the two"
        };
        return Some(Problem { other, ..error(message, mark()) }.hint(hint));
    }
    if method(entry) == Method::Symlink {
        let message = format!("{path} is a link inside what {outer_path} keeps");
        let other = other("the link would be made in its store");
        let hint = if same_store {
            "remove this entry: the link would point to itself"
        } else {
            "use `method = \"bind\"`: a mount leaves the store around it as it is"
        };
        return Some(Problem { other, ..error(message, mark()) }.hint(hint));
    }
    // A mount of its own makes sense for its own options, and where the outer one may be absent.
    let purpose = !entry.options.is_empty() || (outer.optional && !entry.optional);
    if !same_store || purpose {
        return None;
    }
    let (inner_file, outer_file) = (entry.path.place.file, outer.path.place.file);
    let severity = match inner_file.cmp(&outer_file) {
        std::cmp::Ordering::Equal => Severity::Error,
        std::cmp::Ordering::Greater => Severity::Warning,
        // An administrator may keep more than the vendor asks for.
        std::cmp::Ordering::Less => return None,
    };
    let message = format!("{path} is already kept by {outer_path}");
    let other = other("keeps all that is below it");
    Some(Problem { severity, other, ..error(message, mark()) }.hint("remove this entry"))
}

/// Notes entries above a built-in one that would not keep it in place.
fn covered_built_ins(entries: &BTreeMap<PathBuf, Entry>, problems: &mut Vec<Problem>) {
    let [configuration, _] = built_ins();
    let Some(outer) = covering(entries, &configuration.path) else { return };
    if outer.kind != Kind::Directory || method(outer) != Method::Bind || outer.optional {
        let path = name(&outer.path.value);
        let message = format!("{path} cannot be kept like this");
        let mark = outer.path.place.mark("holds `/etc/ebbtide` and `/etc/machine-id`");
        let hint = format!("keep {path} as a directory, by `bind`, and not `optional`");
        problems.push(error(message, mark).hint(&hint));
    }
}

/// Checks what is decided about the trees that hold what people would miss most.
fn decisions(merged: &Merged, whole: bool, problems: &mut Vec<Problem>) {
    let Some(root) = &merged.root else { return };
    for (index, ephemeral) in root.ephemeral.iter().enumerate() {
        let path = name(&ephemeral.value);
        if let Some(entry) = merged.entries.get(&ephemeral.value) {
            let message = format!("{path} is kept and ephemeral");
            let other = Some(ephemeral.place.mark("ephemeral here"));
            let mark = entry.path.place.mark("kept here");
            let hint = "decide for one; what lies below an ephemeral tree can be kept by itself";
            problems.push(Problem { other, ..error(message, mark) }.hint(hint));
        }
        if let Some(first) = root.ephemeral[..index].iter().find(|e| e.value == ephemeral.value) {
            let message = format!("{path} is given twice");
            let other = Some(first.place.mark("first here"));
            problems.push(Problem { other, ..error(message, ephemeral.place.mark("")) });
        }
    }
    let open: Vec<String> = DECISIONS
        .iter()
        .map(Path::new)
        .filter(|path| {
            let ephemeral = root.ephemeral.iter().any(|ephemeral| ephemeral.value == **path);
            !ephemeral && !merged.entries.contains_key(*path)
        })
        .map(name)
        .collect();
    if whole && root.sound && !open.is_empty() {
        let (verb, what) = if open.len() == 1 { ("is", "it") } else { ("are", "they") };
        let message = format!("{} {verb} neither kept nor ephemeral", join(&open, "and"));
        let hint = format!(
            "decide what {what} should be: kept whole in `[keep]`, or named in `ephemeral`; \
             undecided means ephemeral"
        );
        problems.push(warning(message, root.place.mark("")).hint(&hint));
    }
}

impl Problem {
    fn hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..self }
    }
}

fn error(message: String, mark: Mark) -> Problem {
    Problem { severity: Severity::Error, message, mark, other: None, hint: None }
}

fn warning(message: String, mark: Mark) -> Problem {
    Problem { severity: Severity::Warning, ..error(message, mark) }
}
