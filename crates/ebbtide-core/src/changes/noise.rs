//! Changes that nobody needs to decide about: what is made again by itself, or was never meant to stay.

use std::path::Path;

use crate::pattern::lies_at_or_below;

/// With all that lies below them.
const PATHS: &[&str] = &[
    // Meant to be short-lived: hier(7), and fsck(8) makes the last one.
    "/tmp",
    "/run",
    "/lost+found",
    // Ebbtide's own: what `restore` replaced.
    "/.ebbtide",
    // Marks of systemd-update-done.service(8), made at the next boot.
    "/etc/.updated",
    "/var/.updated",
    // Caches that are made again from what is installed: ldconfig(8), mandb(8), fc-cache(1),
    // journalctl(1) --update-catalog, apt-cache(8).
    "/etc/ld.so.cache",
    "/var/cache/ldconfig",
    "/var/cache/man",
    "/var/cache/fontconfig",
    "/var/lib/systemd/catalog",
    "/var/cache/apt/pkgcache.bin",
    "/var/cache/apt/srcpkgcache.bin",
    // Locks without content: lckpwdf(3), apt and dpkg.
    "/etc/.pwd.lock",
    "/var/cache/apt/archives/lock",
    "/var/lib/apt/lists/lock",
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/triggers/Lock",
    // A link into /proc.
    "/etc/mtab",
];

/// The same in each home.
const IN_HOMES: &[&str] = &[
    // Not essential, by the XDG Base Directory Specification.
    ".cache",
    // Of one session: xauth(1), Xsession(5).
    ".ICEauthority",
    ".Xauthority",
    ".xsession-errors",
];

/// Names of directories that are such wherever they lie: bytecode of Python.
const NAMES: &[&str] = &["__pycache__"];

/// Whether a change at this absolute path is noise.
pub fn is_noise(path: &Path) -> bool {
    let in_home = in_home(path);
    PATHS.iter().any(|noise| lies_at_or_below(path, noise))
        || in_home.is_some_and(|path| IN_HOMES.iter().any(|noise| lies_at_or_below(path, noise)))
        || path.iter().any(|name| NAMES.iter().any(|noise| name == *noise))
}

/// The path within a home, if it is in one.
pub(crate) fn in_home(path: &Path) -> Option<&Path> {
    if lies_at_or_below(path, "/root") {
        return path.strip_prefix("/root").ok();
    }
    if !lies_at_or_below(path, "/home") {
        return None;
    }
    let mut names = path.strip_prefix("/home").ok()?.iter();
    names.next()?;
    Some(names.as_path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_what_is_made_again() {
        let noise = [
            "/tmp",
            "/tmp/x/y",
            "/etc/ld.so.cache",
            "/root/.cache/pip",
            "/home/alice/.cache",
            "/home/alice/.Xauthority",
            "/opt/app/lib/__pycache__/x.pyc",
        ];
        for path in noise {
            assert!(is_noise(Path::new(path)), "{path}");
        }
        let others = [
            "/",
            "/tmpfiles",
            "/etc",
            "/etc/ld.so.conf",
            "/var/tmp/x",
            "/root",
            "/home/.cache",
            "/home/alice",
            "/home/alice/.cachet",
            "/home/alice/project/.cache",
            "/srv/.cache",
            "/etc/__pycache__.conf",
        ];
        for path in others {
            assert!(!is_noise(Path::new(path)), "{path}");
        }
    }
}
