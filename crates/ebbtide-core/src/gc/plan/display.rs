//! Steps and their reasons, for people.

use std::fmt;

use ebbtide_sys::escape;
use ebbtide_sys::text::size;

use super::{Step, Why};
use crate::retention::{Share, age};
use crate::undeclared::shown;

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "there are more than {count}"),
            Self::Days(1) => f.write_str("it ended more than a day ago"),
            Self::Days(days) => write!(f, "it ended more than {days} days ago"),
            Self::Free(Share::Percent(percent)) => {
                write!(f, "as long as less than {percent}% of the volume is free")
            }
            Self::Free(Share::Bytes(bytes)) => {
                write!(f, "as long as less than {} are free", size(*bytes))
            }
            Self::Size(bytes) => write!(f, "the trash takes more than {}", size(*bytes)),
            Self::Unused(seconds) => {
                write!(f, "neither read nor written for {}", age(*seconds))
            }
            Self::Limit(bytes) => {
                write!(
                    f,
                    "the cache takes more than {}, and they were used least recently",
                    size(*bytes)
                )
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finish { name } => {
                let name = escape(name.as_encoded_bytes());
                write!(f, "finish deleting {name}, which an earlier gc began")
            }
            Self::Root { boot, why, own_bytes } => {
                write!(f, "delete past root {boot}")?;
                if let Some(bytes) = own_bytes {
                    write!(f, " ({})", size(*bytes))?;
                }
                write!(f, ": {why}")
            }
            Self::Manifest { root } => {
                write!(f, "delete the manifest of root {root}, which is gone")
            }
            Self::Record { boot } => write!(f, "delete the record of boot {boot}"),
            Self::Trash { store, boot, why, bytes } => {
                let bytes = size(*bytes);
                write!(f, "delete what left store {store} in boot {boot} ({bytes}): {why}")
            }
            Self::Cache { store, path, why, files, bytes, .. } => {
                let (path, bytes) = (shown(path), size(*bytes));
                let files =
                    if *files == 1 { "1 file".to_owned() } else { format!("{files} files") };
                write!(f, "delete {files} ({bytes}) below {path} in store {store}: {why}")
            }
            Self::Undeclared { store, path, bytes } => {
                let (path, bytes) = (shown(path), size(*bytes));
                write!(
                    f,
                    "move {path} ({bytes}), which no entry keeps, to the trash of store {store}"
                )
            }
        }
    }
}
