//! Past roots as a source of first content.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::metadata_beneath;

use crate::backend;
use crate::compiled::StoreName;
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{Attached, BootNumber, Record};

/// A root that a system ran on, and what its boot says of it.
#[derive(Debug)]
pub struct OldRoot {
    /// The last boot that ran on it.
    pub number: BootNumber,
    /// Its tree, or why it can't be read.
    tree: std::result::Result<OwnedFd, String>,
    /// Where it is an overlay: what was written to it.
    pub upper: Option<OwnedFd>,
    unfinished: Unfinished,
    /// What was mounted on it: there the tree has only mount points.
    pub mounted: BTreeMap<PathBuf, StoreName>,
}

/// Entries that were declared and could not be attached: what they should have had is in an older root
/// still.
#[derive(Debug)]
enum Unfinished {
    /// These.
    Some(BTreeSet<PathBuf>),
    /// Whichever were not in place: not all that was declared was attached.
    Rest,
}

impl OldRoot {
    /// A root with what its boot recorded.
    pub fn new(
        number: BootNumber,
        (tree, upper): (OwnedFd, Option<OwnedFd>),
        attached: Option<Attached>,
    ) -> Self {
        let (unfinished, mounted) = match attached {
            Some(Attached { partial: true, mounted, .. }) => (Unfinished::Rest, mounted),
            Some(Attached { missing, mounted, .. }) => {
                (Unfinished::Some(missing.into_iter().collect()), mounted)
            }
            // No boot wrote down what it found: it may have been made, and never run on.
            None => (Unfinished::Rest, BTreeMap::new()),
        };
        Self { number, tree: Ok(tree), upper, unfinished, mounted }
    }

    /// Whether an entry that was not mounted on it may have its first content on an older root.
    pub fn is_unfinished(&self, path: &Path) -> bool {
        match &self.unfinished {
            Unfinished::Some(paths) => paths.contains(path),
            Unfinished::Rest => true,
        }
    }

    /// Whether all that was declared is on it.
    fn is_complete(&self) -> bool {
        matches!(&self.unfinished, Unfinished::Some(paths) if paths.is_empty())
    }

    /// Its tree.
    ///
    /// # Errors
    ///
    /// It can't be read: whether something of it is first content is not known.
    pub fn tree(&self) -> Result<BorrowedFd<'_>> {
        self.tree.as_ref().map(AsFd::as_fd).map_err(|why| Failure::new(why.clone()))
    }

    /// The store that a path of this root was in, if something was mounted on it or above it.
    pub fn store_of(&self, path: &Path) -> Option<&StoreName> {
        path.ancestors().find_map(|above| self.mounted.get(above))
    }
}

/// The newest past root that a system ran on, and those before it as long as something of their
/// entries was left unfinished. Newest first.
///
/// As a rule that is the root that was just put away. After a power cut it may have been put away
/// by a boot that got no further, and a root that was never attached may lie in between. One that could not
/// be put away has its temporary name still. What is no root is passed over; one that can't be read is
/// the last, and says why.
pub fn old_roots(container: &Container, before: BootNumber, run: &Path) -> Vec<OldRoot> {
    let mut roots = Vec::new();
    let unread = |number, attached, failure: &Failure| OldRoot {
        number,
        tree: Err(format!("cannot look for first content in past roots: {}", failure.chain())),
        upper: None,
        unfinished: Unfinished::Some(BTreeSet::new()),
        mounted: attached,
    };
    let places = match places_of_old_roots(container) {
        Ok(places) => places,
        Err(failure) => return vec![unread(BootNumber(0), BTreeMap::new(), &failure)],
    };
    for (number, place) in places.into_iter().filter(|(number, _)| *number < before) {
        let attached = match container.record(number) {
            Ok(Some(record)) => match attached_on(container, record) {
                Some(attached) => Some(attached),
                None => continue,
            },
            _ => None,
        };
        let tree = match backend::tree(container, &place, run) {
            Ok(tree) => tree,
            Err(failure) => {
                let Some(attached) = attached else { continue };
                roots.push(unread(number, attached.mounted, &failure));
                break;
            }
        };
        let upper = backend::upper(container, &place, run);
        let root = OldRoot::new(number, (tree, upper.ok().flatten()), attached);
        let is_complete = root.is_complete();
        roots.push(root);
        if is_complete {
            break;
        }
    }
    roots
}

/// Where past roots lie in the container, newest first, with their numbers. The first may be one that could
/// not be put away yet, and has its temporary name.
///
/// # Errors
///
/// The container can't be read, or that root is none.
pub fn places_of_old_roots(container: &Container) -> Result<Vec<(BootNumber, PathBuf)>> {
    let new = Path::new(name::NEW);
    let found = metadata_beneath(container.directory(), new)
        .context(|| "cannot look for a root that was not put away")?;
    let left = match found {
        Some(_) => {
            let root = backend::identity(container, new)?;
            // One that no boot ran on yet is in no record.
            backend::last_boot_on(container, root.uuid())?.map(|number| (number, new.to_owned()))
        }
        None => None,
    };
    let numbers = container.numbers(name::PAST)?.into_iter().rev();
    let past = numbers.map(|number| (number, Path::new(name::PAST).join(number.to_string())));
    Ok(left.into_iter().chain(past).collect())
}

/// What was attached to the root of a boot. If that boot kept the root and got no further, it is what an
/// earlier one says, whose system wrote to it.
fn attached_on(container: &Container, record: Record) -> Option<Attached> {
    if record.attached.is_some() {
        return record.attached;
    }
    let root = record.root?.uuid();
    let earlier = container.numbers(name::BOOTS).ok()?.into_iter().rev();
    earlier.filter(|number| *number < record.number).find_map(|number| {
        let earlier = container.record(number).ok()??;
        earlier.attached.filter(|_| earlier.root.is_some_and(|it| it.uuid() == root))
    })
}

/// The root of today as the next reset is going to find it put away, and older ones where it matters.
pub fn roots_of_today(container: &Container, run: &Path) -> Vec<OldRoot> {
    let Some((root, tree)) = backend::root_of_today(container, run) else { return Vec::new() };
    let record = backend::last_boot_on(container, root)
        .ok()
        .flatten()
        .and_then(|number| container.record(number).ok().flatten());
    let number = record.as_ref().map_or(BootNumber(0), |record| record.number);
    let upper = backend::upper(container, Path::new(name::ROOT), run);
    let trees = (tree, upper.ok().flatten());
    let mut roots =
        vec![OldRoot::new(number, trees, record.and_then(|it| attached_on(container, it)))];
    if roots.iter().any(|root| !root.is_complete()) {
        roots.extend(old_roots(container, number, run));
    }
    roots
}
