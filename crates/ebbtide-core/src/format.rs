//! Formats on disk: JSON, with a version that is looked at before anything else.
//!
//! An initramfs reads what a later Ebbtide wrote, until it is built again. So within a version a reader
//! passes over keys that it does not know, and whoever adds one writes the version that all who act wrongly
//! without it refuse: the next, and only into files that have such a key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};

#[derive(Deserialize)]
struct Versioned {
    version: Option<u32>,
}

/// Reads one format. `what` names it in a message. Another version is refused, and what is no such JSON.
pub fn parse<T: DeserializeOwned>(what: &str, version: u32, bytes: &[u8]) -> Result<T> {
    let cannot = || format!("cannot understand {what}");
    let versioned: Versioned = serde_json::from_slice(bytes).context(cannot)?;
    if let Some(found) = versioned.version {
        check_version(what, version, found)?;
    }
    serde_json::from_slice(bytes).context(cannot)
}

/// Writes one format: the same value gives the same bytes.
pub fn bytes<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>> {
    let mut bytes =
        serde_json::to_vec_pretty(value).context(|| format!("cannot serialise {what}"))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Refuses another version than the one that is known.
pub(crate) fn check_version(what: &str, known: u32, found: u32) -> Result<()> {
    if found == known {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{what} has format version {found}, and this program knows version {known} only"
    ))
    .hint("it was written by another version of Ebbtide; use that one"))
}

#[cfg(test)]
#[path = "format/contract.rs"]
mod contract;
