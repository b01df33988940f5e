//! Reading the files of the declaration.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_sys::{file, metadata};
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::SourceFile;

/// The most bytes that a file may have.
pub(super) const LIMIT: u64 = 1 << 20;

/// Vendor and packages.
const VENDOR: &str = "usr/lib/ebbtide";
/// The administrator's file.
pub(super) const MAIN: &str = "etc/ebbtide/ebbtide.toml";
/// The administrator's fragments.
const FRAGMENTS: &str = "etc/ebbtide/ebbtide.d";

/// The machine's own: in the state store, for where the administrator's files are read-only. Only root
/// can get there.
pub(super) const MACHINE: &str = "run/ebbtide/stores/state/.ebbtide/keep.toml";

/// Why a file of the declaration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("cannot read {}", shown(path))]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a device or a pipe.
    #[error("{} is not a regular file", shown(.0))]
    NotAFile(PathBuf),
    /// Root would do what somebody else wrote.
    #[error(
        "{} is not used: {why}; look at what changed it, then chown it to root and chmod go-w",
        shown(path)
    )]
    Untrusted {
        /// Which file or directory.
        path: PathBuf,
        /// Who it belongs to, and who can write to it.
        why: String,
    },
    /// More than a declaration can need.
    #[error("{} is larger than 1 MiB", shown(.0))]
    TooLarge(PathBuf),
    /// TOML is UTF-8.
    #[error("{} is not UTF-8: byte {offset}, in line {line}, begins no character", shown(path))]
    NotUtf8 {
        /// Which file.
        path: PathBuf,
        /// The first byte that is wrong, counted from 0.
        offset: usize,
        /// The line that it is in, counted from 1.
        line: usize,
    },
}

/// Reads all layers below a system's root, in their order: vendor, the administrator's file, its
/// fragments, the machine's own. Directories and files that are not there are passed over, and the
/// last one also where only root may read it.
///
/// Links are followed as that system would follow them: on some, all of `/etc` is links. The names
/// of the results are those that the system itself uses, without `sysroot`.
pub fn read_layers(sysroot: &Path) -> Result<Vec<SourceFile>, ReadError> {
    let root = System::open(sysroot)?;
    let mut files = root.list(Path::new(VENDOR))?;
    files.push(PathBuf::from(MAIN));
    files.extend(root.list(Path::new(FRAGMENTS))?);
    files.push(PathBuf::from(MACHINE));
    let mut sources = Vec::with_capacity(files.len());
    for file in files {
        sources.extend(root.read(&file)?);
    }
    Ok(sources)
}

/// Reads one file, as the whole declaration.
pub fn read_file(path: &Path) -> Result<SourceFile, ReadError> {
    // Opening a pipe must not wait for its other end.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(CWD, path, flags, Mode::empty()).map_err(|errno| failed(path, errno))?;
    Ok(SourceFile { name: shown(path), text: read(path, file.into())? })
}

/// The root of a system, perhaps not of the running one.
pub(super) struct System<'p> {
    path: &'p Path,
    descriptor: OwnedFd,
}

impl<'p> System<'p> {
    pub(super) fn open(path: &'p Path) -> Result<Self, ReadError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(path, e))?;
        Ok(Self { path, descriptor })
    }

    /// Opens a path as the system itself would; `None` if it is not there.
    pub(super) fn open_below(
        &self,
        path: &Path,
        flags: OFlags,
    ) -> Result<Option<OwnedFd>, ReadError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | flags;
        match openat2(&self.descriptor, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            // Filtered away in some containers; the running system's own root needs no care.
            Err(Errno::NOSYS | Errno::PERM) if self.path == Path::new("/") => {
                openat(&self.descriptor, path, flags, Mode::empty())
            }
            result => result,
        }
        .map_or_else(
            |errno| match errno {
                Errno::NOENT => Ok(None),
                // What only root may see is not there for others.
                Errno::ACCESS if path == Path::new(MACHINE) => Ok(None),
                errno => Err(failed(&self.path.join(path), errno)),
            },
            |descriptor| Ok(Some(descriptor)),
        )
    }

    /// Reads a file, if it is there; its name is the one that the system itself uses.
    pub(super) fn read(&self, file: &Path) -> Result<Option<SourceFile>, ReadError> {
        let Some(descriptor) = self.open_below(file, OFlags::NONBLOCK)? else { return Ok(None) };
        self.trust(file, &descriptor)?;
        if let Some(above) = file.parent()
            && let Some(directory) = self.open_below(above, OFlags::PATH | OFlags::DIRECTORY)?
        {
            self.trust(above, &directory)?;
        }
        let text = read(&self.path.join(file), descriptor.into())?;
        Ok(Some(SourceFile { name: shown(&Path::new("/").join(file)), text }))
    }

    /// Refuses what others than root can change, if it is root who reads: it would do what they say.
    fn trust(&self, path: &Path, descriptor: &OwnedFd) -> Result<(), ReadError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let path = self.path.join(path);
        let found =
            metadata::metadata(descriptor.as_fd()).map_err(|error| failed(&path, error.errno()))?;
        match file::changeable(&found) {
            Some(why) => Err(ReadError::Untrusted { path, why }),
            None => Ok(()),
        }
    }

    /// The names in a directory; none if it is not there.
    pub(super) fn names(&self, directory: &Path) -> Result<Vec<OsString>, ReadError> {
        let Some(descriptor) = self.open_below(directory, OFlags::DIRECTORY)? else {
            return Ok(Vec::new());
        };
        let failed = |errno| failed(&self.path.join(directory), errno);
        let mut names = Vec::new();
        for entry in Dir::new(descriptor).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
        }
        Ok(names)
    }

    /// Where a link leads, if there is one.
    pub(super) fn link(&self, path: &Path) -> Option<PathBuf> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let link = self.open_below(path, flags).ok()??;
        let target = rustix::fs::readlinkat(&link, "", Vec::new()).ok()?;
        Some(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// The `*.toml` files of a directory, sorted by the bytes of their names.
    pub(super) fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, ReadError> {
        let mut files: Vec<PathBuf> = self
            .names(directory)?
            .into_iter()
            // What starts with a dot is an editor's or a package manager's.
            .filter(|name| !name.as_bytes().starts_with(b"."))
            .map(|name| directory.join(name))
            .filter(|file| file.extension() == Some(OsStr::new("toml")))
            .collect();
        files.sort();
        Ok(files)
    }
}

pub(super) fn failed(path: &Path, error: impl Into<io::Error>) -> ReadError {
    ReadError::Io { path: path.to_owned(), source: error.into() }
}

/// A path for people.
pub(super) fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_bytes())
}

fn read(path: &Path, file: File) -> Result<String, ReadError> {
    if !file.metadata().map_err(|error| failed(path, error))?.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    decode(path, bytes(path, file)?)
}

fn bytes(path: &Path, file: File) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(|error| failed(path, error))?;
    if bytes.len() as u64 > LIMIT {
        return Err(ReadError::TooLarge(path.to_owned()));
    }
    Ok(bytes)
}

fn decode(path: &Path, bytes: Vec<u8>) -> Result<String, ReadError> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..offset].split(|&byte| byte == b'\n').count();
        ReadError::NotUtf8 { path: path.to_owned(), offset, line }
    })
}
