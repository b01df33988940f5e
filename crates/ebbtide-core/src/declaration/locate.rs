//! From a declaration to what an initramfs needs to carry.

use std::os::fd::AsFd;

use crate::compiled::{Backend, ContainerRef, DeviceSpec, StoreName};
use crate::declaration::Declaration;
use crate::failure::{Context, Failure, Result};
use crate::locator::{Locator, StateStore, VERSION};
use crate::store;
use crate::volume::FILESYSTEMS;

/// Makes the locator of a declared machine. Opens the state store, to name it by its UUID.
pub fn locate(declaration: &Declaration) -> Result<Locator> {
    let root = declaration.root.as_ref().ok_or_else(|| {
        Failure::new("the declaration has no [root], so there is no container to find")
    })?;
    let uuid = root.uuid.ok_or_else(|| {
        Failure::new("the declaration does not pin a container: [root] has no uuid")
            .hint("`ebbtide init` makes a container and writes its UUID there")
    })?;
    let state =
        declaration.stores.get(&StoreName(StoreName::STATE.to_owned())).ok_or_else(|| {
            Failure::new("the declaration has no store \"state\", where compiled declarations lie")
        })?;
    let opened = store::open_any(state.place()).context(|| "the state store is not there")?;
    let state_uuid = store::identity(opened.as_fd())?.ok_or_else(|| {
        Failure::new("the state store has no marker: it is no store of Ebbtide's")
            .hint("`ebbtide init` makes stores, `ebbtide apply` adds them")
    })?;
    Ok(Locator {
        version: VERSION,
        backend: root.backend,
        device: root.device.clone(),
        container: ContainerRef { path: root.container.clone(), uuid },
        options: root.options.clone(),
        state: StateStore {
            device: state.device.clone(),
            subvolume: state.subvolume.clone(),
            directory: state.directory.clone(),
            uuid: state_uuid,
        },
    })
}

/// The devices that a boot needs before it can reset, as they are declared, without repeats.
pub fn devices(declaration: &Declaration) -> Vec<DeviceSpec> {
    let root = declaration.root.iter().map(|root| root.device.clone());
    let stores = declaration.stores.values().map(|store| store.device.clone());
    let mut devices: Vec<DeviceSpec> = Vec::new();
    let mounts = declaration.root.iter().flat_map(|root| &root.mounts);
    let mounts = mounts.map(|mount| mount.device.clone());
    for device in root.chain(stores).chain(mounts) {
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    devices
}

/// The kernel modules of the filesystems on those devices. One that is not there now counts as
/// any that a store can be on.
pub fn modules(declaration: &Declaration) -> Vec<&'static str> {
    let backend = declaration.root.as_ref().map(|root| root.backend);
    let mut modules = match backend {
        Some(Backend::Overlay | Backend::Tmpfs) => vec!["overlay"],
        Some(Backend::Btrfs) | None => vec!["btrfs"],
    };
    for spec in devices(declaration) {
        let probed = ebbtide_sys::device::find(&spec.0)
            .ok()
            .and_then(|path| ebbtide_sys::device::probe(&path).ok().flatten());
        match probed {
            Some(superblock) => modules.push(superblock.fstype),
            None => modules.extend(FILESYSTEMS),
        }
    }
    modules.sort_unstable();
    modules.dedup();
    modules
}
