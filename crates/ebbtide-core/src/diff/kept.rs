//! The other direction: what the next reset keeps, and how much it is.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::file::{open_quietly, read_directory};
use ebbtide_sys::metadata::{self, FileKind, Metadata, metadata_of_entry};
use ebbtide_sys::resolve;
use ebbtide_sys::tree::stack::{DirectoryStack, identity};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::Serialize;

use crate::boot::Boot;
use crate::compiled::{Compiled, Entry, StoreName};
use crate::failure::{Context, Result};
use crate::past::version::is_absent;
use crate::{status, store};

/// How many files and directories of one entry are looked at.
pub const LIMIT: u64 = 500_000;

/// What a tree amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Amount {
    /// The sizes of all regular files in bytes, holes included; a file with more names counts once.
    pub bytes: u64,
    /// What files and directories take on the disk in bytes, as the filesystem tells it. What is shared with
    /// snapshots or copies counts in full.
    pub on_disk: u64,
    /// How many files there are that are no directories.
    pub files: u64,
    /// Whether it is all: of a very large directory, only the beginning is looked at.
    pub complete: bool,
}

/// The data of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Data {
    /// It is in the store.
    Present(Amount),
    /// The store has nothing yet.
    Nothing,
    /// It can't be looked at, and why.
    Unknown(String),
}

/// What the next reset keeps.
#[derive(Debug)]
pub struct KeptData {
    /// The declaration that the next boot goes by.
    pub declaration: Compiled,
    stores: BTreeMap<StoreName, std::result::Result<OwnedFd, String>>,
}

impl KeptData {
    /// Opens the stores of the declaration that the next boot goes by. A store that can't be opened is told
    /// with each of its entries. Needs root.
    pub fn open(boot: &Boot) -> Result<Self> {
        let container = boot.open_container()?;
        let (_, declaration) = status::declaration(boot, &container)?;
        let open = |wanted: &crate::compiled::Store| {
            store::open(wanted.place(), wanted.uuid).map_err(|failure| failure.chain())
        };
        let stores =
            declaration.stores.iter().map(|(name, wanted)| (name.clone(), open(wanted))).collect();
        Ok(Self { declaration, stores })
    }

    /// Adds up what the store has of an entry. `seen` is called from time to time, with how many files and
    /// directories were looked at.
    pub fn data(&self, entry: &Entry, seen: &mut dyn FnMut(u64)) -> Data {
        let store = match self.stores.get(&entry.store) {
            Some(Ok(store)) => store.as_fd(),
            Some(Err(why)) => return Data::Unknown(why.clone()),
            None => return Data::Unknown(format!("there is no store {}", entry.store)),
        };
        match amount(store, &entry.path, LIMIT, seen) {
            Ok(Some(amount)) => Data::Present(amount),
            Ok(None) => Data::Nothing,
            Err(failure) => Data::Unknown(failure.chain()),
        }
    }
}

/// Adds up what is at a path of a store, without following links; `None` if nothing is there.
fn amount(
    store: BorrowedFd<'_>,
    path: &Path,
    limit: u64,
    seen: &mut dyn FnMut(u64),
) -> Result<Option<Amount>> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let opened = match resolve::open_path(store, relative) {
        Ok(opened) => opened,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(crate::past::version::explain(store, relative, error)),
    };
    let what = || "cannot add it up".to_owned();
    let found = metadata::metadata(opened.as_fd()).context(what)?;
    let mut sum =
        Sum { amount: Amount { complete: true, ..Amount::default() }, links: HashSet::new() };
    sum.add(&found);
    if found.kind == FileKind::Directory {
        let top = resolve::open_directory(store, relative).context(what)?;
        sum.below(top, limit, seen).context(what)?;
    }
    Ok(Some(sum.amount))
}

struct Sum {
    amount: Amount,
    /// Files with more than one name that were counted.
    links: HashSet<((u32, u32), u64)>,
}

impl Sum {
    fn add(&mut self, found: &Metadata) {
        if found.kind != FileKind::Directory {
            self.amount.files += 1;
            if found.nlink > 1 && !self.links.insert(identity(found)) {
                return;
            }
        }
        let size = if found.kind == FileKind::Regular { found.size } else { 0 };
        self.amount.bytes = self.amount.bytes.saturating_add(size);
        let taken = found.blocks.saturating_mul(512);
        self.amount.on_disk = self.amount.on_disk.saturating_add(taken);
    }

    /// What vanishes meanwhile does not count.
    fn below(
        &mut self,
        top: OwnedFd,
        limit: u64,
        seen: &mut dyn FnMut(u64),
    ) -> ebbtide_sys::Result<()> {
        let mut count = 0_u64;
        let mut stack = DirectoryStack::default();
        let mut levels = vec![read_directory(top.as_fd())?];
        stack.push(top)?;
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.pop() else {
                levels.pop();
                stack.pop()?;
                continue;
            };
            let parent = stack.top()?;
            let Some(found) = metadata_of_entry(parent, &entry.name)? else { continue };
            if count == limit {
                self.amount.complete = false;
                break;
            }
            count += 1;
            if count.is_multiple_of(1024) {
                seen(count);
            }
            self.add(&found);
            if found.kind != FileKind::Directory {
                continue;
            }
            match open_quietly(parent, &entry.name, OFlags::DIRECTORY) {
                Ok(child) => {
                    levels.push(read_directory(child.as_fd())?);
                    stack.push(child)?;
                }
                Err(error)
                    if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_added_up_once_within_a_limit() {
        let store = tempfile::tempdir().unwrap();
        let at = |path: &str| store.path().join(path);
        fs::create_dir_all(at("var/lib/app/deep")).unwrap();
        fs::write(at("var/lib/app/a"), vec![1; 5000]).unwrap();
        fs::hard_link(at("var/lib/app/a"), at("var/lib/app/deep/b")).unwrap();
        std::os::unix::fs::symlink("/var", at("var/lib/app/deep/link")).unwrap();
        fs::File::create(at("var/lib/app/sparse")).unwrap().set_len(1 << 30).unwrap();
        let opened = fs::File::open(store.path()).unwrap();
        let of = |path: &str, limit| {
            let path = Path::new(path);
            amount(opened.as_fd(), path, limit, &mut |_| ()).unwrap()
        };
        let all = of("/var/lib/app", 100).unwrap();
        assert_eq!((all.files, all.bytes, all.complete), (4, 5000 + (1 << 30), true));
        assert!((5000..1 << 20).contains(&all.on_disk), "{all:?}");
        let file = of("/var/lib/app/a", 100).unwrap();
        assert_eq!((file.files, file.bytes), (1, 5000));
        assert!(
            !of("/var/lib/app", 4).unwrap().complete && of("/var/lib/app", 5).unwrap().complete
        );
        assert_eq!(of("/nowhere", 9), None);
        let link = amount(opened.as_fd(), Path::new("/var/lib/app/deep/link/x"), 9, &mut |_| ());
        assert!(link.unwrap_err().chain().contains("is a symbolic link"));
    }
}
