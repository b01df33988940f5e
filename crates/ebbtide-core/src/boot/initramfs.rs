//! What differs between initramfs systems: how long devices take, and how the root's mount is told.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ebbtide_sys::{device, file};

use super::open_directory;
use crate::failure::{Context, Failure, Level, Log, Result};

/// Where systemd's presence can be told from (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

/// How often devices are looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// Waits until all devices that a file lists, one a line, are there, or so long at most. A file that is
/// not there lists none.
pub fn wait_for_devices(list: &Path, limit: Duration, log: &mut Log<'_>) {
    let Ok(text) = std::fs::read_to_string(list) else { return };
    let mut missing: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let deadline = Instant::now() + limit;
    loop {
        missing.retain(|spec| device::find(spec).is_err());
        if missing.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            let seconds = limit.as_secs();
            for spec in missing {
                log(Level::Warning, &format!("{spec} did not appear within {seconds} seconds"));
            }
            return;
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Writes a drop-in for systemd's `sysroot.mount` that mounts a root with these options: it counts from
/// the next `daemon-reload` on (systemd.unit(5)).
pub fn write_mount_unit(path: &Path, options: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let text = mount_unit(options)?;
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::new(what()));
    };
    file::create_directories(directory).context(what)?;
    let directory = open_directory(directory)?;
    let name: &OsStr = name;
    file::replace_file(directory.as_fd(), name, text.as_bytes(), 0o644).context(what)
}

/// `Options=` is not split by white space, `%` is special, and a line must not end early.
fn mount_unit(options: &str) -> Result<String> {
    if options.chars().any(|it| it.is_control() || it.is_whitespace()) {
        return Err(Failure::new("the root's mount options have a space or a special character"));
    }
    Ok(format!("[Mount]\nType=btrfs\nOptions={}\n", options.replace('%', "%%")))
}

/// Whether systemd runs the initramfs. It looks at every mount: one that goes away takes units along.
pub(super) fn has_systemd() -> bool {
    Path::new(SYSTEMD).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_unit_says_what_the_options_are() {
        let unit = mount_unit("subvol=ebbtide/root,noatime,x=50%").unwrap();
        assert_eq!(unit, "[Mount]\nType=btrfs\nOptions=subvol=ebbtide/root,noatime,x=50%%\n");
        assert!(mount_unit("a\nExecStart=evil").is_err() && mount_unit("a b").is_err());
    }

    #[test]
    fn waiting_ends() {
        let directory = tempfile::tempdir().unwrap();
        let list = directory.path().join("devices");
        let mut said = Vec::new();
        let limit = Duration::from_millis(150);
        wait_for_devices(&list, limit, &mut |_, text| said.push(text.to_owned()));
        std::fs::write(&list, "\n/dev/no-such-device\n").unwrap();
        let began = Instant::now();
        wait_for_devices(&list, limit, &mut |_, text| said.push(text.to_owned()));
        assert!(began.elapsed() >= limit);
        assert_eq!(said, ["/dev/no-such-device did not appear within 0 seconds"]);
    }
}
