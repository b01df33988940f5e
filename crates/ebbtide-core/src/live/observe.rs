//! What the running system looks like at the declared paths, and at those that were declared.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::mountinfo::MountEntry;
use ebbtide_sys::process::{self, User};
use ebbtide_sys::{file, resolve};

use super::plan::{Leftover, Mounted, Seen};
use crate::attach::{self, Places};
use crate::compiled::{Entry, Method, StoreName};
use crate::failure::{Context, Result};
use crate::harvest::{self, Found, Manifest};

/// Looks at all entries, and at mounts that no entry asks for.
pub(super) fn observe(
    entries: &[Entry],
    places: &Places,
    mounts: &[MountEntry],
    manifest: &Manifest,
) -> Result<(Vec<Seen>, Vec<Leftover>)> {
    let attached = attach::observe(entries, places, mounts)?;
    let leftover = leftovers(entries, places, mounts);
    let bound = |entry: &&Entry| entry.method == Method::Bind;
    let mut paths: Vec<PathBuf> = entries
        .iter()
        .zip(&attached)
        .filter(|(entry, seen)| bound(entry) && !seen.in_place)
        .map(|(entry, _)| places.target(entry))
        .collect();
    paths.extend(leftover.iter().map(|(path, _)| places.root_path.join(relative(path))));
    // One walk through /proc for all of them.
    let users = if paths.is_empty() {
        Vec::new()
    } else {
        process::users_of(&paths).context(|| "cannot look who uses what")?
    };
    let users_of =
        |path: &Path| -> Vec<User> { users.iter().filter(|it| it.path == path).cloned().collect() };
    let mut seen = Vec::with_capacity(entries.len());
    for (entry, attach) in entries.iter().zip(attached) {
        let target = places.target(entry);
        let root = places.root.as_fd();
        let path = entry.relative();
        let listed = manifest.items.iter().any(|item| item.path == entry.path);
        let sync = entry.method == Method::Sync && !listed;
        let unfit = if sync { unfit(root, path)? } else { None };
        seen.push(Seen {
            mounted: mounted(entry, &target, places, mounts),
            below: below(&target, mounts),
            users: users_of(&target),
            root_has_data: !attach.in_place && has_data(root, path)?,
            same: !attach.in_place && same_file(entry, places),
            attach,
            listed,
            unfit,
        });
    }
    let leftovers = leftover
        .into_iter()
        .map(|(path, at)| Leftover { users: users_of(&at), below: below(&at, mounts), path })
        .collect();
    Ok((seen, leftovers))
}

/// Whether the nearest directory above a path that is there is on another mount than the root's.
pub(super) fn is_elsewhere(root: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    let what = || format!("cannot look at /{}", path.display());
    let own = metadata::metadata(root).context(what)?.mount_id;
    for above in path.ancestors().skip(1) {
        if let Ok(Some(found)) = metadata::metadata_beneath(root, above) {
            return Ok(found.mount_id != own);
        }
    }
    Ok(false)
}

/// Why a file can't be taken over now. What is mounted above it is no part of the root when that is
/// harvested: the file would be taken for a deleted one.
fn unfit(root: BorrowedFd<'_>, path: &Path) -> Result<Option<String>> {
    if is_elsewhere(root, path)? {
        return Ok(Some("it lies on another mount than the root".to_owned()));
    }
    Ok(match harvest::look(root, path)? {
        Found::Unfit(why) => Some(why),
        Found::Absent | Found::File(_) => None,
    })
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

/// What is mounted at the very path, on top.
fn mounted(entry: &Entry, target: &Path, places: &Places, mounts: &[MountEntry]) -> Mounted {
    let Some(found) = mounts.iter().rev().find(|mount| mount.mount_point == target) else {
        return Mounted::Nothing;
    };
    let stores = stores(places, mounts);
    let from = stores.into_iter().find(|(_, store)| {
        found.device == store.device && found.root == store.root.join(entry.relative())
    });
    from.map_or(Mounted::Other, |(name, _)| Mounted::From(name))
}

/// The mounts of the stores themselves.
fn stores<'m>(places: &Places, mounts: &'m [MountEntry]) -> Vec<(StoreName, &'m MountEntry)> {
    let name = |mount: &MountEntry| {
        let name = mount.mount_point.strip_prefix(&places.stores_path).ok()?.to_str()?;
        (!name.is_empty() && !name.contains('/')).then(|| StoreName(name.to_owned()))
    };
    mounts.iter().filter_map(|mount| Some((name(mount)?, mount))).collect()
}

pub(super) fn below(target: &Path, mounts: &[MountEntry]) -> Vec<PathBuf> {
    let below =
        |mount: &&MountEntry| mount.mount_point != target && mount.mount_point.starts_with(target);
    mounts.iter().filter(below).map(|mount| mount.mount_point.clone()).collect()
}

/// Mounts from a store at the place that it mirrors, which no entry asks for: the declared path, and
/// where it is mounted.
fn leftovers(entries: &[Entry], places: &Places, mounts: &[MountEntry]) -> Vec<(PathBuf, PathBuf)> {
    let stores = stores(places, mounts);
    let mut found = Vec::new();
    for mount in mounts {
        let Ok(path) = mount.mount_point.strip_prefix(&places.root_path) else { continue };
        let declared = entries.iter().any(|it| it.method == Method::Bind && it.relative() == path);
        let kept = stores
            .iter()
            .any(|(_, store)| mount.device == store.device && mount.root == store.root.join(path));
        let at_root =
            path.as_os_str().is_empty() || mount.mount_point.starts_with(&places.stores_path);
        if kept && !declared && !at_root {
            found.push((Path::new("/").join(path), mount.mount_point.clone()));
        }
    }
    found
}

fn has_data(root: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    let what = || format!("cannot look at /{}", path.display());
    match metadata::metadata_beneath(root, path) {
        Ok(Some(found)) if found.kind == FileKind::Directory => {
            let directory = resolve::open_directory(root, path).context(what)?;
            Ok(!file::read_directory(directory.as_fd()).context(what)?.is_empty())
        }
        Ok(found) => Ok(found.is_some()),
        // A link or a file among its parents: planning refuses it.
        Err(_) => Ok(false),
    }
}

fn same_file(entry: &Entry, places: &Places) -> bool {
    let Ok(store) = places.store(&entry.store) else { return false };
    let read = |tree| harvest::content_of(tree, entry.relative()).ok().flatten();
    entry.kind == crate::compiled::Kind::File
        && read(store).is_some_and(|kept| read(places.root.as_fd()) == Some(kept))
}
