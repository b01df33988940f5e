//! From `UUID=…` and its like to a device.

use std::fmt;
use std::fmt::Write as _;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use uuid::Uuid;

use super::{probe_member, superblock};
use crate::error::Error;
use crate::kernel::read_pseudo_file;
use crate::text::{escape, quote};

/// Why no device was found.
#[derive(Debug)]
pub enum FindError {
    /// Not `UUID=`, `LABEL=`, `PARTUUID=`, `PARTLABEL=` or an absolute path.
    Unsupported {
        /// What was to be found.
        spec: String,
    },
    /// No device matches; it may appear later.
    NotFound {
        /// What was to be found.
        spec: String,
        /// Why a device could not be looked at: it may be the one.
        unread: Option<Error>,
    },
    /// Several filesystems match: it can't be told which is meant.
    Ambiguous {
        /// What was to be found.
        spec: String,
        /// The devices that match.
        devices: Vec<PathBuf>,
    },
    /// The path is not that of a block device.
    NotABlockDevice {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    System(Error),
}

impl fmt::Display for FindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { spec } => write!(
                f,
                "{} is neither UUID=, LABEL=, PARTUUID=, PARTLABEL= nor an absolute path",
                quote(spec.as_bytes())
            ),
            Self::NotFound { spec, unread } => {
                write!(f, "no device matches {}", quote(spec.as_bytes()))?;
                match unread {
                    Some(error) => write!(f, ", and one could not be read: {error}"),
                    None => Ok(()),
                }
            }
            Self::Ambiguous { spec, devices } => {
                let list: Vec<String> = devices.iter().map(|path| show(path)).collect();
                let list = list.join(", ");
                write!(f, "several devices match {}: {list}", quote(spec.as_bytes()))
            }
            Self::NotABlockDevice { path } => write!(f, "{} is not a block device", show(path)),
            Self::System(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FindError {}

fn show(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// What identifies a device.
#[derive(Debug, PartialEq, Eq)]
enum Tag<'a> {
    Uuid(&'a str),
    Label(&'a str),
    PartUuid(&'a str),
    PartLabel(&'a str),
}

/// Finds the device that `UUID=`, `LABEL=`, `PARTUUID=`, `PARTLABEL=` or a path means.
///
/// Follows udev's links in `/dev/disk`, else looks at each disk in `/proc/partitions`; a label is
/// looked up in both ways, since a link does not show that it is taken twice. Values may be in
/// double quotes, UUIDs in upper case. The path that is returned has no links in it.
///
/// All devices of one btrfs match its UUID and label; the first one is returned. Without udev, tags
/// of partitions are found only if the kernel tells them (`PARTUUID` since Linux 6.12).
///
/// # Errors
///
/// See [`FindError`]. Devices that can't be read are passed over, and said if nothing else matches.
pub fn find(spec: &str) -> Result<PathBuf, FindError> {
    if spec.starts_with('/') {
        return by_path(Path::new(spec), spec);
    }
    let tag = parse(spec).ok_or_else(|| FindError::Unsupported { spec: spec.to_owned() })?;
    let link = link(&tag);
    if !matches!(tag, Tag::Label(_)) && link.exists() {
        return by_path(&link, spec);
    }
    match scan(&tag, spec) {
        // Other types of filesystems are known to udev only.
        Err(FindError::NotFound { .. }) if link.exists() => by_path(&link, spec),
        result => result,
    }
}

fn parse(spec: &str) -> Option<Tag<'_>> {
    let (kind, value) = spec.split_once('=')?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    if value.is_empty() {
        return None;
    }
    match kind {
        "UUID" => Some(Tag::Uuid(value)),
        "LABEL" => Some(Tag::Label(value)),
        "PARTUUID" => Some(Tag::PartUuid(value)),
        "PARTLABEL" => Some(Tag::PartLabel(value)),
        _ => None,
    }
}

fn by_path(path: &Path, spec: &str) -> Result<PathBuf, FindError> {
    let device = std::fs::canonicalize(path)
        .map_err(|_| FindError::NotFound { spec: spec.to_owned(), unread: None })?;
    match std::fs::metadata(&device) {
        Ok(found) if found.file_type().is_block_device() => Ok(device),
        _ => Err(FindError::NotABlockDevice { path: device }),
    }
}

/// Returns udev's link for a tag.
fn link(tag: &Tag<'_>) -> PathBuf {
    let (directory, name) = match tag {
        Tag::Uuid(value) => ("by-uuid", normal_uuid(value)),
        Tag::Label(value) => ("by-label", (*value).to_owned()),
        Tag::PartUuid(value) => ("by-partuuid", value.to_ascii_lowercase()),
        Tag::PartLabel(value) => ("by-partlabel", (*value).to_owned()),
    };
    Path::new("/dev/disk").join(directory).join(udev_escape(&name))
}

/// Writes a UUID in the usual form; those of other filesystems (`1A2B-3C4D`) stay as they are.
fn normal_uuid(value: &str) -> String {
    match Uuid::parse_str(value) {
        Ok(uuid) => uuid.to_string(),
        Err(_) => value.to_owned(),
    }
}

/// Escapes a name as udev does for its links: what is not harmless becomes `\x20`.
fn udev_escape(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || "#+-.:=@_".contains(c) || !c.is_ascii() {
            out.push(c);
        } else {
            let _ = write!(out, "\\x{:02x}", u32::from(c));
        }
    }
    out
}

/// A device that matches: its path, and what it is part of.
struct Match {
    path: PathBuf,
    found: Option<superblock::Found>,
}

/// Looks at every block device that the kernel has, save drives for floppies and CDs.
fn scan(tag: &Tag<'_>, spec: &str) -> Result<PathBuf, FindError> {
    let partitions = read_pseudo_file(Path::new("/proc/partitions")).map_err(FindError::System)?;
    let mut matches = Vec::new();
    let mut unread = None;
    for name in device_names(&partitions, &DRIVES) {
        let path = node(&name);
        let looked_at = match is_block_device(&path) {
            Ok(true) if is_free(&name) => examine(tag, &name, path),
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        match looked_at {
            Ok(found) => matches.extend(found),
            // A reader without a card is no disk.
            Err(error) if [Errno::NOMEDIUM, Errno::NXIO].contains(&error.errno()) => {}
            Err(error) if unread.is_none() || error.errno() == Errno::IO => unread = Some(error),
            Err(_) => {}
        }
    }
    choose(matches, unread, spec)
}

/// What is not there is none.
fn is_block_device(path: &Path) -> Result<bool, Error> {
    match rustix::fs::stat(path) {
        Ok(found) => Ok(rustix::fs::FileType::from_raw_mode(found.st_mode).is_block_device()),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(Error::new("stat", errno).path(path)),
    }
}

/// Returns the device if it matches.
fn examine(tag: &Tag<'_>, name: &str, path: PathBuf) -> Result<Option<Match>, Error> {
    let has = |key| uevent(name, key).unwrap_or_default();
    let (matches, found) = match tag {
        Tag::Uuid(value) => {
            let Ok(wanted) = Uuid::parse_str(value) else { return Ok(None) };
            let found = probe_member(&path)?;
            (found.as_ref().is_some_and(|it| it.superblock.uuid == wanted), found)
        }
        Tag::Label(value) => {
            let found = probe_member(&path)?;
            (found.as_ref().is_some_and(|it| it.superblock.label == *value), found)
        }
        Tag::PartUuid(value) => (has("PARTUUID").eq_ignore_ascii_case(value), None),
        Tag::PartLabel(value) => (has("PARTNAME") == *value, None),
    };
    Ok(matches.then_some(Match { path, found }))
}

/// Chooses the first of several devices if they are the parts of one btrfs.
fn choose(
    mut matches: Vec<Match>,
    unread: Option<Error>,
    spec: &str,
) -> Result<PathBuf, FindError> {
    if matches.is_empty() {
        return Err(FindError::NotFound { spec: spec.to_owned(), unread });
    }
    let mut members = std::collections::HashSet::new();
    let first = matches[0].found.as_ref().map(|found| found.superblock.uuid);
    let is_one = matches.len() == 1
        || matches.iter().all(|candidate| match &candidate.found {
            // Two with the same number are copies of one another.
            Some(superblock::Found { superblock, member: Some(member) }) => {
                Some(superblock.uuid) == first && members.insert(*member)
            }
            _ => false,
        });
    if is_one {
        return Ok(matches.swap_remove(0).path);
    }
    let devices = matches.into_iter().map(|candidate| candidate.path).collect();
    Err(FindError::Ambiguous { spec: spec.to_owned(), devices })
}

/// Major numbers of floppy and CD drives (`admin-guide/devices.txt` of the kernel's documentation).
/// Without a medium, reading one takes seconds and fills the console with errors.
const DRIVES: [u32; 2] = [2, 11];
/// With those of RAM disks and loop devices, which nobody has set up for a kernel that begins.
pub(super) const SET_UP: [u32; 4] = [1, 2, 7, 11];

/// Returns the path of a device that the kernel names.
pub(super) fn node(name: &str) -> PathBuf {
    Path::new("/dev").join(name)
}

/// Reads the names of `/proc/partitions`: `major minor #blocks name`, after two lines of heading. Those
/// with these major numbers are left out.
pub(super) fn device_names(partitions: &[u8], majors: &[u32]) -> Vec<String> {
    String::from_utf8_lossy(partitions)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let major: u32 = fields.next()?.parse().ok()?;
            let name = fields.nth(2)?;
            (!majors.contains(&major)).then(|| name.to_owned())
        })
        .collect()
}

/// Returns whether nothing is stacked on a device: what is, shows the same filesystem itself.
fn is_free(name: &str) -> bool {
    let holders = sysfs(name).join("holders");
    std::fs::read_dir(holders).map_or(true, |mut entries| !matches!(entries.next(), Some(Ok(_))))
}

/// Reads a value of a device's `uevent` file.
fn uevent(name: &str, key: &str) -> Option<String> {
    let content = read_pseudo_file(&sysfs(name).join("uevent")).ok()?;
    let content = String::from_utf8_lossy(&content);
    let value = content.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.to_owned())
}

fn sysfs(name: &str) -> PathBuf {
    // A slash in a device's name is an exclamation mark there.
    Path::new("/sys/class/block").join(name.replace('/', "!"))
}

#[cfg(test)]
mod tests;
