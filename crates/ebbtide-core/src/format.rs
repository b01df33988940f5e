//! Formats on disk: JSON, with a version that is looked at before anything else.
//!
//! What another version of Ebbtide wrote may have keys that are not known here. It is refused by its
//! version, which tells what to do, and never by the first such key.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::{Context, Failure, Result};

#[derive(Deserialize)]
struct Versioned {
    version: Option<u32>,
}

/// Reads one format. `what` names it in a message.
pub(crate) fn parse<T: DeserializeOwned>(what: &str, version: u32, bytes: &[u8]) -> Result<T> {
    let cannot = || format!("cannot understand {what}");
    let versioned: Versioned = serde_json::from_slice(bytes).context(cannot)?;
    if let Some(found) = versioned.version {
        check_version(what, version, found)?;
    }
    serde_json::from_slice(bytes).context(cannot)
}

/// Writes one format: the same value gives the same bytes.
pub(crate) fn bytes<T: Serialize>(what: &str, value: &T) -> Result<Vec<u8>> {
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
