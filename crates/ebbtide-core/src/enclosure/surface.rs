//! What a throw-away root has for itself instead of the machine's: `/dev`, `/run`, `/proc`, `/sys`.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::{file, resolve, terminal};
use rustix::io::Errno;

use super::mounts::{attach, make_directory, make_path, open_directory};
use crate::failure::{Context, Failure, Result};

/// The devices that every program may count on, and that lead nowhere.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];
/// The group that terminals belong to on every distribution.
const TTY: &str = "5";

/// Parts of /proc through which a machine can be changed.
const FIXED: [&str; 6] = ["acpi", "bus", "fs", "irq", "sys", "sysrq-trigger"];

/// The longest file for the resolver, in bytes.
const RESOLVER: u64 = 64 << 10;

const NOSUID_NOEXEC: MountAttributes = MountAttributes::NOSUID.union(MountAttributes::NOEXEC);
const INERT: MountAttributes = NOSUID_NOEXEC.union(MountAttributes::NODEV);

/// Mounts a `/dev` with the devices that lead nowhere, and terminals of its own. With `console`, one
/// of those is opened: its master is returned, with its name.
pub(crate) fn mount_devices(root: &Path, console: bool) -> Result<Option<(OwnedFd, PathBuf)>> {
    let root = open_directory(root)?;
    let outside = open_directory(Path::new("/dev"))?;
    let options = [("mode", Some("0755")), ("size", Some("4m"))];
    let fresh = mount::mount_detached("tmpfs", None, &options, NOSUID_NOEXEC)
        .context(|| "cannot mount /dev")?;
    attach(&fresh, &root, Path::new("/dev"))?;
    let inside =
        resolve::open_directory(root.as_fd(), Path::new("dev")).context(|| "cannot open /dev")?;
    for name in DEVICES {
        bind_device(outside.as_fd(), name, inside.as_fd(), name)?;
    }
    for (name, target) in LINKS {
        file::create_symlink(inside.as_fd(), OsStr::new(name), Path::new(target))
            .context(|| format!("cannot make /dev/{name}"))?;
    }
    make_directory(inside.as_fd(), "shm")?;
    let attributes = MountAttributes::NOSUID | MountAttributes::NODEV;
    let shared = mount::mount_detached("tmpfs", None, &[("mode", Some("1777"))], attributes)
        .context(|| "cannot mount /dev/shm")?;
    attach(&shared, &root, Path::new("/dev/shm"))?;
    make_directory(inside.as_fd(), "mqueue")?;
    make_directory(inside.as_fd(), "pts")?;
    let terminals = mount_terminals()?;
    attach(&terminals, &root, Path::new("/dev/pts"))?;
    if !console {
        return Ok(None);
    }
    let (master, number) =
        terminal::open_pseudo_terminal(terminals.as_fd()).context(|| "cannot make a terminal")?;
    let pts = resolve::open_directory(inside.as_fd(), Path::new("pts"))
        .context(|| "cannot open /dev/pts")?;
    bind_device(pts.as_fd(), &number, inside.as_fd(), "console")?;
    Ok(Some((master, Path::new("/dev/pts").join(number))))
}

fn mount_terminals() -> Result<OwnedFd> {
    let options = [("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some(TTY))];
    let attributes = NOSUID_NOEXEC;
    mount::mount_detached("devpts", None, &options, attributes)
        // In some containers there is no such group.
        .or_else(|_| mount::mount_detached("devpts", None, &options[..2], attributes))
        .context(|| "cannot mount /dev/pts")
}

/// Binds a device, since making one takes a right that not everybody has.
fn bind_device(from: BorrowedFd<'_>, name: &str, to: BorrowedFd<'_>, new_name: &str) -> Result<()> {
    let what = || format!("cannot bind /dev/{name}");
    let target = file::create_file(to, OsStr::new(new_name), 0o666).context(what)?;
    let clone = mount::clone_mount(from, Path::new(name), false).context(what)?;
    // The machine's own may be mounted `nodev` or read-only, as in some containers.
    mount::replace_attributes(clone.as_fd(), MountAttributes::NONE, MountAttributes::NODEV)
        .or_else(|error| if error.errno() == Errno::PERM { Ok(()) } else { Err(error) })
        .context(what)?;
    mount::attach(clone.as_fd(), target.as_fd()).context(what)
}

/// Makes an empty `/run` at a directory, with what the resolver needs. It is mounted later.
pub(crate) fn make_run(at: &Path, base: &Path) -> Result<()> {
    let options = [("mode", Some("0755"))];
    let attributes = MountAttributes::NOSUID | MountAttributes::NODEV;
    let fresh = mount::mount_detached("tmpfs", None, &options, attributes)
        .context(|| "cannot mount /run")?;
    let target = open_directory(at)?;
    mount::attach(fresh.as_fd(), target.as_fd()).context(|| "cannot mount /run")?;
    let run = open_directory(at)?;
    // The interface by which programs tell that they are in a container, and in whose:
    // <https://systemd.io/CONTAINER_INTERFACE/>.
    let host = make_path(&run, Path::new("host"))?;
    write(host.as_fd(), "container-manager", b"ebbtide\n")?;
    let lock = make_path(&run, Path::new("lock"))?;
    ebbtide_sys::metadata::set_mode(lock.as_fd(), 0o1777).context(|| "cannot make /run/lock")?;
    let link = std::fs::read_link(base.join("etc/resolv.conf")).ok();
    let Some(path) = link.and_then(|link| below_run(&link)) else { return Ok(()) };
    let machine = open_directory(Path::new("/"))?;
    let canonical = Path::new("/etc/resolv.conf").canonicalize();
    let content =
        canonical.ok().and_then(|it| file::read_limited(machine.as_fd(), &it, RESOLVER).ok());
    // Without it names are not resolved, as outside.
    let (Some(content), Some((parent, name))) = (content, resolve::split_parent(&path)) else {
        return Ok(());
    };
    let parent = make_path(&run, parent)?;
    write(parent.as_fd(), &name.to_string_lossy(), &content)
}

fn write(directory: BorrowedFd<'_>, name: &str, content: &[u8]) -> Result<()> {
    let what = || format!("cannot write {name}");
    let file = file::create_file(directory, OsStr::new(name), 0o644).context(what)?;
    std::io::Write::write_all(&mut std::fs::File::from(file), content).context(what)
}

/// Where below `/run` the link `/etc/resolv.conf` leads, if it leads there.
fn below_run(link: &Path) -> Option<PathBuf> {
    let mut path = PathBuf::from("/etc");
    for component in link.components() {
        match component {
            Component::RootDir => path = PathBuf::from("/"),
            Component::ParentDir => {
                path.pop();
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let below = path.strip_prefix("/run").or_else(|_| path.strip_prefix("/var/run")).ok()?;
    below.file_name().is_some().then(|| below.to_owned())
}

/// Puts the `/run` that was made at a directory, with all that is mounted in it, into the root.
pub(crate) fn mount_run(root: &Path, made_at: &Path) -> Result<()> {
    let made = open_directory(made_at)?;
    let clone =
        mount::clone_mount(made.as_fd(), Path::new(""), true).context(|| "cannot bind /run")?;
    attach(&clone, &open_directory(root)?, Path::new("/run"))
}

/// Puts an empty directory in memory over one that is not to be seen.
pub(crate) fn hide(root: &Path, path: &Path) -> Result<()> {
    let attributes = MountAttributes::NOSUID | MountAttributes::NODEV;
    let empty = mount::mount_detached("tmpfs", None, &[("mode", Some("0700"))], attributes)
        .context(|| format!("cannot hide {}", path.display()))?;
    attach(&empty, &open_directory(root)?, path)
}

/// Mounts what shows the caller's own namespaces: `/proc`, `/sys` and message queues. The caller is
/// the first process of those namespaces.
pub(crate) fn mount_kernel(root: &Path) -> Result<()> {
    let root = open_directory(root)?;
    let processes = mount::mount_detached("proc", None, &[], INERT).map_err(|error| {
        let refused = error.errno() == Errno::PERM;
        let failure = Failure::new("cannot mount /proc").caused_by(error);
        if refused {
            failure.hint("this container shows only a part of its own /proc, and the kernel lets nobody in it mount a whole one")
        } else {
            failure
        }
    })?;
    attach(&processes, &root, Path::new("/proc"))?;
    for name in FIXED {
        let path = Path::new("proc").join(name);
        match mount::clone_mount(root.as_fd(), &path, false) {
            // Not every kernel has all of them.
            Err(error) if error.is_not_found() => {}
            clone => {
                let what = || format!("cannot make /{} read-only", path.display());
                let clone = clone.context(what)?;
                mount::set_attributes(clone.as_fd(), INERT | MountAttributes::READ_ONLY, false)
                    .context(what)?;
                attach(&clone, &root, &path)?;
            }
        }
    }
    mount_sys(&root)?;
    // A kernel may have no message queues.
    if let Ok(queues) = mount::mount_detached("mqueue", None, &[], INERT) {
        attach(&queues, &root, Path::new("/dev/mqueue"))?;
    }
    Ok(())
}

fn mount_sys(root: &OwnedFd) -> Result<()> {
    let what = || "cannot mount /sys";
    let outside = open_directory(Path::new("/sys"))?;
    // The attribute of the mount, not of the filesystem: that one is the machine's too.
    let system = match mount::mount_detached("sysfs", None, &[], INERT) {
        Ok(system) => system,
        // In a network namespace of someone else nobody may; then as it is outside.
        Err(_) => mount::clone_mount(outside.as_fd(), Path::new(""), true).context(what)?,
    };
    mount::set_attributes(system.as_fd(), INERT | MountAttributes::READ_ONLY, true)
        .context(what)?;
    attach(&system, root, Path::new("/sys"))?;
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok(());
    }
    if let Ok(groups) = mount::mount_detached("cgroup2", None, &[], INERT)
        && mount::set_attributes(groups.as_fd(), MountAttributes::READ_ONLY, false).is_ok()
    {
        attach(&groups, root, Path::new("/sys/fs/cgroup"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_of_the_resolver_is_understood() {
        let found = |link: &str| below_run(Path::new(link)).map(|it| it.display().to_string());
        let stub = Some("systemd/resolve/stub-resolv.conf".to_owned());
        assert_eq!(found("../run/systemd/resolve/stub-resolv.conf"), stub);
        assert_eq!(found("/run/systemd/resolve/stub-resolv.conf"), stub);
        assert_eq!(found("/var/run/x"), Some("x".to_owned()));
        assert_eq!(found("/etc/other"), None);
        assert_eq!(found("resolv.conf.real"), None);
        assert_eq!(found("/run"), None);
        assert_eq!(found("/run/../../etc/shadow"), None);
    }
}
