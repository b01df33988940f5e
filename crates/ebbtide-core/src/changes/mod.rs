//! Changes: what the next reset takes away.
//!
//! A change is a difference between a root and its base that no entry covers. [`overlay()`] finds them
//! in the upper directory of an overlay and [`btrfs()`] in a snapshot, at the cost of what changed;
//! [`reference()`] finds the same in two whole trees. They give changes in the order of a walk, one at
//! a time, and [`Changes`] adds them up within a limit.

mod btrfs;
mod compare;
mod kept;
mod noise;
mod overlay;
mod reference;
mod shared;
mod summary;
mod way;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, Time};

use crate::failure::Result;

pub use btrfs::btrfs;
pub(crate) use compare::is_private_attribute;
pub use kept::Kept;
#[cfg(feature = "declaration")]
pub(crate) use noise::in_home;
pub use noise::is_noise;
pub use overlay::overlay as overlay_each;
pub use reference::{between, reference};
pub use summary::{Branch, Changes, Group, More, Order, Summary, Tally};

/// One difference between a root and its base.
///
/// The top directory itself is never one, a directory whose content changed is none by itself, and of
/// a directory that is gone only the directory is told. What has become something of another type is
/// two: deleted, then added. So is a file that was renamed; a directory that was renamed is
/// [`What::Renamed`] where it is now and deleted where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path.
    pub path: PathBuf,
    /// What is different.
    pub what: What,
    /// What it is in the root; for what is deleted, what it was in the base.
    pub kind: FileKind,
    /// The size of a regular file whose content the reset takes away, holes included; else 0.
    pub bytes: u64,
    /// When it changed, as far as that is known.
    pub when: Option<Time>,
}

/// What is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It is in the root only.
    Added,
    /// It has other content: bytes, target of a link, numbers of a device.
    Changed,
    /// It is in the base only.
    Deleted,
    /// It has the same content with another owner, mode, ACL or other extended attribute. Times alone
    /// are no difference.
    Metadata,
    /// A directory that the base has in another place. Changes in it are told against that one.
    Renamed {
        /// Where the base has it: absolute.
        from: PathBuf,
    },
}

impl What {
    /// Its name in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Deleted => "deleted",
            Self::Metadata => "metadata",
            Self::Renamed { .. } => "renamed",
        }
    }
}

/// Where changes go, one after the other.
pub type Visit<'a> = dyn FnMut(Change) + 'a;

/// Adds up the changes in the upper directory of an overlay; see [`overlay_each`].
pub fn overlay(upper: BorrowedFd<'_>, base: BorrowedFd<'_>, kept: &Kept) -> Result<Changes> {
    let mut changes = Changes::default();
    overlay_each(upper, base, kept, &mut |change| changes.add(&change))?;
    Ok(changes)
}

/// A path for a message.
fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;
