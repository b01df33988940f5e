//! Whether what entries keep can be moved back to the root now, and why not: changes nothing.

use std::os::fd::AsFd;
use std::path::PathBuf;

use ebbtide_sys::text::size;
use ebbtide_sys::{file, mountinfo, process, tree};

use super::super::{Live, observe, plan};
use super::{Back, How, STATUS, WITHOUT, cannot, cannot_of, shown};
use crate::attach::{self, Node};
use crate::compiled::{Backend, Entry, Method};
use crate::failure::{Context, Failure, Result};
use crate::harvest::{self, Found};

impl Live {
    /// Says what becomes of the data of these entries. A path that the declaration in force does not have
    /// is passed over.
    ///
    /// # Errors
    ///
    /// The first path whose data can't be moved now, and why.
    pub fn plan_back(&self, paths: &[PathBuf]) -> Result<Vec<Back>> {
        let of = |path: &PathBuf| self.compiled.entries.iter().find(|entry| entry.path == *path);
        paths.iter().filter_map(of).map(|entry| self.back(entry)).collect()
    }

    fn back(&self, entry: &Entry) -> Result<Back> {
        let cannot = |why: String, hint: &str| {
            let failure = Failure::new(cannot(&entry.path)).caused_by(why);
            Err(if hint.is_empty() { failure } else { failure.hint(hint) })
        };
        let others = self.compiled.entries.iter().filter(|it| it.path != entry.path);
        for other in others {
            let shown = shown(&other.path);
            if other.path.starts_with(&entry.path) {
                return cannot(
                    format!("{shown}, which lies in it, is kept by itself"),
                    "forget that first",
                );
            }
            if entry.path.starts_with(&other.path) {
                return cannot(
                    format!("it lies in {shown}, which is kept: it would not be on the root"),
                    WITHOUT,
                );
            }
        }
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        let one = std::slice::from_ref(entry);
        let seen = attach::observe(one, &self.places, &mounts)?;
        let Some(seen) = seen.into_iter().next() else { return cannot(String::new(), "") };
        let back = |how, bytes| {
            let (path, store) = (entry.path.clone(), entry.store.clone());
            Ok(Back { path, store, how, bytes, trash: None, unprivileged: Vec::new() })
        };
        match entry.method {
            Method::Copy => return cannot("every boot puts it there".to_owned(), ""),
            Method::Symlink => {
                return cannot(
                    format!("it is a symbolic link into store {}", entry.store),
                    "copy it yourself from /run/ebbtide/stores, then forget it without `--move-back`",
                );
            }
            Method::Bind | Method::Sync => {}
        }
        let source = seen.source.map_err(|why| Failure::new(cannot_of(&entry.path, &why)))?;
        if entry.method == Method::Sync {
            if !self.manifest.items.iter().any(|item| item.path == entry.path) {
                return match source {
                    Node::Absent => back(How::Nothing, 0),
                    _ => cannot("it is not in place".to_owned(), STATUS),
                };
            }
            return match harvest::look(self.places.root.as_fd(), entry.relative())? {
                Found::File(_) => back(How::InPlace, self.size(entry, true)?),
                Found::Absent if source == Node::Absent => back(How::Nothing, 0),
                Found::Absent => cannot("it was deleted in this boot".to_owned(), WITHOUT),
                Found::Unfit(why) => cannot(why, ""),
            };
        }
        if source == Node::Absent {
            return back(How::Nothing, 0);
        }
        if !seen.in_place {
            return cannot("it is not in place".to_owned(), STATUS);
        }
        let target = self.places.target(entry);
        if let Some(below) = observe::below(&target, &mounts).first() {
            return cannot(format!("{} is mounted below it", shown(below)), "unmount that first");
        }
        if observe::is_elsewhere(self.places.root.as_fd(), entry.relative())? {
            return cannot("it lies on another filesystem than the root".to_owned(), WITHOUT);
        }
        let users = process::users_of(&[target]).context(|| "cannot look who uses what")?;
        if let Some(first) = users.first() {
            return cannot(
                plan::in_use(first, users.len()),
                "stop it first; without `--move-back` it is unmounted at the next boot",
            );
        }
        let bytes = self.size(entry, false)?;
        let room = file::room(self.places.root.as_fd()).context(|| "cannot ask for free room")?;
        // In RAM nothing is shared with the store, and a full one stops the machine.
        if self.container.backend() == Backend::Tmpfs && bytes > room.available / 2 {
            return cannot(
                format!(
                    "it has {}, and the root is in RAM with {} free",
                    size(bytes),
                    size(room.available)
                ),
                WITHOUT,
            );
        }
        back(How::Copied, bytes)
    }

    /// Bytes of what the store has, or the root.
    fn size(&self, entry: &Entry, on_root: bool) -> Result<u64> {
        let tree = if on_root {
            self.places.root.as_fd()
        } else {
            self.places.store(&entry.store).map_err(Failure::new)?
        };
        tree::tree_size(tree, entry.relative())
            .context(|| format!("cannot measure {}", shown(&entry.path)))
    }
}
