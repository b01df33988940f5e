//! What works as it is declared, and hurts later. All of it is warnings: a person may know better.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::entries::{method, store};
use super::file::{Attachment, Entry};
use super::merge::Merged;
use super::preset::{Library, Need, PresetEntry};
use super::problem::{Mark, Problem, Severity, join, quote};
use super::surroundings::Surroundings;
use crate::compiled::{Class, Kind, Method, Mode, MountOption, StoreName};

/// Files of which one without the others is worth nothing, or worse.
const TOGETHER: [&[&str]; 2] = [&["/etc/passwd", "/etc/shadow"], &["/etc/group", "/etc/gshadow"]];

/// Directories that packages of the base fill and update: kept, they stay as they are today.
const OF_THE_BASE: [(&str, &str); 15] = [
    ("/etc", "keep the single files and directories below it that were changed"),
    ("/etc/alternatives", "keep nothing of it: packages of the base make it"),
    ("/etc/apt", "keep single files below /etc/apt/sources.list.d, or change the base"),
    ("/etc/default", "keep the single files that were changed"),
    ("/etc/init.d", "keep nothing of it: packages of the base make it"),
    ("/etc/pam.d", "change the base instead: a new one may need other modules"),
    ("/etc/profile.d", "keep the single files that were added"),
    ("/etc/ssl", "keep single keys below /etc/ssl/private; the certificates come with the base"),
    ("/etc/ssl/certs", "keep /usr/local/share/ca-certificates in the base; this is made from it"),
    ("/etc/systemd", "keep the single units below /etc/systemd/system that were added"),
    ("/etc/systemd/system", "keep the single units that were added"),
    ("/var", "keep what is below it: its package database belongs to the base"),
    ("/var/lib", "keep what is below it: its package database belongs to the base"),
    ("/var/lib/dpkg", "change the base instead: half of a package database is none"),
    ("/var/lib/rpm", "change the base instead: half of a package database is none"),
];

/// Directories in which everyone may write, and only the sticky bit keeps them from deleting what is
/// another's (systemd's tmpfiles.d, Debian's base-files).
const STICKY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Names that hold keys, wherever they lie.
const SECRET_NAMES: [&str; 2] = [".gnupg", ".ssh"];

/// Looks at everything that was declared.
pub(super) fn lint(
    merged: &Merged,
    library: &Library,
    surroundings: &Surroundings,
    problems: &mut Vec<Problem>,
) {
    for entry in merged.entries.values() {
        let preset = library.entry(&entry.path.value);
        problems.extend(loose(entry, preset));
        problems.extend(sticky(entry, preset));
        problems.extend(replaced(entry, library, surroundings));
        problems.extend(of_the_base(entry));
        problems.extend(open_home(entry));
        problems.extend(secret_in_the_open(entry, merged, library, surroundings));
        problems.extend(unmet_needs(entry, merged, library, surroundings));
        problems.extend(in_a_relaxed_store(entry, preset, merged));
    }
    apart(&merged.entries, problems);
    storage_on_the_root(merged, surroundings, problems);
}

fn warning(message: String, mark: Mark, hint: impl Into<String>) -> Problem {
    Problem { severity: Severity::Warning, message, mark, other: None, hint: Some(hint.into()) }
}

fn name(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// A mode that gives more than the application gives itself.
fn loose(entry: &Entry, preset: Option<&PresetEntry>) -> Option<Problem> {
    let (declared, usual) = (entry.mode?, preset?.attributes().2?);
    let more = declared.0 & 0o777 & !usual.0;
    (more != 0).then(|| {
        let message =
            format!("{} is open to more than it has to be: {declared}", name(&entry.path.value));
        warning(message, entry.path.place.mark(""), format!("its application has {usual} there"))
    })
}

/// Whether everyone may write there.
fn is_for_all(entry: &Entry) -> bool {
    STICKY.iter().any(|path| entry.path.value == Path::new(path))
}

fn sticky(entry: &Entry, preset: Option<&PresetEntry>) -> Option<Problem> {
    let declared = entry.mode?;
    let usual = preset.and_then(|preset| preset.attributes().2);
    let open = entry.kind == Kind::Directory && declared.0 & 0o002 != 0;
    let needed = usual.is_some_and(|mode| mode.0 & 0o1000 != 0) || open || is_for_all(entry);
    (needed && declared.0 & 0o1000 == 0).then(|| {
        let path = name(&entry.path.value);
        let message = format!("{path} has no sticky bit: people could delete what is another's");
        let usual = usual.filter(|mode| mode.0 & 0o1000 != 0);
        let usual = usual.unwrap_or(if is_for_all(entry) {
            Mode(0o1777)
        } else {
            Mode(declared.0 | 0o1000)
        });
        warning(message, entry.path.place.mark(""), format!("write `mode = \"{usual}\"`"))
    })
}

/// A mounted file can't be replaced: rename(2) fails with EBUSY.
fn replaced(entry: &Entry, library: &Library, surroundings: &Surroundings) -> Option<Problem> {
    let bound = entry.method.as_ref().filter(|method| method.value == Attachment::Bind)?;
    let relative = surroundings.in_home(entry);
    let known =
        entry.kind == Kind::File && library.is_replaced(&entry.path.value, relative.as_deref());
    known.then(|| {
        let message =
            format!("{} is replaced by rename, which fails on a mount", name(&entry.path.value));
        warning(message, bound.place.mark(""), "use `method = \"sync\"`, or leave it out")
    })
}

fn of_the_base(entry: &Entry) -> Option<Problem> {
    let path = &entry.path.value;
    let (_, hint) = OF_THE_BASE
        .iter()
        .find(|(known, _)| path == Path::new(known) && entry.kind == Kind::Directory)?;
    let message = format!("{} is filled by packages of the base: kept, it grows old", name(path));
    Some(warning(message, entry.path.place.mark(""), *hint))
}

fn open_home(entry: &Entry) -> Option<Problem> {
    let path = &entry.path.value;
    let parent = path.parent();
    let is_home = parent == Some(Path::new("/home")) || path == Path::new("/root");
    let mode = entry.mode.filter(|mode| is_home && mode.0 & 0o022 != 0)?;
    let message = format!("others can write to the home {}: {mode}", name(path));
    Some(warning(message, entry.path.place.mark(""), "write `mode = \"0700\"`"))
}

fn class_of(merged: &Merged, name: &StoreName) -> Class {
    let store = merged.stores.get(name).and_then(|store| store.class.as_ref());
    store.map(|class| class.value).unwrap_or_default()
}

/// Caches are dropped and logs are read by many: neither is a place for a key.
fn secret_in_the_open(
    entry: &Entry,
    merged: &Merged,
    library: &Library,
    surroundings: &Surroundings,
) -> Option<Problem> {
    let path = &entry.path.value;
    let class = class_of(merged, &store(entry));
    if !matches!(class, Class::Cache | Class::Log) {
        return None;
    }
    let by_name =
        path.components().any(|part| SECRET_NAMES.iter().any(|name| part.as_os_str() == *name));
    let shadow = [Path::new("/etc/shadow"), Path::new("/etc/gshadow")].contains(&path.as_path());
    // At a secret, below one, or above one that is not kept by itself.
    let holds = |secret: &Path, path: &Path| {
        path.starts_with(secret)
            || (entry.kind == Kind::Directory
                && secret.starts_with(path)
                && !merged.entries.contains_key(secret))
    };
    let relative = surroundings.in_home(entry);
    let mut secrets = library.presets.values().flat_map(|preset| {
        let of = |entries: &'_ [PresetEntry], path: Option<&Path>| {
            let mut secret = entries.iter().filter(|it| it.class == Class::Secret);
            path.is_some_and(|path| secret.any(|it| holds(it.path(), path)))
        };
        [of(&preset.entries, Some(path)), of(&preset.user_entries, relative.as_deref())]
    });
    let by_preset = secrets.any(|is_secret| is_secret);
    (by_name || shadow || by_preset).then(|| {
        let message = format!("{} holds secrets, and its store is a {}", name(path), class.name());
        let place = entry.store.as_ref().map_or(&entry.path.place, |store| &store.place);
        warning(message, place.mark(""), "keep it in a store of class `secret` or `state`")
    })
}

/// What an application needs of the mount that its data is on.
fn unmet_needs(
    entry: &Entry,
    merged: &Merged,
    library: &Library,
    surroundings: &Surroundings,
) -> Option<Problem> {
    if method(entry) != Method::Bind {
        return None;
    }
    let needs = library.needs(&entry.path.value, &surroundings.storage);
    let options = merged.stores.get(&store(entry))?.mount_options();
    let unmet: Vec<String> = needs
        .iter()
        .map(|need| match need {
            Need::Suid => (MountOption::Nosuid, "suid"),
            Need::Dev => (MountOption::Nodev, "dev"),
            Need::Exec => (MountOption::Noexec, "exec"),
        })
        .filter(|(option, _)| options.contains(option))
        .map(|(_, need)| format!("\"{need}\""))
        .collect();
    (!unmet.is_empty()).then(|| {
        let path = name(&entry.path.value);
        let message = format!("programs below {path} may not work in the store `{}`", store(entry));
        let hint = format!(
            "containers have setuid programs and devices: a store of its own, with `options = [{}]`",
            unmet.join(", ")
        );
        warning(message, entry.path.place.mark(""), hint)
    })
}

/// In a store that honours setuid programs, what people bring along has effect.
fn in_a_relaxed_store(
    entry: &Entry,
    preset: Option<&PresetEntry>,
    merged: &Merged,
) -> Option<Problem> {
    let in_home = entry.home.is_some()
        || entry.path.value.starts_with("/home")
        || entry.path.value.starts_with("/root");
    let mode = entry.mode.or_else(|| preset?.attributes().2);
    let open = is_for_all(entry) || mode.is_some_and(|mode| mode.0 & 0o002 != 0);
    let options = merged.stores.get(&store(entry))?.mount_options();
    let relaxed = [MountOption::Nosuid, MountOption::Nodev].iter().any(|it| !options.contains(it));
    ((in_home || open) && relaxed).then(|| {
        let path = name(&entry.path.value);
        let message = format!("{path} is in the store `{}`, with `suid` or `dev`", store(entry));
        let hint = "keep what people write to in a store without: nothing there needs it";
        warning(message, entry.path.place.mark(""), hint)
    })
}

/// Files that are kept without others that they make no sense without, or in another store.
fn apart(entries: &BTreeMap<PathBuf, Entry>, problems: &mut Vec<Problem>) {
    for set in TOGETHER {
        let kept: Vec<&Entry> =
            set.iter().filter_map(|path| entries.get(Path::new(path))).collect();
        let Some(first) = kept.first() else { continue };
        let missing: Vec<String> = set
            .iter()
            .filter(|path| !entries.contains_key(Path::new(path)))
            .map(|path| quote(path))
            .collect();
        let mark = || first.path.place.mark("");
        let path = name(&first.path.value);
        if !missing.is_empty() {
            let message = format!("{path} is kept without {}", join(&missing, "and"));
            let hint = "the preset `accounts` keeps all account files, all or none of them";
            problems.push(warning(message, mark(), hint));
        } else if kept
            .iter()
            .any(|other| store(other) != store(first) || method(other) != method(first))
        {
            let message = format!("{path} is kept apart from the files that it belongs to");
            problems.push(warning(message, mark(), "one store and one method for all of them"));
        }
    }
    for (path, entry) in entries {
        let text = path.to_string_lossy();
        let public = PathBuf::from(format!("{text}.pub"));
        let key = text.starts_with("/etc/ssh/ssh_host_") && text.ends_with("_key");
        if key && !entries.contains_key(&public) {
            let message = format!("{} is kept without its public half", name(path));
            let hint = "the preset `ssh-host-keys` keeps both";
            problems.push(warning(message, entry.path.place.mark(""), hint));
        }
    }
}

/// Images and volumes that would go with the next reset, and make every root huge until then.
fn storage_on_the_root(merged: &Merged, surroundings: &Surroundings, problems: &mut Vec<Problem>) {
    let Some(root) = merged.root.as_ref().filter(|root| root.sound) else { return };
    for (path, preset) in &surroundings.storage {
        let covered = path.ancestors().any(|above| merged.entries.contains_key(above));
        let parts = merged.entries.keys().any(|kept| kept.starts_with(path));
        if !covered && !parts {
            let message = format!("{} has data, and is on the root", name(path));
            let hint = format!("if it is to stay: the preset {}; if not, empty it", quote(preset));
            problems.push(warning(message, root.place.mark(""), hint));
        }
    }
}
