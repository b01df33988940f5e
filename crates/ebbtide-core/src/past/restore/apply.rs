//! Bringing a version back. Each step is whole or not there at all after a power cut, and what was there
//! is never gone.
//!
//! The copy is made in a directory beside its place that only root can enter, compared, and made
//! durable. One rename puts it in place. With `--force` that rename is an exchange, and what was
//! there, now in that directory, goes to the trash. A cut leaves that directory: the next restore of the
//! same path puts it into the trash as it is, because it can hold either.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::tree::{self, CopyOptions, Privileges};
use ebbtide_sys::{file, metadata, resolve, xattr};
use rustix::io::Errno;

use super::plan::{Area, Existing, Plan, Replaced, shown};
use super::target::{Reached, working_name};
use crate::failure::{Context, Failure, Result};
use crate::record::BootNumber;
use crate::store;

/// The copy, or what was replaced, in its directory.
const IT: &str = "it";

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Done {
    /// Where that is which was replaced: absolute, or below the store.
    pub trash: Option<PathBuf>,
    /// Where that is which an earlier restore left.
    pub leftover: Option<PathBuf>,
    /// Outside of a root: files without the privileges that they had, and devices that were left out,
    /// below what was restored.
    pub unprivileged: Vec<PathBuf>,
    /// Sockets, which mean nothing without the program that listens, below what was restored.
    pub sockets: Vec<PathBuf>,
}

/// The steps after which tests cut a restore off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Directories above the place were made.
    Parents,
    /// The directory of the copy was made.
    Prepared,
    /// The copy is complete and durable.
    Copied,
    /// It is in place.
    Placed,
    /// What was replaced is in the trash.
    Trashed,
}

/// Does what was planned. `reached` is seen after the container was locked. `tell` hears of each step
/// that was done; what it returns as an error ends the restore there, as a power cut would.
pub(super) fn apply(
    plan: &Plan,
    reached: &Reached,
    source: BorrowedFd<'_>,
    boot: BootNumber,
    tell: &mut dyn FnMut(Step) -> Result<()>,
) -> Result<Done> {
    let mut done = Done::default();
    let (above, name) = reached.split()?;
    let from = plan.path.strip_prefix("/").unwrap_or(&plan.path);
    make_parents(reached, source, from, above)?;
    tell(Step::Parents)?;
    let parent = resolve::open_directory(reached.tree.as_fd(), above)
        .context(|| format!("cannot open the directory of {}", shown(&plan.to)))?;
    let trash = Trash { reached, boot };
    let working = working_name(name);
    if plan.leftover.is_some() {
        remove_empty(parent.as_fd(), &working);
        let left = metadata::metadata_of_entry(parent.as_fd(), &working)
            .context(|| "cannot look at what an earlier restore left")?;
        if left.is_some() {
            let place = above.join(&working);
            done.leftover = Some(trash.take(parent.as_fd(), &working, &place)?);
        }
    }
    if plan.replaced == Replaced::Trash {
        // What can't be had is better known before anything is moved.
        trash.prepare()?;
    }
    let work = file::create_directory(parent.as_fd(), &working, 0o700)
        .context(|| format!("cannot make a directory beside {}", shown(&plan.to)))?;
    let copied = tell(Step::Prepared)
        .map_err(Cut::Here)
        .and_then(|()| copy(plan, reached, source, from, &work, &mut done).map_err(Cut::Failed))
        .and_then(|()| tell(Step::Copied).map_err(Cut::Here))
        .and_then(|()| place(plan, reached, &work, parent.as_fd(), name));
    match copied {
        Ok(()) => {}
        Err(Cut::Here(failure)) => return Err(failure),
        Err(Cut::Failed(failure)) => {
            // By descriptor: whoever may write beside it can have put something else under the name.
            let _ = file::remove_tree(work.as_fd(), OsStr::new(IT));
            remove_empty(parent.as_fd(), &working);
            return Err(failure);
        }
    }
    durable(parent.as_fd())?;
    tell(Step::Placed)?;
    if plan.replaced == Replaced::Trash {
        let taken = trash.take(work.as_fd(), OsStr::new(IT), &reached.relative);
        done.trash = Some(taken.map_err(|failure| {
            let place = plan.to.with_file_name(&working).join(IT);
            failure.hint(format!("it is restored; what was there is {}", shown(&place)))
        })?);
        durable(parent.as_fd())?;
    }
    tell(Step::Trashed)?;
    remove_empty(parent.as_fd(), &working);
    durable(parent.as_fd())?;
    Ok(done)
}

/// Why a copy did not come to its place.
enum Cut {
    /// It failed: nothing of it stays.
    Failed(Failure),
    /// It ends here, and what there is stays.
    Here(Failure),
}

/// Makes directories as the source has them: with their owner, mode and attributes.
fn make_parents(
    reached: &Reached,
    source: BorrowedFd<'_>,
    from: &Path,
    above: &Path,
) -> Result<()> {
    let count = reached.target.parents.len();
    let missing: Vec<&Path> = above.ancestors().take(count).collect();
    let models: Vec<&Path> = from.ancestors().skip(1).take(count).collect();
    for (directory, model) in missing.into_iter().zip(models).rev() {
        let what = || format!("cannot make {}", shown(directory));
        let (parent, name) = resolve::split_parent(directory)
            .ok_or_else(|| Failure::new(format!("{}: it has no name", what())))?;
        let parent = resolve::open_directory(reached.tree.as_fd(), parent).context(what)?;
        let model = resolve::open_directory(source, model).context(what)?;
        let found = metadata::metadata(model.as_fd()).context(what)?;
        let made = file::create_directory(parent.as_fd(), name, 0o700).context(what)?;
        metadata::set_owner(made.as_fd(), found.uid, found.gid).context(what)?;
        metadata::set_mode(made.as_fd(), found.mode).context(what)?;
        xattr::copy_xattrs(model.as_fd(), made.as_fd()).context(what)?;
    }
    Ok(())
}

/// Copies, compares, and makes the copy durable.
fn copy(
    plan: &Plan,
    reached: &Reached,
    source: BorrowedFd<'_>,
    from: &Path,
    work: &OwnedFd,
    done: &mut Done,
) -> Result<()> {
    let it = OsStr::new(IT);
    let options =
        CopyOptions { keep_hard_links: true, cross_subvolumes: true, ..CopyOptions::default() };
    let report = tree::copy_tree(source, from, work.as_fd(), it, options)
        .context(|| format!("cannot copy {} from the past root", shown(&plan.path)))?;
    if report.sockets_skipped.iter().any(|path| path.as_os_str().is_empty()) {
        return Err(Failure::new(format!(
            "cannot restore {}: a socket means nothing without the program that listens",
            shown(&plan.path)
        )));
    }
    done.sockets = report.sockets_skipped;
    // Content can only be shared within one filesystem.
    let shared = report.reflinked > 0;
    let difference = tree::first_difference(source, from, work.as_fd(), Path::new(IT), shared)
        .context(|| "cannot compare the copy with its original")?;
    if let Some(inner) = difference {
        return Err(Failure::new(format!(
            "cannot restore {}: {} is not in the copy as it is in the past root",
            shown(&plan.path),
            shown(&plan.path.join(inner))
        )));
    }
    if reached.target.area == Area::Given {
        done.unprivileged = tree::drop_privileges(work.as_fd(), it, Privileges::ALL)
            .context(|| "cannot take the privileges of programs away")?;
        let left =
            metadata::metadata_of_entry(work.as_fd(), it).context(|| "cannot look at the copy")?;
        if left.is_none() {
            return Err(Failure::new(format!(
                "cannot restore {}: a device is restored to its own place only",
                shown(&plan.path)
            )));
        }
    }
    file::sync_filesystem(work.as_fd()).context(|| "cannot sync the filesystem")
}

/// The one step in which the version is there. On an error it is not.
fn place(
    plan: &Plan,
    reached: &Reached,
    work: &OwnedFd,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> std::result::Result<(), Cut> {
    if plan.replaced == Replaced::EmptyEntry {
        return fill(plan, reached, work, parent, name);
    }
    let it = OsStr::new(IT);
    let what = || format!("cannot put the copy in place as {}", shown(&plan.to));
    match plan.replaced {
        Replaced::Nothing => file::rename_noreplace(work.as_fd(), it, parent, name),
        // Only one that is empty still gives way: rename(2).
        Replaced::EmptyDirectory => file::rename_replace(work.as_fd(), it, parent, name),
        Replaced::Trash | Replaced::EmptyEntry => file::exchange(work.as_fd(), it, parent, name),
    }
    .map_err(|error| {
        Cut::Failed(match error.errno() {
            Errno::EXIST | Errno::NOTEMPTY => {
                Failure::new(what()).caused_by("something was put there meanwhile")
            }
            Errno::NOENT => Failure::new(what()).caused_by("what was there went meanwhile"),
            _ => Failure::new(what()).caused_by(error),
        })
    })
}

/// Moves what is in the copy into the directory of the entry, which is mounted and has to stay. Each
/// rename is whole; all of them together are not.
fn fill(
    plan: &Plan,
    reached: &Reached,
    work: &OwnedFd,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> std::result::Result<(), Cut> {
    let what = || format!("cannot fill {}", shown(&plan.to));
    let open = |directory: BorrowedFd<'_>, name: &Path| {
        resolve::open_directory(directory, name).context(what).map_err(Cut::Failed)
    };
    let (copy, entry) = (open(work.as_fd(), Path::new(IT))?, open(parent, Path::new(name))?);
    let found = metadata::metadata(copy.as_fd()).context(what).map_err(Cut::Failed)?;
    let names = file::read_directory(copy.as_fd()).context(what).map_err(Cut::Failed)?;
    let declared = reached.target.existing == Existing::EmptyEntry { declared: true };
    let attributes = || -> ebbtide_sys::Result<()> {
        metadata::set_owner(entry.as_fd(), found.uid, found.gid)?;
        metadata::set_mode(entry.as_fd(), found.mode)?;
        xattr::copy_xattrs(copy.as_fd(), entry.as_fd())
    };
    if !declared {
        attributes().context(what).map_err(Cut::Failed)?;
    }
    let rest = plan.to.with_file_name(working_name(name)).join(IT);
    for inner in names {
        // What was moved stays, and the rest is not thrown away either.
        file::rename_noreplace(copy.as_fd(), &inner.name, entry.as_fd(), &inner.name)
            .context(what)
            .map_err(|failure| failure.hint(format!("the rest is in {}", shown(&rest))))
            .map_err(Cut::Here)?;
    }
    let times = metadata::set_times(entry.as_fd(), found.accessed, found.modified);
    times.context(what).map_err(Cut::Here)?;
    // Empty by now.
    remove_empty(work.as_fd(), OsStr::new(IT));
    Ok(())
}

/// Removes a directory if it is empty; its name may be somebody else's by now.
fn remove_empty(parent: BorrowedFd<'_>, name: &OsStr) {
    let _ = rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::REMOVEDIR);
}

fn durable(directory: BorrowedFd<'_>) -> Result<()> {
    file::sync_filesystem(directory).context(|| "cannot sync the filesystem")
}

/// Where that goes which is replaced: `.ebbtide/trash` of the store, and of the root as well.
struct Trash<'a> {
    reached: &'a Reached,
    boot: BootNumber,
}

impl Trash<'_> {
    fn prepare(&self) -> Result<()> {
        let tree = self.reached.tree.as_fd();
        if matches!(self.reached.target.area, Area::Root(_)) {
            return store::trash_on_root(tree);
        }
        store::own_subdirectory(tree, "trash").map(drop)
    }

    /// Moves something there; returns its place.
    fn take(&self, from: BorrowedFd<'_>, name: &OsStr, place: &Path) -> Result<PathBuf> {
        self.prepare()?;
        let tree = self.reached.tree.as_fd();
        let taken = store::move_to_trash(tree, self.boot, from, name, place)
            .context(|| "cannot move what was there to the trash")?;
        Ok(match self.reached.target.area {
            Area::Root(_) => Path::new("/").join(taken),
            _ => taken,
        })
    }
}
