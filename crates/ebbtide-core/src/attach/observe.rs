//! What is there before (and after) attaching, seen by descriptor and without following a link.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::metadata::{self, FileKind, Metadata};
use ebbtide_sys::mountinfo::MountEntry;
use ebbtide_sys::{btrfs, file, resolve, tree};

use super::directories::Directories;
use super::old_root::OldRoot;
use super::owner::{declared_parent, owner_of, private, usual};
use super::plan::{Attributes, MissingParent, Node, Observation, Seed, SeedSource};
use crate::compiled::{Entry, Method, StoreName};
use crate::failure::{Context, Result};
use crate::harvest::{self, Content, Found, Witness};
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
    /// The trees of a system that runs on the root that is mounted at `sysroot`; `root` is that, opened.
    /// `base` is the number of the base that it was made from.
    ///
    /// # Errors
    ///
    /// Fails if `sysroot` is not there, or its accounts can't be read.
    pub fn of_running(
        root: OwnedFd,
        sysroot: &Path,
        stores: BTreeMap<StoreName, std::result::Result<OwnedFd, String>>,
        stores_path: PathBuf,
        base: Option<u64>,
    ) -> Result<Self> {
        // As the mount table has it.
        let root_path =
            sysroot.canonicalize().context(|| format!("cannot find {}", sysroot.display()))?;
        let accounts =
            Accounts::read(root.as_fd()).context(|| "cannot read the root's accounts")?;
        Ok(Self {
            root,
            root_path,
            stores,
            stores_path,
            old_roots: Vec::new(),
            accounts,
            in_use: true,
            fresh: false,
            base,
            import_limit: None,
        })
    }

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
                old.and_then(|old| old.tree().ok())
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
    observe_with(&Directories::new(), entries, places, mounts)
}

/// As [`observe`], and leaves open what was opened, for what is done about it. The mount table may be an
/// older one if nothing was unmounted since: what was mounted since then is seen as something else.
pub fn observe_with<'t>(
    directories: &Directories<'t>,
    entries: &[Entry],
    places: &'t Places,
    mounts: &[MountEntry],
) -> Result<Vec<Observation>> {
    let topmost = topmost(mounts);
    entries.iter().map(|entry| observe_entry(directories, entry, places, &topmost)).collect()
}

/// As [`observe_with`]. An entry that can't be looked at, because a disk is bad there, takes no other along:
/// its observation says why.
pub fn observe_each<'t>(
    directories: &Directories<'t>,
    entries: &[Entry],
    places: &'t Places,
    mounts: &[MountEntry],
) -> Vec<Observation> {
    let topmost = topmost(mounts);
    let one = |entry| {
        observe_entry(directories, entry, places, &topmost)
            .unwrap_or_else(|failure| Observation::unseen(failure.chain()))
    };
    entries.iter().map(one).collect()
}

/// Mounts by their places.
type MountTable<'m> = HashMap<&'m OsStr, &'m MountEntry>;

/// The mount that a path shows: the last one of those stacked there.
fn topmost(mounts: &[MountEntry]) -> MountTable<'_> {
    mounts.iter().map(|mount| (mount.mount_point.as_os_str(), mount)).collect()
}

fn observe_entry<'t>(
    directories: &Directories<'t>,
    entry: &Entry,
    places: &'t Places,
    mounts: &MountTable<'_>,
) -> Result<Observation> {
    let root = places.root.as_fd();
    let path = entry.relative();
    let (target, found) = see(directories, root, path)?;
    let is_bound = entry.method == Method::Bind
        && found.as_ref().is_some_and(|found| is_mounted(entry, places, mounts, found));
    let store = places.store(&entry.store);
    let mut kept = None;
    let source = match &store {
        // The mount table has just said that this is the store's own.
        Ok(_) if is_bound => Ok(target.clone()),
        Ok(store) if entry.method == Method::Sync => {
            let (node, content) = syncable(directories, *store, path)?;
            kept = content;
            Ok(node)
        }
        Ok(store) => Ok(look(directories, *store, path)?),
        Err(why) => Err(why.clone()),
    };
    let absent = source == Ok(Node::Absent);
    let owner = owner_of(entry, &places.accounts);
    let attributes_above =
        |parent: &Path| parent_attributes(directories, parent, entry, &store, places);
    let deleted = match &store {
        Ok(store) => absent && store::was_seeded(*store, &entry.path)?,
        Err(_) => false,
    };
    let (missing_in_store, seed) = match &store {
        Ok(store) if absent => {
            let mut seed = if deleted { None } else { seed(directories, entry, &target, places)? };
            if let (Some(seed), Some(limit)) = (&mut seed, places.import_limit) {
                // What can't be measured can't be copied either, and that says why.
                seed.size = size_of_copy(entry, &seed.source, *store, places, limit).unwrap_or(0);
            }
            (missing_parents(directories, *store, path, &attributes_above)?, seed)
        }
        _ => (Vec::new(), None),
    };
    let missing_in_root = if target == Node::Absent {
        missing_parents(directories, root, path, &attributes_above)?
    } else {
        Vec::new()
    };
    let mut content = None;
    let in_place = match entry.method {
        Method::Bind => is_bound,
        Method::Symlink => target == Node::Link(places.kept(entry)),
        Method::Sync if places.in_use => true,
        Method::Sync => {
            content = copied(kept.as_ref(), found.as_ref(), root, path)?;
            content.is_some()
        }
        Method::Copy => match &store {
            Ok(store) => has_same_content(*store, root, path)?,
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
        content,
        missing_in_store,
        missing_in_root,
    })
}

/// What lies on the root, if it is what the store keeps; it is not read if it can't be. `found` is how
/// it looked before: a change in between makes the next look at it a long one, not a wrong one.
fn copied(
    kept: Option<&Content>,
    found: Option<&Metadata>,
    root: BorrowedFd<'_>,
    path: &Path,
) -> Result<Option<(Witness, Content)>> {
    let (Some(kept), Some(found)) = (kept, found) else { return Ok(None) };
    let may_be = found.kind == FileKind::Regular
        && (found.size, found.uid, found.gid, found.mode)
            == (kept.size, kept.uid, kept.gid, kept.mode);
    let now = if may_be { harvest::content_of(root, path)? } else { None };
    Ok(now.filter(|now| now == kept).map(|now| (Witness::of(found), now)))
}

/// What lies at a path below a tree.
fn look<'t>(directories: &Directories<'t>, tree: BorrowedFd<'t>, path: &Path) -> Result<Node> {
    see(directories, tree, path).map(|(node, _)| node)
}

/// As [`look`], for a directory above an entry, at which many entries look.
fn look_above<'t>(
    directories: &Directories<'t>,
    tree: BorrowedFd<'t>,
    path: &Path,
) -> Result<Node> {
    if let Some(node) = directories.seen(tree, path) {
        return Ok(node);
    }
    let node = look(directories, tree, path)?;
    directories.note(tree, path, &node);
    Ok(node)
}

/// What lies at a path below a tree, with its metadata.
fn see<'t>(
    directories: &Directories<'t>,
    tree: BorrowedFd<'t>,
    path: &Path,
) -> Result<(Node, Option<Metadata>)> {
    // An error of one path is that of one entry.
    Ok(match find(directories, tree, path) {
        Ok(Some(found)) => (node_of(tree, path, &found)?, Some(found)),
        Ok(None) => (Node::Absent, None),
        Err(error) if in_the_way(&error) => {
            (Node::Unusable("a link or a file is among its parents".to_owned()), None)
        }
        Err(error) => (Node::Unusable(error.to_string()), None),
    })
}

/// As [`look`], in a past root: that it can't be looked at does not mean that nothing is there.
fn look_back<'t>(directories: &Directories<'t>, tree: BorrowedFd<'t>, path: &Path) -> Result<Node> {
    match find(directories, tree, path) {
        Ok(Some(found)) => node_of(tree, path, &found),
        Err(error) if !in_the_way(&error) => {
            Err(error).context(|| "cannot look for first content in past roots")
        }
        _ => Ok(Node::Absent),
    }
}

fn find<'t>(
    directories: &Directories<'t>,
    tree: BorrowedFd<'t>,
    path: &Path,
) -> ebbtide_sys::Result<Option<Metadata>> {
    if directories.has_no_parent(tree, path) {
        return Ok(None);
    }
    let found = match directories.parent(tree, path) {
        Ok((parent, name)) => metadata::metadata_of_entry(parent.as_fd(), name),
        Err(error) => Err(error),
    };
    match found {
        Err(error) if error.is_not_found() => {
            if let Some(parent) = path.parent() {
                directories.note(tree, parent, &Node::Absent);
            }
            Ok(None)
        }
        found => found,
    }
}

fn node_of(tree: BorrowedFd<'_>, path: &Path, found: &Metadata) -> Result<Node> {
    Ok(match found.kind {
        FileKind::Directory => Node::Directory(attributes(found)),
        FileKind::Regular => Node::File(attributes(found)),
        FileKind::Symlink => Node::Link(read_link(tree, path)?),
        kind => {
            Node::Unusable(format!("something is there that is no file or directory ({kind:?})"))
        }
    })
}

/// As [`look`], for a file that is going to be copied; with its content.
fn syncable<'t>(
    directories: &Directories<'t>,
    tree: BorrowedFd<'t>,
    path: &Path,
) -> Result<(Node, Option<Content>)> {
    Ok(match harvest::look(tree, path)? {
        Found::Unfit(why) => (Node::Unusable(why), None),
        Found::Absent => (look(directories, tree, path)?, None),
        Found::File(content) => {
            let Content { uid, gid, mode, .. } = content;
            (Node::File(Attributes { uid, gid, mode }), Some(content))
        }
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
fn seed<'t>(
    directories: &Directories<'t>,
    entry: &Entry,
    target: &Node,
    places: &'t Places,
) -> Result<Option<Seed>> {
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
            return Ok((*store != entry.store)
                .then(|| from_store(directories, entry, store, places))
                .flatten());
        }
        let tree = old.tree()?;
        let node = look_back(directories, tree, entry.relative())?;
        let unfit = unfit(directories, entry, &node, tree)?;
        if matches!(node, Node::Directory(_) | Node::File(_)) {
            let node = unfit.unwrap_or(node);
            found = Some(seed_from(SeedSource::OldRoot(old.number), node));
        }
        // If it was declared then and could not be attached, an older root has what matters.
        if !old.is_unfinished(&entry.path) {
            break;
        }
    }
    if found.is_some() {
        return Ok(found);
    }
    if let Some(unfit) = unfit(directories, entry, target, places.root.as_fd())? {
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
fn unfit<'t>(
    directories: &Directories<'t>,
    entry: &Entry,
    node: &Node,
    tree: BorrowedFd<'t>,
) -> Result<Option<Node>> {
    if entry.method != Method::Sync || !matches!(node, Node::File(_)) {
        return Ok(None);
    }
    let (found, _) = syncable(directories, tree, entry.relative())?;
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
fn from_store<'t>(
    directories: &Directories<'t>,
    entry: &Entry,
    store: &StoreName,
    places: &'t Places,
) -> Option<Seed> {
    let node = match places.store(store) {
        Ok(tree) => look(directories, tree, entry.relative())
            .unwrap_or_else(|failure| Node::Unusable(failure.chain())),
        Err(why) => Node::Unusable(why),
    };
    (node != Node::Absent).then(|| seed_from(SeedSource::Store(store.clone()), node))
}

/// Parents that are not there, outermost first.
fn missing_parents<'t>(
    directories: &Directories<'t>,
    tree: BorrowedFd<'t>,
    path: &Path,
    attributes: &dyn Fn(&Path) -> Attributes,
) -> Result<Vec<MissingParent>> {
    let mut missing = Vec::new();
    for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
        if look_above(directories, tree, parent)? != Node::Absent {
            break;
        }
        missing.push((Path::new("/").join(parent), attributes(parent)));
    }
    missing.reverse();
    Ok(missing)
}

/// What a missing parent should be: as in the root, else as in the store, else as declared, else as in
/// the old root, else from a table of the usual places; never a guess from the umask.
fn parent_attributes<'t>(
    directories: &Directories<'t>,
    parent: &Path,
    entry: &Entry,
    store: &std::result::Result<BorrowedFd<'t>, String>,
    places: &'t Places,
) -> Attributes {
    // The home itself is never open for others, whatever another tree says.
    if entry.home.as_deref().is_some_and(|home| home.strip_prefix("/").is_ok_and(|it| it == parent))
    {
        return private(entry, &places.accounts);
    }
    let in_tree = |tree: BorrowedFd<'t>| match look_above(directories, tree, parent) {
        Ok(Node::Directory(attributes)) => Some(attributes),
        _ => None,
    };
    in_tree(places.root.as_fd())
        .or_else(|| store.as_ref().ok().and_then(|store| in_tree(*store)))
        .or_else(|| entry.parent.as_ref().map(|parent| declared_parent(parent, &places.accounts)))
        .or_else(|| places.old_roots.iter().find_map(|old| in_tree(old.tree().ok()?)))
        .unwrap_or_else(|| match &entry.home {
            Some(home) if home.strip_prefix("/").is_ok_and(|home| parent.starts_with(home)) => {
                private(entry, &places.accounts)
            }
            _ => usual(parent),
        })
}

/// Whether the mount table has the store's path at the entry's place, on top, with all options, and
/// whether that is what was found where the path leads: a mount above it could hide it.
fn is_mounted(entry: &Entry, places: &Places, mounts: &MountTable<'_>, found: &Metadata) -> bool {
    let Some(mount) = mounts.get(places.target(entry).as_os_str()) else { return false };
    let store_path = places.stores_path.join(&entry.store.0);
    let Some(store) = mounts.get(store_path.as_os_str()) else { return false };
    found.mount_id == u64::from(mount.id)
        && mount.device == store.device
        && mount.root == store.root.join(entry.relative())
        && entry.options.iter().all(|option| mount.has_option(&option.to_string()))
}

fn has_same_content(store: BorrowedFd<'_>, root: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    let read = |tree| match file::read_limited(tree, path, 4096) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.errno() == rustix::io::Errno::IO => {
            Err(error).context(|| format!("cannot read {}", path.display()))
        }
        Err(_) => Ok(None),
    };
    let kept = read(store)?;
    Ok(kept.is_some() && kept == read(root)?)
}
