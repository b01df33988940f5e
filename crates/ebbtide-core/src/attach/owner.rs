//! Who what is made belongs to, and who may look at it: from the declaration and the root's accounts.

use std::path::Path;

use ebbtide_sys::accounts::Accounts;

use super::plan::Attributes;
use crate::compiled::{Entry, Parent, Principal};

/// What belongs to the user of an entry and to nobody else, as the XDG Base Directory Specification
/// has it for directories that have to be made in a home. A user who is not known gets nothing made.
pub(super) fn private(entry: &Entry, accounts: &Accounts) -> Attributes {
    let (uid, gid) = owner_of(entry, accounts).unwrap_or((None, None));
    Attributes { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), mode: 0o700 }
}

/// The declared owner; in a home, the group is the user's own.
pub(super) fn owner_of(
    entry: &Entry,
    accounts: &Accounts,
) -> std::result::Result<(Option<u32>, Option<u32>), String> {
    let (uid, gid) = resolve_owner(entry.user.as_ref(), entry.group.as_ref(), accounts)?;
    let own = uid.filter(|_| entry.home.is_some()).and_then(|uid| accounts.primary_gid(uid));
    Ok((uid, gid.or(own)))
}

pub(super) fn declared_parent(parent: &Parent, accounts: &Accounts) -> Attributes {
    let owner = resolve_owner(parent.user.as_ref(), parent.group.as_ref(), accounts);
    let (uid, gid) = owner.unwrap_or((None, None));
    Attributes {
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
        mode: parent.mode.map_or(0o755, |mode| mode.0),
    }
}

/// The places whose mode is not 0755 on any distribution (file-hierarchy(7), systemd's tmpfiles.d).
pub(super) fn usual(parent: &Path) -> Attributes {
    let mode = match parent.to_str() {
        Some("root" | "var/lib/private" | "var/cache/private" | "var/log/private") => 0o700,
        Some("tmp" | "var/tmp") => 0o1777,
        _ => 0o755,
    };
    Attributes { uid: 0, gid: 0, mode }
}

/// Resolves declared names; `Err` says which is not known in the target.
fn resolve_owner(
    user: Option<&Principal>,
    group: Option<&Principal>,
    accounts: &Accounts,
) -> std::result::Result<(Option<u32>, Option<u32>), String> {
    let uid = match user {
        Some(Principal::Id(id)) => Some(*id),
        Some(Principal::Name(name)) => Some(
            accounts
                .uid(name)
                .ok_or_else(|| format!("user {name} is not in the root's /etc/passwd"))?,
        ),
        None => None,
    };
    let gid = match group {
        Some(Principal::Id(id)) => Some(*id),
        Some(Principal::Name(name)) => Some(
            accounts
                .gid(name)
                .ok_or_else(|| format!("group {name} is not in the root's /etc/group"))?,
        ),
        None => None,
    };
    Ok((uid, gid))
}
