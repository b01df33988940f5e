//! Keeping one more path: what has to be written where, if anything.

mod observe;
mod plan;

use std::path::PathBuf;

use crate::compiled::{Kind, StoreName};

pub use super::edit::{EditError, add};
pub use super::explain::Kept;
pub use observe::{Found, Seen, observe};
pub use plan::{Options, Plan, Refusal, plan};

/// An entry that is to be declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The whole path.
    pub absolute: PathBuf,
    /// The table that it goes into.
    pub section: Section,
    /// Which of the table's lists.
    pub kind: Kind,
    /// The path as it is written there.
    pub path: String,
    /// The store, if one was asked for.
    pub store: Option<StoreName>,
    /// The method, if one was asked for.
    pub method: Option<String>,
}

/// A table of the declaration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// `[keep]`
    Keep,
    /// `[users.NAME]`
    User(String),
}
