//! The mounts of this mount namespace, from `/proc/thread-self/mountinfo`.
//!
//! Our own parser, on bytes: mount points need not be UTF-8. See `proc_pid_mountinfo(5)`.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::kernel::read_pseudo_file;
use crate::text::unescape_octal;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountEntry {
    /// The id of the mount; may be reused after it is gone.
    pub id: u32,
    /// The id of the mount that it sits on; its own id or an unknown one at the top.
    pub parent: u32,
    /// Major and minor number of the filesystem's device.
    pub device: (u32, u32),
    /// The directory of the filesystem that is at the mount point: on btrfs the subvolume's path.
    pub root: PathBuf,
    /// Where it is mounted, seen from this process's root.
    pub mount_point: PathBuf,
    /// The options of this mount, such as `rw,nosuid`, separated by commas.
    pub options: Vec<u8>,
    /// The group of mounts that events are shared with, if the mount is shared.
    pub peer_group: Option<u32>,
    /// The group of mounts that events are received from, if it is a slave.
    pub master: Option<u32>,
    /// The type of filesystem, such as `btrfs` or `fuse.sshfs`.
    pub fstype: String,
    /// What is mounted: a device, or whatever the filesystem put there.
    pub source: OsString,
    /// The options of the filesystem, separated by commas; values are escaped as the kernel does.
    pub super_options: Vec<u8>,
}

impl MountEntry {
    /// Returns whether the mount has an option, such as `ro` or `nosuid`.
    pub fn has_option(&self, option: &str) -> bool {
        options(&self.options).any(|(name, _)| name == option.as_bytes())
    }

    /// Returns whether the mount or its filesystem is read-only.
    pub fn is_read_only(&self) -> bool {
        self.has_option("ro") || options(&self.super_options).any(|(name, _)| name == b"ro")
    }

    /// Returns an option of the filesystem: its value with escapes decoded, empty for a flag.
    pub fn super_option(&self, option: &str) -> Option<Vec<u8>> {
        options(&self.super_options)
            .find(|(name, _)| *name == option.as_bytes())
            .map(|(_, value)| unescape_octal(value))
    }
}

/// Splits `a,b=c` into names and values.
fn options(list: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    list.split(|byte| *byte == b',').map(|option| {
        match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (&option[..at], &option[at + 1..]),
            None => (option, &[][..]),
        }
    })
}

/// A line of mountinfo that is not as documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} of mountinfo is malformed", self.line)
    }
}

impl std::error::Error for ParseError {}

/// Parses the content of a mountinfo file, in its order: a mount comes after the one that it is on.
pub fn parse(bytes: &[u8]) -> std::result::Result<Vec<MountEntry>, ParseError> {
    bytes
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| parse_line(line).ok_or(ParseError { line: index + 1 }))
        .collect()
}

/// Reads the mounts of the calling thread's mount namespace.
pub fn read_self() -> Result<Vec<MountEntry>> {
    // A thread may have a mount namespace of its own, which /proc/self would not show.
    let path = Path::new("/proc/thread-self/mountinfo");
    parse(&read_pseudo_file(path)?).map_err(|error| {
        crate::Error::new("read", rustix::io::Errno::INVAL).path(path).note(error.to_string())
    })
}

fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let device = (number(device.next()?)?, number(device.next()?)?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = fields.next()?.to_vec();
    let (mut peer_group, mut master) = (None, None);
    loop {
        match fields.next()? {
            b"-" => break,
            field => {
                if let Some(group) = field.strip_prefix(b"shared:") {
                    peer_group = Some(number(group)?);
                } else if let Some(group) = field.strip_prefix(b"master:") {
                    master = Some(number(group)?);
                }
            }
        }
    }
    let fstype = String::from_utf8_lossy(&unescape_octal(fields.next()?)).into_owned();
    let source = OsString::from_vec(unescape_octal(fields.next()?));
    let super_options = fields.collect::<Vec<_>>().join(&b' ');
    Some(MountEntry {
        id,
        parent,
        device,
        root,
        mount_point,
        options,
        peer_group,
        master,
        fstype,
        source,
        super_options,
    })
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape_octal(field)).into()
}

#[cfg(test)]
mod tests;
