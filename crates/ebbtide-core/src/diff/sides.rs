//! Two whole trees, of which single paths are compared.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::escape;

use super::content::{self, Compared};
use super::{Kept, Root, Which};
use crate::backend;
use crate::boot::Boot;
use crate::compiled::StoreName;
use crate::failure::{Context, Failure, Result};
use crate::past::sources::Place;

/// Two trees: what was, and what came of it.
#[derive(Debug)]
pub struct Sides {
    /// A base, or an earlier root.
    pub old: Side,
    /// A root.
    pub new: Side,
}

/// One tree.
#[derive(Debug)]
pub struct Side {
    /// Which one it is.
    pub place: Place,
    /// The tree, without what was mounted on it.
    tree: OwnedFd,
    /// Of the running root: the same with all that is mounted, where entries are.
    system: Option<(OwnedFd, Kept)>,
    /// Of a past root: what was mounted on it, and from which store.
    mounted: BTreeMap<PathBuf, StoreName>,
}

impl Sides {
    /// Opens the trees that are meant. Needs root.
    ///
    /// # Errors
    ///
    /// Those of [`super::Diff`].
    pub fn open(boot: &Boot, sysroot: &Path, which: Which) -> Result<Self> {
        let container = boot.open_container()?;
        let (old, root) = super::roots(boot, &container, sysroot, which)?;
        let old = match old {
            Some(old) => Side::new(boot, &container, sysroot, old)?,
            None => Side {
                place: Place::Base(root.base.number),
                tree: backend::open_base(&container, root.base.number)?,
                system: None,
                mounted: BTreeMap::new(),
            },
        };
        Ok(Self { old, new: Side::new(boot, &container, sysroot, root)? })
    }

    /// Compares a path. What an entry keeps is looked at in the running system; of a past root, only what
    /// lies in it can be.
    pub fn compare(&self, path: &Path) -> Result<Compared> {
        content::compare(self.old.tree_of(path)?, self.new.tree_of(path)?, path)
    }

    /// Whether an entry keeps the path, so that no reset takes anything from it.
    pub fn is_kept(&self, path: &Path) -> bool {
        self.new.system.as_ref().is_some_and(|(_, kept)| kept.covers(path))
    }
}

impl Side {
    fn new(
        boot: &Boot,
        container: &crate::container::Container,
        sysroot: &Path,
        root: Root,
    ) -> Result<Self> {
        let tree = root.whole(boot, container, sysroot)?;
        if root.is_past {
            let record = match root.boot {
                Some(number) => container.record(number)?,
                None => None,
            };
            let attached = record.and_then(|record| record.attached);
            let mounted = attached.map(|attached| attached.mounted).unwrap_or_default();
            let place = root.boot.map_or(Place::Now, Place::Boot);
            return Ok(Self { place, tree, system: None, mounted });
        }
        let system = std::fs::File::open(sysroot).context(|| "cannot open the root")?;
        let system = Some((OwnedFd::from(system), root.kept));
        Ok(Self { place: Place::Now, tree, system, mounted: BTreeMap::new() })
    }

    fn tree_of(&self, path: &Path) -> Result<BorrowedFd<'_>> {
        if let Some((system, _)) = self.system.as_ref().filter(|(_, kept)| kept.covers(path)) {
            return Ok(system.as_fd());
        }
        let Some(store) = path.ancestors().find_map(|above| self.mounted.get(above)) else {
            return Ok(self.tree.as_fd());
        };
        let path = escape(path.as_os_str().as_bytes());
        let boot = match self.place {
            Place::Boot(number) => format!(" in boot {number}"),
            _ => String::new(),
        };
        Err(Failure::new(format!(
            "{path} was mounted from store {store}{boot}, and is not in its root"
        ))
        .hint(format!(
            "a store has no versions of its own; `ebbtide log {path}` shows all that there are"
        )))
    }
}
