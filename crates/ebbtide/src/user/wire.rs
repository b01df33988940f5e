//! What goes over the socket: frames of a letter, a length in four bytes (big-endian), and so many bytes.
//!
//! `j` is JSON, `d` a piece of a file: eight bytes that say where (big-endian), and the bytes. Both ends are
//! of one version; another is refused.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use ebbtide_core::changes::{Change, What};
use ebbtide_core::compiled::StoreName;
use ebbtide_core::diff::About;
use ebbtide_core::failure::Problem;
use ebbtide_core::past::PastBoot;
use ebbtide_core::past::history::History;
use ebbtide_core::past::restore::After;
use ebbtide_core::past::sources::Place;
use ebbtide_core::past::version::Version;
use ebbtide_sys::metadata::{FileKind, Time};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of all of this.
pub const VERSION: u32 = 1;
/// The longest request, in bytes.
pub const REQUEST: usize = 64 << 10;
/// The longest frame of an answer, in bytes.
pub const ANSWER: usize = 8 << 20;
/// How much of a file goes into one frame, in bytes.
pub const PIECE: usize = 128 << 10;
/// The letter of JSON.
const JSON: u8 = b'j';
/// The letter of a piece of a file.
const DATA: u8 = b'd';

/// What is asked, and by which rules.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`VERSION`].
    pub version: u32,
    /// What.
    pub ask: Ask,
}

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ask {
    /// All boots.
    Boots {},
    /// The versions of one path.
    Log {
        /// Absolute and normalised.
        path: Bytes,
    },
    /// Changes.
    Diff {
        /// As `--boot` has it.
        boot: Option<String>,
    },
    /// One version of a path.
    Restore {
        /// Absolute and normalised.
        path: Bytes,
        /// As `--boot` has it.
        boot: Option<String>,
        /// Whether it is for another place: then what is there now is of use too.
        elsewhere: bool,
        /// Whether the version itself is not wanted.
        dry_run: bool,
    },
}

/// One part of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// It failed: nothing follows.
    Failed {
        /// What could not be done.
        message: String,
        /// Why.
        causes: Vec<String>,
        /// What to do.
        hints: Vec<String>,
    },
    /// All boots; nothing follows.
    Boots {
        /// The newest first.
        boots: Vec<PastBoot>,
    },
    /// The versions of a path; nothing follows.
    Log {
        /// The versions.
        history: History,
        /// What could not be looked at.
        problems: Vec<Problem>,
        /// Whether there is any past root.
        has_past: bool,
    },
    /// What is compared; changes follow, and an end.
    Diff {
        /// What is compared.
        about: Box<About>,
    },
    /// One change.
    Change(WireChange),
    /// The version that is meant; unless it was a dry run, a node follows with all that is in it, and an end.
    Found(Box<Found>),
    /// A file, a link, or a directory. After a file come its pieces, after a directory what is in it.
    Node(Node),
    /// The end of a directory.
    Up {},
    /// The end.
    End {
        /// How much was left out that was not the user's, or has no content.
        left_out: u64,
    },
}

/// Which version is meant.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub version: Version,
    /// What is kept of it in its own place.
    pub fate: After,
    /// The permission bits of the directories above it, the innermost first; none of what is others'.
    pub parents: Vec<Option<u32>>,
    /// What is not in it because it was mounted: escaped, with its store.
    pub mounted: Vec<(String, StoreName)>,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
}

/// Something that is restored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its name in its directory.
    pub name: Bytes,
    /// The type and what only that has.
    pub what: NodeKind,
    /// The permission bits.
    pub mode: u32,
    /// The group.
    pub gid: u32,
    /// When it was last read.
    pub accessed: Time,
    /// When it was last modified.
    pub modified: Time,
    /// Attributes of users, and ACLs.
    pub attributes: Vec<(Bytes, Bytes)>,
}

/// What something is that is restored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NodeKind {
    /// A regular file of so many bytes.
    File {
        /// Holes included.
        size: u64,
    },
    /// A directory.
    Directory {},
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: Bytes,
    },
}

/// A change as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WireChange {
    path: Bytes,
    what: String,
    from: Option<Bytes>,
    kind: String,
    bytes: u64,
    when: Option<Time>,
}

const KINDS: [(FileKind, &str); 7] = [
    (FileKind::Regular, "file"),
    (FileKind::Directory, "directory"),
    (FileKind::Symlink, "symlink"),
    (FileKind::Fifo, "fifo"),
    (FileKind::Socket, "socket"),
    (FileKind::CharDevice, "char-device"),
    (FileKind::BlockDevice, "block-device"),
];

impl From<&Change> for WireChange {
    fn from(change: &Change) -> Self {
        let from = match &change.what {
            What::Renamed { from } => Some(Bytes::of(from.as_os_str())),
            _ => None,
        };
        let kind = KINDS.iter().find(|(kind, _)| *kind == change.kind).map_or("", |it| it.1);
        Self {
            path: Bytes::of(change.path.as_os_str()),
            what: change.what.name().to_owned(),
            from,
            kind: kind.to_owned(),
            bytes: change.bytes,
            when: change.when,
        }
    }
}

impl WireChange {
    /// The change; `None` if it is none that this program knows.
    pub fn change(&self) -> Option<Change> {
        let what = match (self.what.as_str(), &self.from) {
            ("added", None) => What::Added,
            ("changed", None) => What::Changed,
            ("deleted", None) => What::Deleted,
            ("metadata", None) => What::Metadata,
            ("renamed", Some(from)) => What::Renamed { from: from.os().into() },
            _ => return None,
        };
        let kind = KINDS.iter().find(|(_, name)| *name == self.kind)?.0;
        let path = self.path.os().into();
        Some(Change { path, what, kind, bytes: self.bytes, when: self.when })
    }
}

/// Bytes that may be no text, as a string with a character for each.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    /// Those of a name or a path.
    pub fn of(text: &OsStr) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// As a name or a path.
    pub fn os(&self) -> OsString {
        OsString::from_vec(self.0.clone())
    }

    /// As a path that both ends understand the same: absolute, with neither `.` nor `..` in it.
    pub fn absolute(&self) -> Option<&Path> {
        let text = self.0.as_slice();
        let is_name = |name: &[u8]| !matches!(name, b"" | b"." | b"..");
        let below = text.strip_prefix(b"/")?;
        let is_plain = text.len() < 4096
            && !text.contains(&0)
            && (below.is_empty() || below.split(|byte| *byte == b'/').all(is_name));
        is_plain.then(|| Path::new(OsStr::from_bytes(text)))
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ebbtide_sys::escape(&self.0))
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.iter().map(|byte| char::from(*byte)).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes: Result<Vec<u8>, _> = text.chars().map(u8::try_from).collect();
        bytes.map(Self).map_err(|_| D::Error::custom("a character that stands for no byte"))
    }
}

/// One frame.
#[derive(Debug)]
pub enum Frame {
    /// JSON, not parsed yet.
    Json(Vec<u8>),
    /// A piece of a file.
    Data {
        /// Where in the file.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// Reads one frame; `limit` is for what is in it.
pub fn read(from: &mut impl Read, limit: usize) -> io::Result<Frame> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut head = [0; 5];
    from.read_exact(&mut head)?;
    let [letter, length @ ..] = head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(wrong("a frame that is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    match letter {
        JSON => Ok(Frame::Json(bytes)),
        DATA => {
            let (offset, rest) =
                bytes.split_first_chunk().ok_or_else(|| wrong("a piece of a file that is cut"))?;
            Ok(Frame::Data { offset: u64::from_be_bytes(*offset), bytes: rest.to_vec() })
        }
        _ => Err(wrong("what is no frame")),
    }
}

/// Writes a value as a frame, in one piece.
pub fn write_json(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    frame(to, JSON, &[&serde_json::to_vec(value)?])
}

/// Writes a piece of a file.
pub fn write_data(to: &mut impl Write, offset: u64, bytes: &[u8]) -> io::Result<()> {
    frame(to, DATA, &[&offset.to_be_bytes(), bytes])
}

fn frame(to: &mut impl Write, letter: u8, parts: &[&[u8]]) -> io::Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let told = u32::try_from(length).ok().filter(|_| length <= ANSWER);
    let told = told.ok_or_else(|| io::Error::other("an answer that is too long"))?;
    let mut whole = Vec::with_capacity(length + 5);
    whole.push(letter);
    whole.extend(told.to_be_bytes());
    for part in parts {
        whole.extend_from_slice(part);
    }
    to.write_all(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_travel_in_json() {
        let all = Bytes((0..=255).collect());
        let text = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), all);
        serde_json::from_str::<Bytes>("\"\u{100}\"").unwrap_err();
    }

    #[test]
    fn only_plain_absolute_paths_are_paths() {
        let path = |text: &[u8]| Bytes(text.to_vec()).absolute().is_some();
        assert!(path(b"/") && path(b"/a") && path(b"/a/\xff\n"));
        for odd in [&b""[..], b"a", b"//", b"/a/", b"/a//b", b"/a/../b", b"/..", b"/./a", b"/a\0"] {
            assert!(!path(odd), "{odd:?}");
        }
        assert!(!path(&[b'/', b'a'].repeat(3000)));
    }

    #[test]
    fn requests_are_parsed_strictly() {
        let parse = |text: &str| serde_json::from_str::<Request>(text);
        parse(r#"{"version":1,"ask":{"boots":{}}}"#).unwrap();
        parse(r#"{"version":1,"ask":{"log":{"path":"/a"}}}"#).unwrap();
        for odd in [
            r#"{"version":1,"ask":{"boots":{"uid":0}}}"#,
            r#"{"version":1,"ask":{"boots":{}},"uid":0}"#,
            r#"{"version":1,"ask":{"log":{"path":"/a","uid":0}}}"#,
            r#"{"version":1,"ask":{"log":{}}}"#,
            r#"{"version":1,"ask":{"log":{"path":"/a"},"boots":{}}}"#,
            r#"{"version":1,"ask":{"erase":{}}}"#,
            r#"{"version":-1,"ask":{"boots":{}}}"#,
            r#"{"ask":{"boots":{}}}"#,
            "[]",
            "",
        ] {
            parse(odd).unwrap_err();
        }
    }

    #[test]
    fn frames_are_read_as_they_were_written_and_no_longer_ones() {
        let mut wire = Vec::new();
        write_json(&mut wire, &"x").unwrap();
        write_data(&mut wire, 7, b"abc").unwrap();
        let mut rest = wire.as_slice();
        assert!(matches!(read(&mut rest, 100).unwrap(), Frame::Json(json) if json == b"\"x\""));
        let data = read(&mut rest, 100).unwrap();
        assert!(matches!(data, Frame::Data { offset: 7, bytes } if bytes == b"abc"));
        let cut = read(&mut rest, 100).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        for odd in [&b"j\xff\xff\xff\xff"[..], b"x\0\0\0\0", b"d\0\0\0\x02ab"] {
            let error = read(&mut &*odd, 100).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{odd:?}");
        }
    }

    #[test]
    fn changes_travel_whole() {
        let change = |what| Change {
            path: OsStr::from_bytes(b"/\xff").into(),
            what,
            kind: FileKind::Fifo,
            bytes: 3,
            when: Some((1, 2)),
        };
        for what in [
            What::Added,
            What::Changed,
            What::Deleted,
            What::Metadata,
            What::Renamed { from: "/a".into() },
        ] {
            let change = change(what);
            let text = serde_json::to_string(&WireChange::from(&change)).unwrap();
            let back: WireChange = serde_json::from_str(&text).unwrap();
            assert_eq!(back.change(), Some(change));
        }
    }
}
