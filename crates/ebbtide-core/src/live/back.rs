//! Moving what entries keep back to the root, as plain files, before they are forgotten.
//!
//! A copy is made beside its place, in a directory that only root can enter, compared with the store and
//! synced. Then the mount is taken away, and one rename puts the copy there. The store's own is not touched
//! before the declaration has no such entry any more ([`MovedBack::finish`]): a cut before that leaves
//! what the next boot attaches again, a cut after it leaves the data on the root, in the store or in its
//! trash.

mod carry;
mod plan;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{self, FileKind, Time};
use ebbtide_sys::{file, mountinfo, tree};
use serde::Serialize;

use super::Live;
use crate::boot::Boot;
use crate::compiled::{Entry, StoreName};
use crate::failure::{Context, Failure, Level, Problem, Result};
use crate::harvest::Manifest;
use crate::{moment, status, store};
use carry::Cut;

/// What becomes of the data of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Back {
    /// The path.
    pub path: PathBuf,
    /// The store that keeps it.
    pub store: StoreName,
    /// How it comes back.
    pub how: How,
    /// Bytes of it.
    pub bytes: u64,
    /// Where the store's own is, below the store; null as long as it is in its place.
    pub trash: Option<PathBuf>,
    /// Files below it that lost privileges which had no effect in the store, and devices left out, escaped.
    pub unprivileged: Vec<String>,
}

/// How data come back to the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// They are copied from the store.
    Copied,
    /// The root has the file already: it is one of the method `sync`.
    InPlace,
    /// There are none yet.
    Nothing,
}

/// The steps after which tests cut it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The copy is complete and durable.
    Copied,
    /// The mount is gone.
    Detached,
    /// The copy is in place, durably.
    Placed,
    /// The store's own is in its trash.
    Trashed,
}

/// What hears of each step; what it returns as an error ends everything there, as a power cut would.
pub type Tell<'t> = dyn FnMut(Step) -> Result<()> + 't;

/// Data that are back on the root, and in their stores as well.
#[derive(Debug)]
pub struct MovedBack {
    items: Vec<Moved>,
    /// What did not work, and does not matter to the data.
    pub problems: Vec<Problem>,
}

#[derive(Debug)]
struct Moved {
    entry: Entry,
    back: Back,
    /// The mount that was taken away, attached nowhere.
    mount: Option<OwnedFd>,
    placed: Time,
}

impl Live {
    /// Copies the data of these entries to the root and unmounts them: all of them, or none.
    ///
    /// # Errors
    ///
    /// As [`Self::plan_back`], and those of copying and unmounting; then all is as it was.
    pub fn move_back(&self, paths: &[PathBuf], tell: &mut Tell<'_>) -> Result<MovedBack> {
        let _lock = self.container.lock()?;
        let mut moved = MovedBack { items: Vec::new(), problems: Vec::new() };
        for mut back in self.plan_back(paths)? {
            let entry = self.compiled.entries.iter().find(|entry| entry.path == back.path);
            let Some(entry) = entry.cloned() else { continue };
            let mount = match back.how {
                How::Copied => match self.one(&entry, &mut back, tell, &mut moved.problems) {
                    Ok(mount) => Some(mount),
                    Err(Cut::Here(failure)) => return Err(failure),
                    Err(Cut::Failed(failure)) => return Err(with(failure, &moved.undo(self))),
                },
                How::InPlace | How::Nothing => None,
            };
            moved.items.push(Moved { entry, back, mount, placed: moment::now() });
        }
        if let Err(failure) = self.record_without(&moved) {
            return Err(with(failure, &moved.undo(self)));
        }
        Ok(moved)
    }

    /// The record of this boot says what was mounted on its root, so that nobody looks for it there.
    fn record_without(&self, moved: &MovedBack) -> Result<()> {
        let mut record = self.record.clone();
        if let Some(attached) = &mut record.attached {
            for it in moved.items.iter().filter(|it| it.mount.is_some()) {
                attached.mounted.remove(&it.entry.path);
            }
        }
        self.container.set_record(&record).context(|| "cannot write the record of this boot")
    }
}

impl MovedBack {
    /// Mounts everything again, because the entries stay declared. What can't be is told.
    pub fn undo(self, live: &Live) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Err(failure) = live.container.set_record(&live.record) {
            problems.push(Problem::from_failure(Level::Warning, &failure));
        }
        for Moved { entry, mount, placed, .. } in self.items.into_iter().rev() {
            let Some(mount) = mount else { continue };
            let root = live.places.root.as_fd();
            let path = shown(&entry.path);
            let done = match changed_since(root, entry.relative(), placed) {
                Ok(None) => live.attach_again(&entry, &mount),
                Ok(Some(_)) => Err(Failure::new(format!(
                    "{path} is on the root and was written to since, so it is not mounted again"
                ))),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = done {
                let mut problem = Problem::from_failure(Level::Warning, &failure);
                problem.hint = Some(format!(
                    "copy {path} elsewhere: the next boot mounts what the store has, and the past root \
                     has the other"
                ));
                problems.push(problem);
            }
        }
        problems
    }

    /// Moves what the stores have to their trash, now that no entry keeps it. What can't be moved stays in
    /// its store, and is told.
    ///
    /// # Errors
    ///
    /// Only what `tell` returns, and if the declaration in force can't be read; then all of it stays.
    pub fn finish(
        self,
        live: &Live,
        boot: &Boot,
        tell: &mut Tell<'_>,
    ) -> Result<(Vec<Back>, Vec<Problem>)> {
        let _lock = live.container.lock()?;
        let (_, compiled) = status::declaration(boot, &live.container)?;
        let mut problems = self.problems;
        let mut done = Vec::new();
        for Moved { entry, mut back, mount, .. } in self.items {
            drop(mount);
            if back.how != How::Nothing {
                match take_out(live, &entry, &compiled.entries) {
                    Ok(trash) => back.trash = trash,
                    Err(failure) => {
                        let mut problem = Problem::from_failure(Level::Warning, &failure);
                        problem.message = format!(
                            "what store {} has of {} stays there: {}",
                            entry.store,
                            shown(&entry.path),
                            problem.message
                        );
                        problems.push(problem);
                    }
                }
            }
            done.push(back);
            tell(Step::Trashed)?;
        }
        Ok((done, problems))
    }
}

/// Moves what a store has of a path to its trash, if nothing needs it.
fn take_out(live: &Live, entry: &Entry, declared: &[Entry]) -> Result<Option<PathBuf>> {
    let needs = |it: &&Entry| it.path.starts_with(&entry.path) || entry.path.starts_with(&it.path);
    if let Some(other) = declared.iter().find(needs) {
        return Err(Failure::new(format!("{} is declared", shown(&other.path))));
    }
    let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
    let target = live.places.target(entry);
    if mounts.iter().any(|mount| mount.mount_point.starts_with(&target)) {
        return Err(Failure::new("something is mounted there"));
    }
    let there = metadata::metadata_beneath(live.places.root.as_fd(), entry.relative())
        .context(|| "cannot look at it on the root")?;
    if there.is_none() {
        return Err(Failure::new("it is not on the root any more"));
    }
    // What the manifest lists is taken back into the store at the end of this root.
    if let Some(mut manifest) = Manifest::read(&live.container, live.manifest.root)?
        && manifest.items.iter().any(|item| item.path == entry.path)
    {
        manifest.items.retain(|item| item.path != entry.path);
        manifest.write(&live.container).context(|| "cannot write the manifest of this root")?;
    }
    file::sync_filesystem(live.places.root.as_fd()).context(|| "cannot sync the root")?;
    let store = live.places.store(&entry.store).map_err(Failure::new)?;
    store::notes::forget(store, &entry.path)?;
    store::take_out(store, live.record.number, &entry.path)
}

fn changed_since(tree: BorrowedFd<'_>, path: &Path, since: Time) -> Result<Option<PathBuf>> {
    let what = || format!("cannot look at {} again", shown(path));
    let found = metadata::metadata_beneath(tree, path).context(what)?;
    match found {
        Some(found) if found.kind == FileKind::Directory => {
            tree::changed_since(tree, path, since).context(what)
        }
        Some(found) => Ok((found.changed > since).then(PathBuf::new)),
        None => Ok(Some(PathBuf::new())),
    }
}

const WITHOUT: &str = "without `--move-back` the data stay in the store";
const STATUS: &str = "`ebbtide status` says why, and `ebbtide apply` puts it there";

/// A failure that left something behind.
fn with(failure: Failure, problems: &[Problem]) -> Failure {
    let told: Vec<String> = failure
        .advice()
        .map(str::to_owned)
        .into_iter()
        .chain(problems.iter().map(ToString::to_string))
        .collect();
    if told.is_empty() { failure } else { failure.hint(told.join("; ")) }
}

fn cannot(path: &Path) -> String {
    format!("cannot move {} back to the root", shown(path))
}

fn cannot_of(path: &Path, why: &str) -> String {
    format!("{}: {why}", cannot(path))
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}
