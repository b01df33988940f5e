//! Running the base's own programs on the base: its initramfs builder and its boot loader.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::resolve;

use crate::failure::{Context, Failure, Result};
use crate::volume::{self, Volume};

/// A base mounted writable in a mount namespace of this process alone, with `/dev`, `/proc` and
/// `/sys` of this system. It is gone with the process.
#[derive(Debug)]
pub struct Chroot {
    path: PathBuf,
}

impl Chroot {
    /// Mounts a tree, by its path below the top level of the volume.
    pub fn enter(volume: &Volume, tree: &Path) -> Result<Self> {
        mount::enter_private_mount_namespace().context(|| "cannot make a mount namespace")?;
        let path = PathBuf::from("/run/ebbtide-init");
        std::fs::create_dir_all(&path).context(|| format!("cannot make {}", path.display()))?;
        volume::attach(volume.again()?.as_fd(), Some(tree), &path)
            .context(|| "cannot mount the base")?;
        let host = open(Path::new("/"))?;
        let base = open(&path)?;
        for directory in ["dev", "proc", "sys"] {
            let clone = mount::clone_mount(host.as_fd(), Path::new(directory), true)
                .context(|| format!("cannot clone /{directory}"))?;
            let target = resolve::open_directory(base.as_fd(), Path::new(directory))
                .context(|| format!("the base has no /{directory}"))?;
            mount::attach(clone.as_fd(), target.as_fd())
                .context(|| format!("cannot mount /{directory} in the base"))?;
        }
        let run = mount::mount_detached("tmpfs", None, &[], MountAttributes::NOSUID)
            .context(|| "cannot mount a tmpfs")?;
        let target = resolve::open_directory(base.as_fd(), Path::new("run"))
            .context(|| "the base has no /run")?;
        mount::attach(run.as_fd(), target.as_fd()).context(|| "cannot mount /run in the base")?;
        Ok(Self { path })
    }

    /// Returns where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a program of the base; its output is part of the error when it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let what = || format!("`{program} {}` failed in the base", arguments.join(" "));
        let output = Command::new("chroot")
            .arg(&self.path)
            .arg(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .context(what)?;
        if output.status.success() {
            return Ok(());
        }
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        Err(Failure::new(what()).caused_by(said.trim().to_owned()))
    }

    /// Unmounts it: subvolumes can only be sealed when nothing writes to them.
    pub fn leave(self) -> Result<()> {
        mount::unmount(&self.path, true).context(|| "cannot unmount the base")?;
        std::fs::remove_dir(&self.path).context(|| format!("cannot remove {}", self.path.display()))
    }
}

fn open(path: &Path) -> Result<std::fs::File> {
    std::fs::File::open(path).context(|| format!("cannot open {}", path.display()))
}
