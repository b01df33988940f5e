//! The compiled declaration: all layers checked and flattened into one canonical file.
//!
//! Encoding: JSON in UTF-8, keys in the order of the fields below, entries sorted by path. Files
//! are named by the SHA-256 of their bytes, so that a hash in the container vouches for content.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::retention::{KeepBoots, KeepCache, KeepTrash};

/// The version of the compiled format that this program writes and reads.
pub const VERSION: u32 = 1;

/// The declaration as the boot binary reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compiled {
    /// Always [`VERSION`]; another one is refused.
    pub version: u32,
    /// What the root is made from.
    pub root: Root,
    /// Stores by name.
    pub stores: BTreeMap<StoreName, Store>,
    /// Entries, sorted by path, so that a parent comes before what lies below it.
    pub entries: Vec<Entry>,
}

/// How the root is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Which backend makes roots.
    pub backend: Backend,
    /// The device that holds the container.
    pub device: DeviceSpec,
    /// Where the container is and which one it must be.
    pub container: ContainerRef,
    /// Mount options of the root, besides `subvol=` and `noatime`, which are always there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// With `tmpfs`: how much of the RAM a root may take; without it, [`RamSize::DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<RamSize>,
    /// With `tmpfs`: up to how many bytes of what was written are archived as a past root when the
    /// machine goes down; without it, nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<u64>,
    /// Whether the root itself can be written to: if not, only entries and what is mounted can.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub writable: bool,
    /// Empty filesystems in RAM that every boot mounts on the root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<RamMount>,
    /// Volumes that every boot mounts on the root: for a blank base, `/usr` or `/nix`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<VolumeMount>,
    /// Whether the kernel is asked to note what tries to write to a root that is not for writing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub audit: bool,
    /// Whether a reset that would lock out all who could log in to the last root is refused.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub require_login: bool,
    /// Which past roots stay; without it, the default. A boot passes it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_boots: Option<KeepBoots>,
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// A volume, or a part of one, mounted on the root at every boot. What is on it belongs to no boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Absolute, normalised.
    pub path: PathBuf,
    /// The device that holds it.
    pub device: DeviceSpec,
    /// On btrfs, the subvolume's path below the top level, without a leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<PathBuf>,
    /// The directory's path below the top level of its filesystem, without a leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Its mount options.
    pub options: Vec<MountOption>,
}

/// An empty filesystem in RAM, mounted on the root at every boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RamMount {
    /// Absolute, normalised.
    pub path: PathBuf,
    /// How much it may take; without it, [`RamSize::DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<RamSize>,
    /// Permission bits of its top directory.
    pub mode: Mode,
}

/// A limit for a filesystem in RAM, as `size=` of tmpfs(5) takes it: a share of the RAM, or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamSize {
    /// A share of the RAM, 1 to 100 percent.
    Percent(u8),
    /// That many bytes, not 0: tmpfs takes that for no limit.
    Bytes(u64),
}

impl RamSize {
    /// Half of the RAM, as the kernel has it for a tmpfs without `size=`.
    pub const DEFAULT: Self = Self::Percent(50);
}

impl fmt::Display for RamSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl std::str::FromStr for RamSize {
    type Err = &'static str;

    /// Reads `50%`, or bytes with one of the suffixes `K`, `M`, `G`, `T` (powers of 1024).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(percent) = text.strip_suffix('%') {
            return match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                _ => Err("a share of the RAM is 1% to 100%"),
            };
        }
        match parse_bytes(text) {
            Some(bytes @ 4096..) => Ok(Self::Bytes(bytes)),
            Some(_) => Err("less than one page is no room at all"),
            None => Err("a size is a number with K, M, G or T behind it, or a share as in \"50%\""),
        }
    }
}

/// Reads a number of bytes with one of the suffixes `K`, `M`, `G`, `T` (powers of 1024) or none.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        b'T' | b't' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(1 << unit)
}

impl Serialize for RamSize {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RamSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A way of making roots and putting them away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// Snapshots of a base subvolume.
    Btrfs,
    /// A directory for what is written, over a base that is not: on any filesystem.
    Overlay,
    /// The same with that directory in RAM.
    Tmpfs,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Btrfs => "btrfs",
            Self::Overlay => "overlay",
            Self::Tmpfs => "tmpfs",
        })
    }
}

/// A device as in fstab: `UUID=`, `LABEL=`, `PARTUUID=`, `PARTLABEL=` or an absolute path. Where a
/// machine is only tried out, the path may be that of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceSpec(pub String);

impl DeviceSpec {
    /// Whether it names a directory, and no device.
    pub fn is_directory(&self) -> bool {
        self.0.starts_with('/') && Path::new(&self.0).is_dir()
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a container is, and which one it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRef {
    /// Path below the top level of the volume, without a leading slash.
    pub path: PathBuf,
    /// The UUID in the container's marker.
    pub uuid: Uuid,
}

/// The name of a store: lower-case letters, digits and `-`, at most 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct StoreName(pub String);

impl StoreName {
    /// The store that holds the compiled declaration and what names no other.
    pub const STATE: &'static str = "state";
}

impl fmt::Display for StoreName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A store: a persistent directory tree outside the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Store {
    /// The device that holds it.
    pub device: DeviceSpec,
    /// On btrfs, the subvolume's path below the top level, without a leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subvolume: Option<PathBuf>,
    /// The directory's path below the top level of its filesystem, without a leading slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// What kind of data it holds.
    pub class: Class,
    /// Its mount options: those of its class, as the declaration changes them.
    pub options: Vec<MountOption>,
    /// How much of its trash stays; without it, the default. A boot passes it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trash: Option<KeepTrash>,
    /// How much of it stays, and for how long: only of a cache. Boots only mount it so that reads leave
    /// their time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry: Option<KeepCache>,
    /// The UUID in the store's marker.
    pub uuid: Uuid,
}

/// What kind of data a store holds: decides its mount options, backup and expiry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Worth a backup.
    #[default]
    State,
    /// May be dropped at any time.
    Cache,
    /// Keys and credentials.
    Secret,
    /// Logs: also mounted `noexec`.
    Log,
}

impl Class {
    /// Its name in the declaration.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Cache => "cache",
            Self::Secret => "secret",
            Self::Log => "log",
        }
    }

    /// The mount options of a store of this class.
    pub fn mount_options(self) -> &'static [MountOption] {
        match self {
            Self::Log => &[MountOption::Nosuid, MountOption::Nodev, MountOption::Noexec],
            _ => &[MountOption::Nosuid, MountOption::Nodev],
        }
    }
}

/// One declared path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Absolute, normalised: no `.`, no `..`, no doubled or trailing slash, no NUL.
    pub path: PathBuf,
    /// Directory or file.
    pub kind: Kind,
    /// The store that keeps it.
    pub store: StoreName,
    /// How it is put in place.
    pub method: Method,
    /// Declared owner; without one the owner comes from the base, else from the store, else root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Principal>,
    /// Declared group, as `user`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Principal>,
    /// Declared permission bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// For parents that have to be made and that neither base nor store know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Options of the bind mount, besides those of the store.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<MountOption>,
    /// An optional entry whose data is absent is passed over in silence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
    /// A directory that is not made while nothing else has made it. Unlike an optional entry, it needs
    /// its store.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lazy: bool,
    /// For an entry of a user: their home, which it lies below. It and what has to be made below it
    /// belong to `user` and nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<PathBuf>,
    /// Units that must not start while the entry is declared and absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<String>,
    /// Which layer declared it.
    pub origin: Origin,
}

impl Entry {
    /// The path below the root of a tree, without the leading slash.
    pub fn relative(&self) -> &Path {
        self.path.strip_prefix("/").unwrap_or(&self.path)
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A directory and all that lies below it.
    Directory,
    /// A regular file.
    File,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::File => "file",
        })
    }
}

/// How an entry is put in place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A bind mount from the store.
    #[default]
    Bind,
    /// A symbolic link into the store.
    Symlink,
    /// Copied into the root, and harvested back into the store when the root ends: the one that
    /// survives programs that replace a file by rename.
    Sync,
    /// Copied into the root. Only for the built-in `/etc/machine-id`, which systemd wants as a file
    /// of the root itself (machine-id(5); a bound one makes systemd-machine-id-commit fail).
    Copy,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bind => "bind",
            Self::Symlink => "symlink",
            Self::Sync => "sync",
            Self::Copy => "copy",
        })
    }
}

/// A user or group, by name or by number. Names are resolved in the target's own passwd and group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Principal {
    /// A numeric id.
    Id(u32),
    /// A name.
    Name(String),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Permission bits, `0o0000` to `0o7777`; written as an octal string such as `"0755"`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Debug for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mode({self})")
    }
}

impl std::str::FromStr for Mode {
    type Err = InvalidMode;

    fn from_str(text: &str) -> Result<Self, InvalidMode> {
        let octal =
            (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        if !octal {
            return Err(InvalidMode);
        }
        u32::from_str_radix(text, 8).map(Self).map_err(|_| InvalidMode)
    }
}

/// A mode that is not three or four octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a mode is three or four octal digits in quotes, such as \"0750\"")]
pub struct InvalidMode;

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Owner and mode of parents that have to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Owner; root without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Principal>,
    /// Group; root without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Principal>,
    /// Permission bits; 0755 without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// A per-mount option that `mount_setattr(2)` can set on a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MountOption {
    /// Read-only.
    Ro,
    /// Ignore setuid and setgid bits and file capabilities.
    Nosuid,
    /// Ignore device nodes.
    Nodev,
    /// Refuse to execute programs.
    Noexec,
    /// Do not update access times.
    Noatime,
}

impl fmt::Display for MountOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ro => "ro",
            Self::Nosuid => "nosuid",
            Self::Nodev => "nodev",
            Self::Noexec => "noexec",
            Self::Noatime => "noatime",
        })
    }
}

/// Where a declaration came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The file, or `built-in`.
    pub file: String,
    /// Line, counted from 1; 0 for what is built in.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}", self.file, self.line)
        }
    }
}

/// The SHA-256 of bytes, as 64 lower-case hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The SHA-256 of a compiled declaration's bytes, as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct DeclarationHash(String);

impl DeclarationHash {
    /// Hashes the bytes of a file.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }

    /// The hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeclarationHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why bytes are no compiled declaration.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCompiled {
    /// The bytes are not what the hash promised.
    #[error("its content has hash {found}, not {expected}: it was changed or is damaged")]
    Hash {
        /// What the container vouches for.
        expected: DeclarationHash,
        /// What the bytes hash to.
        found: DeclarationHash,
    },
    /// Not JSON of this shape.
    #[error("it is not a compiled declaration: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Written by another version of Ebbtide.
    #[error("it has format version {0}, and this program reads version {VERSION} only")]
    Version(u32),
    /// An entry's path could lead outside the tree it is meant for.
    #[error("entry {0:?} is not an absolute, normalised path")]
    Path(PathBuf),
}

impl Compiled {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        // A struct of strings, numbers and maps with string keys always serialises.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads what [`Self::to_bytes`] wrote, and checks all that a boot relies on.
    pub fn from_bytes(bytes: &[u8], expected: &DeclarationHash) -> Result<Self, InvalidCompiled> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let found = DeclarationHash::of(bytes);
        if found != *expected {
            return Err(InvalidCompiled::Hash { expected: expected.clone(), found });
        }
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(InvalidCompiled::Version(version));
        }
        let compiled: Self = serde_json::from_slice(bytes)?;
        match compiled.entries.iter().find(|entry| !is_normalised(&entry.path)) {
            Some(entry) => Err(InvalidCompiled::Path(entry.path.clone())),
            None => Ok(compiled),
        }
    }
}

/// Whether a path is absolute, below `/`, and spelled in its one normal form.
pub fn is_normalised(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let Some(rest) = bytes.strip_prefix(b"/") else { return false };
    !bytes.contains(&0)
        && rest.split(|&b| b == b'/').all(|part| !part.is_empty() && part != b"." && part != b"..")
}
