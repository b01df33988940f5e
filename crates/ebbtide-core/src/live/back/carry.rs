//! Carrying one entry's data over: copy, compare, unmount, rename. What fails leaves all as it was.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::metadata::{self, FileKind, Time};
use ebbtide_sys::tree::{self, CopyOptions, Privileges};
use ebbtide_sys::{file, mount, resolve};
use rustix::io::Errno;

use super::super::{Live, apply};
use super::{Back, STATUS, Step, Tell, cannot, changed_since, shown};
use crate::compiled::{Entry, MountOption};
use crate::failure::{Context, Failure, Level, Problem, Result};
use crate::past::restore::working_name;
use crate::{moment, store};

/// The copy, or what it took the place of, in its directory.
const IT: &str = "it";

/// Why something was not moved.
pub(super) enum Cut {
    /// It failed: all is as it was.
    Failed(Failure),
    /// It ends here, and what there is stays.
    Here(Failure),
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Live {
    /// Copies, unmounts, and puts the copy in place. Returns the mount.
    pub(super) fn one(
        &self,
        entry: &Entry,
        back: &mut Back,
        tell: &mut Tell<'_>,
        problems: &mut Vec<Problem>,
    ) -> std::result::Result<OwnedFd, Cut> {
        let what = || cannot(&entry.path);
        let root = self.places.root.as_fd();
        let (above, name) = resolve::split_parent(entry.relative())
            .ok_or_else(|| Failure::new(what()).caused_by("it has no name"))?;
        let parent = resolve::open_directory(root, above).context(what)?;
        let working = working_name(name);
        remove_empty(&parent, &working);
        let left = metadata::metadata_of_entry(parent.as_fd(), &working).context(what)?;
        if left.is_some() {
            let left = shown(&entry.path.with_file_name(&working));
            return Err(Failure::new(what())
                .caused_by(format!("{left} is what something that was cut off left"))
                .hint("look into it, then move it away: it is on the root")
                .into());
        }
        let work = file::create_directory(parent.as_fd(), &working, 0o700).context(what)?;
        let began = moment::now();
        let done = self
            .copy(entry, &work, back)
            .and_then(|()| self.unchanged(entry, began))
            .map_err(Cut::Failed)
            .and_then(|()| tell(Step::Copied).map_err(Cut::Here))
            .and_then(|()| self.swap(entry, &work, &parent, began, tell));
        let (mount, replaced) = match done {
            Ok(done) => done,
            Err(Cut::Failed(failure)) => {
                // By descriptor: whoever may write beside it can have put something else there.
                let _ = file::remove_tree(work.as_fd(), OsStr::new(IT));
                remove_empty(&parent, &working);
                return Err(Cut::Failed(failure));
            }
            Err(here) => return Err(here),
        };
        if replaced && let Err(failure) = self.put_away(entry, &work) {
            let place = entry.path.with_file_name(&working).join(IT);
            let mut problem = Problem::from_failure(Level::Warning, &failure);
            problem.message =
                format!("what lay below the mount is in {}: {}", shown(&place), problem.message);
            problems.push(problem);
        }
        remove_empty(&parent, &working);
        file::sync_filesystem(parent.as_fd()).context(what)?;
        tell(Step::Placed).map_err(Cut::Here)?;
        Ok(mount)
    }

    /// Copies the store's own, compares, and makes the copy durable.
    fn copy(&self, entry: &Entry, work: &OwnedFd, back: &mut Back) -> Result<()> {
        let what = || cannot(&entry.path);
        let store = self.places.store(&entry.store).map_err(Failure::new)?;
        let options =
            CopyOptions { keep_hard_links: true, cross_subvolumes: true, ..CopyOptions::default() };
        let path = entry.relative();
        let report =
            tree::copy_tree(store, path, work.as_fd(), OsStr::new(IT), options).context(what)?;
        // Content can only be shared within one filesystem.
        let shared = report.reflinked > 0;
        let difference = tree::first_difference(store, path, work.as_fd(), Path::new(IT), shared);
        if let Some(inner) = difference.context(what)? {
            let inner = shown(&entry.path.join(inner));
            return Err(Failure::new(what())
                .caused_by(format!("{inner} is not in the copy as in the store")));
        }
        // Who may write to a store where a program has no privileges must not get them by moving it.
        let dropped = tree::drop_privileges(work.as_fd(), OsStr::new(IT), self.powerless(entry))
            .context(what)?;
        back.unprivileged = dropped.iter().map(|inner| shown(inner)).collect();
        file::sync_filesystem(work.as_fd()).context(what)
    }

    /// What has no effect where an entry is mounted.
    fn powerless(&self, entry: &Entry) -> Privileges {
        let Some(store) = self.compiled.stores.get(&entry.store) else { return Privileges::ALL };
        let has = |option| store.options.contains(&option) || entry.options.contains(&option);
        Privileges { programs: has(MountOption::Nosuid), devices: has(MountOption::Nodev) }
    }

    /// Refuses if the store's own was written to since then: what was written is not in the copy.
    fn unchanged(&self, entry: &Entry, began: Time) -> Result<()> {
        let store = self.places.store(&entry.store).map_err(Failure::new)?;
        match changed_since(store, entry.relative(), began)? {
            None => Ok(()),
            Some(inner) => Err(Failure::new(cannot(&entry.path))
                .caused_by(format!("{} was written to meanwhile", shown(&entry.path.join(inner))))
                .hint("stop what writes there first")),
        }
    }

    /// Takes the mount away, and puts the copy there. Returns the mount, and whether something lay there.
    fn swap(
        &self,
        entry: &Entry,
        work: &OwnedFd,
        parent: &OwnedFd,
        began: Time,
        tell: &mut Tell<'_>,
    ) -> std::result::Result<(OwnedFd, bool), Cut> {
        let what = || cannot(&entry.path);
        let name = entry.relative().file_name().unwrap_or_default();
        let mount =
            mount::clone_mount(self.places.root.as_fd(), entry.relative(), false).context(what)?;
        match apply::unmount(self, &entry.path)? {
            // Also if it is busy in the namespace of a service only, which nothing here sees.
            Err(error) if error.errno() == Errno::BUSY => {
                return Err(Failure::new(what())
                    .caused_by("something uses it")
                    .hint("stop it first; `fuser -vm` lists what it is")
                    .into());
            }
            done => done.context(what)?,
        }
        tell(Step::Detached).map_err(Cut::Here)?;
        let it = OsStr::new(IT);
        let placed = self.unchanged(entry, began).and_then(|()| {
            let there = metadata::metadata_of_entry(parent.as_fd(), name).context(what)?.is_some();
            let renamed = if there {
                file::exchange(work.as_fd(), it, parent.as_fd(), name)
            } else {
                file::rename_noreplace(work.as_fd(), it, parent.as_fd(), name)
            };
            renamed.context(what).map(|()| there)
        });
        match placed {
            Ok(there) => Ok((mount, there)),
            Err(failure) => Err(Cut::Failed(match self.attach_again(entry, &mount) {
                Ok(()) => failure,
                Err(again) => failure.hint(format!("{}: {STATUS}", again.chain())),
            })),
        }
    }

    pub(super) fn attach_again(&self, entry: &Entry, mount: &OwnedFd) -> Result<()> {
        let what = || format!("{} is not mounted any more", shown(&entry.path));
        let target =
            resolve::open_path(self.places.root.as_fd(), entry.relative()).context(what)?;
        mount::attach(mount.as_fd(), target.as_fd()).context(what)
    }

    /// What lay below the mount: nothing, what the base has, or what was there before the entry was.
    fn put_away(&self, entry: &Entry, work: &OwnedFd) -> Result<()> {
        remove_empty(work, OsStr::new(IT));
        let left = metadata::metadata_of_entry(work.as_fd(), OsStr::new(IT))
            .context(|| "cannot look at it")?;
        let Some(left) = left else { return Ok(()) };
        if left.kind == FileKind::Regular && left.size == 0 {
            return file::remove_file(work.as_fd(), OsStr::new(IT))
                .map(drop)
                .context(|| "cannot remove the mount point");
        }
        store::trash_on_root(self.places.root.as_fd())?;
        store::move_to_trash(
            self.places.root.as_fd(),
            self.record.number,
            work.as_fd(),
            OsStr::new(IT),
            entry.relative(),
        )
        .map(drop)
    }
}

/// Removes a directory if it is empty; its name may be somebody else's by now.
fn remove_empty(parent: &OwnedFd, name: &OsStr) {
    let _ = rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::REMOVEDIR);
}
