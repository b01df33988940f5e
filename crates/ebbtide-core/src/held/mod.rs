//! Services that must not start because what they need is declared and absent.
//!
//! A database that starts on an empty directory makes a new one there, and people find out when they
//! miss the old one. So a unit that needs a missing path is made to require a unit that fails and says
//! why. This is done by a systemd generator (systemd.generator(7)), at every boot and every reload:
//! nothing of it outlives the reason.

mod unit_file;

use ebbtide_sys::file;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::boot::{DECLARATION, RECORD};
use crate::compiled::{Compiled, Entry};
use crate::failure::{Context, Result};
use crate::record::Record;
use unit_file::Needs;

/// Where units lie, the folder that counts most first (systemd.unit(5)).
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// The largest unit file that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// The name of the drop-in.
const DROP_IN: &str = "50-ebbtide-missing.conf";

/// Units without which nobody can get at the machine to mend it, or that write no state worth the
/// name: they start, whatever is missing. Those of systemd itself are never held.
const NEEDED: [&str; 12] = [
    "dbus",
    "dbus-broker",
    "getty",
    "serial-getty",
    "console-getty",
    "ssh",
    "sshd",
    "NetworkManager",
    "networking",
    "polkit",
    "udev",
    "ebbtide",
];

/// Units that are held, each with the paths that are missing for it.
pub type Held = BTreeMap<String, BTreeSet<PathBuf>>;

/// Reads what is missing in this boot, and which units need it. Without anything missing, no unit is
/// looked at.
pub fn held(sysroot: &Path, run: &Path) -> Result<Held> {
    let record: Option<Record> = read(&run.join(RECORD))?;
    let missing = record.and_then(|record| record.attached).map(|it| it.missing);
    let missing = missing.unwrap_or_default();
    if missing.is_empty() {
        return Ok(Held::new());
    }
    let compiled: Option<Compiled> = read(&run.join(DECLARATION))?;
    let declared = compiled.map(|compiled| compiled.entries).unwrap_or_default();
    Ok(decide(&missing, &declared, &units(sysroot)))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .context(|| format!("cannot understand {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("cannot read {}", path.display())),
    }
}

/// Which units need what is missing: those that the entry names, and those that need a path at, below
/// or above it.
fn decide(missing: &[PathBuf], declared: &[Entry], units: &BTreeMap<String, Needs>) -> Held {
    let mut held = Held::new();
    let mut note = |unit: &str, path: &Path| {
        if !is_needed(unit) {
            held.entry(unit.to_owned()).or_default().insert(path.to_owned());
        }
    };
    for path in missing {
        let entry = declared.iter().find(|entry| entry.path == *path);
        for unit in entry.iter().flat_map(|entry| &entry.units) {
            note(unit, path);
        }
        for (unit, needs) in units {
            let needs_it = |needed: &PathBuf| needed.starts_with(path) || path.starts_with(needed);
            if needs.paths(unit).iter().any(needs_it) {
                note(unit, path);
            }
        }
    }
    held
}

fn is_needed(unit: &str) -> bool {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let stem = stem.split('@').next().unwrap_or(stem);
    NEEDED.contains(&stem)
        || ["systemd-", "ebbtide-", "initrd-", "user@"].iter().any(|it| unit.starts_with(it))
}

/// All services and sockets, with what they need.
fn units(sysroot: &Path) -> BTreeMap<String, Needs> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut drop_ins: BTreeMap<String, BTreeMap<String, PathBuf>> = BTreeMap::new();
    for folder in FOLDERS {
        let Ok(entries) = fs::read_dir(sysroot.join(folder)) else { continue };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            if let Some(unit) = name.strip_suffix(".d").filter(|unit| is_unit(unit)) {
                for drop_in in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                    let Ok(name) = drop_in.file_name().into_string() else { continue };
                    if Path::new(&name).extension() == Some(OsStr::new("conf")) {
                        let known = drop_ins.entry(unit.to_owned()).or_default();
                        known.entry(name).or_insert(drop_in.path());
                    }
                }
            } else if is_unit(&name) {
                files.entry(name).or_insert(entry.path());
            }
        }
    }
    files
        .into_iter()
        .map(|(unit, file)| {
            let mut needs = Needs::default();
            let of_unit = drop_ins.get(&unit).into_iter().flat_map(BTreeMap::values);
            for path in std::iter::once(&file).chain(of_unit) {
                if let Some(text) = text_of(path) {
                    needs.read(&text);
                }
            }
            (unit, needs)
        })
        .collect()
}

fn is_unit(name: &str) -> bool {
    let kind = Path::new(name).extension();
    [OsStr::new("service"), OsStr::new("socket")].iter().any(|it| kind == Some(it))
}

fn text_of(path: &Path) -> Option<String> {
    // A masked unit is a link to /dev/null.
    let found = fs::metadata(path).ok()?;
    if !found.is_file() || found.len() > LARGEST {
        return None;
    }
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

/// Writes the drop-ins into a generator's directory.
pub fn generate(held: &Held, directory: &Path) -> Result<()> {
    for (unit, paths) in held {
        let folder = directory.join(format!("{unit}.d"));
        file::create_directories(&folder)
            .context(|| format!("cannot make {}", folder.display()))?;
        let reasons: Vec<String> =
            paths.iter().map(|path| format!("ebbtide-missing@{}.service", escape(path))).collect();
        let reasons = reasons.join(" ");
        let text = format!(
            "# What this unit keeps its state in is declared, and not there in this boot.\n\
             # `ebbtide status` says why.\n[Unit]\nRequires={reasons}\nAfter={reasons}\n"
        );
        let path = folder.join(DROP_IN);
        fs::write(&path, text).context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// A path as the instance of a unit, as systemd-escape(1) makes it.
fn escape(path: &Path) -> String {
    use std::fmt::Write as _;
    let bytes = path.as_os_str().as_encoded_bytes();
    let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let mut text = String::new();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'/' => text.push('-'),
            b'.' if at == 0 => text.push_str("\\x2e"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' | b'.' => {
                text.push(char::from(*byte));
            }
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compiled::{Kind, Method, Origin, StoreName};

    fn entry(path: &str, units: &[&str]) -> Entry {
        Entry {
            path: PathBuf::from(path),
            kind: Kind::Directory,
            store: StoreName("state".to_owned()),
            method: Method::Bind,
            user: None,
            group: None,
            mode: None,
            parent: None,
            options: Vec::new(),
            optional: false,
            lazy: false,
            home: None,
            units: units.iter().map(|unit| (*unit).to_owned()).collect(),
            origin: Origin { file: "test".to_owned(), line: 1 },
        }
    }

    fn needs(text: &str) -> Needs {
        let mut needs = Needs::default();
        needs.read(text);
        needs
    }

    #[test]
    fn units_are_held_by_name_and_by_path_and_those_that_are_needed_are_not() {
        let units = BTreeMap::from([
            ("app.service".to_owned(), needs("[Service]\nStateDirectory=app/data\n")),
            ("whole.service".to_owned(), needs("[Unit]\nRequiresMountsFor=/var/lib\n")),
            ("other.service".to_owned(), needs("[Service]\nStateDirectory=application\n")),
            ("systemd-x.service".to_owned(), needs("[Service]\nStateDirectory=app\n")),
        ]);
        let missing = [PathBuf::from("/var/lib/app")];
        let declared = [entry("/var/lib/app", &["database@.service", "ssh.service"])];
        let held = decide(&missing, &declared, &units);
        let names: Vec<_> = held.keys().map(String::as_str).collect();
        assert_eq!(names, ["app.service", "database@.service", "whole.service"]);
    }

    #[test]
    fn paths_are_escaped_as_systemd_does_it() {
        assert_eq!(escape(Path::new("/var/lib/a-b c")), "var-lib-a\\x2db\\x20c");
        assert_eq!(escape(Path::new("/.x/%i\n]")), "\\x2ex-\\x25i\\x0a\\x5d");
    }

    #[test]
    fn drop_ins_of_a_system_are_read_and_written() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("usr/lib/systemd/system/a.service", "[Service]\nStateDirectory=a\n");
        write("usr/lib/systemd/system/b.service", "[Service]\nStateDirectory=a\n");
        write("etc/systemd/system/b.service", "[Service]\nStateDirectory=b\n");
        write("etc/systemd/system/c.service.d/x.conf", "[Service]\nStateDirectory=a\n");
        write("usr/lib/systemd/system/c.service", "[Service]\n");
        let missing = [PathBuf::from("/var/lib/a")];
        let held = decide(&missing, &[], &units(root.path()));
        assert_eq!(held.keys().map(String::as_str).collect::<Vec<_>>(), ["a.service", "c.service"]);
        let out = root.path().join("out");
        generate(&held, &out).unwrap();
        let text = fs::read_to_string(out.join("a.service.d").join(DROP_IN)).unwrap();
        assert!(text.contains("Requires=ebbtide-missing@var-lib-a.service\n"), "{text}");
    }

    #[test]
    fn nothing_is_held_where_nothing_is_missing() {
        let run = tempfile::tempdir().unwrap();
        assert!(held(Path::new("/"), run.path()).unwrap().is_empty());
    }
}
