//! A root and the base that it was made from: what the reset that follows takes away.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::MountAttributes;

use crate::backend;
use crate::boot::Boot;
use crate::changes::{self, Kept, Visit};
use crate::compiled::{Backend, Compiled};
use crate::container::{Container, name};
use crate::failure::{Failure, Result};
use crate::record::{BaseIdentity, BootNumber, Record};
use crate::status;
use crate::volume;

/// A root beside its base, ready to be compared.
#[derive(Debug)]
pub struct Diff {
    /// The boot whose root it is, if that is known.
    pub boot: Option<BootNumber>,
    /// The base that the root was made from.
    pub base: BaseIdentity,
    /// Entries that were not in place in this boot: what was written there is on the root, so it is told.
    pub uncovered: Vec<PathBuf>,
    kept: Kept,
    trees: Trees,
}

#[derive(Debug)]
enum Trees {
    /// What was written, and the tree that it lies over.
    Overlay { upper: OwnedFd, base: OwnedFd },
    /// A snapshot, and what it is one of.
    Subvolumes { root: OwnedFd, base: OwnedFd },
}

impl Diff {
    /// Opens the running root, which is mounted at `sysroot`. Needs root.
    ///
    /// # Errors
    ///
    /// Among others if what is mounted there is not the root that the next reset puts away.
    pub fn of_running(boot: &Boot, sysroot: &Path) -> Result<Self> {
        let container = boot.open_container()?;
        let root = backend::mounted(container.backend(), sysroot)?;
        let in_ram = root.is_in_ram();
        if !in_ram
            && backend::identity(&container, Path::new(name::ROOT)).ok().as_ref() != Some(&root)
        {
            return Err(Failure::new(format!(
                "{} is not the root that the next reset puts away",
                sysroot.display()
            ))
            .hint("`ebbtide status` says what it is"));
        }
        let record = boot.read_record().filter(|record| record.root.as_ref() == Some(&root));
        let base = backend::base_of(&container, &root)?;
        let trees = match container.backend() {
            Backend::Btrfs => {
                // A mount of its own: what is mounted on the root is not in it.
                let root = volume::clone_directory(sysroot, MountAttributes::NOATIME)?;
                Trees::Subvolumes { root, base: backend::open_base(&container, base.number)? }
            }
            Backend::Overlay | Backend::Tmpfs => {
                Trees::overlay(&container, Path::new(name::ROOT), &base, &boot.run)?
            }
        };
        let uncovered = record.as_ref().and_then(|it| it.attached.as_ref());
        let uncovered = uncovered.map(|it| it.missing.clone()).unwrap_or_default();
        let next = status::declaration(boot, &container).map(|(_, compiled)| compiled);
        let declared = match (boot.in_force(), next) {
            (Ok(Some(now)), Ok(next)) => vec![now, next],
            (_, Ok(next)) => vec![next],
            (Ok(Some(now)), Err(_)) => vec![now],
            (_, Err(failure)) => return Err(failure),
        };
        let kept = kept(&declared, record.as_ref(), &uncovered);
        Ok(Self { boot: record.map(|record| record.number), base, uncovered, kept, trees })
    }

    /// Visits all changes in the order of a walk.
    pub fn each(&self, visit: &mut Visit<'_>) -> Result<()> {
        match &self.trees {
            Trees::Overlay { upper, base } => {
                changes::overlay_each(upper.as_fd(), base.as_fd(), &self.kept, visit)
            }
            Trees::Subvolumes { root, base } => {
                changes::btrfs(root.as_fd(), base.as_fd(), &self.kept, visit)
            }
        }
    }
}

impl Trees {
    fn overlay(
        container: &Container,
        place: &Path,
        base: &BaseIdentity,
        run: &Path,
    ) -> Result<Self> {
        let upper = backend::upper(container, place, run)?
            .ok_or_else(|| Failure::new(format!("{} is no overlay", place.display())))?;
        let base = backend::open_base(container, base.number)?;
        Ok(Self::Overlay { upper, base })
    }
}

/// The paths that a reset takes nothing from: entries, and what a boot mounts itself.
fn kept(declared: &[Compiled], record: Option<&Record>, uncovered: &[PathBuf]) -> Kept {
    let attached = record.and_then(|record| record.attached.as_ref());
    let mounted = attached.into_iter().flat_map(|attached| attached.mounted.keys());
    let declared = declared.iter().flat_map(|compiled| {
        let entries = compiled.entries.iter().map(|entry| &entry.path);
        let ram = compiled.root.tmpfs.iter().map(|mount| &mount.path);
        entries.chain(ram).chain(compiled.root.mounts.iter().map(|mount| &mount.path))
    });
    let all = declared.chain(mounted).filter(|path| !uncovered.contains(path));
    all.map(PathBuf::as_path).collect()
}
