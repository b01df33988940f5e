//! The root itself: its fstab, filesystems in RAM that every boot mounts on it, its limits, and whether
//! it can be written to.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::{file, metadata, resolve, xattr};
use rustix::io::Errno;

use super::{Boot, report};
use crate::attach::{Places, Policy};
use crate::backend;
use crate::compiled::{
    Backend, Compiled, Entry, MountOption, RamMount, RamSize, Root, VolumeMount,
};
use crate::container::Container;
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::fstab;
use crate::record::{Record, RootIdentity};
use crate::{store, volume};

/// Where the kernel shows SELinux, if it has it.
const SELINUX: &str = "/sys/fs/selinux";

/// What the root itself needs before entries are put in place.
pub(super) fn prepare(
    boot: &Boot,
    compiled: &Compiled,
    root: BorrowedFd<'_>,
    policy: Policy,
    record: &mut Record,
    log: &mut Log<'_>,
) {
    let in_ram = record.root.as_ref().is_some_and(RootIdentity::is_in_ram);
    if let Some(size) = compiled.root.size.filter(|_| in_ram)
        && let Err(failure) = backend::overlay::limit_ram(&boot.run, size)
    {
        report(record, log, Problem::from_failure(Level::Error, &failure));
    }
    if policy != Policy::AsItWas
        && let Err(failure) = fit_fstab(compiled, root)
    {
        report(record, log, Problem::from_failure(Level::Warning, &failure));
    }
    for failure in mount(compiled, root, Ram::Outside) {
        report(record, log, Problem::from_failure(Level::Error, &failure));
    }
}

/// Makes the line for `/` one that systemd-remount-fs(8) can apply to this root.
fn fit_fstab(compiled: &Compiled, root: BorrowedFd<'_>) -> Result<()> {
    let what = || "cannot make the root's /etc/fstab fit it";
    let text = match file::read_limited(root, Path::new("etc/fstab"), 1 << 20) {
        Err(error) if error.is_not_found() => return Ok(()),
        text => text.context(what)?,
    };
    let Ok(text) = String::from_utf8(text) else { return Ok(()) };
    let Compiled { root: Root { backend, writable, .. }, .. } = compiled;
    let Some(text) = fstab::fitting(&text, *backend, *writable) else { return Ok(()) };
    let etc = resolve::open_directory(root, Path::new("etc")).context(what)?;
    file::replace_file(etc.as_fd(), OsStr::new("fstab"), text.as_bytes(), 0o644).context(what)
}

/// What the root still needs, now that entries are in place: mounts that lie in them, and labels.
pub(super) fn complete(
    container: &Container,
    compiled: &Compiled,
    places: &Places,
    record: &mut Record,
    log: &mut Log<'_>,
) {
    let root = places.root.as_fd();
    let mut failures = mount(compiled, root, Ram::Inside);
    if let Some(base) = places.base {
        failures.extend(label_what_was_copied_up(container, base, compiled, root).err());
    }
    for failure in failures {
        report(record, log, Problem::from_failure(Level::Error, &failure));
    }
}

/// What overlayfs copies up before SELinux has a policy loses its label, in kernels as old as 6.1: they leave
/// that to the policy. Directories in which something was made have that of the base again.
fn label_what_was_copied_up(
    container: &Container,
    base: u64,
    compiled: &Compiled,
    root: BorrowedFd<'_>,
) -> Result<()> {
    if container.backend() == Backend::Btrfs || !Path::new(SELINUX).exists() {
        return Ok(());
    }
    let what = || "cannot label what was made on the root";
    let base = backend::open_base(container, base)?;
    let mut last = Path::new("");
    for path in compiled.entries.iter().map(Entry::relative).chain([Path::new("etc/fstab")]) {
        let parent = path.parent().unwrap_or(last);
        // Most have that of the one before them.
        if parent == last {
            continue;
        }
        last = parent;
        for above in parent.ancestors() {
            let open = |tree| resolve::open_path(tree, above);
            if let (Ok(model), Ok(made)) = (open(base.as_fd()), open(root)) {
                xattr::label_like(model.as_fd(), made.as_fd()).context(what)?;
            }
        }
    }
    Ok(())
}

/// The last thing that is done to a root that is not for writing. The mount is, not the filesystem:
/// `mount -o remount,rw /` is the way out.
pub(super) fn seal(compiled: &Compiled, root: BorrowedFd<'_>) -> Result<()> {
    if compiled.root.writable {
        return Ok(());
    }
    mount::set_attributes(root, MountAttributes::READ_ONLY, false)
        .context(|| "cannot make the root read-only")
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ram {
    /// Those that lie on the root, before entries are put in place: some may lie in them.
    Outside,
    /// Those that lie in what is kept, after that is in place.
    Inside,
}

/// Mounts them, and with those that lie on the root also the volumes that do; what fails does not stop
/// the others.
fn mount(compiled: &Compiled, root: BorrowedFd<'_>, which: Ram) -> Vec<Failure> {
    let in_an_entry =
        |mount: &RamMount| compiled.entries.iter().any(|entry| mount.path.starts_with(&entry.path));
    let due = |mount: &&RamMount| in_an_entry(mount) == (which == Ram::Inside);
    let mut due: Vec<_> = compiled.root.tmpfs.iter().filter(due).map(Due::Ram).collect();
    if which == Ram::Outside {
        due.extend(compiled.root.mounts.iter().map(Due::Volume));
    }
    // What lies in another one comes after it.
    due.sort_by_key(|it| it.path().to_owned());
    due.iter().filter_map(|mount| mount.mount(root).err()).collect()
}

/// Something to mount.
#[derive(Debug, Clone, Copy)]
enum Due<'a> {
    Ram(&'a RamMount),
    Volume(&'a VolumeMount),
}

impl Due<'_> {
    fn path(&self) -> &Path {
        match self {
            Self::Ram(mount) => &mount.path,
            Self::Volume(mount) => &mount.path,
        }
    }

    fn mount(&self, root: BorrowedFd<'_>) -> Result<()> {
        match self {
            Self::Ram(mount) => mount_ram(mount, root),
            Self::Volume(mount) => mount_volume(mount, root),
        }
    }
}

fn make_all(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let mut above: Vec<_> = path.ancestors().filter(|it| !it.as_os_str().is_empty()).collect();
    above.reverse();
    above.into_iter().try_for_each(|directory| make(root, directory))
}

fn mount_volume(wanted: &VolumeMount, root: BorrowedFd<'_>) -> Result<()> {
    let path = wanted.path.strip_prefix("/").unwrap_or(&wanted.path);
    let what = || format!("cannot mount {} at {}", wanted.device, wanted.path.display());
    let attributes = store::attributes(&wanted.options);
    // The kernel takes no option that is one of the mount alone for one of the filesystem: `ro` is put
    // on what is mounted, so that the same volume can be a store as well.
    let writable = wanted.options.iter().copied().filter(|it| *it != MountOption::Ro);
    let writable = store::attributes(&writable.collect::<Vec<_>>());
    let volume = volume::mount(&wanted.device, wanted.subvolume.as_deref(), &[], writable)
        .or_else(|failure| {
            // One that cannot be written to, as a DVD or a protected disk.
            volume::mount(&wanted.device, wanted.subvolume.as_deref(), &[], attributes)
                .map_err(|_| failure)
        })
        .context(what)?;
    make_all(root, path).context(what)?;
    let open = || resolve::open_directory(root, path).context(what);
    mount::attach(volume.as_fd(), open()?.as_fd()).context(what)?;
    if let Some(directory) = &wanted.directory {
        // A directory is cloned in the tree: see `volume::attach`.
        let top = open()?;
        let clone = mount::clone_mount(top.as_fd(), directory, false).context(what);
        drop((top, volume));
        let (parent, name) = resolve::split_parent(path)
            .ok_or_else(|| Failure::new("it is mounted on the root itself"))?;
        let parent = resolve::open_directory(root, parent).context(what)?;
        // Whoever has a descriptor of it, as a process that was forked meanwhile, must not leave the whole
        // volume in this place.
        mount::unmount_entry(parent.as_fd(), name, true).context(what)?;
        mount::attach(clone?.as_fd(), open()?.as_fd()).context(what)?;
    }
    mount::set_attributes(open()?.as_fd(), attributes, false).context(what)
}

fn mount_ram(wanted: &RamMount, root: BorrowedFd<'_>) -> Result<()> {
    let path = wanted.path.strip_prefix("/").unwrap_or(&wanted.path);
    let what = || format!("cannot mount a filesystem in RAM at {}", wanted.path.display());
    make_all(root, path).context(what)?;
    let size = wanted.size.unwrap_or(RamSize::DEFAULT).to_string();
    let mode = format!("{:o}", wanted.mode.0);
    let options = [("size", Some(size.as_str())), ("mode", Some(mode.as_str()))];
    let attributes = MountAttributes::NOSUID | MountAttributes::NODEV;
    let fresh = mount::mount_detached("tmpfs", Some(Path::new("tmpfs")), &options, attributes)
        .context(what)?;
    let target = resolve::open_directory(root, path).context(what)?;
    mount::attach(fresh.as_fd(), target.as_fd()).context(what)
}

fn make(root: BorrowedFd<'_>, path: &Path) -> Result<()> {
    let what = || format!("make /{}", path.display());
    if metadata::metadata_beneath(root, path).context(what)?.is_some() {
        return Ok(());
    }
    let Some((parent, name)) = resolve::split_parent(path) else { return Ok(()) };
    let parent = resolve::open_directory(root, parent).context(what)?;
    match file::create_directory(parent.as_fd(), name, 0o755) {
        Err(error) if error.errno() != Errno::EXIST => Err(error).context(what),
        _ => Ok(()),
    }
}
