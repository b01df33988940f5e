//! The container in a state directory: made the first time, and from then on what each throw-away root
//! boots from.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::{file, resolve};
use uuid::Uuid;

use super::state::State;
use crate::backend::overlay::Base;
use crate::compiled::{Backend, ContainerRef, DeviceSpec, StoreName};
use crate::container::{self, Container, name};
use crate::declaration::{DEFAULT_CONTAINER, Declaration, RootDeclaration, StoreDeclaration};
use crate::enclosure::mounts::{OPTIONS, magic, make_directory, open_directory};
use crate::failure::{Context, Failure, Result};
use crate::locator::{Locator, StateStore, VERSION};
use crate::publish::Publication;

/// The base of a new container.
const FIRST: u64 = 1;

/// How long the path of a state directory can be, in bytes: with what is added to it, it must fit into
/// an option of 255 bytes.
const LONGEST: usize = 120;

/// Where it is tried whether there can be roots.
const PROBE: &str = "probe";

/// What a boot from this state directory goes by.
pub(super) struct Prepared {
    pub(super) locator: Locator,
    /// The paths that are kept because somebody declared them.
    pub(super) kept: Vec<PathBuf>,
}

/// Makes the container if there is none, sees to its base, and compiles the declaration into it.
pub(super) fn prepare(state: &State, base: &Path, declaration: &Declaration) -> Result<Prepared> {
    let device = device(state.path())?;
    if device.0.len() > LONGEST || device.0.contains([':', '\\']) {
        return Err(Failure::new(format!("cannot use {device} as state directory"))
            .caused_by("overlays take no names with a colon or backslash, and no long ones")
            .hint("name another directory with --state"));
    }
    let base = device_of_base(base)?;
    let (backend, uuid) = match existing(state)? {
        Some(found) => found,
        None => make(state, &base)?,
    };
    let at = ContainerRef { path: PathBuf::from(DEFAULT_CONTAINER), uuid };
    let volume = container::open_volume(backend, &device, &[])?;
    see_to_base(&Container::open(volume, backend, &at)?, &base)?;
    let declaration = placed(declaration, backend, &device, uuid);
    let published = Publication::open(&declaration)?.publish()?;
    let state_store = StoreName(StoreName::STATE.to_owned());
    let store = published.compiled.stores.get(&state_store);
    let store = store.ok_or_else(|| Failure::new("the declaration has no store \"state\""))?;
    let locator = Locator {
        version: VERSION,
        backend,
        device,
        container: at,
        options: Vec::new(),
        state: StateStore {
            device: store.device.clone(),
            subvolume: None,
            directory: store.directory.clone(),
            uuid: store.uuid,
        },
    };
    let declared = published.compiled.entries.iter();
    let declared = declared.filter(|entry| entry.origin.line > 0);
    Ok(Prepared { locator, kept: declared.map(|entry| entry.path.clone()).collect() })
}

pub(super) fn device(path: &Path) -> Result<DeviceSpec> {
    let text = path.to_str().ok_or_else(|| {
        Failure::new(format!(
            "cannot use {}: its name is not UTF-8",
            ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
        ))
        .hint("name another directory")
    })?;
    Ok(DeviceSpec(text.to_owned()))
}

fn device_of_base(base: &Path) -> Result<DeviceSpec> {
    if !base.is_dir() {
        return Err(Failure::new(format!(
            "cannot use {} as a base: it is no directory",
            base.display()
        )));
    }
    device(base)
}

/// The container that is there, with its backend.
fn existing(state: &State) -> Result<Option<(Backend, Uuid)>> {
    let top = open_directory(state.path())?;
    let directory = match resolve::open_directory(top.as_fd(), Path::new(DEFAULT_CONTAINER)) {
        Err(error) if error.is_not_found() => return Ok(None),
        opened => opened.context(|| "cannot open the container")?,
    };
    Container::marker(directory.as_fd())
}

/// Makes a container. Until its marker is written there is none, and making begins anew.
fn make(state: &State, base: &DeviceSpec) -> Result<(Backend, Uuid)> {
    let backend = if can_hold_roots(state)? { Backend::Overlay } else { Backend::Tmpfs };
    let what = || format!("cannot make a container in {}", state.path().display());
    let make = || -> Result<Uuid> {
        let top = open_directory(state.path())?;
        let directory = make_directory(top.as_fd(), DEFAULT_CONTAINER)?;
        for inside in [name::BASES, name::PAST, name::BOOTS] {
            make_directory(directory.as_fd(), inside)?;
        }
        Base::new(FIRST, Some((base.clone(), None))).write(directory.as_fd())?;
        Container::set_base(directory.as_fd(), FIRST)?;
        file::sync_filesystem(directory.as_fd()).context(|| "sync it")?;
        let uuid = ebbtide_sys::random::uuid_v4();
        Container::mark(directory.as_fd(), backend, uuid)?;
        Ok(uuid)
    };
    Ok((backend, make().context(what)?))
}

/// Another base than the last time is another base: past roots need theirs.
fn see_to_base(container: &Container, base: &DeviceSpec) -> Result<()> {
    let number = container.base()?;
    if Base::read(container, number)?.device.as_ref() == Some(base) {
        return Ok(());
    }
    let bases = container.open_directory(Path::new(name::BASES))?;
    let names = file::read_directory(bases.as_fd()).context(|| "cannot list the bases")?;
    let number_of = |name: &OsStr| name.to_str()?.strip_suffix(".json")?.parse::<u64>().ok();
    let numbers: Vec<_> = names.iter().filter_map(|it| number_of(&it.name)).collect();
    for number in &numbers {
        if Base::read(container, *number).is_ok_and(|it| it.device.as_ref() == Some(base)) {
            return Container::set_base(container.directory(), *number);
        }
    }
    let next = numbers.into_iter().max().unwrap_or(number) + 1;
    Base::new(next, Some((base.clone(), None))).write(container.directory())?;
    Container::set_base(container.directory(), next)
}

/// The declaration for this container: whatever it says of roots and stores, all of them are in the
/// state directory. The machine's own are out of reach.
fn placed(
    declaration: &Declaration,
    backend: Backend,
    device: &DeviceSpec,
    uuid: Uuid,
) -> Declaration {
    let mut placed = declaration.clone();
    let declared = declaration.root.as_ref();
    placed.root = Some(RootDeclaration {
        backend,
        device: device.clone(),
        container: PathBuf::from(DEFAULT_CONTAINER),
        uuid: Some(uuid),
        options: Vec::new(),
        ephemeral: Vec::new(),
        size: declared.and_then(|root| root.size),
        archive: None,
        writable: true,
        tmpfs: declared.map(|root| root.tmpfs.clone()).unwrap_or_default(),
        // Volumes of the machine are out of reach, too, and its audit is not this root's.
        mounts: Vec::new(),
        audit: false,
        require_login: false,
        keep_boots: declared.and_then(|root| root.keep_boots),
    });
    let state = StoreName(StoreName::STATE.to_owned());
    placed.stores.entry(state).or_insert_with(|| StoreDeclaration {
        device: device.clone(),
        subvolume: None,
        directory: None,
        class: crate::compiled::Class::State,
        options: crate::compiled::Class::State.mount_options().to_vec(),
        trash: None,
        expiry: None,
    });
    for (name, store) in &mut placed.stores {
        store.device = device.clone();
        store.subvolume = None;
        let other = name.0 != StoreName::STATE;
        store.directory = Some(if other { format!("store-{name}") } else { name.0.clone() }.into());
    }
    placed
}

/// Whether the state directory can hold what is written to a root: tried, since no kernel tells.
fn can_hold_roots(state: &State) -> Result<bool> {
    let top = open_directory(state.path())?;
    let probe = OsStr::new(PROBE);
    let _ = file::remove_tree(top.as_fd(), probe);
    let result = (|| -> Result<()> {
        let probe = make_directory(top.as_fd(), PROBE)?;
        let upper = make_directory(probe.as_fd(), "upper")?;
        let work = make_directory(probe.as_fd(), "work")?;
        let lower = mount::mount_detached("tmpfs", None, &[], MountAttributes::NONE)
            .context(|| "cannot mount a filesystem in RAM")?;
        let at = make_directory(probe.as_fd(), "lower")?;
        mount::attach(lower.as_fd(), at.as_fd()).context(|| "cannot attach it")?;
        make_directory(lower.as_fd(), "directory")?;
        file::create_file(lower.as_fd(), OsStr::new("file"), 0o600).context(|| "cannot write")?;
        let merged = overlay_of(&lower, &upper, &work);
        let at = state.path().join(PROBE).join("lower");
        mount::unmount(&at, true).context(|| "cannot unmount it")?;
        let merged = merged?;
        // What an upper directory has to be able to hold: a note that something is gone, and one that
        // a directory came from elsewhere.
        let all = |result: ebbtide_sys::Result<()>| result.context(|| "cannot write to it");
        all(file::remove_tree(merged.as_fd(), OsStr::new("file")))?;
        let (from, to) = (OsStr::new("directory"), OsStr::new("renamed"));
        all(file::rename_noreplace(merged.as_fd(), from, merged.as_fd(), to))
    })();
    let _ = file::remove_tree(top.as_fd(), probe);
    // Why not is known when even RAM is no place for it.
    Ok(result.is_ok())
}

fn overlay_of(lower: &OwnedFd, upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd> {
    let [lower_place, upper, work] = [lower.as_fd(), upper.as_fd(), work.as_fd()].map(magic);
    let mut options = vec![
        ("lowerdir", Some(&*lower_place)),
        ("upperdir", Some(&*upper)),
        ("workdir", Some(&*work)),
    ];
    options.extend(OPTIONS);
    let merged = mount::mount_detached("overlay", None, &options, MountAttributes::NONE)
        .context(|| "cannot mount an overlay")?;
    resolve::open_directory(merged.as_fd(), Path::new("")).context(|| "cannot open it")
}
