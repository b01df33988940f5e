//! The record of a boot: what was made, what was refused, what went wrong, how it ended.
//!
//! It lies in `/run/ebbtide/boot.json` and in the container. Neither is proof: `status` compares
//! both with the kernel.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::compiled::DeclarationHash;
use crate::failure::{Level, Problem};

/// The version of the record's format.
pub const VERSION: u32 = 1;

/// The number of a boot: it only grows, and never names a time.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct BootNumber(pub u64);

impl std::fmt::Display for BootNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What is known about one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Record {
    /// Always [`VERSION`].
    pub version: u32,
    /// The boot's number; 0 when none could be given out.
    pub number: BootNumber,
    /// `/proc/sys/kernel/random/boot_id` of that boot.
    pub kernel_boot_id: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// Seconds since 1970 by the clock at that moment, which may have been wrong.
    pub clock: i64,
    /// What happened to the root.
    pub outcome: Outcome,
    /// The root that this boot runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootIdentity>,
    /// The base it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseIdentity>,
    /// The boot whose root was put away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub put_away: Option<BootNumber>,
    /// The boot that came up last, if too many failed after it: this one has required entries only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<BootNumber>,
    /// The compiled declaration that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declaration: Option<DeclarationHash>,
    /// Whether entries were attached and verified: `None` before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Attached>,
    /// What was carried over the reset of this boot, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
    /// What went wrong, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// How the boot ended; known at the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ending>,
}

impl Record {
    /// The gravest level among its problems.
    pub fn gravest(&self) -> Option<Level> {
        self.problems.iter().map(|problem| problem.level).min()
    }
}

/// What happened to the root of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A new root was made from the base.
    Reset,
    /// The last root runs on, because the kernel command line said so.
    Kept(Switch),
    /// The last root runs on, once, because first content of entries is more than a boot copies.
    Postponed,
    /// The last root runs on, because resetting it was not safe.
    Refused,
}

/// What `ebbtide=` on the kernel command line asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// No reset, no harvest, no change by attach: the last root is assembled as it was.
    Off,
    /// Keep this root once, with its entries.
    Keep,
}

/// A root, as the kernel identifies it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
// Told apart by their keys, so a new key makes a new version of all that has it.
#[serde(untagged, deny_unknown_fields)]
pub enum RootIdentity {
    /// A subvolume (`BTRFS_IOC_GET_SUBVOL_INFO`).
    Btrfs {
        /// The filesystem.
        filesystem: Uuid,
        /// The subvolume's own UUID, given by the kernel when it was made.
        uuid: Uuid,
        /// Its id on that filesystem.
        subvolume: u64,
        /// The subvolume it is a snapshot of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<Uuid>,
        /// The generation (btrfs transaction) in which it was made.
        made: u64,
    },
    /// A mount of overlayfs. Its layers were mounted at places that are named by these UUIDs, and the
    /// kernel tells those names as long as the mount is there.
    Overlay {
        /// The directory that is written to.
        uuid: Uuid,
        /// The base below it.
        base: Uuid,
        /// Whether that directory is in RAM.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_ram: bool,
    },
}

impl RootIdentity {
    /// What no other root has.
    pub fn uuid(&self) -> Uuid {
        match self {
            Self::Btrfs { uuid, .. } | Self::Overlay { uuid, .. } => *uuid,
        }
    }

    /// Whether it goes with the power.
    pub fn is_in_ram(&self) -> bool {
        matches!(self, Self::Overlay { in_ram: true, .. })
    }

    /// The base that it was made from, if it was made from one.
    pub fn base(&self) -> Option<Uuid> {
        match self {
            Self::Btrfs { parent, .. } => *parent,
            Self::Overlay { base, .. } => Some(*base),
        }
    }
}

impl std::fmt::Display for RootIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Btrfs { subvolume, uuid, .. } => write!(f, "subvolume {subvolume} ({uuid})"),
            Self::Overlay { uuid, in_ram: false, .. } => write!(f, "overlay {uuid}"),
            Self::Overlay { uuid, in_ram: true, .. } => write!(f, "overlay in RAM {uuid}"),
        }
    }
}

/// A base, by number and by what the kernel knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct BaseIdentity {
    /// Its number.
    pub number: u64,
    /// Its UUID: with btrfs the subvolume's, given by the kernel.
    pub uuid: Uuid,
}

/// The outcome of attaching.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Attached {
    /// Entries that are in place and verified.
    pub entries: usize,
    /// Paths of entries that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<std::path::PathBuf>,
    /// Paths of entries that have no data anywhere yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<std::path::PathBuf>,
    /// Paths that were declared while the system ran, and come with the next boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<std::path::PathBuf>,
    /// Whether not all that is declared was to be attached: the declaration could not be read, and that
    /// was the previous one; too many boots had failed, and that were the required entries; or no root could
    /// be mounted, and one in RAM ran. What is not in place then may have its first content on an older root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// What was mounted on the root, and from which store: below it the root has mount points only.
    #[serde(
        default,
        skip_serializing_if = "std::collections::BTreeMap::is_empty",
        deserialize_with = "in_order"
    )]
    pub mounted: std::collections::BTreeMap<std::path::PathBuf, crate::compiled::StoreName>,
}

/// What was carried over a reset, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Carried {
    /// The boot whose past root it was taken from.
    pub from: BootNumber,
    /// Paths that are on the new root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<std::path::PathBuf>,
    /// Paths that were asked for and are not: the past root has what there was of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<std::path::PathBuf>,
}

/// Reads a map whose keys are in order, as they were written: that takes one comparison for each, and
/// paths are slow to compare.
fn in_order<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<std::collections::BTreeMap<std::path::PathBuf, crate::compiled::StoreName>, D::Error> {
    struct Pairs;
    impl<'de> serde::de::Visitor<'de> for Pairs {
        type Value = Vec<(std::path::PathBuf, crate::compiled::StoreName)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of paths")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs).map(|pairs| pairs.into_iter().collect())
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Shut down in order: the mark of a clean end was found.
    Clean,
    /// Without that mark: power cut, crash, reset button.
    Unclean,
}

/// The mark of a clean end; of the same form is the mark of the boot that came up last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CleanMark {
    /// Always [`VERSION`].
    pub version: u32,
    /// The boot that ended, or came up.
    pub number: BootNumber,
    /// Its kernel's boot id.
    pub kernel_boot_id: String,
    /// The root it ran on.
    pub root: Uuid,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_paths_are_read_in_any_order() {
        let read = |text: &str| serde_json::from_str::<Attached>(text);
        let attached =
            read(r#"{"entries":2,"mounted":{"/b/a":"state","/a":"cache","/b":"state"}}"#).unwrap();
        let paths: Vec<_> =
            attached.mounted.keys().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["/a", "/b", "/b/a"]);
        assert!(read(r#"{"entries":0}"#).unwrap().mounted.is_empty());
        read(r#"{"entries":0,"mounted":["/a"]}"#).unwrap_err();
    }
}
