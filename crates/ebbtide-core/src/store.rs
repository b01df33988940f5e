//! Stores: where kept data lives, outside every root.

mod declarations;
pub(crate) mod notes;

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::MountAttributes;
use ebbtide_sys::{file, metadata, resolve};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::compiled::{Class, DeviceSpec, MountOption, Store};
use crate::container;
use crate::failure::{Context, Failure, Result};
use crate::locator::StateStore;
use crate::record::BootNumber;
use crate::volume;

pub use declarations::{has_declarations, load, publish};
pub use notes::Since;
pub(crate) use notes::{note_seed, was_seeded};

/// The directory of a store that is Ebbtide's own.
pub const OWN: &str = ".ebbtide";
const MARKER: &str = "store.json";
const TRASH: &str = "trash";

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marker {
    version: u32,
    uuid: Uuid,
}

/// Where a store lies, and how it is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The device that holds it.
    pub device: &'a DeviceSpec,
    /// On btrfs, the subvolume's path below the top level.
    pub subvolume: Option<&'a Path>,
    /// The directory's path below the top level of its filesystem.
    pub directory: Option<&'a Path>,
    /// Its mount options.
    pub options: &'a [MountOption],
    /// Whether reads leave their time, once a day at most (`relatime`, mount(8)).
    pub access_times: bool,
}

impl Place<'_> {
    /// Whether it is the same place, however it is mounted.
    pub fn is_at(&self, other: &Place<'_>) -> bool {
        (self.device, self.subvolume, self.directory)
            == (other.device, other.subvolume, other.directory)
    }

    /// Mounts it. What Ebbtide itself reads never leaves its time; `attach` is for those who use it.
    fn volume(&self, access_times: bool) -> Result<OwnedFd> {
        let quiet = if access_times { MountAttributes::NONE } else { MountAttributes::NOATIME };
        let attributes = attributes(self.options) | quiet;
        volume::mount(self.device, self.subvolume, &[], attributes)
            .context(|| format!("cannot mount the store on {}", self.device))
    }
}

impl Store {
    /// Where it lies.
    pub fn place(&self) -> Place<'_> {
        Place {
            device: &self.device,
            subvolume: self.subvolume.as_deref(),
            directory: self.directory.as_deref(),
            options: &self.options,
            access_times: self.expiry.is_some_and(|it| !it.is_all()),
        }
    }
}

impl StateStore {
    /// Where it lies; with the options of its class.
    pub fn place(&self) -> Place<'_> {
        Place {
            device: &self.device,
            subvolume: self.subvolume.as_deref(),
            directory: self.directory.as_deref(),
            options: Class::State.mount_options(),
            access_times: false,
        }
    }
}

/// Opens a store, attached nowhere, and checks that it is the recorded one.
pub fn open(place: Place<'_>, expected: Uuid) -> Result<OwnedFd> {
    let opened = open_any(place)?;
    check(opened.as_fd(), place.device, expected)?;
    Ok(opened)
}

/// Mounts what should be a store at a path, without a check.
#[cfg(feature = "declaration")]
pub fn attach_any(place: Place<'_>, path: &Path) -> Result<()> {
    volume::attach(place.volume(false)?.as_fd(), place.directory, path)
}

/// Mounts a store at a path, and checks that it is the recorded one.
pub fn attach(place: Place<'_>, expected: Uuid, path: &Path) -> Result<OwnedFd> {
    let volume = place.volume(place.access_times)?;
    let inside = match place.directory {
        Some(directory) => Some(volume::open_inside(volume.as_fd(), place.device, directory)?),
        None => None,
    };
    check(inside.as_ref().unwrap_or(&volume).as_fd(), place.device, expected)?;
    drop(inside);
    volume::attach(volume.as_fd(), place.directory, path)?;
    std::fs::File::open(path)
        .map(OwnedFd::from)
        .context(|| format!("cannot open {}", path.display()))
}

pub(crate) fn check(store: BorrowedFd<'_>, spec: &DeviceSpec, expected: Uuid) -> Result<()> {
    match identity(store)? {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(Failure::new(format!(
            "the store on {spec} is not the recorded one: it has UUID {found}, recorded is {expected}"
        ))
        .hint("if it was exchanged on purpose, run `ebbtide accept`")),
        None => Err(Failure::new(format!("there is no store on {spec}: it has no marker"))
            .hint("if it was restored from a backup, run `ebbtide accept`")),
    }
}

/// Opens what should be a store, without a check.
pub fn open_any(place: Place<'_>) -> Result<OwnedFd> {
    volume::inside(place.volume(false)?, place.device, place.directory)
}

/// Makes the subvolume or the directory for a store on a volume that is open already.
#[cfg(feature = "declaration")]
pub(crate) fn make(place: Place<'_>, volume: BorrowedFd<'_>) -> Result<()> {
    let split = |path: &Path| -> Result<(OwnedFd, std::ffi::OsString)> {
        let (parent, name) = resolve::split_parent(path)
            .ok_or_else(|| Failure::new(format!("{} has no name", path.display())))?;
        let parent = resolve::open_directory(volume, parent)
            .context(|| format!("cannot open the directory above {}", path.display()))?;
        Ok((parent, name.to_owned()))
    };
    if let Some(path) = place.subvolume {
        let (parent, name) = split(path)?;
        return ebbtide_sys::btrfs::create_subvolume(parent.as_fd(), &name)
            .context(|| "cannot make the subvolume");
    }
    if let Some(path) = place.directory {
        let (parent, name) = split(path)?;
        file::create_directory(parent.as_fd(), &name, 0o755)
            .context(|| "cannot make the directory")?;
    }
    Ok(())
}

/// The mount attributes of these options.
pub fn attributes(options: &[MountOption]) -> MountAttributes {
    options.iter().fold(MountAttributes::default(), |all, option| {
        all | match option {
            MountOption::Ro => MountAttributes::READ_ONLY,
            MountOption::Nosuid => MountAttributes::NOSUID,
            MountOption::Nodev => MountAttributes::NODEV,
            MountOption::Noexec => MountAttributes::NOEXEC,
            MountOption::Noatime => MountAttributes::NOATIME,
        }
    })
}

/// The UUID in a store's marker. A tree whose top others than root can change is no store: they could
/// exchange everything in it.
pub fn identity(store: BorrowedFd<'_>) -> Result<Option<Uuid>> {
    let top = metadata::metadata(store).context(|| "cannot look at the store")?;
    if top.uid != 0 || top.mode & 0o022 != 0 {
        return Err(Failure::new(format!(
            "the store's top directory belongs to user {} with mode {:04o}, so that others than \
             root can change what it keeps",
            top.uid, top.mode
        ))
        .hint("chown it to root and chmod it to 0755"));
    }
    let Some(own) = own_directory(store)? else { return Ok(None) };
    let marker: Option<Marker> = container::read(own.as_fd(), Path::new(MARKER))?;
    match marker {
        Some(marker) => {
            container::check_version("the store's marker", marker.version)?;
            Ok(Some(marker.uuid))
        }
        None => Ok(None),
    }
}

/// Makes a tree a store: gives it `.ebbtide` and a marker, unless it has one. Returns its UUID.
pub fn establish(store: BorrowedFd<'_>) -> Result<Uuid> {
    establish_as(store, ebbtide_sys::random::uuid_v4())
}

/// As [`establish`], with the UUID that it had before it lost its marker.
pub fn establish_as(store: BorrowedFd<'_>, uuid: Uuid) -> Result<Uuid> {
    if let Some(uuid) = identity(store)? {
        return Ok(uuid);
    }
    let own = match own_directory(store)? {
        Some(own) => own,
        None => file::create_directory(store, OsStr::new(OWN), 0o700)
            .context(|| "cannot make .ebbtide in the store")?,
    };
    make_directory(own.as_fd(), declarations::DIRECTORY)?;
    container::write(own.as_fd(), MARKER, &Marker { version: container::VERSION, uuid })?;
    Ok(uuid)
}

fn make_directory(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let exists = metadata::metadata_beneath(parent, Path::new(name))
        .context(|| format!("cannot look at {name}"))?
        .is_some();
    if !exists {
        return file::create_directory(parent, OsStr::new(name), 0o700)
            .context(|| format!("cannot make {OWN}/{name} in the store"));
    }
    open_own(parent, name)
}

/// Opens a directory of `.ebbtide`, and refuses one that others than root could have changed: what
/// lies in it would be theirs.
fn open_own(own: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let place = format!("{OWN}/{name} in the store");
    let opened =
        resolve::open_directory(own, Path::new(name)).context(|| format!("cannot open {place}"))?;
    container::check_directory(opened.as_fd(), &place)?;
    Ok(opened)
}

/// Opens a store's `.ebbtide`, and refuses one that others than root could have changed.
pub(crate) fn own_directory(store: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let own = match resolve::open_directory(store, Path::new(OWN)) {
        Ok(own) => own,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error).context(|| "cannot open .ebbtide in the store"),
    };
    let found = metadata::metadata(own.as_fd()).context(|| "cannot look at .ebbtide")?;
    if found.uid != 0 || found.mode & 0o022 != 0 {
        return Err(Failure::new(format!(
            ".ebbtide in the store belongs to user {} with mode {:04o}, so that others than root \
             could have changed it",
            found.uid, found.mode
        ))
        .hint("look at what changed it, then chown root and chmod 0700"));
    }
    Ok(Some(own))
}

/// Opens (making it where needed) a directory in a store's `.ebbtide`: `incoming`, in which what
/// goes into the store is prepared, or `trash`, for what leaves it.
pub(crate) fn own_subdirectory(store: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let own =
        own_directory(store)?.ok_or_else(|| Failure::new("the store has no .ebbtide directory"))?;
    make_directory(own.as_fd(), name)
}

/// Moves something into the store's trash, under its path and the number of the boot that ended it.
/// Returns where it is, below the store.
pub(crate) fn move_to_trash(
    store: BorrowedFd<'_>,
    boot: BootNumber,
    from: BorrowedFd<'_>,
    name: &OsStr,
    place: &Path,
) -> Result<PathBuf> {
    let trash = own_subdirectory(store, TRASH)?;
    let mut directory = trash_directory(trash.as_fd(), OsStr::new(&boot.to_string()))?;
    for part in place.parent().into_iter().flat_map(Path::components) {
        directory = trash_directory(directory.as_fd(), part.as_os_str())?;
    }
    let base = place.file_name().unwrap_or_default();
    for attempt in 0..1000_u32 {
        let mut target = base.to_owned();
        if attempt > 0 {
            target.push(format!(".{attempt}"));
        }
        match file::rename_noreplace(from, name, directory.as_fd(), &target) {
            Err(error) if error.errno() == rustix::io::Errno::EXIST => {}
            other => {
                let way = Path::new(OWN).join(TRASH).join(boot.to_string());
                let above = place.parent().unwrap_or(Path::new(""));
                return other
                    .map(|()| way.join(above).join(&target))
                    .context(|| "move it to the trash");
            }
        }
    }
    Err(Failure::new("the store's trash has a thousand versions of it from this boot alone"))
}

/// Makes what a root needs to have a trash of its own, as a store has one.
pub(crate) fn trash_on_root(root: BorrowedFd<'_>) -> Result<()> {
    match file::create_directory(root, OsStr::new(OWN), 0o700) {
        Err(error) if error.errno() == rustix::io::Errno::EXIST => {}
        made => drop(made.context(|| "cannot make a trash on the root")?),
    }
    own_subdirectory(root, TRASH).map(drop)
}

/// Opens a store's trash, which has a directory for each boot; `None` if nothing ever left it.
pub(crate) fn trash(store: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let Some(own) = own_directory(store)? else { return Ok(None) };
    let found = metadata::metadata_beneath(own.as_fd(), Path::new(TRASH));
    match found.context(|| "cannot look at the store's trash")? {
        None => Ok(None),
        Some(_) => open_own(own.as_fd(), TRASH).map(Some),
    }
}

fn trash_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd> {
    match file::create_directory(parent, name, 0o700) {
        Err(error) if error.errno() == rustix::io::Errno::EXIST => {
            resolve::open_directory(parent, Path::new(name)).context(|| "open the trash")
        }
        other => other.context(|| "make a directory of the trash"),
    }
}

/// Takes what the store has of a path out of it, into its trash: what was imported a moment ago and is not
/// going to be used, because somebody may have written to it in that moment, or what no entry keeps any
/// more. The note of its first content goes first: with neither, that is still to come. Returns where it
/// is, below the store; `None` if there was nothing.
pub(crate) fn take_out(
    store: BorrowedFd<'_>,
    boot: BootNumber,
    path: &Path,
) -> Result<Option<PathBuf>> {
    notes::remove_seed(store, path)?;
    let relative = path.strip_prefix("/").unwrap_or(path);
    let Some((parent, name)) = resolve::split_parent(relative) else { return Ok(None) };
    let parent = match resolve::open_directory(store, parent) {
        Err(error) if error.is_not_found() => return Ok(None),
        parent => parent.context(|| "cannot open its parent")?,
    };
    let found = metadata::metadata_beneath(parent.as_fd(), Path::new(name));
    if found.context(|| "cannot look at it")?.is_none() {
        return Ok(None);
    }
    let trash = move_to_trash(store, boot, parent.as_fd(), name, relative)?;
    file::sync_filesystem(store).context(|| "cannot sync the store")?;
    Ok(Some(trash))
}
