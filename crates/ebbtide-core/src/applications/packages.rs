//! Which package has a path: from the databases of dpkg and pacman, which are plain files, and from rpm.
//!
//! dpkg(1) lists the paths of a package in `info/NAME.list`, or `info/NAME:ARCH.list`, one in a line;
//! pacman(8) below the line `%FILES%` in `local/NAME-VERSION-RELEASE/files`, without the first slash.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ebbtide_sys::file::{read_directory, read_limited};
use ebbtide_sys::resolve;

use super::rpm;
use crate::pattern::lies_at_or_below;

/// How much is read in all, in bytes. A large desktop has 40 MB.
const ALL: usize = 160 << 20;

/// How much is read of one package, in bytes.
const ONE: u64 = 32 << 20;

/// Directories that are a way to everything, and of nobody.
const SHARED: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/etc",
    "/home",
    "/lib",
    "/media",
    "/mnt",
    "/opt",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/spool",
    "/var/tmp",
];

/// What was moved into `/usr`, and is listed where it was.
const MOVED: &[&str] = &["/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/sbin"];

/// What is installed on a root.
#[derive(Debug, Default)]
pub(super) struct Packages {
    names: Vec<String>,
    /// The package of each path, by the path's hash; [`SEVERAL`] if there is more than one.
    paths: HashMap<u64, u32>,
    hash: RandomState,
    /// How many bytes were read.
    read: usize,
}

const SEVERAL: u32 = u32::MAX;

impl Packages {
    /// Reads the databases of a root, without following links. None are as good as empty ones, and so
    /// are those that are too much to read.
    pub fn read(sysroot: &Path) -> Self {
        let mut packages = Self::default();
        let Ok(root) = std::fs::File::open(sysroot) else { return packages };
        packages.dpkg(root.as_fd());
        packages.pacman(root.as_fd());
        packages.rpm(&rpm::list(sysroot, ALL).unwrap_or_default());
        if packages.read > ALL {
            // Of what was not read, nobody knows whether it shares a directory.
            return Self::default();
        }
        packages
    }

    /// The package that has a path, or else its nearest directory that any package has.
    pub fn of(&self, path: &Path) -> Option<&str> {
        if self.paths.is_empty() {
            return None;
        }
        for (depth, above) in path.ancestors().enumerate() {
            if depth > 0 && SHARED.iter().any(|shared| above.as_os_str() == *shared) {
                return None;
            }
            let package = self.paths.get(&self.key(above.as_os_str().as_bytes())).or_else(|| {
                let moved = MOVED.iter().any(|moved| lies_at_or_below(above, moved));
                let old = above.strip_prefix("/usr").ok().filter(|_| moved)?;
                self.paths.get(&self.key(Path::new("/").join(old).as_os_str().as_bytes()))
            });
            if let Some(package) = package {
                return self.names.get(usize::try_from(*package).ok()?).map(String::as_str);
            }
        }
        None
    }

    fn key(&self, path: &[u8]) -> u64 {
        self.hash.hash_one(path)
    }

    fn dpkg(&mut self, root: BorrowedFd<'_>) {
        let Ok(info) = resolve::open_directory(root, Path::new("var/lib/dpkg/info")) else {
            return;
        };
        for entry in read_directory(info.as_fd()).unwrap_or_default() {
            let Some(name) = entry.name.as_bytes().strip_suffix(b".list") else { continue };
            let Some(list) = self.file(info.as_fd(), Path::new(&entry.name)) else { return };
            let name = name.split(|byte| *byte == b':').next().unwrap_or_default();
            self.add(
                name,
                list.split(|byte| *byte == b'\n').filter_map(|it| it.strip_prefix(b"/")),
            );
        }
    }

    fn pacman(&mut self, root: BorrowedFd<'_>) {
        let Ok(local) = resolve::open_directory(root, Path::new("var/lib/pacman/local")) else {
            return;
        };
        for entry in read_directory(local.as_fd()).unwrap_or_default() {
            // NAME-VERSION-RELEASE
            let mut parts = entry.name.as_bytes().rsplitn(3, |byte| *byte == b'-');
            let (_, _, Some(name)) = (parts.next(), parts.next(), parts.next()) else { continue };
            let path = Path::new(&entry.name).join("files");
            let Some(list) = self.file(local.as_fd(), &path) else { return };
            let lines = list.split(|byte| *byte == b'\n').skip_while(|line| *line != b"%FILES%");
            self.add(name, lines.skip(1).take_while(|line| !line.is_empty()));
        }
    }

    /// Lines of a package, a tab and a path; those of one package follow each other.
    fn rpm(&mut self, list: &[u8]) {
        let lines = list.split(|byte| *byte == b'\n').filter_map(|line| {
            let tab = line.iter().position(|byte| *byte == b'\t')?;
            Some((line.get(..tab)?, line.get(tab + 1..)?.strip_prefix(b"/")?))
        });
        let lines: Vec<(&[u8], &[u8])> = lines.collect();
        for package in lines.chunk_by(|(a, _), (b, _)| a == b) {
            let Some((name, _)) = package.first() else { continue };
            self.add(name, package.iter().map(|(_, path)| *path));
        }
    }

    /// A file of a database, empty if it can't be read; `None` if that is too much.
    fn file(&mut self, directory: BorrowedFd<'_>, path: &Path) -> Option<Vec<u8>> {
        let content = read_limited(directory, path, ONE).unwrap_or_default();
        self.read += content.len();
        (self.read <= ALL).then_some(content)
    }

    /// Adds a package with its paths, which have no first slash, and perhaps a last one.
    fn add<'l>(&mut self, name: &[u8], paths: impl Iterator<Item = &'l [u8]>) {
        let Ok(number) = u32::try_from(self.names.len()) else { return };
        // The same package of two architectures is one.
        let name = String::from_utf8_lossy(name).into_owned();
        for path in paths {
            let path = path.strip_suffix(b"/").unwrap_or(path);
            let absolute = Path::new("/").join(OsStr::from_bytes(path));
            let key = self.key(absolute.as_os_str().as_bytes());
            match self.paths.entry(key) {
                Entry::Vacant(free) => {
                    free.insert(number);
                }
                Entry::Occupied(mut taken) => {
                    let other =
                        usize::try_from(*taken.get()).ok().and_then(|at| self.names.get(at));
                    if *taken.get() != number && other != Some(&name) {
                        taken.insert(SEVERAL);
                    }
                }
            }
        }
        self.names.push(name);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn packages(files: &[(&str, &str)]) -> Packages {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Packages::read(root.path())
    }

    #[test]
    fn a_path_is_of_its_package_or_of_that_of_its_directory() {
        let dpkg = packages(&[
            (
                "var/lib/dpkg/info/a.list",
                "/.\n/etc\n/etc/shared\n/etc/shared/a\n/lib/a.so\n/var/lib/a\n",
            ),
            (
                "var/lib/dpkg/info/b:amd64.list",
                "/etc\n/etc/shared\n/etc/shared/b\n/usr/lib/multi\n",
            ),
            (
                "var/lib/dpkg/info/b:i386.list",
                "/etc\n/etc/shared\n/usr/lib/multi\n/usr/lib/multi/32\n",
            ),
            ("var/lib/dpkg/info/b.md5sums", "x  etc/none\n"),
        ]);
        for (path, package) in [
            ("/etc/shared/a", Some("a")),
            ("/etc/shared/b", Some("b")),
            ("/etc/shared/c", None),
            ("/etc/none", None),
            ("/usr/lib/a.so", Some("a")),
            ("/usr/lib/multi/new", Some("b")),
            ("/var/lib/a/deep/er", Some("a")),
            ("/var/lib/ab", None),
            ("/srv", None),
            ("/", None),
        ] {
            assert_eq!(dpkg.of(Path::new(path)), package, "{path}");
        }
    }

    #[test]
    fn pacman_lists_without_slashes() {
        let pacman = packages(&[(
            "var/lib/pacman/local/my-app-1.0:2-1/files",
            "%FILES%\nusr/\nusr/bin/\nusr/bin/app\nvar/lib/my-app/\n\n%BACKUP%\netc/app.conf\tx\n",
        )]);
        let of = |path: &str| pacman.of(Path::new(path));
        assert_eq!(
            (of("/usr/bin/app"), of("/var/lib/my-app/db")),
            (Some("my-app"), Some("my-app"))
        );
        assert_eq!((of("/usr/bin/other"), of("/etc/app.conf")), (None, None));
    }

    #[test]
    fn rpm_tells_the_package_in_each_line() {
        let mut rpm = Packages::default();
        rpm.rpm(b"app\t/etc/shared\napp\t/etc/shared/a\nb\t/etc/shared\nb\t/var/lib/b\n(none)\n\nc\t(none)\n");
        let of = |path: &str| rpm.of(Path::new(path));
        assert_eq!((of("/etc/shared/a"), of("/var/lib/b/x")), (Some("app"), Some("b")));
        assert_eq!((of("/etc/shared/c"), of("/(none)")), (None, None));
    }

    #[test]
    fn no_database_is_no_failure() {
        assert_eq!(packages(&[]).of(Path::new("/etc/x")), None);
        assert_eq!(Packages::read(Path::new("/nowhere")).of(Path::new("/etc/x")), None);
        let odd = packages(&[("var/lib/dpkg/info/a.list/x", ""), ("var/lib/pacman/local/x", "")]);
        assert_eq!(odd.of(Path::new("/etc/x")), None);
    }
}
