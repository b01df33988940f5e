//! What a machine has and what was pinned, where the two differ: what boots refuse until it is accepted.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ebbtide_sys::metadata::{self, FileKind};
use ebbtide_sys::tree::{self, CopyOptions};
use ebbtide_sys::{file, resolve};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::Publication;
use crate::compiled::StoreName;
use crate::container::{self, Container};
use crate::declaration::RootDeclaration;
use crate::failure::{Context, Result};
use crate::store;

/// What was pinned: by which it is accepted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pinned {
    /// The UUID of the container, in the declaration and in the initramfs.
    Container,
    /// The UUID of a store, in the compiled declaration; that of the state store in the initramfs, too.
    Store(StoreName),
    /// The hash of the compiled declaration, in the container.
    Declaration,
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container => f.write_str("container"),
            Self::Store(name) => write!(f, "store.{name}"),
            Self::Declaration => f.write_str("declaration"),
        }
    }
}

impl Serialize for Pinned {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Became {
    /// Another one is in its place.
    Exchanged,
    /// Another store is in its place, and there is nothing in it.
    ExchangedForEmpty,
    /// What is in its place has no marker.
    Unmarked,
    /// What is in its place has no marker, nor anything else.
    Empty,
    /// Nothing is in its place.
    Gone,
}

/// Something that is not what was pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Difference {
    /// `"container"`, `"store.NAME"` or `"declaration"`.
    #[schemars(with = "String")]
    pub what: Pinned,
    /// What became of it.
    pub became: Became,
    /// The UUID or hash that is pinned.
    pub pinned: String,
    /// The UUID that is there; null if there is none.
    pub found: Option<String>,
    /// Whether it is accepted only if it is named.
    pub by_name: bool,
}

impl Difference {
    fn new(what: Pinned, became: Became, pinned: String, found: Option<String>) -> Self {
        let by_name = what == Pinned::Container
            || matches!(became, Became::ExchangedForEmpty | Became::Empty | Became::Gone);
        Self { what, became, pinned, found, by_name }
    }
}

/// Whether another container lies where the declared one should; its UUID, then.
pub fn other_container(root: &RootDeclaration) -> Result<Option<Uuid>> {
    let volume = container::open_volume_for_reading(root.backend, &root.device, &[])?;
    let found = Container::open_foreign(volume, root.backend, &root.container)?.uuid();
    Ok(root.uuid.is_some_and(|pinned| pinned != found).then_some(found))
}

/// The difference that it is.
pub fn container_difference(pinned: Uuid, found: Uuid) -> Difference {
    let found = Some(found.to_string());
    Difference::new(Pinned::Container, Became::Exchanged, pinned.to_string(), found)
}

impl Publication {
    /// The container.
    pub fn container(&self) -> &Container {
        &self.container
    }

    /// Stores that are not what was recorded in the same place.
    pub fn other_stores(&self) -> Result<Vec<Difference>> {
        let mut all = Vec::new();
        for name in self.declaration.stores.keys() {
            let Some(recorded) = self.recorded.get(name) else { continue };
            let (became, found) = match self.stores.get(name) {
                None => (Became::Gone, None),
                Some((_, Some(found))) if found == recorded => continue,
                Some((opened, found)) => {
                    let is_empty = is_empty(opened.as_fd())
                        .context(|| format!("cannot look at what is in store {name}"))?;
                    let became = match (found, is_empty) {
                        (Some(_), false) => Became::Exchanged,
                        (Some(_), true) => Became::ExchangedForEmpty,
                        (None, false) => Became::Unmarked,
                        (None, true) => Became::Empty,
                    };
                    (became, found.map(|uuid| uuid.to_string()))
                }
            };
            let what = Pinned::Store(name.clone());
            all.push(Difference::new(what, became, recorded.to_string(), found));
        }
        Ok(all)
    }

    /// All that is not what was pinned, but for the container.
    pub fn differences(&self) -> Result<Vec<Difference>> {
        let mut all = self.other_stores()?;
        if let Some(pins) = self.container.pins()? {
            let state = self.stores.get(&StoreName(StoreName::STATE.to_owned()));
            let used = state.and_then(|(state, _)| store::load(state.as_fd(), &pins).ok());
            if used.is_none_or(|(hash, _, _)| hash != pins.current) {
                let pinned = pins.current.to_string();
                all.push(Difference::new(Pinned::Declaration, Became::Gone, pinned, None));
            }
        }
        for it in &mut all {
            // What is compiled anew is what lies in /etc/ebbtide: nothing is lost by it.
            it.by_name &= it.what != Pinned::Declaration;
        }
        Ok(all)
    }
}

const CONFIGURATION: &str = "etc/ebbtide";
const SCRATCH: &str = "configuration";

/// Copies the declaration into a state store that has none: the next boot would hide it under an empty
/// directory else. A cut leaves all of it or nothing.
pub(super) fn keep_configuration(state: BorrowedFd<'_>, system: BorrowedFd<'_>) -> Result<()> {
    let place = Path::new(CONFIGURATION);
    let what = || "cannot copy /etc/ebbtide into the state store";
    let is_there = |tree| metadata::metadata_beneath(tree, place).context(what);
    let has = is_there(system)?.is_some_and(|it| it.kind == FileKind::Directory);
    let (Some((above, name)), true, None) = (resolve::split_parent(place), has, is_there(state)?)
    else {
        return Ok(());
    };
    let incoming = store::own_subdirectory(state, "incoming")?;
    let scratch = OsStr::new(SCRATCH);
    match file::remove_tree(incoming.as_fd(), scratch) {
        Err(error) if !error.is_not_found() => return Err(error).context(what),
        _ => {}
    }
    tree::copy_tree(system, place, incoming.as_fd(), scratch, CopyOptions::default())
        .context(what)?;
    file::sync_filesystem(state).context(what)?;
    let parent = match file::create_directory(state, above.as_os_str(), 0o755) {
        Err(error) if error.errno() == Errno::EXIST => resolve::open_directory(state, above),
        made => made,
    };
    let parent = parent.context(what)?;
    file::rename_noreplace(incoming.as_fd(), scratch, parent.as_fd(), name).context(what)?;
    file::sync_filesystem(state).context(what)
}

/// Whether a store has nothing in it but what is Ebbtide's own.
fn is_empty(store: BorrowedFd<'_>) -> Result<bool> {
    let top = resolve::open_directory(store, Path::new("")).context(|| "cannot open it")?;
    let names = file::read_directory(top.as_fd()).context(|| "cannot list it")?;
    // `mkfs` of ext4 makes that one.
    let nothing = [OsStr::new(store::OWN), OsStr::new("lost+found")];
    Ok(names.iter().all(|entry| nothing.contains(&entry.name.as_os_str())))
}
