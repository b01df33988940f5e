//! The command's half: what may be carried over, and the wish for it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, metadata, metadata_beneath};
use ebbtide_sys::text::size;
use ebbtide_sys::{file, resolve, tree};
use uuid::Uuid;

use super::{Wish, carry, read, shown, write};
use crate::backend;
use crate::boot::Boot;
use crate::compiled::Backend;
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::RootIdentity;

/// What is carried over the next reset of the running root, opened to be changed.
#[derive(Debug)]
pub struct Once {
    container: Container,
    state: OwnedFd,
    /// The running root as the system sees it.
    running: OwnedFd,
    root: Uuid,
    limit: u64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Paths that are going to be carried over, which were not before.
    pub added: Vec<PathBuf>,
    /// Paths that were so already, or lie in one that is.
    pub already: Vec<PathBuf>,
    /// All paths of the wish from then on.
    all: Vec<PathBuf>,
}

impl Once {
    /// Opens it. Needs root.
    ///
    /// # Errors
    ///
    /// Among others if the root is in RAM, or is not the one that the next reset puts away.
    pub fn open(boot: &Boot, sysroot: &Path) -> Result<Self> {
        let container = boot.open_container()?;
        let root = backend::mounted(container.backend(), sysroot)?;
        if root.is_in_ram() {
            return Err(Failure::new(
                "nothing can be carried over the next reset: the root is in RAM, and goes with the power",
            )
            .hint("`ebbtide keep` it, and `ebbtide forget` it afterwards: its store has it meanwhile"));
        }
        let stored = backend::identity(&container, Path::new(name::ROOT));
        if stored.ok().as_ref() != Some(&root) {
            return Err(Failure::new(format!(
                "{} is not the root that the next reset puts away",
                shown(sysroot)
            ))
            .hint("`ebbtide status` says what it is"));
        }
        let state = boot.open_state().context(|| "the state store is not there")?;
        let running = File::open(sysroot).context(|| "cannot open the root")?.into();
        let limit = boot.import_limit;
        Ok(Self { container, state, running, root: RootIdentity::uuid(&root), limit })
    }

    /// Waits until nothing else changes the container, and keeps others waiting until it is dropped.
    pub fn lock(&self) -> Result<OwnedFd> {
        self.container.lock()
    }

    /// What is going to be carried over so far. A wish about an earlier root is of no use any more.
    fn wished(&self) -> Result<Vec<PathBuf>> {
        let wish = read(self.state.as_fd())?;
        Ok(wish.filter(|wish| wish.root == self.root).map(|wish| wish.paths).unwrap_or_default())
    }

    /// Decides about paths that no entry keeps: absolute and normalised.
    ///
    /// # Errors
    ///
    /// If one of them can't be carried over, and why.
    pub fn plan(&self, paths: &[PathBuf]) -> Result<Plan> {
        let mut plan = Plan { all: self.wished()?, ..Plan::default() };
        for path in paths {
            if plan.all.iter().any(|other| path.starts_with(other)) {
                if !plan.added.contains(path) {
                    plan.already.push(path.clone());
                }
                continue;
            }
            self.check(path).map_err(|failure| refused(path, &failure))?;
            for list in [&mut plan.all, &mut plan.added] {
                list.retain(|other| !other.starts_with(path));
                list.push(path.clone());
            }
        }
        self.check_size(&plan)?;
        plan.all.sort();
        Ok(plan)
    }

    /// Makes it so, durably. The container is locked.
    pub fn apply(&self, plan: &Plan) -> Result<()> {
        write(self.state.as_fd(), self.root, plan.all.clone())
    }

    /// Which of these paths are going to be carried over.
    pub fn asked_for(&self, paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let mut wished = read(self.state.as_fd())?.map(|wish| wish.paths).unwrap_or_default();
        wished.retain(|path| paths.contains(path));
        Ok(wished)
    }

    /// Takes paths back. The container is locked.
    pub fn take_back(&self, paths: &[PathBuf]) -> Result<()> {
        let Some(Wish { root, paths: mut rest, .. }) = read(self.state.as_fd())? else {
            return Ok(());
        };
        rest.retain(|path| !paths.contains(path));
        write(self.state.as_fd(), root, rest)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        if relative.as_os_str().is_empty() {
            return Err(Failure::new("it is the whole root")
                .hint("`ebbtide=keep` on the kernel command line keeps the root over one boot"));
        }
        let what = || "cannot look at it";
        let found = metadata_beneath(self.running.as_fd(), relative)
            .context(what)?
            .ok_or_else(|| Failure::new("there is nothing"))?;
        let top = metadata(self.running.as_fd()).context(|| "cannot look at the root")?;
        if found.mount_id != top.mount_id {
            return Err(Failure::new("it is on another filesystem than the root")
                .hint("the next reset takes nothing from there"));
        }
        let base = backend::open_base(&self.container, self.container.base()?)?;
        match metadata_beneath(base.as_fd(), relative)
            .context(|| "cannot look at it in the base")?
        {
            None => Ok(()),
            // It gives way.
            Some(there)
                if (there.kind, found.kind) == (FileKind::Directory, FileKind::Directory)
                    && is_empty(&base, relative)? =>
            {
                Ok(())
            }
            Some(_) => Err(Failure::new("the base has it, and nothing on a new root is replaced")
                .hint(match found.kind {
                    FileKind::Directory => {
                        "name what is new in it, as `ebbtide diff` lists it; or `ebbtide keep` it"
                    }
                    _ => "`ebbtide keep` it",
                })),
        }
    }

    /// Only content that is shared costs a boot no time.
    fn check_size(&self, plan: &Plan) -> Result<()> {
        if self.container.backend() == Backend::Btrfs || plan.added.is_empty() {
            return Ok(());
        }
        let mut all = 0_u64;
        for path in &plan.all {
            let relative = path.strip_prefix("/").unwrap_or(path);
            let left = self.limit.saturating_sub(all);
            // What was asked for earlier may be gone.
            let found = tree::tree_size_up_to(self.running.as_fd(), relative, left);
            all = all.saturating_add(found.unwrap_or(0));
            if all > self.limit {
                return Err(refused(path, &carry::too_much(self.limit)).hint(format!(
                    "`ebbtide keep` it; or leave it, and `ebbtide restore` brings it back after the reset \
                     (what is carried over may take {} in all)",
                    size(self.limit)
                )));
            }
        }
        Ok(())
    }
}

fn is_empty(base: &OwnedFd, relative: &Path) -> Result<bool> {
    let what = || "cannot look at it in the base";
    let opened = resolve::open_directory(base.as_fd(), relative).context(what)?;
    Ok(file::read_directory(opened.as_fd()).context(what)?.is_empty())
}

fn refused(path: &Path, failure: &Failure) -> Failure {
    let hint = failure.advice().map(str::to_owned);
    let refused = Failure::new(format!("cannot carry {} over the next reset", shown(path)))
        .caused_by(failure.chain());
    match hint {
        Some(hint) => refused.hint(hint),
        None => refused,
    }
}
