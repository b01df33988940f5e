//! What a declaration is checked with besides its own files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;

use super::file::Entry;
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
    /// The numbers of users, by name.
    pub uids: BTreeMap<String, u32>,
    /// State directories of services with `DynamicUser=`, which are links, and where they lead: systemd
    /// keeps the directories themselves below `private` (systemd.exec(5)).
    pub private: BTreeMap<PathBuf, PathBuf>,
    /// Where there are images and volumes of containers or machines now, each with its preset.
    pub storage: BTreeMap<PathBuf, String>,
}

impl Default for Surroundings {
    /// Only the presets that come with Ebbtide.
    fn default() -> Self {
        Self {
            presets: preset::built_in(),
            homes: BTreeMap::new(),
            uids: BTreeMap::new(),
            private: BTreeMap::new(),
            storage: BTreeMap::new(),
        }
    }
}

impl Surroundings {
    /// The path of an entry relative to the home that it lies in, if it lies in one.
    pub(super) fn in_home(&self, entry: &Entry) -> Option<PathBuf> {
        let mut homes = entry.home.iter().chain(self.homes.values());
        homes.find_map(|home| {
            let relative = entry.path.value.strip_prefix(home).ok()?;
            (!relative.as_os_str().is_empty() && home != Path::new("/"))
                .then(|| relative.to_owned())
        })
    }

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
                let inside = path.strip_prefix("/").unwrap_or(path);
                system.names(inside).is_ok_and(|names| !names.is_empty())
            };
            let used = paths.iter().filter(used).map(|path| (path.clone(), name.clone()));
            surroundings.storage.extend(used);
        }
        for place in ["/var/lib", "/var/cache", "/var/log"].map(Path::new) {
            let inside = place.strip_prefix("/").unwrap_or(place);
            for name in system.names(inside).unwrap_or_default() {
                let target = Path::new("private").join(&name);
                if system.link(&inside.join(&name)).as_ref() == Some(&target) {
                    surroundings.private.insert(place.join(&name), place.join(target));
                }
            }
        }
        // Without accounts, homes are where they usually are.
        if let Ok(root) = std::fs::File::open(sysroot)
            && let Ok(accounts) = Accounts::read(root.as_fd())
        {
            surroundings.homes =
                accounts.homes().map(|(name, home)| (name.to_owned(), tidy(home))).collect();
            let numbers = surroundings.homes.keys();
            surroundings.uids =
                numbers.filter_map(|name| Some((name.clone(), accounts.uid(name)?))).collect();
        }
        Ok(surroundings)
    }
}

/// A home as passwd has it, without slashes too many.
fn tidy(home: &str) -> PathBuf {
    Path::new(home).components().collect()
}
