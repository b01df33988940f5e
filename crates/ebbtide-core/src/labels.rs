//! SELinux's labels of what a boot made.
//!
//! The initramfs has no policy. What it makes after a model has the model's label; what has no model, such as
//! the directory of an entry that has no data yet, has none, and services that are confined can't use it. So
//! once the policy is loaded, and before most services start, what is declared and has no label gets one from
//! restorecon(8). What has a label keeps it: somebody may have meant it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ebbtide_sys::metadata::FileKind;
use ebbtide_sys::{file, resolve, xattr};

use crate::boot::{Boot, STORES, open_directory};
use crate::failure::{Context, Failure, Result};

/// What the kernel says of what has no label.
const UNLABELLED: &str = "/sys/fs/selinux/initial_contexts/unlabeled";

/// Labels what is declared and has no label, with the directories above it, on the root and in the stores.
/// Nothing happens where no policy of SELinux is loaded. Returns how many labels that were.
///
/// Only at the start of a boot: whoever may write to a directory could exchange what lies in it meanwhile.
pub fn restore(boot: &Boot) -> Result<usize> {
    let Some(none) = of_unlabelled()? else { return Ok(0) };
    let Some(compiled) = boot.in_force()? else { return Ok(0) };
    let root = open_directory(Path::new("/"))?;
    let declared: BTreeSet<&Path> =
        compiled.entries.iter().flat_map(|entry| entry.path.ancestors()).collect();
    let carried = boot.read_record().and_then(|record| record.carried);
    let carried = carried.map(|carried| carried.paths).unwrap_or_default();
    let mut paths = declared.clone();
    paths.extend(carried.iter().flat_map(|path| path.ancestors()));
    paths.retain(|path| has(root.as_fd(), path, &none));
    // One in RAM is new, and has the label that the kernel gives to all of them.
    paths.extend(compiled.root.tmpfs.iter().map(|mount| mount.path.as_path()));
    restorecon(&paths)?;
    let mut count = paths.len();
    for name in compiled.stores.keys() {
        // What is missing is told by others.
        let Ok(store) = open_directory(&boot.run.join(STORES).join(&name.0)) else { continue };
        for path in declared.iter().filter(|path| has(store.as_fd(), path, &none)) {
            if !has(root.as_fd(), path, &none) {
                count += usize::from(copy(root.as_fd(), store.as_fd(), path)?);
            }
        }
    }
    label_run(boot)?;
    Ok(count)
}

/// Labels what was made a moment ago on the running root as the policy has it, if there is one. The kernel has
/// labelled it like the directory that it lies in.
pub(crate) fn correct(paths: &BTreeSet<PathBuf>) -> Result<()> {
    match of_unlabelled()? {
        Some(_) => restorecon(&paths.iter().map(PathBuf::as_path).collect()),
        None => Ok(()),
    }
}

/// The label of what has none; `None` without SELinux, or before it has a policy.
fn of_unlabelled() -> Result<Option<Vec<u8>>> {
    match std::fs::read(UNLABELLED) {
        Ok(text) => Ok(Some(without_end(&text).to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(|| format!("cannot read {UNLABELLED}")),
    }
}

/// A label may end in a NUL, and counts without.
fn without_end(label: &[u8]) -> &[u8] {
    label.strip_suffix(b"\0").unwrap_or(label)
}

fn open(tree: BorrowedFd<'_>, path: &Path) -> Option<OwnedFd> {
    resolve::open_path(tree, path.strip_prefix("/").unwrap_or(path)).ok()
}

fn label(file: BorrowedFd<'_>) -> Option<Vec<u8>> {
    xattr::get(file, OsStr::new(xattr::SELINUX)).ok().flatten()
}

/// Whether something is there and has this label.
fn has(tree: BorrowedFd<'_>, path: &Path, wanted: &[u8]) -> bool {
    let found = open(tree, path).and_then(|file| label(file.as_fd()));
    found.is_some_and(|found| without_end(&found) == wanted)
}

/// Gives something in a store the label that the same path has on the root. Returns whether it has one.
fn copy(root: BorrowedFd<'_>, store: BorrowedFd<'_>, path: &Path) -> Result<bool> {
    let (Some(model), Some(kept)) = (open(root, path), open(store, path)) else { return Ok(false) };
    let Some(found) = label(model.as_fd()) else { return Ok(false) };
    set(kept.as_fd(), &found, path)?;
    Ok(true)
}

fn set(file: BorrowedFd<'_>, label: &[u8], path: &Path) -> Result<()> {
    xattr::set(file, OsStr::new(xattr::SELINUX), label).context(|| {
        format!("cannot label {}", ebbtide_sys::escape(path.as_os_str().as_encoded_bytes()))
    })
}

/// The run directory and what lies directly in it are labelled like `/run`.
fn label_run(boot: &Boot) -> Result<()> {
    let above = boot.run.parent().unwrap_or(Path::new("/"));
    let Some(model) = label(open_directory(above)?.as_fd()) else { return Ok(()) };
    let run = open_directory(&boot.run)?;
    set(run.as_fd(), &model, &boot.run)?;
    for entry in file::read_directory(run.as_fd()).context(|| "cannot list the run directory")? {
        let path = Path::new(&entry.name);
        if matches!(entry.kind, Some(FileKind::Regular | FileKind::Directory | FileKind::Socket))
            && let Some(file) = open(run.as_fd(), path)
        {
            set(file.as_fd(), &model, &boot.run.join(path))?;
        }
    }
    Ok(())
}

fn restorecon(paths: &BTreeSet<&Path>) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let mut child = Command::new("restorecon")
        .args(["-0", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context(|| "cannot start restorecon (it is in the package policycoreutils)")?;
    let mut list = Vec::new();
    for path in paths {
        list.extend_from_slice(path.as_os_str().as_bytes());
        list.push(0);
    }
    // Why it did not read all of it, it says itself.
    let written = child.stdin.take().map(|mut input| input.write_all(&list));
    let ended = child.wait().context(|| "cannot wait for restorecon")?;
    match written {
        Some(Ok(())) if ended.success() => Ok(()),
        _ => Err(Failure::new(format!("restorecon failed: {ended}"))),
    }
}
