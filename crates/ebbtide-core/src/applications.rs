//! Which application a path belongs to: the one whose preset names it, or else the package that has it.

mod grouped;
mod packages;
mod rpm;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::file::is_empty_directory;
use ebbtide_sys::resolve;
use serde::Serialize;

use crate::changes;
use crate::declaration::{PresetFile, read_preset};

pub use grouped::{Grouped, Part};
use packages::Packages;

/// An application, by the name of what tells of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Application {
    /// The preset that keeps it, if it is declared.
    Preset(String),
    /// The installed package, by the package manager's name for it.
    Package(String),
}

/// How deep a path is looked up: each directory above it is, for each change, and somebody may have made a tree
/// that is thousands of directories deep.
const DEPTH: usize = 64;

/// The applications of a system.
#[derive(Debug)]
pub struct Applications {
    /// The preset of each path that one names. They are looked up for each change, and a hash of bytes
    /// costs less than comparing paths name by name.
    presets: HashMap<OsString, String>,
    /// The same of paths in homes.
    in_homes: HashMap<OsString, String>,
    /// The directory that was looked up last, and the presets of it: many changes lie beside each other.
    last: (PathBuf, Presets),
    /// What is installed, read when it is first asked for.
    packages: Option<Packages>,
    /// The root that they are installed on.
    sysroot: PathBuf,
}

/// The presets that name a path, or the nearest directory above it: as a path of the machine, and of a home.
type Presets = [Option<String>; 2];

/// Whether a root has a database of packages with something in it.
pub fn has_packages(root: BorrowedFd<'_>) -> bool {
    let databases = ["var/lib/dpkg/info", "var/lib/pacman/local"].iter().chain(rpm::DATABASES);
    databases.map(Path::new).any(|database| {
        let opened = resolve::open_directory(root, database);
        opened.and_then(|it| is_empty_directory(it.as_fd())).is_ok_and(|empty| !empty)
    })
}

impl Applications {
    /// Those that presets name, and those that are installed on the root at `sysroot`. Reads nothing yet.
    ///
    /// What can't be read of a package manager is as if it was not there: nothing fails for it.
    pub fn new(presets: &[PresetFile], sysroot: &Path) -> Self {
        let (mut of_machine, mut in_homes) = (HashMap::new(), HashMap::new());
        for file in presets {
            let Some(preset) = read_preset(0, &file.source, &mut Vec::new()) else { continue };
            let all = [(&mut of_machine, preset.entries), (&mut in_homes, preset.user_entries)];
            for (paths, entries) in all {
                for entry in entries {
                    let path: PathBuf = entry.path().components().collect();
                    paths.insert(path.into_os_string(), file.name.clone());
                }
            }
        }
        let (last, sysroot) = ((PathBuf::new(), Presets::default()), sysroot.to_owned());
        Self { presets: of_machine, in_homes, last, packages: None, sysroot }
    }

    /// The application that an absolute path belongs to, if that is known.
    ///
    /// What no package has by its name belongs to the package that has its directory, if no other one
    /// has that too.
    pub fn of(&mut self, path: &Path) -> Option<Application> {
        let path = at_depth(path);
        if let Some(preset) = self.preset(path) {
            return Some(Application::Preset(preset));
        }
        let sysroot = &self.sysroot;
        let packages = self.packages.get_or_insert_with(|| Packages::read(sysroot));
        packages.of(path).map(|name| Application::Package(name.to_owned()))
    }

    fn preset(&mut self, path: &Path) -> Option<String> {
        let above = path.parent().unwrap_or(path);
        if self.last.0 != above {
            let named = |paths: &HashMap<OsString, String>, path: &Path| {
                path.ancestors().find_map(|above| paths.get(above.as_os_str())).cloned()
            };
            let in_home = changes::in_home(above).and_then(|path| named(&self.in_homes, path));
            self.last = (above.to_owned(), [named(&self.presets, above), in_home]);
        }
        let [of_machine, of_home] = &self.last.1;
        let in_home = || {
            let inside = changes::in_home(path)?;
            self.in_homes.get(inside.as_os_str()).or(of_home.as_ref())
        };
        let found = self.presets.get(path.as_os_str()).or(of_machine.as_ref());
        found.or_else(in_home).cloned()
    }
}

/// The path, or of a deep one the directory at [`DEPTH`] that it lies in.
fn at_depth(path: &Path) -> &Path {
    let mut names = path.components();
    if names.nth(DEPTH).is_none() {
        return path;
    }
    let all = path.as_os_str().as_bytes();
    let above = all.len() - names.as_path().as_os_str().len();
    let above = all.get(..above).unwrap_or(all);
    Path::new(OsStr::from_bytes(above.strip_suffix(b"/").unwrap_or(above)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::declaration::SourceFile;

    fn file(name: &str, text: &str) -> PresetFile {
        let source = SourceFile { name: name.to_owned(), text: text.to_owned() };
        PresetFile { name: name.to_owned(), source }
    }

    #[test]
    fn a_tree_that_is_very_deep_costs_little() {
        let preset = "version = 1\n[[directories]]\npath = \"/srv/app\"\nreason = \"r\"\n";
        let root = tempfile::tempdir().unwrap();
        let mut applications = Applications::new(&[file("app", preset)], root.path());
        let deep = |top: &str| PathBuf::from(top).join("of-a-long-name/".repeat(20_000));
        let began = std::time::Instant::now();
        let (app, other) = (deep("/srv/app"), deep("/srv/other"));
        for _ in 0..20 {
            assert_eq!(applications.of(&app), Some(Application::Preset("app".to_owned())));
            assert_eq!(applications.of(&other), None);
        }
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
        let exact = PathBuf::from("/").join("a/".repeat(DEPTH));
        assert_eq!(at_depth(&exact), exact);
        assert_eq!(at_depth(&exact.join("b/c/d")), exact);
    }

    #[test]
    fn a_preset_comes_before_a_package() {
        let root = tempfile::tempdir().unwrap();
        let info = root.path().join("var/lib/dpkg/info");
        fs::create_dir_all(&info).unwrap();
        let list = "/.\n/etc\n/var\n/var/lib\n/var/lib/app\n/var/lib/kept\n";
        fs::write(info.join("app:amd64.list"), list).unwrap();
        let preset = "version = 1\n\
            [[directories]]\npath = \"/var/lib/kept\"\nreason = \"r\"\n\
            [[user.files]]\npath = \".app/rc\"\nreason = \"r\"\n";
        let presets = [file("kept", preset), file("broken", "version = 9\n")];
        let mut applications = Applications::new(&presets, root.path());
        let mut of = |path: &str| applications.of(Path::new(path));
        let kept = Some(Application::Preset("kept".to_owned()));
        let app = Some(Application::Package("app".to_owned()));
        for path in ["/var/lib/kept", "/var/lib/kept/x", "/home/a/.app/rc", "/root/.app/rc"] {
            assert_eq!(of(path), kept, "{path}");
        }
        assert_eq!(of("/var/lib/app/db"), app);
        // A single package has /etc here, and there are no others to share it with; but `/` is nobody's.
        for path in ["/home/a/.app", "/home/a/x", "/srv/.app/rc", "/"] {
            assert_eq!(of(path), None, "{path}");
        }
    }
}
