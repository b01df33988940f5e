//! Harvest: taking `sync` entries back from a root into their stores, guided by that root's
//! manifest.
//!
//! A naive harvest destroys good data: after a power cut a filesystem may show an empty file, or
//! none, where a program had just replaced one by rename. So a file is only deleted or emptied in a
//! store after a clean end, and what is replaced goes to the store's trash, not to nowhere.

mod apply;
mod manifest;
mod observe;
mod plan;

use std::os::fd::BorrowedFd;
use std::path::Path;

use uuid::Uuid;

pub use apply::{Harvested, apply};
pub use manifest::{Content, Item, Manifest, VERSION, Witness};
pub use observe::{Stores, content_of, observe};
pub(crate) use observe::{look, witness_of};
pub use plan::{Action, Found, Observation, Plan, plan};

use crate::compiled::Entry;
use crate::container::{self, Container};
use crate::failure::{Log, Result};
use crate::record::{BootNumber, Ending, Outcome, Switch};

/// The largest file that is synced, in bytes: larger ones belong into a directory that is kept.
pub const LARGEST: u64 = 16 << 20;

/// The account files: one without the other is a user without a password, or a password for nobody.
const ACCOUNTS: [&str; 6] =
    ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid"];

/// The set that a path belongs to, if it belongs to one.
pub(crate) fn set_of(path: &Path) -> Option<String> {
    ACCOUNTS.iter().any(|account| path == Path::new(account)).then(|| "accounts".to_owned())
}

/// Notes what lies on a root for one entry that is in place, or has no data yet.
pub fn item(entry: &Entry, store_uuid: Uuid, root: BorrowedFd<'_>) -> Result<Item> {
    let path = entry.relative();
    // First the witness: a change in between makes the next look at it a long one, not a wrong one.
    let witness = witness_of(root, path)?;
    let content = content_of(root, path)?;
    Ok(item_with(entry, store_uuid, witness.zip(content)))
}

/// As [`item`], with what was seen on the root just now.
pub fn item_with(entry: &Entry, store_uuid: Uuid, seen: Option<(Witness, Content)>) -> Item {
    let (witness, content) = seen.unzip();
    Item {
        path: entry.path.clone(),
        store: entry.store.clone(),
        store_uuid,
        set: set_of(&entry.path),
        witness,
        content,
    }
}

/// Whether all boots on a root ended in order, back to the one that put its files there; `current` is
/// the one that runs, which has not ended. A boot that only ran on what a power cut had left, such as
/// one with `ebbtide=off`, makes that no truer by ending well.
pub fn ended_cleanly(
    container: &Container,
    root: Uuid,
    current: Option<BootNumber>,
) -> Result<bool> {
    let mut any = current.is_some();
    for number in container.numbers(container::name::BOOTS)?.into_iter().rev() {
        let Ok(Some(record)) = container.record(number) else { continue };
        if record.root.is_none_or(|found| found.uuid() != root) {
            continue;
        }
        if current != Some(number) && record.ended != Some(Ending::Clean) {
            return Ok(false);
        }
        any = true;
        match record.outcome {
            Outcome::Reset | Outcome::Kept(Switch::Keep) | Outcome::Postponed => break,
            Outcome::Kept(Switch::Off) | Outcome::Refused => {}
        }
    }
    Ok(any)
}

/// Harvests a root. `clean`: it ended in order, or is running.
pub fn harvest(
    manifest: &Manifest,
    root: BorrowedFd<'_>,
    stores: &Stores,
    clean: bool,
    boot: BootNumber,
    log: &mut Log<'_>,
) -> Result<Harvested> {
    let observed = observe(&manifest.items, root, stores)?;
    let plan = plan(&manifest.items, &observed, clean);
    apply(&plan, &manifest.items, root, stores, boot, log)
}
