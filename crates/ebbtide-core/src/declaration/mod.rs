//! The declaration: TOML layers, read, checked and compiled.
//!
//! [`read_layers`] reads the files, [`check`] finds every problem of all of them at once, and
//! [`Declaration::compile`] makes the canonical form that a boot reads.

mod check;
mod compile;
mod edit;
mod entries;
mod explain;
mod file;
pub mod forget;
pub mod ignore;
pub mod keep;
mod layers;
mod lint;
mod locate;
mod merge;
mod path;
mod preset;
mod problem;
mod read;
pub mod reports;
mod retention;
mod root;
mod schema;
mod stores;
mod surroundings;
mod target;
mod users;
mod value;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use uuid::Uuid;

use crate::compiled::{
    Backend, Class, DeviceSpec, Entry, MountOption, RamMount, RamSize, StoreName, VolumeMount,
};
use crate::retention::{KeepBoots, KeepCache, KeepTrash};
use crate::store;

pub use check::{check, check_in};
pub use compile::CompileError;
pub use explain::{Attribute, Explanation, Kept, explain};
pub use layers::{ReadError, read_file, read_layers};
pub use locate::{devices, locate, modules};
pub use preset::{
    Need, Preset, PresetEntry, PresetFile, built_in as built_in_presets, read as read_preset,
};
pub use problem::{Mark, Problem, Report, Severity, report};
pub use schema::schema;
pub use surroundings::Surroundings;
pub use target::Target;

/// The version of the file format that this program reads.
pub const VERSION: u32 = 1;

/// The container's path where the declaration names none.
pub const DEFAULT_CONTAINER: &str = "ebbtide";

/// The trees that ask for a decision: kept whole, or ephemeral with entries below them.
pub const DECISIONS: [&str; 3] = ["/home", "/root", "/srv"];

/// One file of the declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Its name for people: safe to print.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// What [`check`] found.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The declaration, if no problem is an error.
    pub declaration: Option<Declaration>,
    /// All problems of all files, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// The files that the problems point into: those that were checked, then those of presets.
    pub sources: Vec<SourceFile>,
}

/// All layers, checked and merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// How the root is made. A fragment with only `[keep]` has none.
    pub root: Option<RootDeclaration>,
    /// The stores by name.
    pub stores: BTreeMap<StoreName, StoreDeclaration>,
    /// The entries, built-in ones included, sorted by path so that parents precede children.
    pub entries: Vec<Entry>,
    /// Files among them that are mounted because nothing spoke for another method: one that is seen
    /// to be replaced by rename is better synced.
    pub auto: BTreeSet<PathBuf>,
}

/// The table `[root]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDeclaration {
    /// Which backend makes roots.
    pub backend: Backend,
    /// The device that holds the container.
    pub device: DeviceSpec,
    /// The container's path below the volume's top level, without a leading slash.
    pub container: PathBuf,
    /// Which container it must be; absent until `init` has made one.
    pub uuid: Option<Uuid>,
    /// Mount options of the root.
    pub options: Vec<String>,
    /// Those of [`DECISIONS`] that are deliberately not kept whole.
    pub ephemeral: Vec<PathBuf>,
    /// With `tmpfs`: how much of the RAM a root may take.
    pub size: Option<RamSize>,
    /// With `tmpfs`: up to how many bytes are archived as a past root.
    pub archive: Option<u64>,
    /// Whether the root itself can be written to.
    pub writable: bool,
    /// Filesystems in RAM that every boot mounts on the root, outermost first.
    pub tmpfs: Vec<RamMount>,
    /// Volumes that every boot mounts on the root.
    pub mounts: Vec<VolumeMount>,
    /// Whether it is noted what tries to write to a root that is not for writing.
    pub audit: bool,
    /// Whether a reset that would lock out all who could log in to the last root is refused.
    pub require_login: bool,
    /// Which past roots stay, if that is declared.
    pub keep_boots: Option<KeepBoots>,
}

/// A table `[store.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreDeclaration {
    /// The device that holds it.
    pub device: DeviceSpec,
    /// The subvolume's path below the volume's top level, without a leading slash.
    pub subvolume: Option<PathBuf>,
    /// The directory's path below the top level of its filesystem, without a leading slash.
    pub directory: Option<PathBuf>,
    /// What kind of data it holds.
    pub class: Class,
    /// Its mount options: those of its class, as the declaration changes them.
    pub options: Vec<MountOption>,
    /// How much of its trash stays, if that is declared.
    pub trash: Option<KeepTrash>,
    /// How much of a cache stays, and for how long, if that is declared.
    pub expiry: Option<KeepCache>,
}

impl StoreDeclaration {
    /// Where it lies.
    pub fn place(&self) -> store::Place<'_> {
        store::Place {
            device: &self.device,
            subvolume: self.subvolume.as_deref(),
            directory: self.directory.as_deref(),
            options: &self.options,
            access_times: self.expiry.is_some(),
        }
    }
}
