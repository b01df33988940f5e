//! A throw-away root over the running machine, or over a directory: no set-up, no reboot.
//!
//! The root is made as a boot makes it, in a mount namespace of the calling process. Around it comes
//! what keeps the machine out of reach: the other filesystems under overlays of their own, an own
//! `/dev` and `/run`, and in the first process of the namespaces its own `/proc`, and limits. All mounts
//! are in those namespaces, and all processes die with the caller: however it ends, nothing stays but
//! what is in the state directory.

mod container;
mod last;
mod others;
mod plan;
mod state;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::Time;
use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::mountinfo;

pub use crate::enclosure::{End, FORWARDED, Program, Running, environment};
pub use last::LastRoot;
pub use others::Note;
pub use plan::{Other, Treatment};
pub use state::{DECLARATION, DEFAULT, State};

use crate::backend::overlay;
use crate::boot::{self, Boot, RUN};
use crate::changes::{self, Change, Kept, What};
use crate::container::name;
use crate::declaration::Declaration;
use crate::enclosure::mounts::open_directory;
use crate::enclosure::{self, surface};
use crate::failure::{Context, Failure, Level, Log, Result};
use crate::flush::Flush;
use crate::record::{Outcome, RootIdentity};
use crate::shutdown;
use crate::switches::Switches;
use crate::volume;

/// A root that was made and waits for a program.
#[derive(Debug)]
pub struct Trial {
    root: PathBuf,
    own: PathBuf,
    base: OwnedFd,
    others: Vec<others::Layer>,
    notes: Vec<Note>,
    kept: Vec<PathBuf>,
    boot: Boot,
    /// What differed from the base before anybody was there, and since when.
    before: BTreeSet<(PathBuf, Option<Time>)>,
    console: Option<(OwnedFd, PathBuf)>,
}

impl Trial {
    /// Makes the root, over `base`, and all around it. The calling thread, which must be the only
    /// one of its process, moves to a mount namespace of its own.
    ///
    /// # Errors
    ///
    /// Where the kernel or a container forbids mounts, says which and what would help.
    pub fn make(
        state: &State,
        base: &Path,
        declaration: &Declaration,
        console: bool,
        log: &mut Log<'_>,
    ) -> Result<Self> {
        enclosure::enter_private_namespace()?;
        let base = base.canonicalize().context(|| format!("cannot find {}", base.display()))?;
        // As the machine is, before anything is mounted here.
        let mounts = mountinfo::read_self().context(|| "cannot read the mount table")?;
        let seen = others::look(plan::candidates(&mounts, &base, state.path()));
        let plan = plan::plan(&seen, &base);

        let prepared = container::prepare(state, &base, declaration)?;
        let below = volume::clone_directory(&base, MountAttributes::READ_ONLY)?;
        let work = Work::mount(&state.work())?;
        surface::make_run(&work.run, &base)?;
        let boot = Boot {
            locator: prepared.locator,
            run: work.run.join("ebbtide"),
            run_later: PathBuf::from(RUN),
            switches: Switches::default(),
            // Nobody waits for this machine to boot.
            import_limit: u64::MAX,
        };
        let own = reset_and_mount(&boot, state, &work.root, &base, log)?;
        let root = open_directory(&work.root)?;
        mount::set_attributes(root.as_fd(), MountAttributes::NODEV, false)
            .context(|| "cannot do without devices in the root")?;
        drop(root);
        // Before entries are attached: some may lie in them.
        let (others, notes) = others::mount_all(&plan, &work.root, &own)?;
        boot::attach(&boot, &work.root, log);
        let console = surface::mount_devices(&work.root, console)?;
        surface::mount_run(&work.root, &work.run)?;
        if state.path().starts_with(&base) && state.path() != base {
            surface::hide(&work.root, &plan::inside(state.path(), &base))?;
        }
        let (root, kept) = (work.root, prepared.kept);
        let before = BTreeSet::new();
        let mut trial = Self { root, own, base: below, others, notes, kept, boot, console, before };
        trial.before = trial.all_changes()?.into_iter().map(|it| (it.path, it.when)).collect();
        Ok(trial)
    }

    /// What is not as it is outside.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The directory that holds what is written to the root, and beside it what is written to the
    /// other filesystems.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// The paths that are kept.
    pub fn kept(&self) -> &[PathBuf] {
        &self.kept
    }

    /// Visits what the next reset takes away, on all filesystems.
    pub fn each_change(&self, visit: &mut changes::Visit<'_>) -> Result<()> {
        self.visit_changes(&mut |change| {
            if !self.before.contains(&(change.path.clone(), change.when)) {
                visit(change);
            }
        })
    }

    fn all_changes(&self) -> Result<Vec<Change>> {
        let mut all = Vec::new();
        self.visit_changes(&mut |change| all.push(change))?;
        Ok(all)
    }

    fn visit_changes(&self, visit: &mut changes::Visit<'_>) -> Result<()> {
        let upper = open_directory(&self.own.join(overlay::UPPER))?;
        let kept: Kept = self.kept.iter().map(PathBuf::as_path).collect();
        changes::overlay_each(upper.as_fd(), self.base.as_fd(), &kept, visit)?;
        for layer in &self.others {
            let path = &layer.written.path;
            if self.kept.iter().any(|kept| path.starts_with(kept)) {
                continue;
            }
            let below = self.kept.iter().filter_map(|kept| kept.strip_prefix(path).ok());
            let kept: Kept = below.collect();
            let (upper, base) = (layer.upper.as_fd(), layer.base.as_fd());
            changes::overlay_each(upper, base, &kept, &mut |mut change| {
                change.path = placed(path, &change.path);
                if let What::Renamed { from } = &mut change.what {
                    *from = placed(path, from);
                }
                visit(change);
            })?;
        }
        Ok(())
    }

    /// Notes that this boot ended in order, so that the next one takes back what was copied in. From a
    /// root in RAM, of which nothing is left by then, it is taken back now.
    pub fn end(&self, log: &mut Log<'_>) -> Result<()> {
        if self.in_ram() {
            for problem in Flush::open(&self.boot, &self.root)?.apply(log)?.problems {
                log(problem.level, &problem.to_string());
            }
        }
        shutdown::mark_clean(&self.boot, &self.root)
    }

    /// Whether what is written goes to RAM, and is gone when this process ends.
    pub fn in_ram(&self) -> bool {
        self.own.starts_with(&self.boot.run)
    }

    /// Where the root is mounted for this process.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Starts a program in the root.
    pub fn start(&self, program: &Program) -> Result<Running<'_>> {
        enclosure::start(&self.root, self.console.as_ref(), program)
    }
}

/// The first half of a boot: a new root, mounted at `sysroot`. Returns the directory that holds what is
/// written to it. Unlike a machine, which must boot, nobody is helped by the last root.
fn reset_and_mount(
    boot: &Boot,
    state: &State,
    sysroot: &Path,
    base: &Path,
    log: &mut Log<'_>,
) -> Result<PathBuf> {
    let mut first = None;
    let record = boot::reset(boot, &mut |level, message| {
        if level <= Level::Error && first.is_none() {
            first = Some(message.to_owned());
        } else {
            log(level, message);
        }
    });
    if record.outcome != Outcome::Reset {
        let cause = first.unwrap_or_else(|| "the reset was refused".to_owned());
        return Err(Failure::new("cannot make a new root").caused_by(cause));
    }
    boot.mount_root(sysroot, &record)
        .context(|| format!("cannot use {} as a base", base.display()))?;
    let in_ram = record.root.as_ref().is_some_and(RootIdentity::is_in_ram);
    Ok(if in_ram {
        boot.run.join(overlay::RAM)
    } else {
        state.path().join(&boot.locator.container.path).join(name::ROOT)
    })
}

/// A path of another filesystem, where that is mounted.
fn placed(mount_point: &Path, path: &Path) -> PathBuf {
    mount_point.join(path.strip_prefix("/").unwrap_or(path))
}

/// The places that a trial mounts things at; they go with its mount namespace.
struct Work {
    root: PathBuf,
    run: PathBuf,
}

impl Work {
    fn mount(at: &Path) -> Result<Self> {
        let what = || format!("cannot mount at {}", at.display());
        let attributes = MountAttributes::NOSUID | MountAttributes::NODEV;
        let options = [("mode", Some("0700")), ("size", Some("1m"))];
        let fresh = mount::mount_detached("tmpfs", None, &options, attributes).context(what)?;
        mount::attach(fresh.as_fd(), open_directory(at)?.as_fd()).context(what)?;
        let work = Self { root: at.join("root"), run: at.join("run") };
        for path in [&work.root, &work.run] {
            std::fs::create_dir(path).context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(work)
    }
}
