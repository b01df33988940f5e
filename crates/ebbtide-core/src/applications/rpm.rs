//! What rpm(8) says which package has which path: its database is for that program alone to read.

use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ebbtide_sys::child;

/// How long it may take in all.
const TIME: Duration = Duration::from_secs(20);

/// Where the database lies; without one, the program is not run.
const DATABASES: &[&str] = &["var/lib/rpm", "usr/lib/sysimage/rpm"];

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
    command.env("LC_ALL", "C").stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let said = read(&mut child, limit);
    if said.is_none() {
        let _ = child.kill();
    }
    let ended = child.wait().ok()?;
    said.filter(|_| ended.success())
}

/// All that it says, within the limits.
fn read(child: &mut Child, limit: usize) -> Option<Vec<u8>> {
    let until = Instant::now() + TIME;
    let mut out = child.stdout.take()?;
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let left = until.checked_duration_since(Instant::now())?;
        if !child::wait_for(&[out.as_fd()], Some(left)).ok()?.contains(&true) {
            return None;
        }
        match out.read(&mut buffer).ok()? {
            0 => return Some(all),
            count => all.extend_from_slice(buffer.get(..count)?),
        }
        if all.len() > limit {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_too_much_or_fails_is_not_there() {
        let run = |script: &str, limit: usize| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let said = read(&mut child, limit);
            let _ = child.kill();
            child.wait().unwrap();
            said
        };
        assert_eq!(run("echo one; echo two", 8), Some(b"one\ntwo\n".to_vec()));
        assert_eq!(run("echo one; echo two", 7), None);
        assert_eq!(list(Path::new("/nowhere"), 100), None);
    }
}
