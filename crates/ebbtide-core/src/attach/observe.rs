//! What is there before (and after) attaching, seen by descriptor and without following a link.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::metadata::{self, FileKind, Metadata};
use ebbtide_sys::mountinfo::MountEntry;
use ebbtide_sys::{btrfs, file, resolve, tree};

use super::old_root::OldRoot;
use super::plan::{Attributes, MissingParent, Node, Observation, Seed, SeedSource};
use crate::compiled::{Entry, Method, Parent, Principal, StoreName};
use crate::failure::{Context, Result};
use crate::harvest::{self, Found};
use crate::store;

/// The trees that attaching works with.
#[derive(Debug)]
pub struct Places {
    /// The root.
    pub root: OwnedFd,
    /// Where it is mounted: `/`, or a directory without symbolic links in its path.
    pub root_path: PathBuf,
    /// The stores that are there; why the others are not.
    pub stores: BTreeMap<StoreName, std::result::Result<OwnedFd, String>>,
    /// The directory in which they are mounted, as a running system sees it.
    pub stores_path: PathBuf,
    /// Past roots that first content can come from, newest first.
    pub old_roots: Vec<OldRoot>,
    /// Users and groups of the root.
    pub accounts: Accounts,
    /// Whether programs may have written to the root since it was attached: then a `sync` file that
    /// differs from its store is as it should be.
    pub in_use: bool,
    /// Whether the root was made from the base by this boot, so that what lies in an entry's place
    /// is in the base as well.
    pub fresh: bool,
    /// The base that the root was made from, where that is known.
    pub base: Option<u64>,
    /// Up to how many bytes first content is measured, where it can't share the original's. Without,
    /// it is not.
    pub import_limit: Option<u64>,
}

impl Places {
    /// The store of an entry, or why it is not there.
    pub fn store(&self, name: &StoreName) -> std::result::Result<BorrowedFd<'_>, String> {
        match self.stores.get(name) {
            Some(Ok(store)) => Ok(store.as_fd()),
            Some(Err(why)) => Err(format!("store {name} is not there: {why}")),
            None => Err(format!("store {name} is not there")),
        }
    }

    /// The tree that first content comes from, if it is there.
    pub fn source(&self, source: &SeedSource) -> Option<BorrowedFd<'_>> {
        match source {
            SeedSource::Root | SeedSource::Running => Some(self.root.as_fd()),
            SeedSource::Store(name) => self.store(name).ok(),
            SeedSource::OldRoot(number) => {
                let old = self.old_roots.iter().find(|old| old.number == *number);
                old.map(|old| old.tree.as_fd())
            }
        }
    }

    /// Where an entry lies for a process in the running system.
    pub fn target(&self, entry: &Entry) -> PathBuf {
        self.root_path.join(entry.relative())
    }

    /// Where an entry's kept data lies for a process in the running system.
    pub fn kept(&self, entry: &Entry) -> PathBuf {
        self.stores_path.join(&entry.store.0).join(entry.relative())
    }
}

/// Looks at all entries. `mounts` is the mount table at this moment.
pub fn observe(
    entries: &[Entry],
    places: &Places,
    mounts: &[MountEntry],
) -> Result<Vec<Observation>> {
    let topmost = topmost(mounts);
    entries.iter().map(|entry| observe_entry(entry, places, &topmost)).collect()
}

/// The mount that a path shows: the last one of those stacked there.
fn topmost(mounts: &[MountEntry]) -> BTreeMap<&Path, &MountEntry> {
    mounts.iter().map(|mount| (mount.mount_point.as_path(), mount)).collect()
}

fn observe_entry(
    entry: &Entry,
    places: &Places,
    mounts: &BTreeMap<&Path, &MountEntry>,
) -> Result<Observation> {
    let root = places.root.as_fd();
    let path = entry.relative();
    let target = look(root, path)?;
    let store = places.store(&entry.store);
    let source = match &store {
        Ok(store) if entry.method == Method::Sync => Ok(syncable(*store, path)?),
        Ok(store) => Ok(look(*store, path)?),
        Err(why) => Err(why.clone()),
    };
    let absent = source == Ok(Node::Absent);
    let owner = owner_of(entry, &places.accounts);
    let attributes_above = |parent: &Path| parent_attributes(parent, entry, &store, places);
    let deleted = match &store {
        Ok(store) => absent && store::was_seeded(*store, &entry.path)?,
        Err(_) => false,
    };
    let (missing_in_store, seed) = match &store {
        Ok(store) if absent => {
            let mut seed = if deleted { None } else { seed(entry, &target, places)? };
            if let (Some(seed), Some(limit)) = (&mut seed, places.import_limit) {
                // What can't be measured can't be copied either, and that says why.
                seed.size = size_of_copy(entry, &seed.source, *store, places, limit).unwrap_or(0);
            }
            (missing_parents(*store, path, &attributes_above)?, seed)
        }
        _ => (Vec::new(), None),
    };
    let missing_in_root = if target == Node::Absent {
        missing_parents(root, path, &attributes_above)?
    } else {
        Vec::new()
    };
    let in_place = match entry.method {
        Method::Bind => is_mounted(entry, places, mounts),
        Method::Symlink => target == Node::Link(places.kept(entry)),
        Method::Sync if places.in_use => true,
        Method::Sync => match &store {
            Ok(store) => {
                let kept = harvest::content_of(*store, path).ok().flatten();
                kept.is_some()
                    && matches!(target, Node::File(_))
                    && harvest::content_of(root, path).is_ok_and(|now| now == kept)
            }
            Err(_) => false,
        },
        Method::Copy => match &store {
            Ok(store) => has_same_content(*store, root, path),
            Err(_) => false,
        },
    };
    Ok(Observation {
        source,
        target,
        in_place,
        seed,
        deleted,
        owner,
        missing_in_store,
        missing_in_root,
    })
}

/// What lies at a path below a tree.
fn look(tree: BorrowedFd<'_>, path: &Path) -> Result<Node> {
    let found = match metadata::metadata_beneath(tree, path) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(Node::Absent),
        Err(error) if in_the_way(&error) => {
            return Ok(Node::Unusable("a link or a file is among its parents".to_owned()));
        }
        // An error of one path is that of one entry.
        Err(error) => return Ok(Node::Unusable(error.to_string())),
    };
    Ok(match found.kind {
        FileKind::Directory => Node::Directory(attributes(&found)),
        FileKind::Regular => Node::File(attributes(&found)),
        FileKind::Symlink => Node::Link(read_link(tree, path)?),
        kind => {
            Node::Unusable(format!("something is there that is no file or directory ({kind:?})"))
        }
    })
}

/// As [`look`], for a file that is going to be copied.
fn syncable(store: BorrowedFd<'_>, path: &Path) -> Result<Node> {
    Ok(match harvest::look(store, path)? {
        Found::Unfit(why) => Node::Unusable(why),
        Found::Absent | Found::File(_) => look(store, path)?,
    })
}

fn in_the_way(error: &ebbtide_sys::error::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.errno(), Errno::LOOP | Errno::NOTDIR)
}

fn read_link(tree: BorrowedFd<'_>, path: &Path) -> Result<PathBuf> {
    let what = || format!("cannot read the link {}", path.display());
    let link = resolve::open_path(tree, path).context(what)?;
    let target = rustix::fs::readlinkat(&link, "", Vec::new()).context(what)?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

fn attributes(found: &Metadata) -> Attributes {
    Attributes { uid: found.uid, gid: found.gid, mode: found.mode }
}

/// First content: what the old root has, because it was written there last; else what the base has.
fn seed(entry: &Entry, target: &Node, places: &Places) -> Result<Option<Seed>> {
    if entry.method == Method::Copy {
        // A machine id that is no id is no first content.
        let usable = |tree: BorrowedFd<'_>| {
            file::read_limited(tree, entry.relative(), 64)
                .is_ok_and(|content| super::machine_id_is_valid(&content))
        };
        let node = target.clone();
        return Ok(usable(places.root.as_fd()).then_some(seed_from(SeedSource::Root, node)));
    }
    let mut found = None;
    for old in &places.old_roots {
        if let Some(store) = old.store_of(&entry.path) {
            // That root had a mount there; what is below it is a mount point, and no data.
            return Ok((*store != entry.store).then(|| from_store(entry, store, places)).flatten());
        }
        let node = look(old.tree.as_fd(), entry.relative())?;
        let unfit = unfit(entry, &node, old.tree.as_fd())?;
        if matches!(node, Node::Directory(_) | Node::File(_)) {
            let node = unfit.unwrap_or(node);
            found = Some(seed_from(SeedSource::OldRoot(old.number), node));
        }
        // If it was declared then and could not be attached, an older root has what matters.
        if !old.unfinished.contains(&entry.path) {
            break;
        }
    }
    if found.is_some() {
        return Ok(found);
    }
    if let Some(unfit) = unfit(entry, target, places.root.as_fd())? {
        return Ok(Some(seed_from(SeedSource::Root, unfit)));
    }
    Ok(match target {
        Node::Absent | Node::Link(_) | Node::Unusable(_) => None,
        node if places.in_use => Some(seed_from(SeedSource::Running, node.clone())),
        node => Some(seed_from(SeedSource::Root, node.clone())),
    })
}

/// Why a file is no first content of an entry that is synced, if it can't be: to take it into the
/// store, or to pass over it in silence, would be worse than to say so.
fn unfit(entry: &Entry, node: &Node, tree: BorrowedFd<'_>) -> Result<Option<Node>> {
    if entry.method != Method::Sync || !matches!(node, Node::File(_)) {
        return Ok(None);
    }
    let found = syncable(tree, entry.relative())?;
    Ok(matches!(found, Node::Unusable(_)).then_some(found))
}

/// First content that was not measured.
fn seed_from(source: SeedSource, node: Node) -> Seed {
    Seed { source, node, size: 0 }
}

/// How many bytes importing an entry copies: none where source and store are one btrfs, on which
/// the copy shares the original's content.
fn size_of_copy(
    entry: &Entry,
    source: &SeedSource,
    store: BorrowedFd<'_>,
    places: &Places,
    limit: u64,
) -> Result<u64> {
    let what = || format!("cannot measure {} in {source}", entry.path.display());
    let Some(tree) = places.source(source) else { return Ok(0) };
    let place = resolve::open_path(tree, entry.relative()).context(what)?;
    let filesystem = |fd: BorrowedFd<'_>| btrfs::filesystem_uuid(fd).ok();
    // The ioctl takes no O_PATH descriptor; of a file, its directory is asked.
    let around = match resolve::split_parent(entry.relative()) {
        Some((parent, _)) => resolve::open_directory(tree, parent).context(what)?,
        None => place,
    };
    let shared = filesystem(store);
    if shared.is_some() && shared == filesystem(around.as_fd()) {
        return Ok(0);
    }
    tree::tree_size_up_to(tree, entry.relative(), limit).context(what)
}

/// First content of an entry that another store kept until now.
fn from_store(entry: &Entry, store: &StoreName, places: &Places) -> Option<Seed> {
    let node = match places.store(store) {
        Ok(tree) => {
            look(tree, entry.relative()).unwrap_or_else(|failure| Node::Unusable(failure.chain()))
        }
        Err(why) => Node::Unusable(why),
    };
    (node != Node::Absent).then(|| seed_from(SeedSource::Store(store.clone()), node))
}

/// Parents that are not there, outermost first.
fn missing_parents(
    tree: BorrowedFd<'_>,
    path: &Path,
    attributes: &dyn Fn(&Path) -> Attributes,
) -> Result<Vec<MissingParent>> {
    let mut missing = Vec::new();
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        if look(tree, parent)? != Node::Absent {
            break;
        }
        missing.push((Path::new("/").join(parent), attributes(parent)));
    }
    missing.reverse();
    Ok(missing)
}

/// What a missing parent should be: as in the root, else as in the store, else as declared, else as in
/// the old root, else from a table of the usual places; never a guess from the umask.
fn parent_attributes(
    parent: &Path,
    entry: &Entry,
    store: &std::result::Result<BorrowedFd<'_>, String>,
    places: &Places,
) -> Attributes {
    // The home itself is never open for others, whatever another tree says.
    if entry.home.as_deref().is_some_and(|home| home.strip_prefix("/").is_ok_and(|it| it == parent))
    {
        return private(entry, &places.accounts);
    }
    let in_tree = |tree: BorrowedFd<'_>| match look(tree, parent) {
        Ok(Node::Directory(attributes)) => Some(attributes),
        _ => None,
    };
    in_tree(places.root.as_fd())
        .or_else(|| store.as_ref().ok().and_then(|store| in_tree(*store)))
        .or_else(|| entry.parent.as_ref().map(|parent| declared_parent(parent, &places.accounts)))
        .or_else(|| places.old_roots.iter().find_map(|old| in_tree(old.tree.as_fd())))
        .unwrap_or_else(|| match &entry.home {
            Some(home) if home.strip_prefix("/").is_ok_and(|home| parent.starts_with(home)) => {
                private(entry, &places.accounts)
            }
            _ => usual(parent),
        })
}

/// What belongs to the user of an entry and to nobody else, as the XDG Base Directory Specification
/// has it for directories that have to be made in a home. A user who is not known gets nothing made.
fn private(entry: &Entry, accounts: &Accounts) -> Attributes {
    let (uid, gid) = owner_of(entry, accounts).unwrap_or((None, None));
    Attributes { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), mode: 0o700 }
}

/// The declared owner; in a home, the group is the user's own.
fn owner_of(
    entry: &Entry,
    accounts: &Accounts,
) -> std::result::Result<(Option<u32>, Option<u32>), String> {
    let (uid, gid) = resolve_owner(entry.user.as_ref(), entry.group.as_ref(), accounts)?;
    let own = uid.filter(|_| entry.home.is_some()).and_then(|uid| accounts.primary_gid(uid));
    Ok((uid, gid.or(own)))
}

fn declared_parent(parent: &Parent, accounts: &Accounts) -> Attributes {
    let owner = resolve_owner(parent.user.as_ref(), parent.group.as_ref(), accounts);
    let (uid, gid) = owner.unwrap_or((None, None));
    Attributes {
        uid: uid.unwrap_or(0),
        gid: gid.unwrap_or(0),
        mode: parent.mode.map_or(0o755, |mode| mode.0),
    }
}

/// The places whose mode is not 0755 on any distribution (file-hierarchy(7), systemd's tmpfiles.d).
fn usual(parent: &Path) -> Attributes {
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

/// Whether the mount table has the store's path at the entry's place, on top, with all options.
fn is_mounted(entry: &Entry, places: &Places, mounts: &BTreeMap<&Path, &MountEntry>) -> bool {
    let store_path = places.stores_path.join(&entry.store.0);
    let (Some(store), Some(found)) =
        (mounts.get(store_path.as_path()), mounts.get(places.target(entry).as_path()))
    else {
        return false;
    };
    // A mount above it could hide it: what counts is where the path leads.
    let leads_there = metadata::metadata_beneath(places.root.as_fd(), entry.relative())
        .is_ok_and(|seen| seen.is_some_and(|seen| seen.mount_id == u64::from(found.id)));
    if !leads_there {
        return false;
    }
    let options: Vec<&[u8]> = found.options.split(|&byte| byte == b',').collect();
    found.device == store.device
        && found.root == store.root.join(entry.relative())
        && entry.options.iter().all(|option| options.contains(&option.to_string().as_bytes()))
}

fn has_same_content(store: BorrowedFd<'_>, root: BorrowedFd<'_>, path: &Path) -> bool {
    let read = |tree| file::read_limited(tree, path, 4096).ok();
    let kept = read(store);
    kept.is_some() && kept == read(root)
}
