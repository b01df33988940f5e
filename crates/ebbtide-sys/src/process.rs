//! Who uses a path: processes that have something below it open for writing, mapped, or as their
//! directory.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::tree::stack::Identity;

/// A process that would go on with what lies below a path, whatever is mounted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub pid: u32,
    /// Its name (`comm`), as it gave it to itself: to be escaped before it is shown.
    pub name: OsString,
    /// The user it runs as (`/proc/PID`'s owner: the effective user id).
    pub uid: u32,
    /// The path that was asked for, at or below which it uses something.
    pub path: PathBuf,
    /// What it uses there, as the kernel shows it; the first, if there is more.
    pub uses: PathBuf,
}

/// The processes that have a directory at or below one of the paths as working directory, root or
/// open, or a file there open for writing or mapped shared and writable; one entry for each process and path.
/// A file that is only read is no use: its reader is content with what it has.
///
/// Paths are compared as the kernel shows them to this process; see
/// `proc_pid_fd(5)`, `proc_pid_fdinfo(5)` and `proc_pid_maps(5)`. A process that ends meanwhile is passed over. This process
/// itself is not listed.
///
/// # Errors
///
/// Only if /proc cannot be listed. What a caller without rights may not see is passed over too.
pub fn users_of(paths: &[PathBuf]) -> Result<Vec<User>> {
    let mut users = Vec::new();
    for process in processes()? {
        let pid = process.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0);
        let mut used: Vec<(PathBuf, PathBuf)> = Vec::new();
        for found in used_by(&process) {
            for path in paths.iter().filter(|path| found.starts_with(path)) {
                if used.iter().all(|(known, _)| known != path) {
                    used.push((path.clone(), found.clone()));
                }
            }
        }
        if used.is_empty() {
            continue;
        }
        let Ok(owner) = fs::metadata(&process) else { continue };
        let name = fs::read(process.join("comm")).unwrap_or_default();
        let name = OsString::from_vec(name.strip_suffix(b"\n").unwrap_or(&name).to_vec());
        let uid = owner.uid();
        let of_it = |(path, uses)| User { pid, name: name.clone(), uid, path, uses };
        users.extend(used.into_iter().map(of_it));
    }
    Ok(users)
}

/// The directories in /proc of all processes but this one.
fn processes() -> Result<Vec<PathBuf>> {
    let list = fs::read_dir("/proc").map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
        Error::new("openat", errno).path("/proc")
    })?;
    let own = std::process::id();
    let number = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let other = |entry: &fs::DirEntry| number(entry).is_some_and(|pid| pid != own);
    Ok(list.flatten().filter(other).map(|entry| entry.path()).collect())
}

/// The files and directories that processes other than this one have open, are in, run or map, as device
/// and inode number: those of all processes that this one may look at.
///
/// # Errors
///
/// Only if /proc cannot be listed.
pub fn open_files() -> Result<HashSet<Identity>> {
    let mut open = HashSet::new();
    for process in processes()? {
        let mut links: Vec<PathBuf> =
            ["cwd", "root", "exe"].iter().map(|name| process.join(name)).collect();
        for list in ["fd", "map_files"] {
            let entries = fs::read_dir(process.join(list)).into_iter().flatten().flatten();
            links.extend(entries.map(|entry| entry.path()));
        }
        // A magic link leads to the inode itself, whatever its path says.
        open.extend(links.iter().filter_map(|link| {
            let found = rustix::fs::stat(link).ok()?;
            Some(((rustix::fs::major(found.st_dev), rustix::fs::minor(found.st_dev)), found.st_ino))
        }));
    }
    Ok(open)
}

fn used_by(process: &Path) -> Vec<PathBuf> {
    let mut used: Vec<PathBuf> =
        ["cwd", "root"].iter().filter_map(|link| shown(&process.join(link))).collect();
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Some(path) = shown(&entry.path()) else { continue };
        let is_directory = fs::metadata(entry.path()).is_ok_and(|found| found.is_dir());
        if is_directory || is_writable(&process.join("fdinfo").join(entry.file_name())) {
            used.push(path);
        }
    }
    let maps = fs::read(process.join("maps")).unwrap_or_default();
    used.extend(maps.split(|byte| *byte == b'\n').filter_map(written_mapping));
    used
}

/// Where a magic link leads, if that is a path.
fn shown(link: &Path) -> Option<PathBuf> {
    let target = fs::read_link(link).ok()?;
    let bytes = target.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    bytes.starts_with(b"/").then(|| OsString::from_vec(bytes.to_vec()).into())
}

/// Whether a descriptor was opened for writing. The flags are octal; an `O_PATH` one is for nothing.
fn is_writable(info: &Path) -> bool {
    let text = fs::read_to_string(info).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or(0);
    let path_only = flags & rustix::fs::OFlags::PATH.bits() != 0;
    !path_only && flags & 0o3 != 0
}

/// The file of a shared, writable mapping: `start-end perms offset device inode path`.
fn written_mapping(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.splitn(6, |byte| *byte == b' ');
    let permissions = fields.nth(1)?;
    if permissions.get(1) != Some(&b'w') || permissions.get(3) != Some(&b's') {
        return None;
    }
    let path = fields.nth(3)?.trim_ascii_start();
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    path.starts_with(b"/").then(|| OsString::from_vec(crate::text::unescape_octal(path)).into())
}

/// Waits for a child, and returns how it ended and its peak resident memory in bytes. See wait4(2).
///
/// A program that was started with vfork(2), as `std` does, counts at least what its parent had.
pub fn wait_with_peak(child: &std::process::Child) -> Result<(std::process::ExitStatus, u64)> {
    use std::os::unix::process::ExitStatusExt;
    let failed = || Error::new("wait4", crate::error::last_errno()).arg(child.id());
    let pid = libc::pid_t::try_from(child.id()).map_err(|_| failed())?;
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are good for writing one value of their type, and the kernel writes no more.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    if waited != pid {
        return Err(failed());
    }
    // SAFETY: all bits of the structure may be zero, which it was made of.
    let usage = unsafe { usage.assume_init() };
    let kibibytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
    Ok((std::process::ExitStatus::from_raw(status), kibibytes * 1024))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that has done something and then waits for the end of its input.
    struct Shell(Child);

    impl Shell {
        fn new(directory: &Path, script: &str) -> Self {
            let script = format!("{script}; echo; exec cat");
            let mut child = Command::new("sh")
                .args(["-c", &script])
                .current_dir(directory)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut byte = [0];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
            Self(child)
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn writers_and_those_who_are_there_use_a_path_and_readers_do_not() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().canonicalize().unwrap();
        let (inner, other) = (path.join("inner"), path.join("inner-not"));
        fs::create_dir(&inner).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        let uses = |directory: &Path, script: &str| {
            let shell = Shell::new(directory, script);
            let users = users_of(std::slice::from_ref(&inner)).unwrap();
            if script.contains(">>") {
                assert_eq!(users[0].uses, inner.join("file"));
            }
            let pid = shell.0.id();
            assert!(users.iter().all(|user| user.pid == pid && user.path == inner), "{users:?}");
            !users.is_empty()
        };
        assert!(uses(&inner, ":"), "it is there");
        assert!(uses(&path, "exec 3>>inner/file"), "it writes");
        assert!(uses(&path, "exec 3<inner"), "it may make files there");
        assert!(!uses(&path, "exec 3<inner/file"), "it reads");
        assert!(!uses(&other, ":"), "it is beside it");
    }

    #[test]
    fn open_files_are_known_by_their_inode() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().canonicalize().unwrap();
        for name in ["read", "other"] {
            fs::write(path.join(name), "x").unwrap();
        }
        let shell = Shell::new(&path, "exec 3<read; mv read gone");
        let open = open_files().unwrap();
        let identity = |path: &Path| {
            let found = rustix::fs::stat(path).unwrap();
            let device = found.st_dev;
            ((rustix::fs::major(device), rustix::fs::minor(device)), found.st_ino)
        };
        assert!(open.contains(&identity(&path.join("gone"))));
        assert!(open.contains(&identity(&path)), "it is there");
        // The shell becomes cat(1) a moment later.
        let runs = || open_files().unwrap().contains(&identity(Path::new("/bin/cat")));
        let soon = (0..500).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            runs()
        });
        assert!(soon, "it runs");
        assert!(!open.contains(&identity(&path.join("other"))));
        drop(shell);
    }

    #[test]
    fn only_shared_writable_mappings_count() {
        let mapping = |line: &str| written_mapping(line.as_bytes());
        let line =
            "7f0000000000-7f0000001000 rw-s 00000000 00:2a 12345                      /a/b c";
        assert_eq!(mapping(line), Some(PathBuf::from("/a/b c")));
        assert_eq!(mapping(&line.replace("rw-s", "rw-p")), None);
        assert_eq!(mapping(&line.replace("rw-s", "r--s")), None);
        assert_eq!(mapping("7f-80 rw-s 0 00:00 0"), None);
    }
}
