//! What a declaration is checked with besides its own files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;

use super::layers::{ReadError, System};
use super::preset::{self, PresetFile};

/// Where packages put presets, and where the administrator overrides them.
const FOLDERS: [&str; 2] = ["usr/lib/ebbtide/presets.d", "etc/ebbtide/presets.d"];

/// What a declaration is checked with besides its own files. It is plain data: checking looks at no
/// disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Presets; of two with one name the later one counts.
    pub presets: Vec<PresetFile>,
    /// The homes of users, by name.
    pub homes: BTreeMap<String, PathBuf>,
    /// Where there are images and volumes of containers or machines now, each with its preset.
    pub storage: BTreeMap<PathBuf, String>,
}

impl Default for Surroundings {
    /// Only the presets that come with Ebbtide.
    fn default() -> Self {
        Self { presets: preset::built_in(), homes: BTreeMap::new(), storage: BTreeMap::new() }
    }
}

impl Surroundings {
    /// Reads what the system below `sysroot` has: presets of packages and of the administrator, and
    /// the homes in its passwd.
    pub fn read(sysroot: &Path) -> Result<Self, ReadError> {
        let mut surroundings = Self::default();
        let system = System::open(sysroot)?;
        for folder in FOLDERS {
            for file in system.list(Path::new(folder))? {
                let Some(source) = system.read(&file)? else { continue };
                let name = file.file_stem().unwrap_or(OsStr::new("")).to_string_lossy();
                surroundings.presets.push(PresetFile { name: name.into_owned(), source });
            }
        }
        for (name, paths) in preset::storage(&surroundings.presets) {
            let used = |path: &&PathBuf| {
                let inside = sysroot.join(path.strip_prefix("/").unwrap_or(path));
                std::fs::read_dir(inside).is_ok_and(|mut entries| entries.next().is_some())
            };
            let used = paths.iter().filter(used).map(|path| (path.clone(), name.clone()));
            surroundings.storage.extend(used);
        }
        // Without accounts, homes are where they usually are.
        if let Ok(root) = std::fs::File::open(sysroot)
            && let Ok(accounts) = Accounts::read(root.as_fd())
        {
            surroundings.homes =
                accounts.homes().map(|(name, home)| (name.to_owned(), home.into())).collect();
        }
        Ok(surroundings)
    }
}
