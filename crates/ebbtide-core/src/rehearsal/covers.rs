//! What the machine has, each under an overlay of its own: what is written goes to RAM, and what lies
//! below is mounted for reading only.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::MountAttributes;
use uuid::Uuid;

use super::work::{Work, device, make};
use crate::compiled::{Compiled, StoreName, VolumeMount};
use crate::enclosure::mounts::{open_directory, overlay_over};
use crate::failure::{Context, Failure, Level, Problem, Result};
use crate::store::{self, Place};
use crate::volume;

/// The covered stores by their UUIDs, and why others are not there.
#[derive(Debug, Default)]
pub(super) struct Covers {
    stores: BTreeMap<Uuid, PathBuf>,
    /// Stores that can't be had, by name.
    pub(super) missing: BTreeMap<StoreName, Failure>,
    /// What is not as a boot would have it.
    pub(super) notes: Vec<Problem>,
}

impl Covers {
    /// Covers a store, once, and returns where it is mounted then.
    pub(super) fn store(&mut self, place: Place<'_>, uuid: Uuid, work: &Work) -> Result<PathBuf> {
        if let Some(covered) = self.stores.get(&uuid) {
            return Ok(covered.clone());
        }
        let name = format!("store-{}", self.stores.len());
        let volume = volume::mount_for_reading(place.device, place.subvolume, &[])
            .context(|| format!("cannot mount the store on {}", place.device))?;
        let below = below(&volume, place.directory, &name, work)?;
        store::check(below.as_fd(), place.device, uuid)?;
        let covered = cover(&below, &name, work)?;
        self.stores.insert(uuid, covered.clone());
        Ok(covered)
    }

    /// The declaration of the next boot with all that it names replaced by its cover. What has none is
    /// replaced by a place where nothing is: nothing of it may come from outside.
    pub(super) fn of(&mut self, compiled: &Compiled, work: &Work) -> Result<Compiled> {
        let mut covered = compiled.clone();
        for (name, store) in &mut covered.stores {
            let path = match self.store(store.place(), store.uuid, work) {
                Ok(path) => path,
                Err(failure) => {
                    self.missing.insert(name.clone(), failure);
                    work.nothing()
                }
            };
            store.device = device(&path)?;
            (store.subvolume, store.directory) = (None, None);
        }
        for (index, wanted) in covered.root.mounts.iter_mut().enumerate() {
            let path = match self.volume(wanted, index, work) {
                Ok(path) => path,
                Err(failure) => {
                    let what = format!("{} is not there", shown(&wanted.path));
                    let failure = Failure::new(what).caused_by(failure);
                    self.notes.push(Problem::from_failure(Level::Warning, &failure));
                    work.nothing()
                }
            };
            wanted.device = device(&path)?;
            (wanted.subvolume, wanted.directory) = (None, None);
        }
        Ok(covered)
    }

    fn volume(&mut self, wanted: &VolumeMount, index: usize, work: &Work) -> Result<PathBuf> {
        let name = format!("volume-{index}");
        let mounted = volume::mount_for_reading(&wanted.device, wanted.subvolume.as_deref(), &[])?;
        let below = below(&mounted, wanted.directory.as_deref(), &name, work)?;
        cover(&below, &name, work).or_else(|failure| {
            let what = format!("{} can only be read here", shown(&wanted.path));
            let failure = Failure::new(what).caused_by(failure);
            self.notes.push(Problem::from_failure(Level::Notice, &failure));
            Ok(work.below(&name))
        })
    }
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}

/// Attaches a volume, or a directory of it, where nobody but this process sees it: the layers of an
/// overlay have to be attached (Linux 6.1).
fn below(volume: &OwnedFd, directory: Option<&Path>, name: &str, work: &Work) -> Result<OwnedFd> {
    let at = make(&work.below(name))?;
    volume::attach(volume.as_fd(), directory, &at)?;
    open_directory(&at)
}

fn cover(below: &OwnedFd, name: &str, work: &Work) -> Result<PathBuf> {
    let layers = open_directory(&make(&work.layers())?)?;
    let (covered, _) = overlay_over(below.as_fd(), layers.as_fd(), name, MountAttributes::NOATIME)?;
    let at = make(&work.covered(name))?;
    volume::attach(covered.as_fd(), None, &at)?;
    Ok(at)
}
