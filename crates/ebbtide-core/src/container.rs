//! The container: the one place on a volume that Ebbtide owns.
//!
//! Everything in it is reached by descriptor from the volume's top level, without following links;
//! its small files are JSON, replaced atomically and durably.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, metadata, resolve};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::compiled::{Backend, ContainerRef, DeclarationHash, DeviceSpec};
use crate::failure::{Context, Failure, Result};
use crate::format;
use crate::record::{BootNumber, CleanMark, Record};
use crate::volume::{self, Volume};

/// The version of the marker and of the small files.
pub const VERSION: u32 = 1;

/// The longest small file that is read, in bytes.
const LIMIT: u64 = 4 << 20;

/// Names inside a container.
pub mod name {
    /// The current root.
    pub const ROOT: &str = "root";
    /// The new root during a reset.
    pub const NEW: &str = "root.new";
    /// Bases by number.
    pub const BASES: &str = "bases";
    /// Past roots by boot number.
    pub const PAST: &str = "past";
    /// Records by boot number.
    pub const BOOTS: &str = "boots";
    /// A copy of a root in RAM on its way to the past ones; one that a cut left is of no use.
    pub const ARCHIVE: &str = "archive.new";
    /// Manifests by the UUID of their root.
    pub const MANIFESTS: &str = "manifests";
    /// What gc has taken out and is deleting.
    pub const GC: &str = "gc";
    pub(crate) const LAST_GC: &str = "gc.json";
    pub(super) const MARKER: &str = "marker.json";
    pub(super) const NUMBER: &str = "number";
    pub(super) const BASE: &str = "base";
    pub(super) const DECLARATIONS: &str = "declarations.json";
    pub(super) const CLEAN: &str = "clean.json";
    /// Which boot came up last.
    pub(super) const CAME_UP: &str = "came-up.json";
}

/// An open container, whose marker was found to be the expected one.
#[derive(Debug)]
pub struct Container {
    volume: Volume,
    path: PathBuf,
    directory: OwnedFd,
    uuid: Uuid,
    backend: Backend,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Marker {
    version: u32,
    uuid: Uuid,
    /// How its roots are made: another backend does not understand them.
    #[serde(default = "btrfs", skip_serializing_if = "is_btrfs")]
    backend: Backend,
}

/// The backend of a marker that names none.
fn btrfs() -> Backend {
    Backend::Btrfs
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_btrfs(backend: &Backend) -> bool {
    *backend == Backend::Btrfs
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Numbered {
    version: u32,
    number: u64,
}

/// The hashes that vouch for compiled declarations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// Always [`VERSION`].
    pub version: u32,
    /// The declaration in force.
    pub current: DeclarationHash,
    /// The one before, for when the current one can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<DeclarationHash>,
}

/// Mounts the volume of a container, attached nowhere. `flags` are more mount options, such as
/// `degraded`.
pub fn open_volume(backend: Backend, device: &DeviceSpec, flags: &[String]) -> Result<Volume> {
    open_with(backend, device, || Volume::open(device, flags))
}

/// As [`open_volume`], for reading only.
pub fn open_volume_for_reading(
    backend: Backend,
    device: &DeviceSpec,
    flags: &[String],
) -> Result<Volume> {
    open_with(backend, device, || Volume::open_for_reading(device, flags))
}

fn open_with(
    backend: Backend,
    device: &DeviceSpec,
    open: impl FnOnce() -> Result<Volume>,
) -> Result<Volume> {
    if backend == Backend::Btrfs
        && let Ok(Some(found)) = volume::filesystem(device)
        && found != "btrfs"
    {
        return Err(Failure::new(format!("{device} has {found}, and no btrfs"))
            .hint("the volume of a container with the backend btrfs is a btrfs filesystem"));
    }
    open().context(|| format!("cannot mount the top level of {device}"))
}

impl Container {
    /// Opens the container below a volume's top level, and refuses any but the expected one: no
    /// marker, another UUID, another backend, or a directory that others than root could have changed.
    pub fn open(volume: Volume, backend: Backend, expected: &ContainerRef) -> Result<Self> {
        let found = Self::open_foreign(volume, backend, &expected.path)?;
        if found.uuid != expected.uuid {
            return Err(Failure::new(format!(
                "{} is another container: its marker has UUID {}, the configuration pins {}",
                expected.path.display(),
                found.uuid,
                expected.uuid
            ))
            .hint("nothing in it was touched; if it is meant, run `ebbtide accept container`"));
        }
        Ok(found)
    }

    /// Opens a container whatever its UUID is: for looking, not for changing anything.
    pub fn open_foreign(volume: Volume, backend: Backend, path: &Path) -> Result<Self> {
        let place = path.display();
        let directory = own_directory(&volume, path)?;
        let marker: Marker =
            read(directory.as_fd(), Path::new(name::MARKER))?.ok_or_else(|| {
                Failure::new(format!("{place} has no marker: it is not a container of Ebbtide"))
                    .hint("nothing in it was touched; `ebbtide init` makes a container")
            })?;
        check_version("the marker", marker.version)?;
        if marker.backend != backend {
            return Err(Failure::new(format!(
                "{place} was made for the backend {}, and the configuration says {backend}",
                marker.backend
            ))
            .hint("nothing in it was touched; another backend wants a container of its own"));
        }
        Ok(Self { volume, path: path.to_owned(), directory, uuid: marker.uuid, backend })
    }

    /// Opens a container whatever becomes of its marker, if only root can have changed what is in it:
    /// for a boot from its base that changes nothing.
    pub(crate) fn open_unmarked(
        volume: Volume,
        backend: Backend,
        at: &ContainerRef,
    ) -> Result<Self> {
        let directory = own_directory(&volume, &at.path)?;
        Ok(Self { volume, path: at.path.clone(), directory, uuid: at.uuid, backend })
    }

    /// Opens one that is being made, which has no marker yet.
    #[cfg(feature = "declaration")]
    pub(crate) fn open_unfinished(
        volume: Volume,
        backend: Backend,
        at: &ContainerRef,
    ) -> Result<Self> {
        let place = at.path.display();
        let directory = resolve::open_directory(volume.as_fd(), &at.path)
            .context(|| format!("cannot open the container {place}"))?;
        if Self::marker_of(directory.as_fd())?.is_some() {
            return Err(Failure::new(format!("{place} has a marker already")));
        }
        Ok(Self { volume, path: at.path.clone(), directory, uuid: at.uuid, backend })
    }

    /// Writes a marker into a new container: the last step of making one.
    pub fn mark(directory: BorrowedFd<'_>, backend: Backend, uuid: Uuid) -> Result<()> {
        let marker = Marker { version: VERSION, uuid, backend };
        write(directory, name::MARKER, &marker)
    }

    /// The marker's UUID below a directory, if there is a marker at all.
    pub fn marker_of(directory: BorrowedFd<'_>) -> Result<Option<Uuid>> {
        Ok(read::<Marker>(directory, Path::new(name::MARKER))?.map(|marker| marker.uuid))
    }

    /// What the marker below a directory says, if there is a marker at all.
    #[cfg(feature = "declaration")]
    pub(crate) fn marker(directory: BorrowedFd<'_>) -> Result<Option<(Backend, Uuid)>> {
        let marker: Option<Marker> = read(directory, Path::new(name::MARKER))?;
        let Some(marker) = marker else { return Ok(None) };
        check_version("the marker", marker.version)?;
        Ok(Some((marker.backend, marker.uuid)))
    }

    /// The UUID of the marker.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// How its roots are made.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The container itself.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Its volume.
    pub fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Its path below the top level of its volume.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory inside, such as `past`.
    pub fn open_directory(&self, path: &Path) -> Result<OwnedFd> {
        resolve::open_directory(self.directory(), path)
            .context(|| format!("cannot open {} in the container", path.display()))
    }

    /// Waits until no other command changes the container or its stores, and keeps others waiting
    /// until the lock is dropped (flock(2)). A boot takes none: nothing else runs then.
    pub fn lock(&self) -> Result<OwnedFd> {
        let own = self.open_directory(Path::new(""))?;
        rustix::fs::flock(&own, rustix::fs::FlockOperation::LockExclusive)
            .context(|| "cannot lock the container")?;
        Ok(own)
    }

    /// Opens a directory inside, making it if it is not there.
    pub fn make_directory(&self, name: &str) -> Result<OwnedFd> {
        match file::create_directory(self.directory(), OsStr::new(name), 0o700) {
            Err(error) if error.errno() == rustix::io::Errno::EXIST => {
                self.open_directory(Path::new(name))
            }
            other => other.context(|| format!("cannot make {name} in the container")),
        }
    }

    /// The last number that was given out.
    pub fn last_number(&self) -> Result<BootNumber> {
        let stored = self.read::<Numbered>(Path::new(name::NUMBER))?;
        let stored = match stored {
            Some(numbered) => {
                check_version("the boot number", numbered.version)?;
                numbered.number
            }
            None => 0,
        };
        // Numbers only grow, even if that file was lost.
        let used = self.numbers(name::BOOTS)?.into_iter().chain(self.numbers(name::PAST)?);
        Ok(BootNumber(used.map(|number| number.0).chain([stored]).max().unwrap_or(stored)))
    }

    /// Gives out numbers up to this one, durably.
    pub fn give_out(&self, last: BootNumber) -> Result<()> {
        self.write(name::NUMBER, &Numbered { version: VERSION, number: last.0 })
    }

    /// As [`Self::give_out`], durable with the next [`Self::settle`].
    pub(crate) fn give_out_unsettled(&self, last: BootNumber) -> Result<()> {
        let number = Numbered { version: VERSION, number: last.0 };
        write_unsettled(self.directory(), name::NUMBER, &number)
    }

    /// Waits until everything that was done in the container is on disk.
    pub(crate) fn settle(&self) -> Result<()> {
        file::sync_filesystem(self.directory()).context(|| "cannot sync the volume")
    }

    /// The numbers that name something in `past` or `boots`.
    pub fn numbers(&self, path: &str) -> Result<Vec<BootNumber>> {
        let directory = self.open_directory(Path::new(path))?;
        let names = file::read_directory(directory.as_fd())
            .context(|| "cannot list the container".to_owned())?;
        let suffix = if path == name::BOOTS { ".json" } else { "" };
        let mut numbers: Vec<_> =
            names.iter().filter_map(|entry| number_of(&entry.name, suffix)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The number of the base in use.
    pub fn base(&self) -> Result<u64> {
        let base: Numbered = self.read(Path::new(name::BASE))?.ok_or_else(|| {
            Failure::new(
                "the container does not say which base is in use (its file `base` is gone)",
            )
            .hint("write {\"version\":1,\"number\":N} into it, N being a directory of `bases`")
        })?;
        check_version("the base", base.version)?;
        Ok(base.number)
    }

    /// Sets the base in use.
    pub fn set_base(directory: BorrowedFd<'_>, number: u64) -> Result<()> {
        write(directory, name::BASE, &Numbered { version: VERSION, number })
    }

    /// The hashes of compiled declarations, if any was ever compiled.
    pub fn pins(&self) -> Result<Option<Pins>> {
        let pins: Option<Pins> = self.read(Path::new(name::DECLARATIONS))?;
        if let Some(pins) = &pins {
            check_version("the list of compiled declarations", pins.version)?;
        }
        Ok(pins)
    }

    /// Pins compiled declarations.
    pub fn set_pins(&self, pins: &Pins) -> Result<()> {
        self.write(name::DECLARATIONS, pins)
    }

    /// The record of a boot.
    pub fn record(&self, number: BootNumber) -> Result<Option<Record>> {
        let record: Option<Record> =
            self.read(&Path::new(name::BOOTS).join(format!("{number}.json")))?;
        if let Some(record) = &record {
            check_version("the record", record.version)?;
        }
        Ok(record)
    }

    /// Writes the record of a boot.
    pub fn set_record(&self, record: &Record) -> Result<()> {
        let boots = self.open_directory(Path::new(name::BOOTS))?;
        write(boots.as_fd(), &format!("{}.json", record.number), record)
    }

    /// As [`Self::set_record`], durable with the next [`Self::settle`].
    pub(crate) fn set_record_unsettled(&self, record: &Record) -> Result<()> {
        let boots = self.open_directory(Path::new(name::BOOTS))?;
        write_unsettled(boots.as_fd(), &format!("{}.json", record.number), record)
    }

    /// The mark of a clean end. One that can't be read counts as none.
    pub fn clean_mark(&self) -> Option<CleanMark> {
        self.read(Path::new(name::CLEAN)).ok().flatten()
    }

    /// Writes the mark of a clean end.
    pub fn set_clean_mark(&self, mark: &CleanMark) -> Result<()> {
        self.write(name::CLEAN, mark)
    }

    /// Removes the mark of a clean end, durably.
    pub fn remove_clean_mark(&self) -> Result<()> {
        file::remove_file_durably(self.directory(), OsStr::new(name::CLEAN))
            .context(|| "cannot remove the mark of a clean end")?;
        Ok(())
    }

    /// As [`Self::remove_clean_mark`], durable with the next [`Self::settle`].
    pub(crate) fn remove_clean_mark_unsettled(&self) -> Result<()> {
        file::remove_file(self.directory(), OsStr::new(name::CLEAN))
            .context(|| "cannot remove the mark of a clean end")?;
        Ok(())
    }

    /// The boot that came up last. A mark that can't be read counts as none.
    pub fn came_up(&self) -> Option<CleanMark> {
        self.read(Path::new(name::CAME_UP)).ok().flatten()
    }

    /// Notes durably that a boot came up.
    pub fn set_came_up(&self, mark: &CleanMark) -> Result<()> {
        self.write(name::CAME_UP, mark)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>> {
        read(self.directory(), path)
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        write(self.directory(), name, value)
    }
}

/// Opens the directory of a container, and refuses one that others than root could have changed.
fn own_directory(volume: &Volume, path: &Path) -> Result<OwnedFd> {
    let place = path.display();
    let directory = resolve::open_directory(volume.as_fd(), path)
        .context(|| format!("cannot open the container {place}"))?;
    let found = metadata::metadata(directory.as_fd())
        .context(|| format!("cannot look at the container {place}"))?;
    if found.uid != 0 || found.mode & 0o077 != 0 {
        return Err(Failure::new(format!(
            "the container {place} belongs to user {} with mode {:04o}, so that others than \
             root could have changed it",
            found.uid, found.mode
        ))
        .hint("look at what changed it, then chown root and chmod 0700"));
    }
    Ok(directory)
}

/// Reads a small JSON file that only root can have changed; `None` if it is not there. The directory
/// is one that was checked, or that only root has.
pub(crate) fn read<T: DeserializeOwned>(
    directory: BorrowedFd<'_>,
    path: &Path,
) -> Result<Option<T>> {
    match file::read_trusted(directory, path, LIMIT) {
        Ok(bytes) => format::parse(&path.display().to_string(), VERSION, &bytes).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => {
            let what = format!("cannot read {}", path.display());
            Err(advised(Failure::new(what), &error).caused_by(error))
        }
    }
}

/// Adds what to do about a file that was not read because others could have changed it.
pub(crate) fn advised(failure: Failure, error: &ebbtide_sys::Error) -> Failure {
    if error.errno() != rustix::io::Errno::PERM {
        return failure;
    }
    failure.hint("look at what changed it; if it is meant, chown it to root and chmod go-w")
}

/// Refuses a directory that others than root could have changed.
pub(crate) fn check_directory(directory: BorrowedFd<'_>, name: &str) -> Result<()> {
    let found = metadata::metadata(directory).context(|| format!("cannot look at {name}"))?;
    match file::changeable(&found) {
        None => Ok(()),
        Some(why) => Err(Failure::new(format!("cannot use {name}: {why}"))
            .hint("look at what changed it, then chown root and chmod 0700")),
    }
}

/// Writes a small JSON file atomically and durably, readable by root only.
pub(crate) fn write<T: Serialize>(directory: BorrowedFd<'_>, name: &str, value: &T) -> Result<()> {
    write_with_mode(directory, name, value, 0o600)
}

/// As [`write`], durable with the next sync of the filesystem; whole before that, too.
fn write_unsettled<T: Serialize>(directory: BorrowedFd<'_>, name: &str, value: &T) -> Result<()> {
    let bytes = format::bytes(name, value)?;
    file::replace_file_unsettled(directory, OsStr::new(name), &bytes, 0o600)
        .context(|| format!("cannot write {name}"))
}

/// As [`write`], with a mode.
pub(crate) fn write_with_mode<T: Serialize>(
    directory: BorrowedFd<'_>,
    name: &str,
    value: &T,
    mode: u32,
) -> Result<()> {
    let bytes = format::bytes(name, value)?;
    file::replace_file(directory, OsStr::new(name), &bytes, mode)
        .context(|| format!("cannot write {name}"))
}

pub(crate) fn check_version(what: &str, found: u32) -> Result<()> {
    format::check_version(what, VERSION, found)
}

/// The number that a name is, in its one canonical spelling: no sign, no leading zero. One that no
/// machine reaches by booting is none of ours.
fn number_of(name: &OsStr, suffix: &str) -> Option<BootNumber> {
    let text = name.to_str()?.strip_suffix(suffix)?;
    let number: u64 = text.parse().ok()?;
    let plausible = 0 < number && number < 1 << 53;
    (plausible && number.to_string() == text).then_some(BootNumber(number))
}
