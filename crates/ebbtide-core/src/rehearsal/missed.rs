//! What a unit that failed had looked for: paths that are there today, and not on the rehearsed root.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::{file, resolve};

use crate::enclosure::mounts::open_directory;

/// Properties of a unit that name directories which systemd makes where they are missing, with the
/// directory that the names are below (systemd.exec(5)).
const MADE: [(&str, &str); 4] = [
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
    ("ConfigurationDirectory", "/etc"),
];

/// All properties that are asked for: those, and some that name paths.
pub(super) const PROPERTIES: [&str; 7] = [
    "StateDirectory",
    "CacheDirectory",
    "LogsDirectory",
    "ConfigurationDirectory",
    "RequiresMountsFor",
    "WorkingDirectory",
    "EnvironmentFiles",
];

/// What programs write when a path is not there.
const ABSENT: [&str; 4] = ["No such file or directory", "ENOENT", "does not exist", "not found"];

/// A path that was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    /// The path.
    pub path: PathBuf,
    /// Whether an entry covers it: then that entry is not in place, or has less than today's root.
    pub declared: bool,
}

/// How a path was named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum How {
    /// As one that has to be there.
    Needed,
    /// As a directory that is made where it is missing: what was in it is needed.
    Made,
}

/// The paths that a unit names in its properties (`systemctl show`), and those that its log says are
/// not there.
pub(super) fn named(properties: &str, log: &[String]) -> BTreeMap<PathBuf, How> {
    let mut found = BTreeMap::new();
    let mut add = |path: &Path, how: How| {
        let plain =
            path.components().all(|it| matches!(it, Component::RootDir | Component::Normal(_)));
        if plain && path.is_absolute() && path.parent().is_some() {
            found.entry(path.to_owned()).or_insert(how);
        }
    };
    for line in properties.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let made = MADE.iter().find(|(property, _)| *property == name);
        for word in value.split_whitespace() {
            match made {
                Some((_, below)) => {
                    let word = word.split(':').next().unwrap_or(word);
                    add(&Path::new(below).join(word), How::Made);
                }
                None if PROPERTIES.contains(&name) => {
                    // `WorkingDirectory=!/path` and `EnvironmentFiles=/path (ignore_errors=no)`.
                    add(Path::new(word.trim_start_matches(['!', '-'])), How::Needed);
                }
                None => {}
            }
        }
    }
    for line in log.iter().filter(|line| ABSENT.iter().any(|it| line.contains(it))) {
        let words =
            line.split(|it: char| it.is_whitespace() || "'\"`‘’“”()<>[]{}=,;:".contains(it));
        for word in words {
            add(Path::new(word.trim_end_matches(['.', '!', '?'])), How::Needed);
        }
    }
    found
}

/// Those of them that the root of today has, and the rehearsed one has not.
pub(super) fn missed(
    named: &BTreeMap<PathBuf, How>,
    today: &Path,
    rehearsed: &Path,
    declared: &[PathBuf],
) -> Vec<Missed> {
    let (Ok(today), Ok(rehearsed)) = (open_directory(today), open_directory(rehearsed)) else {
        return Vec::new();
    };
    let is_missed = |path: &Path, how: How| {
        let path = path.strip_prefix("/").unwrap_or(path);
        let is_there = |tree: BorrowedFd<'_>| matches!(metadata::metadata_beneath(tree, path), Ok(Some(found)) if found.kind != FileKind::Symlink);
        if !is_there(today.as_fd()) {
            return false;
        }
        if !is_there(rehearsed.as_fd()) {
            return true;
        }
        let (before, now) = (names(today.as_fd(), path), names(rehearsed.as_fd(), path));
        how == How::Made && before.iter().any(|name| !now.contains(name))
    };
    let missed = named.iter().filter(|(path, how)| is_missed(path, **how));
    missed
        .map(|(path, _)| Missed {
            path: path.clone(),
            declared: declared.iter().any(|entry| path.starts_with(entry)),
        })
        .collect()
}

fn names(tree: BorrowedFd<'_>, path: &Path) -> Vec<std::ffi::OsString> {
    let directory = resolve::open_directory(tree, path);
    let names = directory.and_then(|directory| file::read_directory(directory.as_fd()));
    names.unwrap_or_default().into_iter().map(|entry| entry.name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SHOWN: &str = "Result=exit-code\nStateDirectory=app app/sub other:link\nCacheDirectory=\n\
        RequiresMountsFor=/srv/data /var/lib/app\nWorkingDirectory=!/srv/work\n\
        EnvironmentFiles=/etc/app.env (ignore_errors=no)\nDescription=/no/path of ours\n";

    fn paths(named: &BTreeMap<PathBuf, How>) -> Vec<String> {
        named.iter().map(|(path, how)| format!("{} {how:?}", path.display())).collect()
    }

    #[test]
    fn paths_are_found_in_properties_and_in_what_was_written() {
        let log = [
            "app[12]: open '/srv/app/config.toml': No such file or directory.",
            "cat: /opt/a/b: No such file or directory",
            "Error: ENOENT: no such file or directory, open '/opt/node'",
            "started with /usr/bin/env",
            "/../../etc/shadow: not found",
            "/: No such file or directory",
        ]
        .map(str::to_owned);
        insta::assert_debug_snapshot!(paths(&named(SHOWN, &log)), @r#"
        [
            "/etc/app.env Needed",
            "/opt/a/b Needed",
            "/opt/node Needed",
            "/srv/app/config.toml Needed",
            "/srv/data Needed",
            "/srv/work Needed",
            "/var/lib/app Made",
            "/var/lib/app/sub Made",
            "/var/lib/other Made",
        ]
        "#);
    }

    #[test]
    fn only_what_is_there_today_is_missed() {
        let scratch = tempfile::tempdir().unwrap();
        let [today, next] = ["today", "next"].map(|name| scratch.path().join(name));
        for path in ["var/lib/app", "var/lib/kept", "srv/same"] {
            fs::create_dir_all(today.join(path)).unwrap();
            fs::create_dir_all(next.join(path)).unwrap();
        }
        fs::create_dir_all(today.join("srv/gone")).unwrap();
        fs::write(today.join("var/lib/app/data"), "").unwrap();
        fs::write(today.join("srv/same/data"), "").unwrap();
        fs::create_dir_all(today.join("var/lib/kept/inner")).unwrap();
        let named = [
            ("/srv/gone", How::Needed),
            ("/srv/same", How::Needed),
            ("/srv/never", How::Needed),
            ("/var/lib/app", How::Made),
            ("/var/lib/kept", How::Made),
            ("/var/lib/kept/inner", How::Needed),
        ];
        let named = named.map(|(path, how)| (PathBuf::from(path), how)).into();
        let missed = missed(&named, &today, &next, &["/var/lib/kept".into()]);
        let missed: Vec<_> =
            missed.iter().map(|it| (it.path.to_str().unwrap(), it.declared)).collect();
        let expected = [
            ("/srv/gone", false),
            ("/var/lib/app", false),
            ("/var/lib/kept", true),
            ("/var/lib/kept/inner", true),
        ];
        assert_eq!(missed, expected);
    }
}
