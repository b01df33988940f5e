//! What lies in a root and in its stores, seen by descriptor and without following a link.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::metadata::{self, FileKind, Metadata};
use ebbtide_sys::{file, resolve, xattr};
use uuid::Uuid;

use super::LARGEST;
use super::manifest::{Content, Item, Witness};
use super::plan::{Found, Observation};
use crate::compiled::sha256;
use crate::failure::{Context, Result};

/// Open stores, by the UUID in their markers.
pub type Stores = BTreeMap<Uuid, OwnedFd>;

/// What a file of `SQLite` begins with (<https://www.sqlite.org/fileformat.html>).
const SQLITE: &[u8] = b"SQLite format 3\0";

/// What lies beside a database that is open: without it the file alone is not its content.
const BESIDE_DATABASES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Looks at all items. A file whose inode and change time are those of the manifest is not read.
pub fn observe(items: &[Item], root: BorrowedFd<'_>, stores: &Stores) -> Result<Vec<Observation>> {
    items
        .iter()
        .map(|item| {
            let path = item.path.strip_prefix("/").unwrap_or(&item.path);
            let untouched = match (&item.content, item.witness) {
                (Some(content), Some(witness)) if witness_of(root, path)? == Some(witness) => {
                    Some(Found::File(content.clone()))
                }
                _ => None,
            };
            let in_root = match untouched {
                Some(found) => found,
                None => look(root, path)?,
            };
            let unchanged =
                matches!(&in_root, Found::File(now) if Some(now) == item.content.as_ref());
            let store = match stores.get(&item.store_uuid) {
                // What did not change is not compared with anything.
                Some(_) if unchanged => Ok(Found::Absent),
                Some(store) => Ok(look(store.as_fd(), path)?),
                None => Err(format!("store {} is not the one that it came from", item.store)),
            };
            Ok(Observation { root: in_root, store })
        })
        .collect()
}

/// Inode and change time of what lies at a path; `None` if that is nothing, or can't be reached.
pub(crate) fn witness_of(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<Witness>> {
    let found = match metadata::metadata_beneath(tree, path) {
        Ok(found) => found,
        Err(error) if is_in_the_way(&error) => None,
        Err(error) => return Err(error).context(|| format!("cannot look at {}", path.display())),
    };
    Ok(found.as_ref().map(Witness::of))
}

/// Whether a link or a file was where a directory had to be.
pub(super) fn is_in_the_way(error: &ebbtide_sys::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.errno(), Errno::LOOP | Errno::NOTDIR)
}

/// What lies at a path, and whether it can be synced.
pub(crate) fn look(tree: BorrowedFd<'_>, path: &Path) -> Result<Found> {
    let what = || format!("cannot look at {}", path.display());
    let found = match metadata::metadata_beneath(tree, path) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Found::Absent),
        Err(error) if is_in_the_way(&error) => {
            return Ok(Found::Unfit("a link or a file is among its parents".to_owned()));
        }
        Err(error) => return Err(error).context(what),
    };
    let seen = unfit(tree, path, &found).and_then(|unfit| match unfit {
        Some(why) => Ok(Found::Unfit(why)),
        None => Ok(match read(tree, path)? {
            Some((_, true)) => {
                Found::Unfit("it is a database: keep its directory instead".to_owned())
            }
            Some((content, false)) => Found::File(content),
            None => Found::Absent,
        }),
    });
    match seen {
        Err(error) if is_exchanged(&error) => {
            Ok(Found::Unfit("it became something else while it was looked at".to_owned()))
        }
        seen => seen.context(what),
    }
}

/// Whether something is not what it was a moment ago, when it was a regular file that is not too large.
fn is_exchanged(error: &ebbtide_sys::Error) -> bool {
    use rustix::io::Errno;
    let other = matches!(error.errno(), Errno::INVAL | Errno::ISDIR | Errno::NXIO | Errno::FBIG);
    other || is_in_the_way(error)
}

/// Why a file can't be synced, if it can't.
fn unfit(
    tree: BorrowedFd<'_>,
    path: &Path,
    found: &Metadata,
) -> ebbtide_sys::Result<Option<String>> {
    if found.kind != FileKind::Regular {
        return Ok(Some("it is not a regular file".to_owned()));
    }
    if found.size > LARGEST {
        return Ok(Some("it is larger than 16 MiB: keep its directory instead".to_owned()));
    }
    if found.nlink > 1 {
        return Ok(Some("it has more than one name: keep its directory instead".to_owned()));
    }
    for suffix in BESIDE_DATABASES {
        let mut beside = OsString::from(path);
        beside.push(suffix);
        if metadata::metadata_beneath(tree, Path::new(&beside))?.is_some() {
            return Ok(Some("it is a database in use: keep its directory instead".to_owned()));
        }
    }
    Ok(None)
}

/// A file's content and metadata; `None` if it is not there.
pub fn content_of(tree: BorrowedFd<'_>, path: &Path) -> Result<Option<Content>> {
    let read = read(tree, path).context(|| format!("cannot read {}", path.display()))?;
    Ok(read.map(|(content, _)| content))
}

/// A file's content and metadata, and whether it is a database by its first bytes.
fn read(tree: BorrowedFd<'_>, path: &Path) -> ebbtide_sys::Result<Option<(Content, bool)>> {
    let bytes = match file::read_limited(tree, path, LARGEST) {
        Ok(bytes) => bytes,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let opened = resolve::open_path(tree, path)?;
    let found = metadata::metadata(opened.as_fd())?;
    let content = Content {
        hash: sha256(&bytes),
        size: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        uid: found.uid,
        gid: found.gid,
        mode: found.mode,
        attributes: attributes(opened.as_fd())?,
    };
    Ok(Some((content, bytes.starts_with(SQLITE))))
}

/// SHA-256 of all extended attributes, in the order of their names.
fn attributes(fd: BorrowedFd<'_>) -> ebbtide_sys::Result<String> {
    let mut all = Vec::new();
    let mut names = xattr::list(fd)?;
    names.sort();
    for name in names {
        let value = xattr::get(fd, &name)?.unwrap_or_default();
        all.extend_from_slice(name.as_encoded_bytes());
        all.push(0);
        all.extend_from_slice(&u64::try_from(value.len()).unwrap_or(0).to_be_bytes());
        all.extend_from_slice(&value);
    }
    Ok(sha256(&all))
}
