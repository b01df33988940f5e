//! Doing what was planned: each file changes in one atomic step, and what it replaces is kept.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::tree::{self, CopyOptions};
use ebbtide_sys::{file, resolve, xattr};

use super::manifest::Item;
use super::observe::{self, Stores};
use super::plan::{Action, Found, Plan};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::record::BootNumber;
use crate::store;

const GONE: &str = "it has gone meanwhile";

/// What a harvest did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Harvested {
    /// How many files went into their store.
    pub updated: usize,
    /// How many left it for its trash.
    pub deleted: usize,
    /// What was not harvested, and why.
    pub problems: Vec<Problem>,
}

/// Applies a plan. An error means that not all of it is done; nothing is lost, and applying a new
/// plan goes on from there.
pub fn apply(
    plan: &Plan,
    items: &[Item],
    root: BorrowedFd<'_>,
    stores: &Stores,
    boot: BootNumber,
    log: &mut Log<'_>,
) -> Result<Harvested> {
    let mut harvested = Harvested::default();
    for (index, (item, action)) in items.iter().zip(plan).enumerate() {
        let path = item.path.display();
        let work = || -> Result<Work<'_>> {
            let store = stores
                .get(&item.store_uuid)
                .ok_or_else(|| Failure::new(format!("store {} is not open", item.store)))?;
            let scratch = OsString::from(format!("harvest-{boot}-{index}"));
            Ok(Work { item, root, store: store.as_fd(), boot, scratch })
        };
        let doubt = |what: &str, why: &str| Problem {
            level: Level::Warning,
            message: format!("{path} is not taken back into store {}: {why}", item.store),
            hint: Some(what.to_owned()),
        };
        match action {
            Action::Nothing => {}
            Action::Update => {
                log(Level::Debug, &format!("take {path} back into store {}", item.store));
                let done = work()?.update().context(|| format!("cannot harvest {path}"))?;
                match done {
                    Update::Done => harvested.updated += 1,
                    Update::Unfit(why) => {
                        harvested.problems.push(doubt("the store's copy stays", &why));
                    }
                }
            }
            Action::Delete => {
                log(Level::Debug, &format!("move {path} to the trash of store {}", item.store));
                work()?.delete().context(|| format!("cannot harvest the deletion of {path}"))?;
                harvested.deleted += 1;
            }
            Action::Doubt(why) => {
                let kept = work()?.keep_candidate().context(|| format!("cannot keep {path}"))?;
                let what = if kept {
                    "the store's copy stays; the other one is in the store's .ebbtide/trash"
                } else {
                    "the store's copy stays"
                };
                harvested.problems.push(doubt(what, why));
            }
            Action::Refuse(why) => harvested.problems.push(doubt("the store's copy stays", why)),
        }
    }
    Ok(harvested)
}

/// What came of taking a file back.
enum Update {
    Done,
    /// It has become something else since it was looked at, which can't be synced.
    Unfit(String),
}

struct Work<'a> {
    item: &'a Item,
    root: BorrowedFd<'a>,
    store: BorrowedFd<'a>,
    boot: BootNumber,
    scratch: OsString,
}

impl Work<'_> {
    fn relative(&self) -> &Path {
        self.item.path.strip_prefix("/").unwrap_or(&self.item.path)
    }

    /// Copies the root's file beside its place, makes it durable, and exchanges the two.
    fn update(&self) -> Result<Update> {
        let incoming = match self.copy()? {
            Ok(incoming) => incoming,
            Err(why) => return Ok(Update::Unfit(why)),
        };
        if !self.make_parents()? {
            return self.unfit(incoming.as_fd(), GONE.to_owned()).map(Update::Unfit);
        }
        let (parent, name) = self.place()?;
        let exists = metadata::metadata_beneath(parent.as_fd(), Path::new(&name))
            .context(|| "look at the store's copy")?
            .is_some();
        if exists {
            file::exchange(incoming.as_fd(), &self.scratch, parent.as_fd(), &name)
                .context(|| "exchange it with the store's copy")?;
            durable(self.store)?;
            self.trash(incoming.as_fd(), &self.scratch)?;
        } else {
            file::rename_noreplace(incoming.as_fd(), &self.scratch, parent.as_fd(), &name)
                .context(|| "put it into the store")?;
            // Deleted again one day, it must not come back from a base that has one by then.
            if !store::was_seeded(self.store, &self.item.path)? {
                let source = format!("the root of boot {}", self.boot);
                let hash = super::content_of(self.store, self.relative())?.map(|it| it.hash);
                store::note_seed(self.store, &self.item.path, &source, None, hash)?;
            }
        }
        durable(self.store)?;
        Ok(Update::Done)
    }

    fn delete(&self) -> Result<()> {
        let (parent, name) = self.place()?;
        self.trash(parent.as_fd(), &name)?;
        durable(self.store)
    }

    /// Puts the root's file into the trash, if it has any content.
    fn keep_candidate(&self) -> Result<bool> {
        let found = metadata::metadata_beneath(self.root, self.relative());
        let has_content =
            matches!(found, Ok(Some(found)) if found.kind == FileKind::Regular && found.size > 0);
        if !has_content {
            return Ok(false);
        }
        let Ok(incoming) = self.copy()? else { return Ok(false) };
        self.trash(incoming.as_fd(), &self.scratch)?;
        durable(self.store)?;
        Ok(true)
    }

    /// Copies the root's file into the store's own directory, durably; or says why what lies there by now
    /// can't be synced. Only a file that somebody exchanges in this moment gets there: of those that
    /// belong together that is an error, because they are harvested all or none.
    fn copy(&self) -> Result<std::result::Result<OwnedFd, String>> {
        let incoming = store::own_subdirectory(self.store, "incoming")?;
        match file::remove_tree(incoming.as_fd(), &self.scratch) {
            Err(error) if !error.is_not_found() => {
                return Err(error).context(|| "remove what an earlier attempt left");
            }
            _ => {}
        }
        let options = CopyOptions { keep_hard_links: false, ..CopyOptions::default() };
        let copied =
            tree::copy_tree(self.root, self.relative(), incoming.as_fd(), &self.scratch, options);
        let why = match copied {
            Ok(_) => match observe::look(incoming.as_fd(), Path::new(&self.scratch))? {
                Found::File(_) => {
                    durable(self.store)?;
                    return Ok(Ok(incoming));
                }
                Found::Unfit(why) => why,
                Found::Absent => GONE.to_owned(),
            },
            Err(error) if error.is_not_found() || observe::is_in_the_way(&error) => GONE.to_owned(),
            Err(error) => return Err(error).context(|| "copy it"),
        };
        self.unfit(incoming.as_fd(), why).map(Err)
    }

    /// Removes the copy of what was never looked at, and returns why it is one.
    fn unfit(&self, incoming: BorrowedFd<'_>, why: String) -> Result<String> {
        let _ = file::remove_tree(incoming, &self.scratch);
        if self.item.set.is_some() {
            return Err(Failure::new("it changed meanwhile").caused_by(why));
        }
        Ok(why)
    }

    fn trash(&self, from: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        store::move_to_trash(self.store, self.boot, from, name, self.relative()).map(drop)
    }

    /// Makes the store's directories above the file as the root has them; or returns `false`, because the
    /// root has them no longer.
    fn make_parents(&self) -> Result<bool> {
        let parents: Vec<_> = self.relative().ancestors().skip(1).collect();
        for parent in parents.into_iter().rev().filter(|parent| !parent.as_os_str().is_empty()) {
            let what = || format!("make {} in the store", parent.display());
            if metadata::metadata_beneath(self.store, parent).context(what)?.is_some() {
                continue;
            }
            let model = match resolve::open_directory(self.root, parent) {
                Ok(model) => model,
                Err(error) if error.is_not_found() || observe::is_in_the_way(&error) => {
                    return Ok(false);
                }
                Err(error) => return Err(error).context(what),
            };
            let found = metadata::metadata(model.as_fd()).context(what)?;
            let (above, name) = split(self.store, parent)?;
            let made = file::create_directory(above.as_fd(), &name, 0o700).context(what)?;
            metadata::set_owner(made.as_fd(), found.uid, found.gid).context(what)?;
            metadata::set_mode(made.as_fd(), found.mode).context(what)?;
            xattr::copy_labels(model.as_fd(), made.as_fd()).context(what)?;
        }
        Ok(true)
    }

    fn place(&self) -> Result<(OwnedFd, OsString)> {
        split(self.store, self.relative())
    }
}

fn split(tree: BorrowedFd<'_>, path: &Path) -> Result<(OwnedFd, OsString)> {
    let (parent, name) = resolve::split_parent(path)
        .ok_or_else(|| Failure::new(format!("{} has no name", path.display())))?;
    let parent = resolve::open_directory(tree, parent).context(|| "open the parent")?;
    Ok((parent, name.to_owned()))
}

fn durable(store: BorrowedFd<'_>) -> Result<()> {
    file::sync_filesystem(store).context(|| "sync the store")
}
