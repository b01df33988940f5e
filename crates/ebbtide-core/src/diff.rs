//! A root and the base that it was made from: what the reset that follows takes away, or took.

pub mod content;
pub mod kept;
pub mod owned;
mod sides;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::FileKind;
use ebbtide_sys::mount::MountAttributes;
use serde::{Deserialize, Serialize};

use crate::backend;
use crate::boot::Boot;
use crate::changes::{self, Change, Kept, Visit, What};
use crate::compiled::{Backend, Compiled, Entry, Method};
use crate::container::{Container, name};
use crate::failure::{Failure, Result};
use crate::once;
use crate::record::{BaseIdentity, BootNumber, Record};
use crate::status;
use crate::volume;

pub use sides::{Side, Sides};

/// What is compared with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The running root with its base.
    Running,
    /// The past root of this boot with its base.
    Past(BootNumber),
    /// The past root of the later boot, or else the running one, with the past root of an earlier boot.
    Between(BootNumber, Option<BootNumber>),
}

/// What is compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// The boot whose root it is, if that is known.
    pub boot: Option<BootNumber>,
    /// The boot whose past root it is compared with; `None`: it is compared with its base.
    pub since: Option<BootNumber>,
    /// The base that the root was made from.
    pub base: BaseIdentity,
    /// Whether it is a past root: a reset has taken the changes already.
    pub is_past: bool,
    /// Entries that were not in place in this boot: what was written there is on the root, so it is told.
    pub uncovered: Vec<PathBuf>,
    /// Paths that are carried over the next reset, once; of a past root, those that were over its own.
    #[serde(default)]
    pub carried: Vec<PathBuf>,
}

impl About {
    /// Whether a change is carried over the next reset: what it is about, or a directory that is made for it.
    pub fn is_carried(&self, change: &Change) -> bool {
        let on_the_way = |path: &PathBuf| {
            path.starts_with(&change.path)
                && (&change.what, change.kind) == (&What::Added, FileKind::Directory)
        };
        self.carried.iter().any(|path| change.path.starts_with(path) || on_the_way(path))
    }
}

/// A root beside its base, or beside an earlier root, ready to be compared.
#[derive(Debug)]
pub struct Diff {
    /// What is compared.
    pub about: About,
    kept: Kept,
    trees: Trees,
    /// Of a past root: all of it.
    past: Option<OwnedFd>,
}

#[derive(Debug)]
enum Trees {
    /// What was written, and the tree that it lies over.
    Overlay { upper: OwnedFd, base: OwnedFd },
    /// A snapshot, and what it is one of.
    Subvolumes { root: OwnedFd, base: OwnedFd },
    /// Two roots.
    Roots { root: OwnedFd, earlier: OwnedFd },
}

/// A root that is compared.
#[derive(Debug)]
struct Root {
    boot: Option<BootNumber>,
    is_past: bool,
    base: BaseIdentity,
    uncovered: Vec<PathBuf>,
    carried: Vec<PathBuf>,
    kept: Kept,
}

impl Diff {
    /// Opens what is to be compared; the running root is mounted at `sysroot`. Needs root.
    ///
    /// # Errors
    ///
    /// Among others if a root is not there any more, or the base that it was made from, or if what is
    /// mounted at `sysroot` is not the root that the next reset puts away.
    pub fn open(boot: &Boot, sysroot: &Path, which: Which) -> Result<Self> {
        Self::open_in(boot, &boot.open_container()?, sysroot, which)
    }

    fn open_in(boot: &Boot, container: &Container, sysroot: &Path, which: Which) -> Result<Self> {
        let (earlier, root) = roots(boot, container, sysroot, which)?;
        let since = earlier.as_ref().and_then(|earlier| earlier.boot);
        let (trees, kept) = match earlier {
            Some(earlier) => {
                let trees = Trees::Roots {
                    root: root.whole(boot, container, sysroot)?,
                    earlier: earlier.whole(boot, container, sysroot)?,
                };
                (trees, root.kept.clone().or(earlier.kept))
            }
            None => (root.beside_base(boot, container, sysroot)?, root.kept.clone()),
        };
        // Without it, only less is known of it.
        let past = root.is_past.then(|| root.whole(boot, container, sysroot).ok()).flatten();
        let Root { boot, is_past, base, uncovered, carried, .. } = root;
        let carried = if since.is_none() { carried } else { Vec::new() };
        let about = About { boot, since, base, is_past, uncovered, carried };
        Ok(Self { about, kept, trees, past })
    }

    /// Opens the running root, which is mounted at `sysroot`; see [`Self::open`].
    pub fn of_running(boot: &Boot, sysroot: &Path) -> Result<Self> {
        Self::open(boot, sysroot, Which::Running)
    }

    /// The whole of the past root that is looked at; `None` if it is the running one.
    pub fn past_root(&self) -> Option<BorrowedFd<'_>> {
        self.past.as_ref().map(AsFd::as_fd)
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
            Trees::Roots { root, earlier } => {
                changes::between(root.as_fd(), earlier.as_fd(), &self.kept, visit)
            }
        }
    }
}

/// The root that is meant, and the one that it is compared with if that is not its base.
fn roots(
    boot: &Boot,
    container: &Container,
    sysroot: &Path,
    which: Which,
) -> Result<(Option<Root>, Root)> {
    match which {
        Which::Running => Ok((None, Root::running(boot, container, sysroot)?)),
        Which::Past(number) => Ok((None, Root::past(boot, container, number)?)),
        Which::Between(first, Some(second)) if first >= second => {
            Err(Failure::new(format!("boot {second} does not come after boot {first}"))
                .hint("the earlier boot is named first, as in 3..7"))
        }
        Which::Between(first, second) => {
            let earlier = Root::past(boot, container, first)?;
            let root = match second {
                Some(number) => Root::past(boot, container, number)?,
                None => Root::running(boot, container, sysroot)?,
            };
            Ok((Some(earlier), root))
        }
    }
}

/// The paths that the reset after a boot carried over.
fn carried_from(container: &Container, number: BootNumber) -> Result<Vec<PathBuf>> {
    for later in container.numbers(name::BOOTS)?.into_iter().filter(|it| *it > number) {
        let Ok(Some(record)) = container.record(later) else { continue };
        if let Some(carried) = record.carried.filter(|carried| carried.from == number) {
            return Ok(carried.paths);
        }
        // A system ran on the root of that boot: it was made by that reset, or by a later one.
        if record.attached.is_some() {
            break;
        }
    }
    Ok(Vec::new())
}

impl Root {
    fn running(boot: &Boot, container: &Container, sysroot: &Path) -> Result<Self> {
        let root = backend::mounted(container.backend(), sysroot)?;
        let in_ram = root.is_in_ram();
        if !in_ram
            && backend::identity(container, Path::new(name::ROOT)).ok().as_ref() != Some(&root)
        {
            return Err(Failure::new(format!(
                "{} is not the root that the next reset puts away",
                sysroot.display()
            ))
            .hint("`ebbtide status` says what it is"));
        }
        let record = boot.read_record().filter(|record| record.root.as_ref() == Some(&root));
        let base = backend::base_of(container, &root)?;
        let uncovered = uncovered(record.as_ref());
        let state = boot.open_state();
        // What can't be read is told rather as lost than as carried.
        let carried = match &state {
            Ok(state) => once::carried_in(state.as_fd(), root.uuid()).unwrap_or_default().paths,
            Err(_) => Vec::new(),
        };
        let declared = declared(boot, container, state)?;
        let kept = kept(paths(&declared, |_| true), record.as_ref(), &uncovered);
        let number = record.map(|record| record.number);
        Ok(Self { boot: number, is_past: false, base, uncovered, carried, kept })
    }

    /// The root of an earlier boot. What was kept is what its record says was mounted on it, and what is
    /// copied or linked into a root as it is declared now.
    fn past(boot: &Boot, container: &Container, number: BootNumber) -> Result<Self> {
        has_past_root(container, number)?;
        let base = backend::base_of(container, &backend::identity(container, &place(number))?)?;
        let record = container.record(number)?;
        let uncovered = uncovered(record.as_ref());
        let declared = declared(boot, container, boot.open_state())?;
        // A mount that is declared now may not have been then: only the record knows.
        let was_not_mounted = |entry: &&Entry| record.is_none() || entry.method != Method::Bind;
        let kept = kept(paths(&declared, was_not_mounted), record.as_ref(), &uncovered);
        let carried = carried_from(container, number)?;
        Ok(Self { boot: Some(number), is_past: true, base, uncovered, carried, kept })
    }

    /// Where it lies in the container.
    fn place(&self) -> PathBuf {
        match self.boot.filter(|_| self.is_past) {
            Some(number) => place(number),
            None => PathBuf::from(name::ROOT),
        }
    }

    /// Opens the way to compare it with its base that costs least.
    fn beside_base(&self, boot: &Boot, container: &Container, sysroot: &Path) -> Result<Trees> {
        let base = backend::open_base(container, self.base.number)?;
        let place = self.place();
        match container.backend() {
            Backend::Btrfs => {
                Ok(Trees::Subvolumes { root: self.whole(boot, container, sysroot)?, base })
            }
            Backend::Overlay | Backend::Tmpfs => {
                let upper = backend::upper(container, &place, &boot.run)?
                    .ok_or_else(|| Failure::new(format!("{} is no overlay", place.display())))?;
                Ok(Trees::Overlay { upper, base })
            }
        }
    }

    /// Opens all of it, for reading.
    fn whole(&self, boot: &Boot, container: &Container, sysroot: &Path) -> Result<OwnedFd> {
        if self.is_past {
            return backend::tree(container, &self.place(), &boot.run);
        }
        // A mount of its own: what is mounted on the root is not in it.
        volume::clone_directory(sysroot, MountAttributes::NOATIME)
    }
}

fn place(number: BootNumber) -> PathBuf {
    Path::new(name::PAST).join(number.to_string())
}

/// Fails if a boot has no past root, and says why.
fn has_past_root(container: &Container, number: BootNumber) -> Result<()> {
    let roots = container.numbers(name::PAST)?;
    if roots.contains(&number) {
        return Ok(());
    }
    let uuid = |number| Some(container.record(number).ok()??.root?.uuid());
    let same = |other: &&BootNumber| uuid(number).is_some() && uuid(**other) == uuid(number);
    let failure = Failure::new(format!("there is no past root of boot {number}"));
    Err(match roots.iter().find(same) {
        Some(later) => {
            failure.hint(format!("boot {later} went on with the same root, and has it: look there"))
        }
        None => failure.hint("`ebbtide boots` lists the roots that there are"),
    })
}

/// The declarations by which something is kept: of this boot, and of the next one.
fn declared(boot: &Boot, container: &Container, state: Result<OwnedFd>) -> Result<Vec<Compiled>> {
    let next = state.and_then(|state| status::declaration_in(state.as_fd(), container));
    let next = next.map(|(_, compiled)| compiled);
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
