//! Bringing versions back from past roots.

mod apply;
mod plan;
mod target;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

pub use apply::{Done, Step};
#[cfg(feature = "declaration")]
pub(crate) use target::working_name;

pub use plan::{After, Plan, Replaced, Request, Wanted};

use super::history;
use super::history::KeptBy;
use super::sources::{Place, Source, Sources};
use super::version::{self, Contents, State, Version};
use crate::boot::Boot;
use crate::compiled::{Method, StoreName};
use crate::container::Container;
use crate::failure::{Failure, Problem, Result};
use crate::record::BootNumber;
use plan::{Area, Seen};

/// A container whose past roots are restored from.
#[derive(Debug)]
pub struct Restore {
    container: Container,
    sources: Sources,
    sysroot: PathBuf,
    boot: BootNumber,
    contents: Contents,
}

impl Restore {
    /// Opens all trees.
    pub fn open(boot: &Boot, sysroot: &Path) -> Result<Self> {
        let container = boot.open_container()?;
        let sources = Sources::open(boot, &container, sysroot)?;
        let number = match boot.read_record() {
            Some(record) => record.number,
            None => container.last_number()?,
        };
        let (sysroot, contents) = (sysroot.to_owned(), Contents::default());
        Ok(Self { container, sources, sysroot, boot: number, contents })
    }

    /// Opens only what it takes to restore from one past root. For a boot, which has nothing beside it.
    pub(crate) fn of_boot(boot: &Boot, sysroot: &Path, number: BootNumber) -> Result<Self> {
        let container = boot.open_container()?;
        let sources = Sources::of_boot(boot, &container, sysroot, number)?;
        let this = match boot.read_record() {
            Some(record) => record.number,
            None => container.last_number()?,
        };
        let (sysroot, contents) = (sysroot.to_owned(), Contents::default());
        Ok(Self { container, sources, sysroot, boot: this, contents })
    }

    /// The tree of one place, if it was opened.
    pub(crate) fn tree(&self, place: &Place) -> Result<BorrowedFd<'_>> {
        let source = self.sources.all.iter().find(|source| source.place == *place);
        source
            .ok_or_else(|| Failure::new("the past root is not there any more"))
            .and_then(|source| source.tree().map_err(Failure::new))
    }

    /// Waits until nothing else changes the container, and keeps others waiting until it is dropped.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.container.lock()
    }

    /// What could not be looked at.
    pub fn problems(&self) -> &[Problem] {
        &self.sources.problems
    }

    /// Looks, and decides; changes nothing.
    pub fn plan(&mut self, request: &Request) -> Result<Plan> {
        self.look(request).map(|(plan, _)| plan)
    }

    /// Looks again, and does what is to be done. `--force` and all the rest is as in `request`.
    ///
    /// # Errors
    ///
    /// As [`Self::plan`]; else those of copying, after which nothing of the copy is left.
    pub fn apply(&mut self, request: &Request) -> Result<(Plan, Done)> {
        self.apply_until(request, &mut |_| Ok(()))
    }

    /// As [`Self::apply`], and ends where `tell` returns an error, as a power cut would.
    pub fn apply_until(
        &mut self,
        request: &Request,
        tell: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<(Plan, Done)> {
        let (plan, reached) = self.look(request)?;
        let tree = self.tree(&plan.from)?;
        let done = apply::apply(&plan, &reached, tree, self.boot, tell)?;
        Ok((plan, done))
    }

    /// What was mounted below a path in the root that is restored from: it is not in there.
    pub fn mounted_below(&self, plan: &Plan) -> Vec<(&Path, &StoreName)> {
        let source = self.sources.all.iter().find(|source| source.place == plan.from);
        source.map(|source| source.mounted_below(&plan.path)).unwrap_or_default()
    }

    fn look(&mut self, request: &Request) -> Result<(Plan, target::Reached)> {
        let reached = match &request.to {
            Some(directory) => target::given_place(directory, &request.path)?,
            None => target::own_place(&self.sources, &self.sysroot, &request.path)?,
        };
        let contents = &mut self.contents;
        let sources = &self.sources.all;
        let now = match reached.target.area {
            Area::Given => sources
                .iter()
                .find(|source| source.place == Place::Now)
                .map_or(State::Absent, |source| history::at(source, &request.path, contents)),
            _ => {
                version::look(std::os::fd::AsFd::as_fd(&reached.tree), &reached.relative, contents)
            }
        };
        let versions = versions(&self.sources, request, contents);
        let seen = Seen { versions: &versions, now: &now, target: &reached.target };
        Ok((plan::plan(request, &seen)?, reached))
    }
}

/// The versions of past roots and bases that a request can mean, the newest first.
fn versions(sources: &Sources, request: &Request, contents: &mut Contents) -> Vec<(Place, State)> {
    let asked = |source: &&Source| match (&source.place, request.wanted) {
        (Place::Now, _) => false,
        (_, Wanted::Newest) => true,
        (place, Wanted::Boot(number)) => *place == Place::Boot(number),
        (place, Wanted::Base) => matches!(place, Place::Base(_)),
    };
    let asked = sources.all.iter().filter(asked);
    asked.map(|it| (it.place.clone(), history::at(it, &request.path, contents))).collect()
}

/// Finds the version that a request means, and where it is, whatever it is restored to.
///
/// # Errors
///
/// If there is none.
pub fn find<'s>(
    sources: &'s Sources,
    request: &Request,
    contents: &mut Contents,
) -> Result<(&'s Source, Version)> {
    let versions = versions(sources, request, contents);
    let now = sources.all.iter().find(|source| source.place == Place::Now);
    let now = now.map_or(State::Absent, |source| history::at(source, &request.path, contents));
    let (place, version) = plan::choose(request, &versions, &now)?;
    let source = sources.all.iter().find(|source| source.place == place);
    Ok((source.ok_or_else(|| Failure::new("the past root is not there any more"))?, version))
}

/// What becomes of something that is restored to its own place, if it comes to lie on the root.
pub fn fate(sources: &Sources, path: &Path) -> After {
    match sources.entry(path) {
        Some(entry) if entry.method == Method::Bind => After::Kept(KeptBy::new(entry)),
        Some(entry) if entry.method == Method::Sync => After::Synced(KeptBy::new(entry)),
        Some(_) | None => After::Forgotten,
    }
}
