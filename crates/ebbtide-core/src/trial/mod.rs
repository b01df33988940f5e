//! A throw-away root over the running machine, or over a directory: no set-up, no reboot.
//!
//! The root is made as a boot makes it, in a mount namespace of the calling process. Around it comes
//! what keeps the machine out of reach: the other filesystems under overlays of their own, an own
//! `/dev` and `/run`, and in the first process of the namespaces its own `/proc`, and limits. All mounts
//! are in those namespaces, and all processes die with the caller: however it ends, nothing stays but
//! what is in the state directory.

mod container;
mod environment;
mod inside;
mod last;
mod limits;
mod others;
mod plan;
mod state;
mod surface;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::child::{self, Child};
use ebbtide_sys::metadata::Time;
use ebbtide_sys::mount::{self, MountAttributes};
use ebbtide_sys::mountinfo;
use ebbtide_sys::namespace::{self, Namespaces};
use rustix::io::Errno;

pub use environment::environment;
pub use inside::{FORWARDED, Program};
pub use last::LastRoot;
pub use others::Note;
pub use plan::{Other, Treatment};
pub use state::{DECLARATION, DEFAULT, State};

use crate::backend::overlay;
use crate::boot::{self, Boot, RUN};
use crate::changes::{self, Change, Changes, Kept, What};
use crate::container::name;
use crate::declaration::Declaration;
use crate::failure::{Context, Failure, Level, Log, Result};
use crate::flush::Flush;
use crate::record::{Outcome, RootIdentity};
use crate::shutdown;
use crate::switches::Switches;
use crate::volume;
use inside::Told;

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

/// A program that runs in its root.
#[derive(Debug)]
pub struct Running<'a> {
    child: Child,
    report: OwnedFd,
    console: Option<&'a OwnedFd>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It never began: no such command, or one that can't be run.
    NotStarted {
        /// Why, with the name of the command.
        message: String,
        /// Whether there is such a command.
        found: bool,
    },
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
        enter_private_namespace()?;
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
        let root = others::open_directory(&work.root)?;
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

    /// What the next reset takes away, on all filesystems.
    pub fn changes(&self) -> Result<Changes> {
        let mut changes = Changes::default();
        self.visit_changes(&mut |change| {
            if !self.before.contains(&(change.path.clone(), change.when)) {
                changes.add(&change);
            }
        })?;
        Ok(changes)
    }

    fn all_changes(&self) -> Result<Vec<Change>> {
        let mut all = Vec::new();
        self.visit_changes(&mut |change| all.push(change))?;
        Ok(all)
    }

    fn visit_changes(&self, visit: &mut changes::Visit<'_>) -> Result<()> {
        let upper = others::open_directory(&self.own.join(overlay::UPPER))?;
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
        let (report, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot make a pipe")?;
        namespace::unshare(Namespaces::PROCESSES).context(|| "cannot make namespaces")?;
        let console = self.console.as_ref();
        let path = console.map(|(_, path)| path.as_path());
        let child = child::fork(&[write.as_fd()], |lifeline| {
            inside::run(&self.root, path, program, write.as_fd(), lifeline)
        });
        namespace::leave_new_processes().context(|| "cannot leave the new processes alone")?;
        let child = child.context(|| "cannot start the first process")?;
        Ok(Running { child, report, console: console.map(|(master, _)| master) })
    }
}

impl<'a> Running<'a> {
    /// The process in which all others run.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Readable once the program has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// The other side of the terminal that the program has, if it has one of the root's own.
    pub fn console(&self) -> Option<BorrowedFd<'a>> {
        self.console.map(AsFd::as_fd)
    }

    /// Waits until the program and all that it started have ended.
    pub fn wait(self) -> Result<End> {
        let mut text = Vec::new();
        std::fs::File::from(self.report)
            .read_to_end(&mut text)
            .context(|| "cannot learn how it ended")?;
        let ended = self.child.wait().context(|| "cannot wait for the first process")?;
        match serde_json::from_slice(&text) {
            Ok(Told::Exited(status)) => Ok(End::Exited(status)),
            Ok(Told::Killed(signal)) => Ok(End::Killed(signal)),
            Ok(Told::NotStarted { message, found }) => Ok(End::NotStarted { message, found }),
            Ok(Told::Failed { what, cause, hint }) => {
                let mut failure = Failure::new(what);
                if !cause.is_empty() {
                    failure = failure.caused_by(cause);
                }
                Err(match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                })
            }
            // The first process was killed, and with it all others.
            Err(_) => Ok(match ended {
                child::Ended::Killed(signal) => End::Killed(signal),
                child::Ended::Exited(_) => End::Killed(9),
            }),
        }
    }
}

fn enter_private_namespace() -> Result<()> {
    if !namespace::has_all_users().context(|| "cannot look at the user namespace")? {
        return Err(Failure::new(
            "cannot start: root of this container is not root for the kernel",
        )
        .caused_by(
            "in a user namespace nobody may write down what overlays need (trusted.* attributes)",
        )
        .hint("run it on the machine itself, or in a container without a user namespace"));
    }
    mount::enter_private_mount_namespace().map_err(|error| match error.errno() {
        Errno::PERM | Errno::NOSYS => {
            Failure::new("cannot start: this container does not allow mounts")
                .caused_by(error)
                .hint("start the container with CAP_SYS_ADMIN and without a filter of mount(2)")
        }
        _ => Failure::new("cannot make a mount namespace").caused_by(error),
    })
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
        mount::attach(fresh.as_fd(), others::open_directory(at)?.as_fd()).context(what)?;
        let work = Self { root: at.join("root"), run: at.join("run") };
        for path in [&work.root, &work.run] {
            std::fs::create_dir(path).context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(work)
    }
}
