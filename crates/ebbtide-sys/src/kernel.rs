//! What the running kernel says about itself.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::file::read_all;
use crate::text::unescape_octal;

/// Reads a file of `/proc` or `/sys`, whose size is not known beforehand.
pub(crate) fn read_pseudo_file(path: &Path) -> Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| Error::new("openat", e).fd(CWD).path(path).arg("O_RDONLY"))?;
    // Most are shorter, and room that is not used costs nothing.
    read_all(fd.as_fd(), 64 * 1024, u64::MAX)
}

/// Returns the identity of this boot of the kernel: a UUID in lower case. See random(4).
pub fn boot_id() -> Result<String> {
    let content = read_pseudo_file(Path::new("/proc/sys/kernel/random/boot_id"))?;
    Ok(String::from_utf8_lossy(content.trim_ascii()).into_owned())
}

/// Returns how many processors the calling thread may run on. See `sched_getaffinity(2)`.
///
/// What a control group grants of their time is not looked up: that takes more calls than it saves where there are
/// never more than a few threads.
pub fn processors() -> usize {
    // Refused where the kernel has more of them than the set has room for.
    rustix::thread::sched_getaffinity(None)
        .map_or(usize::MAX, |set| usize::try_from(set.count()).unwrap_or(usize::MAX).max(1))
}

/// Returns the release of the running kernel, such as `6.1.0-13-amd64`. See uname(2).
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Returns how long ago the kernel started, times of sleep included. See `proc_uptime(5)`.
pub fn uptime() -> Result<std::time::Duration> {
    let path = Path::new("/proc/uptime");
    let content = String::from_utf8_lossy(&read_pseudo_file(path)?).into_owned();
    let seconds = content.split(['.', ' ']).next().and_then(|whole| whole.parse().ok());
    seconds
        .map(std::time::Duration::from_secs)
        .ok_or_else(|| Error::new("read", Errno::INVAL).path(path))
}

/// Returns the kernel command line, without its final newline. See `proc_cmdline(5)`.
pub fn command_line() -> Result<Vec<u8>> {
    let mut content = read_pseudo_file(Path::new("/proc/cmdline"))?;
    while content.last() == Some(&b'\n') {
        content.pop();
    }
    Ok(content)
}

/// Returns whether the kernel can load modules: a kernel without has no `/proc/modules`.
pub fn is_modular() -> bool {
    rustix::fs::access("/proc/modules", rustix::fs::Access::EXISTS).is_ok()
}

/// Returns the files (not the partitions) that are in use as swap. See `proc_swaps(5)`.
pub fn active_swap_files() -> Result<Vec<PathBuf>> {
    match read_pseudo_file(Path::new("/proc/swaps")) {
        Ok(content) => Ok(parse_swaps(&content)),
        // A kernel without swap has no such file.
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn parse_swaps(content: &[u8]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in content.split(|byte| *byte == b'\n').skip(1) {
        let mut fields =
            line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|field| !field.is_empty());
        if let (Some(name), Some(b"file")) = (fields.next(), fields.next()) {
            files.push(OsString::from_vec(unescape_octal(name)).into());
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_files_without_partitions() {
        let content = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
            /dev/dm-1                               partition\t4194300\t\t0\t\t-2\n\
            /swap/my\\040file                        file\t\t524284\t\t0\t\t-3\n\
            /swap/\\134odd                           file 1 0 -4\n";
        let expected = [PathBuf::from("/swap/my file"), PathBuf::from("/swap/\\odd")];
        assert_eq!(parse_swaps(content), expected);
        assert!(parse_swaps(b"").is_empty());
    }

    #[test]
    fn this_kernel_answers() {
        assert_eq!(
            uuid::Uuid::parse_str(&boot_id().unwrap()).unwrap().to_string(),
            boot_id().unwrap()
        );
        assert!(release().contains('.'));
        assert!(!command_line().unwrap().ends_with(b"\n"));
        assert_eq!(is_modular(), Path::new("/proc/modules").exists());
        active_swap_files().unwrap();
        assert!(uptime().unwrap().as_secs() > 0);
    }
}
