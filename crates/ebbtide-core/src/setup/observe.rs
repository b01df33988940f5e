//! What the volume and the source of the base look like before anything is done.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{btrfs, file, kernel, metadata, resolve};
use uuid::Uuid;

use super::sanitise::{self, Finding};
use super::{BaseSource, Request, UPDATERS, separate};
use crate::compiled::{Backend, StoreName};
use crate::container::{self, Container};
use crate::failure::{Context, Failure, Result};
use crate::store;
use crate::volume::Volume;

/// The id of a btrfs' top level.
pub(super) const TOP_LEVEL: u64 = 5;

/// What installing GRUB runs. The second one is of Debian and its kin, and so is `/etc/default/grub.d`,
/// which Ebbtide writes a file into: grub-mkconfig(8) of others does not read it.
pub(super) const GRUB: [&str; 2] = ["grub-install", "update-grub"];

/// What was seen.
#[derive(Debug, Clone)]
pub struct Observation {
    /// What lies where the container is to go.
    pub container: Occupant,
    /// The id of the volume's default subvolume.
    pub default_subvolume: u64,
    /// Stores: whether there is something already, and the UUID of its marker.
    pub stores: BTreeMap<StoreName, StoreState>,
    /// Outermost subvolumes inside the source, relative to it.
    pub nested: Vec<PathBuf>,
    /// Active swap files inside the source.
    pub swap_files: Vec<PathBuf>,
    /// What must leave the base.
    pub findings: Vec<Finding>,
    /// Units of [`UPDATERS`] that the source has and that are not masked.
    pub updaters: Vec<&'static str>,
    /// The source's `/etc/fstab`.
    pub fstab: String,
    /// Where other filesystems are mounted below the source, as paths of the system in it.
    pub mounted: Vec<PathBuf>,
    /// What builds an initramfs in the source, with Ebbtide's part of it installed.
    pub builder: Option<Builder>,
    /// The releases of the kernels in the source's `/boot`.
    pub kernels: Vec<String>,
    /// The first program that installing GRUB needs, and that the source lacks.
    pub grub_lacks: Option<&'static str>,
}

/// What builds an initramfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builder {
    /// initramfs-tools, as on Debian and Ubuntu.
    InitramfsTools,
    /// dracut, as on Fedora, and on Debian where somebody asked for it.
    Dracut,
    /// mkinitcpio, as on Arch.
    Mkinitcpio,
}

/// What lies where a container is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// A container with this UUID.
    Container(Uuid),
    /// Something else.
    Other,
}

/// A store before it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreState {
    /// There is no such subvolume yet.
    Absent,
    /// The place exists, with this marker or none.
    Present(Option<Uuid>),
    /// It has compiled declarations: it is the state store of a container.
    InUse(Uuid),
}

/// Looks at everything that a set-up depends on; changes nothing.
pub fn observe(request: &Request, top: BorrowedFd<'_>) -> Result<Observation> {
    let what = || format!("cannot look at the volume on {}", request.device);
    let container = match resolve::open_directory(top, &request.container.path) {
        Ok(directory) => match Container::marker_of(directory.as_fd())? {
            Some(uuid) => Occupant::Container(uuid),
            None => Occupant::Other,
        },
        Err(error) if error.is_not_found() => Occupant::Nothing,
        Err(error) => return Err(error).context(what),
    };
    let default_subvolume = match request.backend() {
        Backend::Btrfs => btrfs::default_subvolume(top).context(what)?.0,
        Backend::Overlay | Backend::Tmpfs => TOP_LEVEL,
    };
    let mut stores = BTreeMap::new();
    for name in request.declaration.stores.keys() {
        stores.insert(name.clone(), store_state(request, name, top)?);
    }
    let source = open_source(request, top)?;
    let mut seen = Observation {
        container,
        default_subvolume,
        stores,
        nested: Vec::new(),
        swap_files: Vec::new(),
        findings: Vec::new(),
        updaters: Vec::new(),
        fstab: String::new(),
        mounted: Vec::new(),
        builder: None,
        kernels: Vec::new(),
        grub_lacks: None,
    };
    if let Some(source) = &source {
        look_at_source(request, source.as_fd(), &mut seen)?;
    }
    Ok(seen)
}

/// Opens the tree that the base is made from; `None` for a blank one.
pub(super) fn open_source(request: &Request, top: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match &request.base {
        BaseSource::Blank => Ok(None),
        BaseSource::Directory(path) => {
            let what = || format!("cannot open {}", path.display());
            let opened = OwnedFd::from(std::fs::File::open(path).context(what)?);
            let found = metadata::metadata(opened.as_fd()).context(what)?;
            if found.kind != metadata::FileKind::Directory {
                return Err(Failure::new(format!("{} is not a directory", path.display())));
            }
            let running = std::fs::File::open("/").context(|| "cannot open /")?;
            let running = metadata::metadata(running.as_fd()).context(|| "cannot look at /")?;
            if (running.device, running.inode) == (found.device, found.inode) {
                return Err(Failure::new("the running root changes while it is copied")
                    .hint("run init from a rescue system, or take a snapshot of it as the base"));
            }
            Ok(Some(opened))
        }
        BaseSource::Subvolume(path) => {
            let what = || format!("cannot open the subvolume {}", path.display());
            let opened = resolve::open_directory(top, path).context(what)?;
            if !btrfs::is_subvolume(opened.as_fd()).context(what)? {
                return Err(Failure::new(format!("{} is not a subvolume", path.display()))
                    .hint("use --base-directory for a plain directory"));
            }
            if btrfs::subvolume_info(opened.as_fd()).context(what)?.id.0 == 5 {
                return Err(Failure::new("the top level of the volume is no system's root")
                    .hint("name the subvolume that the system is installed in"));
            }
            Ok(Some(opened))
        }
    }
}

fn store_state(request: &Request, name: &StoreName, top: BorrowedFd<'_>) -> Result<StoreState> {
    let Some(wanted) = request.declaration.stores.get(name) else { return Ok(StoreState::Absent) };
    if wanted.device == request.device {
        // On the volume itself the subvolume or directory can be made.
        let place = wanted.subvolume.as_ref().or(wanted.directory.as_ref());
        let Some(place) = place else { return Ok(StoreState::Absent) };
        return match resolve::open_directory(top, place) {
            Ok(opened) => present(opened.as_fd()),
            Err(error) if error.is_not_found() => Ok(StoreState::Absent),
            Err(error) => Err(error).context(|| format!("cannot look at store {name}")),
        };
    }
    let opened =
        store::open_any(wanted.place()).context(|| format!("store {name} is not there"))?;
    present(opened.as_fd())
}

fn present(store: BorrowedFd<'_>) -> Result<StoreState> {
    Ok(match store::identity(store)? {
        Some(uuid) if store::has_declarations(store) => StoreState::InUse(uuid),
        marker => StoreState::Present(marker),
    })
}

fn look_at_source(request: &Request, source: BorrowedFd<'_>, seen: &mut Observation) -> Result<()> {
    let what = || "cannot look at the source of the base";
    if let BaseSource::Subvolume(_) = &request.base {
        let nested = btrfs::nested_subvolumes(source).context(what)?;
        let mut nested: Vec<PathBuf> = nested.into_iter().map(|(_, path)| path).collect();
        nested.sort();
        for path in nested {
            // Those inside another are copied with it.
            if !seen.nested.iter().any(|outer| path.starts_with(outer)) {
                seen.nested.push(path);
            }
        }
    }
    if let BaseSource::Directory(path) = &request.base {
        let swaps = kernel::active_swap_files().context(what)?;
        seen.swap_files = swaps.into_iter().filter(|swap| swap.starts_with(path)).collect();
        seen.mounted = separate::mounted_below(path)?;
    }
    seen.findings = sanitise::find(source)?;
    let exists = |path: &str| -> Result<bool> {
        Ok(metadata::metadata_beneath(source, Path::new(path)).context(what)?.is_some())
    };
    for (unit, _) in UPDATERS {
        let shipped = ["usr/lib/systemd/system", "lib/systemd/system"]
            .iter()
            .any(|directory| exists(&format!("{directory}/{unit}")).unwrap_or(false));
        if shipped && !exists(&format!("etc/systemd/system/{unit}"))? {
            seen.updaters.push(unit);
        }
    }
    seen.fstab = read_fstab(source)?;
    // Where both are, dracut brings an update-initramfs of its own that runs it.
    seen.builder = if exists("usr/bin/dracut")? {
        exists("usr/lib/dracut/modules.d/90ebbtide")?.then_some(Builder::Dracut)
    } else if exists("usr/sbin/update-initramfs")? {
        exists("usr/share/initramfs-tools/hooks/ebbtide")?.then_some(Builder::InitramfsTools)
    } else if exists("usr/bin/mkinitcpio")? && exists("usr/lib/initcpio/install/ebbtide")? {
        mkinitcpio_calls_ebbtide(source)?.then_some(Builder::Mkinitcpio)
    } else {
        None
    };
    for program in GRUB {
        if !exists(&format!("usr/sbin/{program}"))? && seen.grub_lacks.is_none() {
            seen.grub_lacks = Some(program);
        }
    }
    if let Ok(boot) = resolve::open_directory(source, Path::new("boot")) {
        let names = file::read_directory(boot.as_fd()).context(what)?;
        let release = |name: &OsStr| Some(name.to_str()?.strip_prefix("vmlinuz-")?.to_owned());
        seen.kernels = names.iter().filter_map(|entry| release(&entry.name)).collect();
        seen.kernels.sort();
    }
    Ok(())
}

/// Whether a configuration of mkinitcpio has Ebbtide's hook in `HOOKS`: being installed is not enough there.
fn mkinitcpio_calls_ebbtide(system: BorrowedFd<'_>) -> Result<bool> {
    let what = |path: &Path| format!("cannot read /{} of the base", path.display());
    let mut files = vec![PathBuf::from("etc/mkinitcpio.conf")];
    let snippets = Path::new("etc/mkinitcpio.conf.d");
    match resolve::open_directory(system, snippets) {
        Ok(directory) => {
            let names = file::read_directory(directory.as_fd()).context(|| what(snippets))?;
            let snippet = |name: &OsStr| Path::new(name).extension() == Some(OsStr::new("conf"));
            let names = names.iter().map(|entry| &entry.name).filter(|name| snippet(name));
            files.extend(names.map(|name| snippets.join(name)));
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error).context(|| what(snippets)),
    }
    for path in files {
        match file::read_limited(system, &path, 1 << 20) {
            Ok(text) if hooks_have_ebbtide(&String::from_utf8_lossy(&text)) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error).context(|| what(&path)),
        }
    }
    Ok(false)
}

/// The file is a shell script, and `HOOKS` an array, which can be written over several lines.
fn hooks_have_ebbtide(script: &str) -> bool {
    script
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .flat_map(|line| line.split(|it: char| it.is_whitespace() || "=()\"'".contains(it)))
        .any(|word| word == "ebbtide" || word == "sd-ebbtide")
}

/// Reads `/etc/fstab` of the system below a directory; no file is an empty one.
pub(super) fn read_fstab(system: BorrowedFd<'_>) -> Result<String> {
    match file::read_limited(system, Path::new("etc/fstab"), 1 << 20) {
        Ok(bytes) => String::from_utf8(bytes).context(|| "/etc/fstab of the base is not UTF-8"),
        Err(error) if error.is_not_found() => Ok(String::new()),
        Err(error) => Err(error).context(|| "cannot look at /etc/fstab of the base"),
    }
}

/// Mounts the volume on which a container is to be made.
pub fn open_volume(request: &Request) -> Result<Volume> {
    container::open_volume(request.backend(), &request.device, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_places_of_a_configuration_are_read() {
        let system = tempfile::tempdir().unwrap();
        let opened = OwnedFd::from(std::fs::File::open(system.path()).unwrap());
        let called = || mkinitcpio_calls_ebbtide(opened.as_fd()).unwrap();
        assert!(!called());
        let snippets = system.path().join("etc/mkinitcpio.conf.d");
        std::fs::create_dir_all(snippets.join("kept.conf.old")).unwrap();
        let write = |path: &Path, hook| std::fs::write(path, format!("HOOKS=(base {hook})\n"));
        write(&system.path().join("etc/mkinitcpio.conf"), "udev").unwrap();
        write(&snippets.join("hooks.bak"), "ebbtide").unwrap();
        assert!(!called());
        write(&snippets.join("hooks.conf"), "ebbtide").unwrap();
        assert!(called());
        std::fs::remove_file(snippets.join("hooks.conf")).unwrap();
        write(&system.path().join("etc/mkinitcpio.conf"), "sd-ebbtide").unwrap();
        assert!(called());
    }

    #[test]
    fn a_hook_counts_where_it_is_called() {
        for called in [
            "HOOKS=(base udev block ebbtide filesystems)",
            "HOOKS=\"base systemd sd-ebbtide\"",
            "HOOKS=(base\n\tebbtide\n)",
            "HOOKS+=(ebbtide) # last",
        ] {
            assert!(hooks_have_ebbtide(called), "{called}");
        }
        for not in ["", "#HOOKS=(ebbtide)", "HOOKS=(base) # ebbtide", "HOOKS=(my-ebbtide)"] {
            assert!(!hooks_have_ebbtide(not), "{not}");
        }
    }
}
