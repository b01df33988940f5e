//! The contract: files of `tests/formats/v1` were written by the first version that had the format,
//! and every later one reads them. They are added to, and never changed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use serde_json::Value;

use super::{bytes, parse};
use crate::compiled::{Compiled, DeclarationHash};
use crate::container::{self, Pins};
use crate::failure::Result;
use crate::harvest::Manifest;
use crate::locator::Locator;
use crate::record::{CleanMark, Record};
use crate::{backend, store};

/// Reads a file, and writes what was read.
type Rewrite = fn(&[u8]) -> Result<Vec<u8>>;

/// All formats: how the names of their files begin, and how they are read.
const FORMATS: [(&str, Rewrite); 15] = [
    ("base-in-use", rewrite::<container::Numbered>),
    ("base-of-overlay", rewrite::<backend::overlay::Base>),
    ("boot-number", rewrite::<container::Numbered>),
    ("clean-mark", rewrite::<CleanMark>),
    ("declaration", compiled),
    ("gc-last-run", rewrite::<crate::gc::LastRun>),
    ("locator", |file| bytes("the locator", &Locator::from_bytes(file)?)),
    ("manifest", rewrite::<Manifest>),
    ("marker", rewrite::<container::Marker>),
    ("once", rewrite::<crate::once::Wish>),
    ("overlay-id", rewrite::<backend::overlay::Id>),
    ("others-of-overlay", rewrite::<backend::overlay::others::List>),
    ("pins", rewrite::<Pins>),
    ("record", rewrite::<Record>),
    ("store", store_file),
];

fn rewrite<T: serde::Serialize + serde::de::DeserializeOwned>(file: &[u8]) -> Result<Vec<u8>> {
    bytes("it", &parse::<T>("it", container::VERSION, file)?)
}

fn compiled(file: &[u8]) -> Result<Vec<u8>> {
    use crate::failure::Context;
    let compiled = Compiled::from_bytes(file, &DeclarationHash::of(file));
    Ok(compiled.context(|| "cannot use it")?.to_bytes())
}

/// `store-marker`, `store-seed` and `store-forgotten`.
fn store_file(file: &[u8]) -> Result<Vec<u8>> {
    let has = |key: &[u8]| file.windows(key.len()).any(|part| part == key);
    if has(b"\"source\"") {
        rewrite::<store::notes::SeedNote>(file)
    } else if has(b"\"path\"") {
        rewrite::<store::notes::ForgottenNote>(file)
    } else {
        rewrite::<store::Marker>(file)
    }
}

fn fixtures() -> Vec<(PathBuf, Rewrite)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/v1");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    let format = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let (_, rewrite) = FORMATS.iter().find(|(format, _)| name.starts_with(format)).unwrap();
        (path, *rewrite)
    };
    files.into_iter().map(format).collect()
}

fn refusal(rewrite: Rewrite, file: &[u8]) -> String {
    rewrite(file).map_or_else(|failure| failure.chain(), |_| "it is not refused".to_owned())
}

/// A file with one more key in its top object.
fn with(file: &[u8], key: &str, value: impl Into<Value>) -> Vec<u8> {
    let mut file: Value = serde_json::from_slice(file).unwrap();
    file[key] = value.into();
    serde_json::to_vec(&file).unwrap()
}

fn shown(path: &Path) -> impl fmt::Display {
    path.display()
}

#[test]
fn every_format_has_a_file() {
    let names: BTreeSet<_> =
        fixtures().iter().map(|(path, _)| path.file_stem().unwrap().to_owned()).collect();
    for (format, _) in FORMATS {
        let has = |name: &std::ffi::OsString| name.to_str().unwrap().starts_with(format);
        assert!(names.iter().any(has), "{format}");
    }
}

#[test]
fn what_was_written_is_read_and_written_the_same() {
    for (path, rewrite) in fixtures() {
        let file = fs::read(&path).unwrap();
        let again = rewrite(&file).unwrap_or_else(|failure| failure.chain().into_bytes());
        let (again, file) = (String::from_utf8(again).unwrap(), String::from_utf8(file).unwrap());
        assert!(again == file, "{} becomes\n{again}", shown(&path));
    }
}

/// A later version has keys that are not known here: it is refused for its version all the same.
#[test]
fn another_version_is_refused_as_such() {
    for (path, rewrite) in fixtures() {
        let later = with(&with(&fs::read(&path).unwrap(), "version", 2), "novelty", 1);
        let refusal = refusal(rewrite, &later);
        assert!(refusal.contains("format version 2"), "{}: {refusal}", shown(&path));
        assert!(refusal.contains("version 1 only"), "{}: {refusal}", shown(&path));
    }
}

/// What a later Ebbtide adds to a version says nothing that this one has to know: the initramfs of before
/// goes on booting with it.
#[test]
fn a_key_that_is_not_known_is_passed_over() {
    for (path, rewrite) in fixtures() {
        let file = fs::read(&path).unwrap();
        let read =
            rewrite(&everywhere(&file)).unwrap_or_else(|failure| failure.chain().into_bytes());
        assert_eq!(String::from_utf8(read), String::from_utf8(file), "{}", shown(&path));
    }
}

/// A file with one more key in each object whose keys are those of a format.
fn everywhere(file: &[u8]) -> Vec<u8> {
    fn add(value: &mut Value, is_map: bool) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| add(item, false)),
            Value::Object(members) => {
                for (name, member) in &mut *members {
                    // Stores by name, and roots that are told apart by their keys.
                    if name != "root" || member.get("backend").is_some() {
                        add(member, name == "stores");
                    }
                }
                // One key says which variant it is.
                if !is_map && members.len() > 1 {
                    members.insert("novelty".to_owned(), 1.into());
                }
            }
            _ => {}
        }
    }
    let mut value = serde_json::from_slice(file).unwrap();
    add(&mut value, false);
    serde_json::to_vec(&value).unwrap()
}

#[test]
fn a_file_without_a_version_is_refused() {
    for (path, rewrite) in fixtures() {
        let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file.as_object_mut().unwrap().remove("version");
        let refusal = refusal(rewrite, &serde_json::to_vec(&file).unwrap());
        assert!(refusal.contains("missing field `version`"), "{}: {refusal}", shown(&path));
    }
}
