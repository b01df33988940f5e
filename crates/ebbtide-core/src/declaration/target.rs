//! The file of the declaration that can be written, and writing it so that it can be taken back.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::file;
use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};
use rustix::io::Errno;

use super::SourceFile;
use super::layers::{self, LIMIT, MACHINE, MAIN, System};
use crate::failure::{Context, Failure, Result};
use crate::store::OWN;

/// The mode of a file that is made.
const MODE: u32 = 0o644;

/// The text of a file that is made.
const EMPTY: &str = "version = 1\n";

/// A file of the declaration that is going to be written.
#[derive(Debug)]
pub struct Target {
    directory: OwnedFd,
    name: OsString,
    /// Its name as the system itself has it, and its text; of one that is not there yet, that of an
    /// empty declaration.
    source: SourceFile,
    is_new: bool,
}

impl Target {
    /// Finds the file for entries of the machine: the administrator's, or where that is read-only the
    /// machine's own in its state store.
    pub fn find(sysroot: &Path) -> Result<Self> {
        let system = System::open(sysroot).context(|| "cannot read the declaration")?;
        if let Some(target) = Self::below(&system, MAIN)? {
            return Ok(target);
        }
        // What was found is the store's own directory, which only root can write.
        Self::below(&system, MACHINE)?.ok_or_else(|| {
            Failure::new("no file of the declaration can be written").hint(
                "/etc/ebbtide is read-only or not there, and the state store, where the machine's own \
                 file would be, is not mounted",
            )
        })
    }

    /// The file of this name, as one of the layers has it; `None` if it can't be written.
    pub fn named(sysroot: &Path, name: &str) -> Result<Option<Self>> {
        let system = System::open(sysroot).context(|| "cannot read the declaration")?;
        Self::below(&system, name.trim_start_matches('/'))
    }

    /// The declaration of a directory, as `ebbtide try` has it.
    pub fn in_directory(path: &Path, name: &str) -> Result<Self> {
        let directory = open(path).context(|| format!("cannot open {}", shown(path)))?;
        let file = path.join(name);
        let text = match layers::read_file(&file) {
            Ok(source) => Some(source.text),
            Err(layers::ReadError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(error).context(|| "cannot read the declaration"),
        };
        Ok(Self::new(directory, name.into(), shown(&file), text))
    }

    fn new(directory: OwnedFd, name: OsString, shown: String, text: Option<String>) -> Self {
        let is_new = text.is_none();
        let text = text.unwrap_or_else(|| EMPTY.to_owned());
        Self { directory, name, source: SourceFile { name: shown, text }, is_new }
    }

    /// A file of a system, where it can be written. Links are followed as that system does, so that
    /// what is written is what it reads.
    fn below(system: &System<'_>, path: &str) -> Result<Option<Self>> {
        let what = || format!("cannot look at /{path}");
        let path = Path::new(path);
        let name = shown(&Path::new("/").join(path));
        let Some(source) = system.read(path).context(|| "cannot read the declaration")? else {
            let Some(above) = path.parent() else { return Ok(None) };
            let opened = system.open_below(above, OFlags::DIRECTORY).context(what)?;
            let Some(directory) = opened.filter(|it| is_writable(it.as_fd(), "")) else {
                return Ok(None);
            };
            // One in a place that others prepared is none.
            if above.ends_with(OWN) && !is_own(directory.as_fd()) {
                return Ok(None);
            }
            let file = path.file_name().unwrap_or_default().to_owned();
            return Ok(Some(Self::new(directory, file, name, None)));
        };
        let Some(file) = system.open_below(path, OFlags::PATH).context(what)? else {
            return Ok(None);
        };
        let real = real_path(file.as_fd()).context(what)?;
        let (Some(above), Some(file)) = (real.parent(), real.file_name()) else { return Ok(None) };
        let directory = open(above).context(what)?;
        if !is_writable(directory.as_fd(), "") || !is_writable(directory.as_fd(), file) {
            return Ok(None);
        }
        Ok(Some(Self::new(directory, file.to_owned(), name, Some(source.text))))
    }

    /// Its name and its text.
    pub fn source(&self) -> &SourceFile {
        &self.source
    }

    /// All layers with another text in this file, in their order.
    pub fn with_text(&self, sources: &[SourceFile], text: &str) -> Vec<SourceFile> {
        let mut sources = sources.to_vec();
        let new = SourceFile { name: self.source.name.clone(), text: text.to_owned() };
        if let Some(source) = sources.iter_mut().find(|source| source.name == new.name) {
            *source = new;
            return sources;
        }
        // The administrator's file is read after those of packages and before its fragments.
        let vendor = sources.iter().take_while(|it| it.name.starts_with("/usr/")).count();
        let main = new.name == format!("/{MAIN}");
        sources.insert(if main { vendor } else { sources.len() }, new);
        sources
    }

    /// Gives the file another text, atomically and durably; owner, mode and attributes stay. Refuses
    /// if somebody has changed it since it was read.
    pub fn write(&self, text: &str) -> Result<()> {
        let found = file::read_limited(self.directory.as_fd(), Path::new(&self.name), LIMIT);
        let same = match found {
            Ok(bytes) => !self.is_new && bytes == self.source.text.as_bytes(),
            Err(error) if error.is_not_found() => self.is_new,
            Err(error) => {
                return Err(error).context(|| format!("cannot read {}", self.source.name));
            }
        };
        if !same {
            return Err(Failure::new(format!("{} was changed meanwhile", self.source.name))
                .hint("run the command again"));
        }
        self.replace(text)
    }

    fn replace(&self, text: &str) -> Result<()> {
        let directory = self.directory.as_fd();
        if self.is_new {
            file::replace_file(directory, &self.name, text.as_bytes(), MODE)
        } else {
            file::replace_content(directory, &self.name, text.as_bytes())
        }
        .context(|| format!("cannot write {}", self.source.name))
    }

    /// Puts back what was there before.
    pub fn undo(&self) -> Result<()> {
        if self.is_new {
            let removed = file::remove_file_durably(self.directory.as_fd(), &self.name);
            return removed
                .map(drop)
                .context(|| format!("cannot remove {} again", self.source.name));
        }
        self.replace(&self.source.text)
    }
}

/// Whether a directory is root's, and nobody else's.
fn is_own(directory: BorrowedFd<'_>) -> bool {
    let found = ebbtide_sys::metadata::metadata(directory);
    found.is_ok_and(|found| found.uid == 0 && found.mode & 0o022 == 0)
}

/// Whether this process may write; on a read-only filesystem nobody may.
fn is_writable(directory: BorrowedFd<'_>, name: impl AsRef<Path>) -> bool {
    let name = name.as_ref();
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    accessat(directory, name, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn open(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Where a descriptor's file is.
fn real_path(fd: BorrowedFd<'_>) -> std::io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn shown(path: &Path) -> String {
    layers::shown(path)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const TEXT: &str = "version = 1\n# mine\n";

    fn system(files: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, TEXT).unwrap();
        }
        root
    }

    #[test]
    fn the_administrators_file_is_written_and_put_back() {
        let root = system(&[MAIN]);
        let path = root.path().join(MAIN);
        fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let target = Target::find(root.path()).unwrap();
        assert_eq!(target.source().name, "/etc/ebbtide/ebbtide.toml");
        assert_eq!(target.source().text, TEXT);
        target.write("other").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        target.undo().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), TEXT);
        fs::write(&path, "somebody else's").unwrap();
        let failure = target.write("other").unwrap_err();
        assert_eq!(failure.chain(), "/etc/ebbtide/ebbtide.toml was changed meanwhile");
        assert_eq!(fs::read_to_string(&path).unwrap(), "somebody else's");
    }

    #[test]
    fn a_link_leads_to_the_file_that_is_written() {
        let root = system(&["srv/dots/machine.toml"]);
        fs::create_dir_all(root.path().join("etc/ebbtide")).unwrap();
        symlink("/srv/dots/machine.toml", root.path().join(MAIN)).unwrap();
        let target = Target::find(root.path()).unwrap();
        target.write("other").unwrap();
        assert!(root.path().join(MAIN).is_symlink());
        let written = fs::read_to_string(root.path().join("srv/dots/machine.toml")).unwrap();
        assert_eq!(written, "other");
    }

    #[test]
    fn a_file_that_is_not_there_is_made_and_taken_away() {
        let root = system(&["usr/lib/ebbtide/app.toml", "etc/ebbtide/ebbtide.d/a.toml"]);
        let target = Target::find(root.path()).unwrap();
        assert_eq!(target.source().text, EMPTY);
        let layers = super::super::read_layers(root.path()).unwrap();
        let names = |sources: Vec<SourceFile>| -> Vec<String> {
            sources.into_iter().map(|source| source.name).collect()
        };
        let with = names(target.with_text(&layers, "x"));
        target.write(EMPTY).unwrap();
        assert_eq!(names(super::super::read_layers(root.path()).unwrap()), with);
        target.undo().unwrap();
        assert!(!root.path().join(MAIN).exists());
    }

    #[test]
    fn where_etc_is_read_only_it_is_the_machines_own() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root for mounts");
            return;
        }
        ebbtide_sys::mount::enter_private_mount_namespace().unwrap();
        let root = system(&[MAIN]);
        let etc = root.path().join("etc");
        let clone = ebbtide_sys::mount::clone_mount(
            File::open(&etc).unwrap().as_fd(),
            Path::new(""),
            false,
        );
        let clone = clone.unwrap();
        let read_only = ebbtide_sys::mount::MountAttributes::READ_ONLY;
        ebbtide_sys::mount::set_attributes(clone.as_fd(), read_only, false).unwrap();
        ebbtide_sys::mount::attach(clone.as_fd(), File::open(&etc).unwrap().as_fd()).unwrap();

        let failure = Target::find(root.path()).unwrap_err();
        assert!(failure.advice().unwrap().contains("the state store"), "{failure}");
        let own = root.path().join("run/ebbtide/stores/state/.ebbtide");
        fs::create_dir_all(&own).unwrap();
        fs::set_permissions(&own, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(Target::find(root.path()).is_err(), "others could have put it there");
        fs::set_permissions(&own, PermissionsExt::from_mode(0o700)).unwrap();
        let target = Target::find(root.path()).unwrap();
        target.write("x").unwrap();
        assert_eq!(fs::read_to_string(own.join("keep.toml")).unwrap(), "x");
        assert_eq!(fs::read_to_string(etc.join("ebbtide/ebbtide.toml")).unwrap(), TEXT);
    }
}
