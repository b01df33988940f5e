//! A root and the base that it was made from: what the reset that follows takes away, or took.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::MountAttributes;

use crate::backend;
use crate::boot::Boot;
use crate::changes::{self, Kept, Visit};
use crate::compiled::{Backend, Compiled, Entry, Method};
use crate::container::{Container, name};
use crate::failure::{Failure, Result};
use crate::past;
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
    /// Whether it is a past root: a reset has taken the changes already.
    pub is_past: bool,
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
        let uncovered = uncovered(record.as_ref());
        let declared = declared(boot, &container)?;
        let kept = kept(paths(&declared, |_| true), record.as_ref(), &uncovered);
        let number = record.map(|record| record.number);
        Ok(Self { boot: number, base, is_past: false, uncovered, kept, trees })
    }

    /// Opens the root of an earlier boot; with `None` the one that was put away last. Needs root.
    ///
    /// What was kept is what its record says was mounted on it, and what is copied or linked into a root
    /// as it is declared now.
    ///
    /// # Errors
    ///
    /// Among others if that boot's root is not there any more, or the base that it was made from.
    pub fn of_past(boot: &Boot, number: Option<BootNumber>) -> Result<Self> {
        let container = boot.open_container()?;
        let number = past_root(&container, number)?;
        let place = Path::new(name::PAST).join(number.to_string());
        let base = backend::base_of(&container, &backend::identity(&container, &place)?)?;
        let trees = match container.backend() {
            Backend::Btrfs => Trees::Subvolumes {
                root: container.open_directory(&place)?,
                base: backend::open_base(&container, base.number)?,
            },
            Backend::Overlay | Backend::Tmpfs => {
                Trees::overlay(&container, &place, &base, &boot.run)?
            }
        };
        let record = container.record(number)?;
        let uncovered = uncovered(record.as_ref());
        let declared = declared(boot, &container)?;
        // A mount that is declared now may not have been then: only the record knows.
        let was_not_mounted = |entry: &&Entry| record.is_none() || entry.method != Method::Bind;
        let kept = kept(paths(&declared, was_not_mounted), record.as_ref(), &uncovered);
        Ok(Self { boot: Some(number), base, is_past: true, uncovered, kept, trees })
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

/// The boot whose past root is meant, or why there is none.
fn past_root(container: &Container, number: Option<BootNumber>) -> Result<BootNumber> {
    const LIST: &str = "`ebbtide boots` lists the roots that there are";
    let roots = container.numbers(name::PAST)?;
    let Some(number) = number else { return past::newest_root(container) };
    if roots.contains(&number) {
        return Ok(number);
    }
    let uuid = |number| Some(container.record(number).ok()??.root?.uuid());
    let same = |other: &&BootNumber| uuid(number).is_some() && uuid(**other) == uuid(number);
    let failure = Failure::new(format!("there is no past root of boot {number}"));
    Err(match roots.iter().find(same) {
        Some(later) => {
            failure.hint(format!("boot {later} went on with the same root, and has it: look there"))
        }
        None => failure.hint(LIST),
    })
}

/// The declarations by which something is kept: of this boot, and of the next one.
fn declared(boot: &Boot, container: &Container) -> Result<Vec<Compiled>> {
    let next = status::declaration(boot, container).map(|(_, compiled)| compiled);
    Ok(match (boot.in_force(), next) {
        (Ok(Some(now)), Ok(next)) => vec![now, next],
        (_, Ok(next)) => vec![next],
        (Ok(Some(now)), Err(_)) => vec![now],
        (_, Err(failure)) => return Err(failure),
    })
}

/// The paths of some entries, and of what is mounted on a root besides them.
fn paths(
    declared: &[Compiled],
    wanted: impl Fn(&&Entry) -> bool,
) -> impl Iterator<Item = &PathBuf> {
    declared.iter().flat_map(move |compiled| {
        let entries = compiled.entries.iter().filter(&wanted).map(|entry| &entry.path);
        let ram = compiled.root.tmpfs.iter().map(|mount| &mount.path);
        let all = entries.chain(ram).chain(compiled.root.mounts.iter().map(|mount| &mount.path));
        all.collect::<Vec<_>>()
    })
}

fn uncovered(record: Option<&Record>) -> Vec<PathBuf> {
    let attached = record.and_then(|record| record.attached.as_ref());
    attached.map(|attached| attached.missing.clone()).unwrap_or_default()
}

/// The paths that a reset takes nothing from: entries, and what a boot mounts itself.
fn kept<'d>(
    declared: impl Iterator<Item = &'d PathBuf>,
    record: Option<&'d Record>,
    uncovered: &[PathBuf],
) -> Kept {
    let attached = record.and_then(|record| record.attached.as_ref());
    let mounted = attached.into_iter().flat_map(|attached| attached.mounted.keys());
    let all = declared.chain(mounted).filter(|path| !uncovered.contains(path));
    all.map(PathBuf::as_path).collect()
}
