//! What rpm(8) says which package has which path: its database is for that program alone to read.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::bounded::output;

/// How long it may take in all.
const TIME: Duration = Duration::from_secs(20);

/// Where the database lies; without one, the program is not run.
pub(super) const DATABASES: &[&str] = &["var/lib/rpm", "usr/lib/sysimage/rpm"];

/// Lists the paths of all packages, a line for each: the package, a tab, and the path.
///
/// `None` if there is no database or no program, if it fails, or if it takes too long or says more than
/// `limit` bytes.
pub(super) fn list(sysroot: &Path, limit: usize) -> Option<Vec<u8>> {
    if !DATABASES.iter().any(|database| sysroot.join(database).is_dir()) {
        return None;
    }
    let mut command = Command::new("rpm");
    if sysroot != Path::new("/") {
        command.arg("--root").arg(sysroot);
    }
    command.args(["--query", "--all", "--queryformat", "[%{=NAME}\\t%{FILENAMES}\\n]"]);
    command.env("LC_ALL", "C");
    output(&mut command, limit, TIME).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_database_nothing_is_run() {
        assert_eq!(list(Path::new("/nowhere"), 100), None);
    }
}
