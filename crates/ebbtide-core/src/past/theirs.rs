//! What one user may see of all trees: what is theirs.
//!
//! Theirs is what belongs to their number, in a tree whose accounts give that number the name that it has
//! today: an account that was made later must not have the files of an earlier one. Whatever else there
//! is counts as not there, so that nobody learns of it. The process that looks is the user's own by then,
//! so what the modes of a tree keep from them is kept from them besides.

use std::os::fd::BorrowedFd;
use std::path::Path;

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::metadata::metadata_beneath;

use super::sources::{Place, Source, Sources};
use crate::failure::{Level, Problem};

/// A user, by number and by the name that it has today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The number.
    pub uid: u32,
    /// The name.
    pub name: String,
}

impl Person {
    /// Whether a tree has an account of this name and number. Needs root, as the tree may be closed to the
    /// user. What can't be read has none.
    pub fn is_known_in(&self, tree: BorrowedFd<'_>) -> bool {
        let accounts = Accounts::read(tree).unwrap_or_default();
        accounts.user_name(self.uid) == Some(&self.name)
    }
}

/// Where accounts are.
pub(crate) const ACCOUNTS: &str = "/etc/passwd";

impl Sources {
    /// Shuts the trees in which the number of a user was not known to be theirs, and says which: of those,
    /// [`Contents::of`](super::version::Contents::of) has nothing to see.
    pub fn only_for(&mut self, person: &Person) {
        let mut closed = Vec::new();
        for source in &mut self.all {
            let is_known = source.mounted_over(Path::new(ACCOUNTS)).is_none()
                && source.tree().is_ok_and(|tree| person.is_known_in(tree));
            source.is_strange = !is_known;
            // A base is older than most accounts.
            if let (Place::Boot(number), true) = (&source.place, source.is_strange) {
                closed.push(number.to_string());
            }
        }
        if !closed.is_empty() {
            let message = format!(
                "left out, because the number {} is not known to have been yours there: boots {}",
                person.uid,
                closed.join(", ")
            );
            self.problems.push(Problem::new(Level::Notice, message));
        }
    }
}

/// Whether what is at a path may be seen by a user; by root (`None`), all may.
pub(super) fn sees(source: &Source, path: &Path, only: Option<u32>) -> bool {
    let Some(uid) = only else { return true };
    // It is not in the tree, and whoever may see it sees it as it is now.
    if source.mounted_over(path).is_some() {
        return true;
    }
    let Ok(tree) = source.tree() else { return false };
    let relative = path.strip_prefix("/").unwrap_or(path);
    let found = metadata_beneath(tree, relative);
    !source.is_strange && matches!(found, Ok(Some(found)) if found.uid == uid)
}
