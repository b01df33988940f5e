//! What one file of the declaration says, each value with its place.
//!
//! The JSON schema is derived from these types; their documentation is what an editor shows.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use uuid::Uuid;

use super::problem::Mark;
use super::schema as shape;
use crate::compiled::{
    Backend, Class, DeviceSpec, Kind, Mode, MountOption, Parent, Principal, RamSize, StoreName,
};
use crate::retention::{KeepCache, Share};

/// A range of bytes in one of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Index of the file.
    pub file: usize,
    /// Range of bytes.
    pub span: Range<usize>,
}

impl Place {
    /// Labels the place.
    pub(super) fn mark(&self, label: impl Into<String>) -> Mark {
        Mark { file: self.file, span: self.span.clone(), label: label.into() }
    }

    /// Whether it comes earlier, in the order of layers and then of bytes.
    pub(super) fn is_before(&self, other: &Self) -> bool {
        (self.file, self.span.start) < (other.file, other.span.start)
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What this machine keeps when everything else is forgotten at boot.
#[derive(Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "EbbtideDeclaration")]
pub(super) struct File {
    /// The version of this format: always 1.
    #[schemars(with = "u32", extend("enum" = [1]))]
    #[expect(dead_code, reason = "checked when read; here for the schema")]
    pub version: (),
    /// How the root is made at every boot.
    pub root: Option<Root>,
    /// Persistent storage, by name. A store named `state` is required.
    #[schemars(with = "Option<shape::Stores>")]
    pub store: BTreeMap<StoreName, Store>,
    /// The paths that are kept.
    #[schemars(with = "Option<Keep>")]
    pub keep: Keep,
    /// What tools only count when they tell what the next reset takes away. It is taken away all the same.
    #[schemars(with = "Option<Ignore>")]
    pub ignore: Ignore,
    /// What is told unasked.
    #[schemars(with = "Option<Report>")]
    pub report: Report,
    /// What users keep below their homes, by the user's name.
    #[schemars(with = "Option<shape::Users>")]
    pub users: BTreeMap<String, User>,
}

/// How the root is made at every boot.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Root {
    #[schemars(skip)]
    pub place: Place,
    /// Whether all of it could be read: else nothing in it can be called missing.
    #[schemars(skip)]
    pub sound: bool,
    /// How roots are made and put away.
    #[schemars(required)]
    pub backend: Option<At<Backend>>,
    /// The device that holds the container.
    #[schemars(required, with = "shape::Device")]
    pub device: Option<At<DeviceSpec>>,
    /// The one place on the volume that Ebbtide owns: a path below its top level.
    #[schemars(with = "Option<shape::RelativePath>", extend("default" = "ebbtide"))]
    pub container: Option<At<PathBuf>>,
    /// The UUID in the container's marker; `ebbtide init` writes it.
    #[schemars(with = "Option<shape::UuidText>")]
    pub uuid: Option<At<Uuid>>,
    /// Mount options of the root, besides `subvol=` and `noatime`, which are always there.
    #[schemars(with = "Option<Vec<String>>")]
    pub options: Vec<At<String>>,
    /// Trees that are deliberately not kept whole; entries may lie below them.
    #[schemars(with = "Option<Vec<shape::Decision>>")]
    pub ephemeral: Vec<At<PathBuf>>,
    /// With `tmpfs`: how much of the RAM a root may take, as in "50%" or "2G".
    #[schemars(with = "Option<shape::RamSizeText>", extend("default" = "50%"))]
    pub size: Option<At<RamSize>>,
    /// With `tmpfs`: archive what was written as a past root when the machine goes down, if it is not
    /// more than this, as in "500M".
    #[schemars(with = "Option<shape::SizeText>")]
    pub archive: Option<At<u64>>,
    /// Whether the root itself can be written to; if not, only what is kept and `tmpfs` can.
    #[schemars(with = "Option<bool>", extend("default" = true))]
    pub writable: Option<At<bool>>,
    /// Empty filesystems in RAM that every boot mounts on the root.
    #[schemars(with = "Option<Vec<shape::RamMountForm>>")]
    pub tmpfs: Vec<RamMount>,
    /// Volumes that every boot mounts on the root, before anything is put in place there.
    #[schemars(with = "Option<Vec<VolumeMount>>")]
    pub mounts: Vec<VolumeMount>,
    /// With `writable = false`: have the kernel note what tries to write all the same, for `status`.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub audit: Option<At<bool>>,
    /// Refuse a reset that would lock out all who could log in to the last root with a password; if not,
    /// only warn.
    #[schemars(with = "Option<bool>", rename = "require-login", extend("default" = true))]
    pub require_login: Option<At<bool>>,
    /// Which past roots stay. `ebbtide gc` deletes the others.
    #[schemars(rename = "keep-boots")]
    pub keep_boots: Option<KeepBoots>,
}

/// A volume, or a part of one, that is mounted on the root.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct VolumeMount {
    /// Where it is mounted; `/usr` is possible.
    #[schemars(with = "shape::AbsolutePath")]
    pub path: At<PathBuf>,
    /// The device that holds it.
    #[schemars(with = "shape::Device")]
    pub device: At<DeviceSpec>,
    /// Its subvolume's path below the top level of the volume.
    #[schemars(with = "Option<shape::RelativePath>")]
    pub subvolume: Option<At<PathBuf>>,
    /// Its directory's path below the top level of its filesystem.
    #[schemars(with = "Option<shape::RelativePath>")]
    pub directory: Option<At<PathBuf>>,
    /// Mount options, besides `nodev`, `nosuid` (which `/usr` has not) and `noatime`.
    #[schemars(with = "Option<Vec<VolumeOption>>")]
    pub options: Vec<At<VolumeOption>>,
}

impl VolumeMount {
    /// The options that it is mounted with.
    pub(super) fn mount_options(&self) -> Vec<MountOption> {
        // Programs that are setuid lie in /usr. A Nix or Guix store never has any: those of the system
        // are made below /run.
        let trusted = self.path.value == Path::new("/usr");
        let mut options = vec![MountOption::Nodev, MountOption::Noatime];
        options.extend((!trusted).then_some(MountOption::Nosuid));
        for option in &self.options {
            let (option, on) = option.value.meaning();
            options.retain(|other| *other != option);
            options.extend(on.then_some(option));
        }
        options.sort_unstable();
        options
    }
}

/// A mount option of a volume on the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum VolumeOption {
    /// Nothing can be written there.
    Ro,
    /// Setuid programs and file capabilities work.
    Suid,
    /// They do not.
    Nosuid,
    /// Device nodes work.
    Dev,
    /// No program may be run.
    Noexec,
}

impl VolumeOption {
    /// The option of the mount, and whether it is set.
    pub(super) fn meaning(self) -> (MountOption, bool) {
        match self {
            Self::Ro => (MountOption::Ro, true),
            Self::Suid => (MountOption::Nosuid, false),
            Self::Nosuid => (MountOption::Nosuid, true),
            Self::Dev => (MountOption::Nodev, false),
            Self::Noexec => (MountOption::Noexec, true),
        }
    }
}

/// Which past roots stay.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct KeepBoots {
    /// So many of the newest stay whatever else holds.
    #[schemars(with = "Option<shape::Count>", extend("default" = 2))]
    pub min: Option<u32>,
    /// No more than so many.
    #[schemars(with = "Option<shape::Count>", extend("default" = 10))]
    pub count: Option<u32>,
    /// None that was put away more days ago.
    #[schemars(with = "Option<shape::Days>", extend("default" = 30))]
    pub days: Option<u32>,
    /// As long as less of the volume is free, the oldest go: a share as in "15%" or a size as in "20G".
    #[schemars(with = "Option<shape::ShareText>", extend("default" = "15%"))]
    pub free: Option<Share>,
}

/// How much of what left a store stays in its trash.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct KeepTrash {
    /// Nothing that left in a boot that ended more days ago.
    #[schemars(with = "Option<shape::Days>", extend("default" = 30))]
    pub days: Option<u32>,
    /// As long as it takes more than this, what left in the oldest boot goes.
    #[schemars(with = "Option<shape::SizeText>", extend("default" = "1G"))]
    pub size: Option<u64>,
}

/// An empty filesystem in RAM.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields, rename = "RamMount")]
pub(super) struct RamMount {
    /// Where it is mounted.
    #[schemars(with = "shape::AbsolutePath")]
    pub path: At<PathBuf>,
    /// How much it may take, as in "50%" or "2G".
    #[schemars(with = "Option<shape::RamSizeText>", extend("default" = "50%"))]
    pub size: Option<RamSize>,
    /// The permission bits of its top directory; 1777 below `/tmp` and `/var/tmp`, else 0755.
    #[schemars(with = "Option<shape::ModeText>")]
    pub mode: Option<Mode>,
}

/// A store: persistent storage outside the root, a plain tree that mirrors the paths it keeps.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Store {
    #[schemars(skip)]
    pub place: Place,
    /// Whether all of it could be read: else nothing in it can be called missing.
    #[schemars(skip)]
    pub sound: bool,
    /// The device that holds it; without one, the root's.
    #[schemars(with = "Option<shape::Device>")]
    pub device: Option<At<DeviceSpec>>,
    /// Its subvolume's path below the top level of the volume. On the root's device this or
    /// `directory` is required.
    #[schemars(with = "Option<shape::RelativePath>")]
    pub subvolume: Option<At<PathBuf>>,
    /// Its directory's path below the top level of its filesystem, where that has no subvolumes.
    #[schemars(with = "Option<shape::RelativePath>")]
    pub directory: Option<At<PathBuf>>,
    /// What kind of data it holds.
    #[schemars(extend("default" = "state"))]
    pub class: Option<At<Class>>,
    /// Mount options, besides those of its class, or instead of them.
    #[schemars(with = "Option<Vec<StoreOption>>")]
    pub options: Vec<At<StoreOption>>,
    /// How much of what left the store stays in its trash. `ebbtide gc` deletes the rest.
    pub trash: Option<KeepTrash>,
    /// Of a cache: as long as its files take more than this, as in "5G", `ebbtide gc` deletes those that
    /// were used least recently.
    #[schemars(with = "Option<shape::SizeText>")]
    pub limit: Option<At<u64>>,
    /// Of a cache: `ebbtide gc` deletes files that were neither read nor written for so long, as in "30d".
    #[schemars(with = "Option<shape::AgeText>", rename = "max-age")]
    pub max_age: Option<At<u64>>,
}

impl Store {
    /// How much of it stays, if that is declared.
    pub(super) fn expiry(&self) -> Option<KeepCache> {
        let value = |at: &Option<At<u64>>| at.as_ref().map(|at| at.value);
        let expiry = KeepCache { limit: value(&self.limit), max_age: value(&self.max_age) };
        (!expiry.is_all()).then_some(expiry)
    }

    /// Its place below the top level of its device.
    pub(super) fn below(&self) -> Option<&At<PathBuf>> {
        self.subvolume.as_ref().or(self.directory.as_ref())
    }

    /// The options that it is mounted with.
    pub(super) fn mount_options(&self) -> Vec<MountOption> {
        let class = self.class.as_ref().map(|class| class.value).unwrap_or_default();
        let mut options = class.mount_options().to_vec();
        for option in &self.options {
            let (option, on) = option.value.meaning();
            options.retain(|other| *other != option);
            options.extend(on.then_some(option));
        }
        options.sort_unstable();
        options
    }
}

/// A mount option of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum StoreOption {
    /// Setuid programs and file capabilities work.
    Suid,
    /// Device nodes work.
    Dev,
    /// Programs may be run.
    Exec,
    /// No program may be run.
    Noexec,
}

impl StoreOption {
    /// The option of the mount, and whether it is set.
    pub(super) fn meaning(self) -> (MountOption, bool) {
        match self {
            Self::Suid => (MountOption::Nosuid, false),
            Self::Dev => (MountOption::Nodev, false),
            Self::Exec => (MountOption::Noexec, false),
            Self::Noexec => (MountOption::Noexec, true),
        }
    }
}

/// The paths that are kept.
#[derive(Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Keep {
    /// Lists of entries by name, one for each application.
    #[schemars(with = "Option<Vec<String>>")]
    pub presets: Vec<At<String>>,
    /// Directories, each with all that lies below it.
    #[schemars(with = "Option<Vec<shape::EntryForm>>")]
    pub directories: Vec<Entry>,
    /// Single regular files.
    #[schemars(with = "Option<Vec<shape::EntryForm>>")]
    pub files: Vec<Entry>,
}

/// What tools only count.
#[derive(Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Ignore {
    /// Paths, each with all that lies below it; `*`, `?` and `[…]` stand for parts of a name, `**` for any
    /// number of directories. What has no slash is a name, wherever it is.
    #[schemars(with = "Option<Vec<shape::IgnoredPath>>")]
    pub paths: Vec<At<PathBuf>>,
}

/// What is told unasked.
#[derive(Debug, Default, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Report {
    /// Whether a line at login says how much the last reset took away.
    #[schemars(with = "Option<bool>", extend("default" = true))]
    pub login: Option<bool>,
    /// Whether the console and the journal are told at shutdown what the next reset is about to take away.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub shutdown: Option<bool>,
}

/// What a user keeps. All of it lies below their home, and belongs to them.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct User {
    #[schemars(skip)]
    pub place: Place,
    /// Their home, where it is not what the accounts of the system say.
    #[schemars(with = "Option<shape::AbsolutePath>")]
    pub home: Option<At<PathBuf>>,
    /// Lists of entries by name, one for each application.
    #[schemars(with = "Option<Vec<String>>")]
    pub presets: Vec<At<String>>,
    /// Directories, relative to the home, each with all that lies below it.
    #[schemars(with = "Option<Vec<shape::UserEntryForm>>")]
    pub directories: Vec<Entry>,
    /// Single regular files, relative to the home.
    #[schemars(with = "Option<Vec<shape::UserEntryForm>>")]
    pub files: Vec<Entry>,
    /// What tools only count, relative to the home; patterns as in `[ignore]`.
    #[schemars(with = "Option<Vec<shape::RelativePath>>")]
    pub ignore: Vec<At<PathBuf>>,
}

impl User {
    /// Adds what a later layer says.
    pub(super) fn extend(&mut self, later: Self) {
        self.home = later.home.or(self.home.take());
        self.presets.extend(later.presets);
        self.directories.extend(later.directories);
        self.files.extend(later.files);
        self.ignore.extend(later.ignore);
    }
}

/// A path that is kept, with how and as whose.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct Entry {
    #[schemars(skip)]
    pub kind: Kind,
    /// Absolute, and in its one normal spelling.
    #[schemars(with = "shape::AbsolutePath")]
    pub path: At<PathBuf>,
    /// The store that keeps it.
    #[schemars(with = "Option<shape::StoreNameText>", extend("default" = "state"))]
    pub store: Option<At<StoreName>>,
    /// How it is put in place.
    #[schemars(extend("default" = "auto"))]
    pub method: Option<At<Attachment>>,
    /// Its owner, by name or by number.
    #[schemars(with = "Option<shape::Owner>")]
    pub user: Option<Principal>,
    /// Its group, by name or by number.
    #[schemars(with = "Option<shape::Owner>")]
    pub group: Option<Principal>,
    /// Its permission bits.
    #[schemars(with = "Option<shape::ModeText>")]
    pub mode: Option<Mode>,
    /// Owner and mode of parents that have to be made and that nothing else knows.
    #[schemars(with = "Option<shape::ParentTable>")]
    pub parent: Option<Parent>,
    /// Options of its bind mount, besides those of the store.
    #[schemars(with = "Option<Vec<MountOption>>")]
    pub options: Vec<At<MountOption>>,
    /// Whether it is passed over in silence while it has no data.
    #[schemars(with = "Option<bool>", extend("default" = false))]
    pub optional: bool,
    /// Of a preset: not made while nothing else has made it.
    #[schemars(skip)]
    pub lazy: bool,
    /// Of a user: their home.
    #[schemars(skip)]
    pub home: Option<PathBuf>,
    /// Of a preset: units that need it.
    #[schemars(skip)]
    pub units: Vec<String>,
    /// What a preset filled in: the place of its entry, and the names of what was taken.
    #[schemars(skip)]
    pub filled: Option<(Place, Vec<&'static str>)>,
    /// The method where none is declared, as far as anything speaks for one.
    #[schemars(skip)]
    pub chosen: Option<Attachment>,
}

impl Entry {
    /// An entry that says nothing but its path.
    pub(super) fn new(kind: Kind, path: At<PathBuf>) -> Self {
        Self {
            kind,
            path,
            store: None,
            method: None,
            user: None,
            group: None,
            mode: None,
            parent: None,
            options: Vec::new(),
            optional: false,
            lazy: false,
            home: None,
            units: Vec::new(),
            filled: None,
            chosen: None,
        }
    }

    /// Takes from a preset what the entry does not say itself.
    pub(super) fn fill_from(&mut self, preset: Self) {
        let mut filled = Vec::new();
        let mut note = |name: &'static str, own: bool, other: bool| {
            filled.extend((!own && other).then_some(name));
        };
        note("store", self.store.is_some(), preset.store.is_some());
        note("user", self.user.is_some(), preset.user.is_some());
        note("group", self.group.is_some(), preset.group.is_some());
        note("mode", self.mode.is_some(), preset.mode.is_some());
        note("unit", false, !preset.units.is_empty());
        self.filled = Some((preset.path.place.clone(), filled));
        let same_kind = self.kind == preset.kind;
        self.store = self.store.take().or(preset.store);
        self.user = self.user.take().or(preset.user);
        self.group = self.group.take().or(preset.group);
        self.mode = self.mode.or(preset.mode.filter(|_| same_kind));
        if self.method.is_none() && same_kind {
            self.chosen = preset.method.map(|method| method.value);
        }
        self.units.extend(preset.units);
        self.lazy &= preset.lazy;
    }
}

/// A method that can be declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(rename = "Method", rename_all = "lowercase")]
pub(super) enum Attachment {
    /// A directory by a bind mount; a file that programs replace by renaming is copied in and taken
    /// back, any other is mounted.
    Auto,
    /// A bind mount from the store.
    Bind,
    /// A symbolic link into the store.
    Symlink,
    /// Copied in at boot and taken back into the store when the root ends: for files that programs
    /// replace by renaming.
    Sync,
}
