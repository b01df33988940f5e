//! Doing what was planned for each entry. A failed entry does not stop the others.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::tree::{self, CopyOptions};
use ebbtide_sys::{file, metadata, mount, resolve};

use super::observe::Places;
use super::plan::{Attributes, Plan, SeedSource, Step, Tree};
use crate::compiled::{Entry, Kind, Mode};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::harvest;
use crate::record::BootNumber;
use crate::store;

/// Applies a plan. Returns the failures, by index of the entry; the remaining steps of an entry
/// that failed are passed over.
pub fn apply(
    plan: &Plan,
    entries: &[Entry],
    places: &Places,
    boot: BootNumber,
    log: &mut Log<'_>,
) -> Vec<(usize, Problem)> {
    let mut failed: Vec<(usize, Problem)> = Vec::new();
    for (index, step) in &plan.steps {
        let Some(entry) = entries.get(*index) else { continue };
        if failed.last().is_some_and(|(last, _)| last == index) {
            continue;
        }
        let line = step.describe(entry);
        log(Level::Debug, &line);
        if let Err(failure) = apply_step(step, *index, entry, places, boot) {
            let level = if entry.optional { Level::Warning } else { Level::Error };
            let mut problem = Problem::from_failure(level, &failure);
            problem.message = format!("cannot {line}: {}", problem.message);
            failed.push((*index, problem));
        }
    }
    failed
}

fn apply_step(
    step: &Step,
    index: usize,
    entry: &Entry,
    places: &Places,
    boot: BootNumber,
) -> Result<()> {
    let root = places.root.as_fd();
    let store = places.store(&entry.store).map_err(Failure::new)?;
    let tree = |tree: Tree| match tree {
        Tree::Store => store,
        Tree::Root => root,
    };
    match step {
        Step::MakeParent(which, path, attributes) => {
            make(tree(*which), path, Kind::Directory, *attributes)
        }
        Step::Make(which, kind, attributes) => {
            make(tree(*which), &entry.path, *kind, *attributes)?;
            match which {
                Tree::Store => durable(store),
                Tree::Root => Ok(()),
            }
        }
        Step::Import(source) => {
            let from = match source {
                SeedSource::Root => root,
                SeedSource::OldRoot => places
                    .old_root
                    .as_ref()
                    .map(AsFd::as_fd)
                    .ok_or_else(|| Failure::new("the old root is not open"))?,
            };
            import(from, store, entry, &format!("{boot}-{index}"))?;
            let hash = match entry.kind {
                Kind::File => harvest::content_of(store, entry.relative())?.map(|it| it.hash),
                Kind::Directory => None,
            };
            store::note_seed(store, &entry.path, &source.to_string(), hash)
        }
        Step::SetAttributes(attributes) => {
            let kept = open(store, entry)?;
            set_attributes(kept.as_fd(), *attributes)?;
            durable(store)
        }
        Step::Bind(options) => {
            let clone = mount::clone_mount(store, entry.relative(), false)
                .context(|| "clone the store's mount")?;
            if !options.is_empty() {
                mount::set_attributes(clone.as_fd(), store::attributes(options), false)
                    .context(|| "set mount options")?;
            }
            let target = open(root, entry)?;
            mount::attach(clone.as_fd(), target.as_fd()).context(|| "attach the mount")
        }
        Step::Link => link(root, entry, &places.kept(entry)),
        Step::Copy => {
            let content = file::read_limited(store, entry.relative(), 4096)
                .context(|| "read the store's file")?;
            let (parent, name) = parent(root, &entry.path)?;
            let mode = entry.mode.unwrap_or(Mode(0o444));
            file::replace_file(parent.as_fd(), &name, &content, mode.0).context(|| "write the file")
        }
        Step::CopyIn => copy_in(store, root, entry),
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
    }
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

fn make(tree: BorrowedFd<'_>, path: &Path, kind: Kind, attributes: Attributes) -> Result<()> {
    let (directory, name) = parent(tree, path)?;
    let made = match kind {
        Kind::Directory => file::create_directory(directory.as_fd(), &name, 0o700),
        Kind::File => file::create_file(directory.as_fd(), &name, 0o600),
    };
    let made = match made {
        Ok(made) => made,
        // Another entry has the same parent, and made it a moment ago.
        Err(error) if error.errno() == rustix::io::Errno::EXIST && kind == Kind::Directory => {
            return Ok(());
        }
        Err(error) => return Err(error).context(|| "create"),
    };
    set_attributes(made.as_fd(), attributes)
}

/// The owner first: changing it clears setuid and setgid bits (chown(2)).
fn set_attributes(fd: BorrowedFd<'_>, attributes: Attributes) -> Result<()> {
    metadata::set_owner(fd, attributes.uid, attributes.gid).context(|| "set the owner")?;
    metadata::set_mode(fd, attributes.mode).context(|| "set the mode")
}

/// Copies first content beside its place, makes it durable, and renames it there: a cut before the
/// rename leaves the store without the entry, one after it leaves it whole.
fn import(from: BorrowedFd<'_>, store: BorrowedFd<'_>, entry: &Entry, scratch: &str) -> Result<()> {
    let incoming = store::own_subdirectory(store, "incoming")?;
    let scratch = OsStr::new(scratch);
    let options = CopyOptions { keep_hard_links: true, ..CopyOptions::default() };
    tree::copy_tree(from, entry.relative(), incoming.as_fd(), scratch, options)
        .context(|| "copy")?;
    durable(store)?;
    let (parent, name) = parent(store, &entry.path)?;
    file::rename_noreplace(incoming.as_fd(), scratch, parent.as_fd(), &name)
        .context(|| "move the copy to its place")?;
    durable(store)
}

/// Copies a file with all its metadata beside its place, and renames it there.
fn copy_in(store: BorrowedFd<'_>, root: BorrowedFd<'_>, entry: &Entry) -> Result<()> {
    let (parent, name) = parent(root, &entry.path)?;
    let mut scratch = OsString::from(".ebbtide-sync.");
    scratch.push(&name);
    match file::remove_tree(parent.as_fd(), &scratch) {
        Err(error) if !error.is_not_found() => {
            return Err(error).context(|| "remove what an earlier attempt left");
        }
        _ => {}
    }
    let options = CopyOptions { keep_hard_links: false, ..CopyOptions::default() };
    tree::copy_tree(store, entry.relative(), parent.as_fd(), &scratch, options)
        .context(|| "copy")?;
    file::rename_replace(parent.as_fd(), &scratch, parent.as_fd(), &name)
        .context(|| "put the copy in place")
}

/// Puts a symbolic link in place: over a file or a link by rename, over an empty directory by
/// removing it. What the root had there came from the base, which still has it.
fn link(root: BorrowedFd<'_>, entry: &Entry, target: &Path) -> Result<()> {
    use rustix::fs::{AtFlags, unlinkat};
    let (parent, name) = parent(root, &entry.path)?;
    let found = metadata::metadata_beneath(parent.as_fd(), Path::new(&name))
        .context(|| "look at what is there")?;
    if found.is_some_and(|found| found.kind == metadata::FileKind::Directory) {
        unlinkat(&parent, &name, AtFlags::REMOVEDIR)
            .context(|| "remove the directory that the base has there, which must be empty")?;
    }
    let temporary = OsString::from(format!(".ebbtide-link-{}", std::process::id()));
    file::create_symlink(parent.as_fd(), &temporary, target).context(|| "make the link")?;
    rustix::fs::renameat(&parent, &temporary, &parent, &name).context(|| "put the link in place")
}

fn durable(tree: BorrowedFd<'_>) -> Result<()> {
    file::sync_filesystem(tree).context(|| "sync the store")
}
