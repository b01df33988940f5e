//! Doing what was planned for each entry. A failed entry does not stop the others.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::tree::{self, CopyOptions};
use ebbtide_sys::{file, mount, resolve, xattr};

use super::directories::Directories;
use super::observe::Places;
use super::plan::{Attributes, Plan, SeedSource, Step, Tree};
use crate::compiled::{Entry, Kind, Mode, StoreName};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::harvest;
use crate::record::BootNumber;
use crate::store;

/// Applies a plan that was made for entries none of which lies in another. Returns the failures and what else should be known, by index of the entry; the
/// remaining steps of an entry that failed are passed over.
pub fn apply(
    plan: &Plan,
    entries: &[Entry],
    places: &Places,
    boot: BootNumber,
    log: &mut Log<'_>,
) -> Vec<(usize, Problem)> {
    apply_with(&Directories::new(), plan, entries, places, boot, log)
}

/// As [`apply`], with what was opened when the entries were looked at.
pub fn apply_with<'t>(
    directories: &Directories<'t>,
    plan: &Plan,
    entries: &[Entry],
    places: &'t Places,
    boot: BootNumber,
    log: &mut Log<'_>,
) -> Vec<(usize, Problem)> {
    directories.forget_seen();
    let mut problems: Vec<(usize, Problem)> = Vec::new();
    let mut failed = None;
    // Many entries miss the same parents.
    let mut made: HashSet<(Option<&StoreName>, &Path)> = HashSet::new();
    for (index, step) in &plan.steps {
        let Some(entry) = entries.get(*index) else { continue };
        if failed == Some(*index) {
            continue;
        }
        let parent = match step {
            Step::MakeParent(tree, path, _) => {
                Some(((*tree == Tree::Store).then_some(&entry.store), path.as_path()))
            }
            _ => None,
        };
        if parent.is_some_and(|parent| made.contains(&parent)) {
            continue;
        }
        let line = step.describe(entry);
        log(Level::Debug, &line);
        match apply_step(directories, step, *index, entry, places, boot) {
            Ok(told) => {
                problems.extend(told.into_iter().map(|problem| (*index, problem)));
                made.extend(parent);
            }
            Err(failure) => {
                let level = if entry.optional { Level::Warning } else { Level::Error };
                let mut problem = Problem::from_failure(level, &failure);
                problem.message = format!("cannot {line}: {}", problem.message);
                problems.push((*index, problem));
                failed = Some(*index);
            }
        }
    }
    problems
}

fn apply_step<'t>(
    directories: &Directories<'t>,
    step: &Step,
    index: usize,
    entry: &Entry,
    places: &'t Places,
    boot: BootNumber,
) -> Result<Vec<Problem>> {
    let root = places.root.as_fd();
    let store = places.store(&entry.store).map_err(Failure::new)?;
    let tree = |tree: Tree| match tree {
        Tree::Store => store,
        Tree::Root => root,
    };
    let done = match step {
        Step::MakeParent(which, path, attributes) => {
            make_parent(directories, *which, path, *attributes, entry, places, store)
        }
        Step::Make(which, kind, attributes) => {
            make(directories, tree(*which), &entry.path, *kind, *attributes)?;
            match which {
                Tree::Store => durable(store),
                Tree::Root => Ok(()),
            }
        }
        Step::Import(source) => {
            let scratch = format!("import-{boot}-{index}");
            return import(source, places, store, entry, &scratch, Turn::First);
        }
        Step::SetAttributes(attributes) => {
            let kept = open(store, entry)?;
            let found = metadata::metadata(kept.as_fd()).context(|| "look at it")?;
            if found.kind == FileKind::Regular && found.nlink > 1 {
                return Ok(vec![of_several_names(entry, found.nlink)]);
            }
            set_attributes(kept.as_fd(), *attributes)?;
            durable(store)
        }
        Step::Bind(options) => {
            let (kept, name) = directories
                .parent(store, entry.relative())
                .context(|| "open the store's directory")?;
            let clone =
                mount::clone_entry(kept.as_fd(), name).context(|| "clone the store's mount")?;
            if !options.is_empty() {
                mount::set_attributes(clone.as_fd(), store::attributes(options), false)
                    .context(|| "set mount options")?;
            }
            let (parent, name) =
                directories.parent(root, entry.relative()).context(|| "open the parent")?;
            mount::attach_to_entry(clone.as_fd(), parent.as_fd(), name)
                .context(|| "attach the mount")
        }
        Step::Link => return link(places, entry),
        Step::Copy => {
            let content = file::read_limited(store, entry.relative(), 4096)
                .context(|| "read the store's file")?;
            let (parent, name) = parent(root, &entry.path)?;
            let mode = entry.mode.unwrap_or(Mode(0o444));
            // The store has it: after a power cut, the next attach looks at what came of it here.
            file::replace_file_unsettled(parent.as_fd(), &name, &content, mode.0)
                .context(|| "write the file")
        }
        Step::CopyIn => return copy_in(store, places, entry),
        Step::Unlink => {
            let (parent, name) = parent(root, &entry.path)?;
            rustix::fs::unlinkat(&parent, &name, rustix::fs::AtFlags::empty())
                .context(|| "remove it")
        }
        Step::NewMachineId => {
            let id = ebbtide_sys::random::uuid_v4().simple().to_string() + "\n";
            let (parent, name) = parent(store, &entry.path)?;
            file::replace_file(parent.as_fd(), &name, id.as_bytes(), 0o444)
                .context(|| "write the file")
        }
    };
    done.map(|()| Vec::new())
}

/// Copies what an entry has on the running root over what was imported from there earlier in this boot:
/// something wrote to it since.
pub(crate) fn import_again(
    entry: &Entry,
    places: &Places,
    boot: BootNumber,
) -> Result<Vec<Problem>> {
    let store = places.store(&entry.store).map_err(Failure::new)?;
    let scratch = format!("import-{boot}-again");
    import(&SeedSource::Running, places, store, entry, &scratch, Turn::Again)
}

/// Whether this is a machine id: 32 lower-case hexadecimal digits, not all zero, and a newline
/// (machine-id(5)).
pub fn machine_id_is_valid(content: &[u8]) -> bool {
    let id = content.strip_suffix(b"\n").unwrap_or(content);
    id.len() == 32
        && id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && id.iter().any(|&byte| byte != b'0')
}

fn open(tree: BorrowedFd<'_>, entry: &Entry) -> Result<OwnedFd> {
    resolve::open_path(tree, entry.relative()).context(|| "open it")
}

fn parent(tree: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, OsString)> {
    let (parent, name) = resolve::split_parent(path)
        .ok_or_else(|| Failure::new(format!("{} has no parent", path.display())))?;
    let directory = resolve::open_directory(tree, parent).context(|| "open the parent")?;
    Ok((directory, name.to_owned()))
}

fn make<'t>(
    directories: &Directories<'t>,
    tree: BorrowedFd<'t>,
    path: &Path,
    kind: Kind,
    attributes: Attributes,
) -> Result<()> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let (parent, name) = directories.parent(tree, relative).context(|| "open the parent")?;
    let file_kind = match kind {
        Kind::Directory => FileKind::Directory,
        Kind::File => FileKind::Regular,
    };
    let Attributes { uid, gid, mode } = attributes;
    match file::create_mount_point(parent.as_fd(), name, file_kind, (uid, gid), mode) {
        // Somebody else had use for the same parent, and made it a moment ago.
        Err(error) if error.errno() == rustix::io::Errno::EXIST && kind == Kind::Directory => {
            Ok(())
        }
        made => made.context(|| "create"),
    }
}

/// Makes a parent as the plan has it, with the labels that the same directory has in the other tree, or
/// in an old root. A home's own ACL is nobody's business but its user's: it begins without.
fn make_parent<'t>(
    directories: &Directories<'t>,
    which: Tree,
    path: &Path,
    attributes: Attributes,
    entry: &Entry,
    places: &'t Places,
    store: BorrowedFd<'t>,
) -> Result<()> {
    let root = places.root.as_fd();
    let (tree, other) = match which {
        Tree::Store => (store, root),
        Tree::Root => (root, store),
    };
    make(directories, tree, path, Kind::Directory, attributes)?;
    if entry.home.as_deref() == Some(path) {
        return Ok(());
    }
    let relative = path.strip_prefix("/").unwrap_or(path);
    let open = |tree: BorrowedFd<'_>| resolve::open_directory(tree, relative);
    let olds = places.old_roots.iter().filter_map(|old| old.tree().ok());
    if let Some(model) = std::iter::once(other).chain(olds).find_map(|tree| open(tree).ok()) {
        let made = open(tree).context(|| "open what was made")?;
        xattr::copy_labels(model.as_fd(), made.as_fd()).context(|| "copy the labels")?;
    }
    Ok(())
}

/// What is said of a file that is left as it is: who may write to the store may have put a name of a file
/// there that is not theirs, and it would be given to them.
fn of_several_names(entry: &Entry, names: u32) -> Problem {
    let path = entry.path.display();
    let mut problem = Problem::new(
        Level::Warning,
        format!(
            "{path} in store {} keeps its owner and mode: it is a file of {names} names",
            entry.store
        ),
    );
    problem.hint = Some("copy it, and put the copy in its place, if it is meant".to_owned());
    problem
}

/// The owner first: changing it clears setuid and setgid bits (chown(2)).
fn set_attributes(fd: BorrowedFd<'_>, attributes: Attributes) -> Result<()> {
    metadata::set_owner(fd, attributes.uid, attributes.gid).context(|| "set the owner")?;
    metadata::set_mode(fd, attributes.mode).context(|| "set the mode")
}

/// Which import of a path it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The store has nothing there.
    First,
    /// The store has what an earlier import of this boot copied.
    Again,
}

/// Copies first content beside its place, makes it durable, and renames it there: a cut before the
/// rename leaves the store as it was, one after it leaves the entry whole. Returns what was not
/// copied.
fn import(
    source: &SeedSource,
    places: &Places,
    store: BorrowedFd<'_>,
    entry: &Entry,
    scratch: &str,
    turn: Turn,
) -> Result<Vec<Problem>> {
    let from = places
        .source(source)
        .ok_or_else(|| Failure::new(format!("{source} is not there to copy from")))?;
    let incoming = store::own_subdirectory(store, "incoming")?;
    remove_leftovers(incoming.as_fd())?;
    let scratch = OsStr::new(scratch);
    let options =
        CopyOptions { keep_hard_links: true, cross_subvolumes: true, ..CopyOptions::default() };
    let (path, scratch_path) = (entry.relative(), Path::new(scratch));
    // A boot makes one call after the other.
    let beside = places.in_use;
    let copied = tree::copy_tree_compared(from, path, incoming.as_fd(), scratch, options, beside);
    let (report, difference) = match copied {
        Ok(copied) => copied,
        Err(error) => {
            // A store that is full of half a copy would be worse than one without.
            let _ = file::remove_tree(incoming.as_fd(), scratch);
            return Err(error).context(|| "copy");
        }
    };
    let compare = || -> Result<()> {
        if let Some(inner) = difference.context(|| "compare the copy with its original")? {
            let path = entry.path.join(inner);
            let path = ebbtide_sys::escape(path.as_os_str().as_encoded_bytes());
            return Err(Failure::new(format!(
                "{path} is not in the copy as it is: it changed meanwhile"
            )));
        }
        // Whoever exchanges it in this moment puts something of another type there.
        let copied = metadata::metadata_beneath(incoming.as_fd(), scratch_path)
            .context(|| "look at the copy")?;
        let wanted = match entry.kind {
            Kind::Directory => FileKind::Directory,
            Kind::File => FileKind::Regular,
        };
        match copied {
            Some(copied) if copied.kind == wanted => Ok(()),
            _ => Err(Failure::new("it is something else than it was: it changed meanwhile")),
        }
    };
    if let Err(failure) = compare() {
        let _ = file::remove_tree(incoming.as_fd(), scratch);
        return Err(failure);
    }
    durable(store)?;
    let (parent, name) = parent(store, &entry.path)?;
    match turn {
        Turn::First => file::rename_noreplace(incoming.as_fd(), scratch, parent.as_fd(), &name),
        Turn::Again => file::exchange(incoming.as_fd(), scratch, parent.as_fd(), &name),
    }
    .context(|| "move the copy to its place")?;
    durable(store)?;
    if turn == Turn::Again {
        // A copy as well, and older; its original has gone on.
        file::remove_tree(incoming.as_fd(), scratch).context(|| "remove the earlier copy")?;
    }
    let hash = match entry.kind {
        Kind::File => harvest::content_of(store, entry.relative()).ok().flatten(),
        Kind::Directory => None,
    };
    let hash = hash.map(|content| content.hash);
    store::note_seed(store, &entry.path, &source.to_string(), places.base, hash)?;
    let skipped = report.mounts_skipped.iter().chain(&report.subvolumes_skipped);
    Ok(skipped
        .map(|inner| {
            let path = ebbtide_sys::escape(entry.path.join(inner).as_os_str().as_encoded_bytes());
            let message = format!("{path} is another filesystem: it was not copied from {source}");
            Problem::new(Level::Warning, message)
        })
        .collect())
}

/// Removes what imports that were cut off have left: Ebbtide's own copies, never the data itself.
fn remove_leftovers(incoming: BorrowedFd<'_>) -> Result<()> {
    let names = file::read_directory(incoming).context(|| "list what is on its way in")?;
    for entry in names.iter().filter(|it| it.name.as_encoded_bytes().starts_with(b"import-")) {
        file::remove_tree(incoming, &entry.name)
            .context(|| "remove what an earlier attempt left")?;
    }
    Ok(())
}

/// Copies a file with all its metadata beside its place, and puts it there.
fn copy_in(store: BorrowedFd<'_>, places: &Places, entry: &Entry) -> Result<Vec<Problem>> {
    let (parent, name, scratch) = copy_beside(store, places, entry)?;
    put(places, entry, parent.as_fd(), &scratch, &name)
}

/// Returns the directory, the name, and the name of the copy.
fn copy_beside(
    store: BorrowedFd<'_>,
    places: &Places,
    entry: &Entry,
) -> Result<(OwnedFd, OsString, OsString)> {
    let (parent, name) = parent(places.root.as_fd(), &entry.path)?;
    let scratch = scratch_beside(parent.as_fd(), &name)?;
    let options = CopyOptions { keep_hard_links: false, ..CopyOptions::default() };
    tree::copy_tree(store, entry.relative(), parent.as_fd(), &scratch, options)
        .context(|| "copy")?;
    Ok((parent, name, scratch))
}

/// Puts files that belong together on the root: all of them, or none. What can fail for want of
/// space, or because a disk is broken, is done for all before the first one gets its name.
pub fn copy_together(plan: &Plan, entries: &[Entry], places: &Places) -> Result<Vec<Problem>> {
    let mut copies = Vec::new();
    let directories = Directories::new();
    let mut copy_all = || -> Result<()> {
        for (index, step) in &plan.steps {
            let Some(entry) = entries.get(*index) else { continue };
            let what = || format!("cannot {}", step.describe(entry));
            match step {
                Step::MakeParent(Tree::Root, path, attributes) => {
                    let store = places.store(&entry.store).map_err(Failure::new)?;
                    make_parent(&directories, Tree::Root, path, *attributes, entry, places, store)
                        .context(what)?;
                }
                Step::CopyIn => {
                    let store = places.store(&entry.store).map_err(Failure::new)?;
                    let (parent, name, scratch) =
                        copy_beside(store, places, entry).context(what)?;
                    copies.push((entry, parent, name, scratch));
                }
                _ => {}
            }
        }
        file::sync_filesystem(places.root.as_fd()).context(|| "cannot sync the root")
    };
    if let Err(failure) = copy_all() {
        for (_, parent, _, scratch) in copies {
            let _ = file::remove_tree(parent.as_fd(), &scratch);
        }
        return Err(failure);
    }
    let mut told = Vec::new();
    for (entry, parent, name, scratch) in copies {
        told.extend(put(places, entry, parent.as_fd(), &scratch, &name)?);
    }
    for (index, _) in plan.steps.iter().filter(|(_, step)| *step == Step::Unlink) {
        let Some(entry) = entries.get(*index) else { continue };
        let (parent, name) = parent(places.root.as_fd(), &entry.path)?;
        rustix::fs::unlinkat(&parent, &name, rustix::fs::AtFlags::empty())
            .context(|| format!("cannot {}", Step::Unlink.describe(entry)))?;
    }
    Ok(told)
}

/// Puts a symbolic link in place: over a file or a link, or over an empty directory by removing it.
fn link(places: &Places, entry: &Entry) -> Result<Vec<Problem>> {
    use rustix::fs::{AtFlags, unlinkat};
    let (parent, name) = parent(places.root.as_fd(), &entry.path)?;
    let found = metadata::metadata_beneath(parent.as_fd(), Path::new(&name))
        .context(|| "look at what is there")?;
    if found.is_some_and(|found| found.kind == FileKind::Directory) {
        unlinkat(&parent, &name, AtFlags::REMOVEDIR)
            .context(|| "remove the directory that the base has there, which must be empty")?;
    }
    let scratch = scratch_beside(parent.as_fd(), &name)?;
    file::create_symlink(parent.as_fd(), &scratch, &places.kept(entry))
        .context(|| "make the link")?;
    put(places, entry, parent.as_fd(), &scratch, &name)
}

/// A free name beside another one.
fn scratch_beside(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OsString> {
    let mut scratch = OsString::from(".ebbtide-new.");
    scratch.push(name);
    match file::remove_tree(parent, &scratch) {
        Err(error) if !error.is_not_found() => {
            Err(error).context(|| "remove what an earlier attempt left")
        }
        _ => Ok(scratch),
    }
}

/// Gives what was prepared its name. What lay there is in the base too if the root is fresh; on a
/// root that was kept it may be nowhere else, and stays under another name.
fn put(
    places: &Places,
    entry: &Entry,
    parent: BorrowedFd<'_>,
    scratch: &OsStr,
    name: &OsStr,
) -> Result<Vec<Problem>> {
    let found =
        metadata::metadata_beneath(parent, Path::new(name)).context(|| "look at what is there")?;
    let is_file = found.is_some_and(|found| found.kind == FileKind::Regular);
    if places.fresh || !is_file {
        file::rename_replace(parent, scratch, parent, name).context(|| "put it in place")?;
        return Ok(Vec::new());
    }
    let mut aside = name.to_owned();
    aside.push(".ebbtide-replaced");
    file::exchange(parent, scratch, parent, name).context(|| "put it in place")?;
    let path = ebbtide_sys::escape(entry.path.as_os_str().as_encoded_bytes());
    let kept = file::rename_noreplace(parent, scratch, parent, &aside);
    let place = if kept.is_ok() {
        ".ebbtide-replaced behind its name"
    } else {
        ".ebbtide-new. before its name"
    };
    Ok(vec![Problem {
        level: Level::Warning,
        message: format!("{path} was a file of this root, and is what the store has now"),
        hint: Some(format!("the file is beside it, with {place}")),
    }])
}

fn durable(tree: BorrowedFd<'_>) -> Result<()> {
    file::sync_filesystem(tree).context(|| "sync the store")
}
