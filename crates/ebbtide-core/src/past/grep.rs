//! Looking for text in all versions of files: bytes, in any file, with a bounded part of it in memory.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ebbtide_sys::escape;
use ebbtide_sys::metadata::{self, FileKind, Metadata, Time};
use ebbtide_sys::resolve;
use memchr::memmem::Finder;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::sources::Source;
use super::version::{CONTENT_LIMIT, open_regular};
use crate::failure::{Context, Result};

/// So much of a file is in memory at a time, in bytes.
const CHUNK: usize = 128 * 1024;
/// So much of a line is shown on either side of what was looked for, in bytes.
const AROUND: usize = 60;

/// How often a version has what is looked for, and where first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Matches {
    /// How often, counted without overlaps.
    pub count: u64,
    /// The line of the first one, counted from 1.
    pub line: u64,
    /// That line, or as much of it as is around the first one, escaped; null in a binary file.
    pub text: Option<String>,
}

/// What is looked for, and what was found so far.
#[derive(Debug)]
pub struct Grep {
    finder: Finder<'static>,
    /// By inode number, size and times, as of [`super::version::Contents`].
    seen: HashMap<(u64, u64, Time, Time), Option<Matches>>,
    /// Versions that were too long to be read.
    pub skipped: u64,
    /// Versions that could not be read.
    pub failed: u64,
}

impl Grep {
    /// Looks for these bytes; `None` if there are none.
    pub fn new(text: &[u8]) -> Option<Self> {
        let finder = Finder::new(text).into_owned();
        (!text.is_empty()).then(|| Self { finder, seen: HashMap::new(), skipped: 0, failed: 0 })
    }

    /// Looks into a regular file of a tree. No link is followed; anything else has no match.
    pub fn look(&mut self, source: &Source, path: &Path) -> Option<Matches> {
        if source.mounted_over(path).is_some() {
            return None;
        }
        let tree = source.tree().ok()?;
        let relative = path.strip_prefix("/").unwrap_or(path);
        let opened = resolve::open_path(tree, relative).ok()?;
        let found = metadata::metadata(opened.as_fd()).ok()?;
        if found.kind != FileKind::Regular {
            return None;
        }
        let key = |found: &Metadata| (found.inode, found.size, found.modified, found.changed);
        if let Some(known) = self.seen.get(&key(&found)) {
            return known.clone();
        }
        let searched = if found.size > CONTENT_LIMIT {
            self.skipped += 1;
            Ok(None)
        } else {
            open_regular(tree, relative).and_then(|(file, _)| search(file.as_fd(), &self.finder))
        };
        let matches = searched.unwrap_or_else(|_| {
            self.failed += 1;
            None
        });
        self.seen.insert(key(&found), matches.clone());
        matches
    }
}

fn search(file: BorrowedFd<'_>, finder: &Finder<'_>) -> Result<Option<Matches>> {
    let what = || "cannot read it";
    let needle = finder.needle().len();
    let mut buffer: Vec<u8> = Vec::with_capacity(CHUNK + needle);
    let mut chunk = vec![0; CHUNK];
    // Where the buffer begins in the file, and how many lines end before it.
    let (mut begin, mut lines) = (0_u64, 0_u64);
    let (mut count, mut first) = (0_u64, None);
    loop {
        let read = match rustix::io::read(file, &mut chunk) {
            Ok(0) => break,
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).context(what),
        };
        buffer.extend_from_slice(read);
        let mut done = 0;
        while let Some(at) = buffer.get(done..).and_then(|rest| finder.find(rest)) {
            let at = done + at;
            if first.is_none() {
                first = Some((begin + at as u64, lines + newlines(buffer.get(..at)) + 1));
            }
            count += 1;
            done = at + needle;
        }
        // What may be the beginning of one stays, unless it is part of one already.
        let drop = done.max(buffer.len().saturating_sub(needle - 1));
        if first.is_none() {
            lines += newlines(buffer.get(..drop));
        }
        buffer.drain(..drop);
        begin += drop as u64;
    }
    let Some((at, line)) = first else { return Ok(None) };
    Ok(Some(Matches { count, line, text: around(file, at, needle).context(what)? }))
}

fn newlines(bytes: Option<&[u8]>) -> u64 {
    memchr::memchr_iter(b'\n', bytes.unwrap_or_default()).count() as u64
}

/// The line around a match, escaped; `None` if it is no text.
fn around(
    file: BorrowedFd<'_>,
    at: u64,
    needle: usize,
) -> std::result::Result<Option<String>, Errno> {
    let from = at.saturating_sub(AROUND as u64);
    let before = usize::try_from(at - from).unwrap_or(AROUND);
    let mut bytes = vec![0; before + needle.min(AROUND) + AROUND];
    let read = rustix::io::pread(file, &mut bytes, from)?;
    bytes.truncate(read);
    if bytes.contains(&0) {
        return Ok(None);
    }
    let (left, right) = bytes.split_at_checked(before).unwrap_or((&bytes, &[]));
    let start = memchr::memrchr(b'\n', left).map_or(0, |newline| newline + 1);
    // What is looked for may be several lines.
    let shown = needle.min(right.len());
    let end = memchr::memchr(b'\n', right.get(shown..).unwrap_or_default());
    let end = end.map_or(right.len(), |newline| shown + newline);
    let line = [left.get(start..).unwrap_or_default(), right.get(..end).unwrap_or_default()];
    Ok(Some(escape(&line.concat())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn searched(content: &[u8], needle: &[u8]) -> Option<Matches> {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("file");
        fs::write(&path, content).unwrap();
        search(fs::File::open(path).unwrap().as_fd(), &Finder::new(needle)).unwrap()
    }

    fn shown(content: &[u8], needle: &str) -> Option<(u64, u64, Option<String>)> {
        searched(content, needle.as_bytes()).map(|it| (it.count, it.line, it.text))
    }

    #[test]
    fn it_is_found_wherever_it_lies() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(shown(b"", "a"), None);
        assert_eq!(shown(b"one\ntwo a\nthree a a\n", "a"), Some((3, 2, text("two a"))));
        assert_eq!(shown(b"aaaa", "aa"), Some((2, 1, text("aaaa"))));
        assert_eq!(
            shown(b"x\x1b[31mred\xff\nmore", "red"),
            Some((1, 1, text("x\\x1b[31mred\\xff")))
        );
        assert_eq!(shown(b"x\0\nred\n", "red"), Some((1, 2, None)));
        assert_eq!(shown(b"one\ntwo\nthree\n", "ne\ntw"), Some((1, 1, text("one\\ntwo"))));
        let long = [vec![b'x'; 500], b"here".to_vec(), vec![b'y'; 500]].concat();
        let (_, _, line) = shown(&long, "here").unwrap();
        assert_eq!(line.unwrap(), format!("{}here{}", "x".repeat(60), "y".repeat(60)));
    }

    #[test]
    fn it_is_found_across_any_boundary() {
        for at in CHUNK - 8..CHUNK + 8 {
            let mut content = vec![b'x'; 3 * CHUNK];
            content[10] = b'\n';
            content[at..at + 6].copy_from_slice(b"needle");
            content[2 * CHUNK - 3..2 * CHUNK + 3].copy_from_slice(b"needle");
            let found = searched(&content, b"needle").unwrap();
            assert_eq!((found.count, found.line), (2, 2), "at {at}");
        }
    }
}
