//! Doing what was planned. After a cut anywhere, the next run finishes it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use ebbtide_sys::btrfs::{self, SubvolumeId};
use ebbtide_sys::file::{self, Room};
use ebbtide_sys::resolve;
use ebbtide_sys::text::size;
use ebbtide_sys::tree;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::caches::{self, Order};
use super::plan::{self, Cache, Plan, Step, WORTHWHILE, Why};
use super::{Gc, LastRun, Measured};
use crate::backend;
use crate::compiled::StoreName;
use crate::container::{self, Container, name};
use crate::failure::{Context, Failure, Level, Log, Problem, Result};
use crate::record::BootNumber;
use crate::retention::Share;
use crate::undeclared::shown;
use crate::{store, undeclared};

/// How long is waited for btrfs to free what one run deleted.
const CLEANER: Duration = Duration::from_secs(300);

/// How long is waited for another filesystem to count what is free now: XFS, for one, frees in the
/// background.
const SETTLED: Duration = Duration::from_secs(3);

/// How long what is free has to stay the same to be believed, where it is less than what went: some of
/// that may be held by others.
const STEADY: Duration = Duration::from_millis(500);

/// What a run did.
#[derive(Debug)]
pub struct Done {
    /// What was planned.
    pub plan: Plan,
    /// The steps that were done.
    pub done: Vec<Step>,
    /// The room on the volume before and after.
    pub room: Option<(Room, Room)>,
    /// What did not work, or should be looked at.
    pub problems: Vec<Problem>,
}

pub(super) fn apply(gc: Gc, log: &mut Log<'_>) -> Result<Done> {
    let own = gc.container.make_directory(name::GC)?;
    rustix::fs::flock(usable(own.as_fd())?, FlockOperation::LockExclusive)
        .context(|| "cannot lock the container's gc")?;
    // Others wait only as long as names change, and not for what is taken out to be gone.
    let lock = gc.container.lock()?;
    let observed = gc.observe()?;
    let plan = plan::plan(&observed, &gc.policy);
    drop(lock);
    let before = observed.room;
    let problems = gc.problems.clone();
    let mut run = Run {
        gc,
        own,
        caches: observed.caches,
        deleted: Vec::new(),
        expected: 0,
        last: before,
        stopped: false,
        problems,
    };
    let mut done = Vec::new();
    for step in &plan.steps {
        match run.step(step, log).context(|| format!("cannot {step}")) {
            Ok(Some(step)) => done.push(step),
            Ok(None) => {}
            Err(failure) => run.report(Problem::from_failure(Level::Warning, &failure), log),
        }
    }
    run.settle(log)?;
    let room = before.zip(run.room());
    if let Some(boot) = observed.running {
        let clock = observed.now.clock;
        let stores = run.measure();
        LastRun { version: container::VERSION, boot, clock, stores }.write(&run.gc.container)?;
    }
    Ok(Done { plan, done, room, problems: run.problems })
}

struct Run {
    gc: Gc,
    /// The directory that is gc's own.
    own: OwnedFd,
    /// Caches as they were seen, and their bytes as they are by now.
    caches: BTreeMap<StoreName, Cache>,
    /// Subvolumes that btrfs is freeing.
    deleted: Vec<SubvolumeId>,
    /// What should be free, beyond what was free when that was looked at last.
    expected: u64,
    last: Option<Room>,
    /// Deleting makes no room.
    stopped: bool,
    problems: Vec<Problem>,
}

impl Run {
    fn report(&mut self, problem: Problem, log: &mut Log<'_>) {
        log(problem.level, &problem.to_string());
        self.problems.push(problem);
    }

    /// Does a step, and returns it as it was done; none if it turned out not to be due.
    fn step(&mut self, step: &Step, log: &mut Log<'_>) -> Result<Option<Step>> {
        match step {
            Step::Root { why: Why::Free(wanted), boot, own_bytes } => {
                if self.stopped || !self.is_short(*wanted, log)? {
                    return Ok(None);
                }
                log(Level::Info, &step.to_string());
                self.root(*boot, *own_bytes)?;
                self.check_that_it_frees(*boot, *own_bytes, log)?;
                return Ok(Some(step.clone()));
            }
            _ => log(Level::Info, &step.to_string()),
        }
        match step {
            Step::Finish { name } => self.remove(name)?,
            Step::Root { boot, own_bytes, .. } => self.root(*boot, *own_bytes)?,
            Step::Manifest { root } => self.manifest(*root)?,
            Step::Record { boot } => {
                let boots = self.gc.container.open_directory(Path::new(name::BOOTS))?;
                file::remove_file_durably(boots.as_fd(), OsStr::new(&format!("{boot}.json")))
                    .context(|| "remove it")?;
            }
            Step::Trash { store: of, boot, .. } => {
                if let Some(opened) = self.gc.stores.get(of)
                    && let Some(trash) = store::trash(opened.as_fd())?
                {
                    file::remove_tree_by_force(trash.as_fd(), OsStr::new(&boot.to_string()))
                        .map_err(|error| explain(&error))?;
                }
            }
            Step::Cache { .. } => return self.cache(step, log),
            Step::Undeclared { store, path, .. } => self.undeclared(store, path)?,
        }
        Ok(Some(step.clone()))
    }

    /// Deletes files of a cache, as far as they are still to go.
    fn cache(&mut self, step: &Step, log: &mut Log<'_>) -> Result<Option<Step>> {
        let Step::Cache { store: name, path, why, files, last, .. } = step else { return Ok(None) };
        let (Some(store), Some(cache)) = (self.gc.stores.get(name), self.caches.get_mut(name))
        else {
            return Ok(None);
        };
        let order = Order {
            path,
            last: *last,
            files: *files,
            for_room: matches!(why, Why::Limit(_)),
            elsewhere: &cache.elsewhere,
        };
        let removed = caches::remove(store.as_fd(), &self.gc.compiled, &order)?;
        cache.bytes = cache.bytes.saturating_sub(removed.bytes);
        let device = self.gc.compiled.stores.get(name).map(|it| &it.device);
        if device == Some(&self.gc.compiled.root.device) {
            self.expected = self.expected.saturating_add(removed.bytes);
        }
        if removed.open > 0 {
            let open = removed.open;
            log(Level::Info, &format!("files below {} that are open stay: {open}", shown(path)));
        }
        if let Some((count, first)) = removed.failed {
            let mut problem = Problem::new(
                Level::Warning,
                format!("files of store {name} that could not be deleted: {count}, as {first}"),
            );
            problem.hint = Some(
                "a flag may protect them (`lsattr`), or the filesystem does not tell whether they are \
                 open"
                    .to_owned(),
            );
            self.report(problem, log);
        }
        let done = Step::Cache {
            store: name.clone(),
            path: path.clone(),
            why: *why,
            files: removed.files,
            bytes: removed.bytes,
            last: *last,
        };
        Ok((removed.files > 0).then_some(done))
    }

    /// What each store takes now, as far as that can be told.
    fn measure(&self) -> BTreeMap<StoreName, Measured> {
        let measure = |(name, store): (&StoreName, &OwnedFd)| {
            let measured = if let Some(cache) = self.caches.get(name) {
                Measured { bytes: cache.bytes, reads_since: cache.reads_since }
            } else {
                let bytes = tree::tree_size(store.as_fd(), Path::new("")).ok()?;
                Measured { bytes, reads_since: None }
            };
            Some((name.clone(), measured))
        };
        self.gc.stores.iter().filter_map(measure).collect()
    }

    /// Moves what no entry keeps to the trash of its store, if that is so still.
    fn undeclared(&self, name: &StoreName, path: &Path) -> Result<()> {
        let container = &self.gc.container;
        let _lock = container.lock()?;
        let opened = |name: &StoreName| {
            let store = self.gc.stores.get(name);
            store.ok_or_else(|| Failure::new(format!("store {name} is not there")))
        };
        let (store, state) = (opened(name)?, opened(&StoreName(StoreName::STATE.to_owned()))?);
        let pins = container.pins()?.ok_or_else(|| Failure::new("no declaration is compiled"))?;
        let (_, compiled, _) = store::load(state.as_fd(), &pins)?;
        let boot = container.last_number()?;
        let in_use = undeclared::in_use(container, container.record(boot)?.as_ref())?;
        let found = undeclared::find(name, store.as_fd(), &compiled, &in_use)?;
        if !found.iter().any(|it| it.known && it.path == path) {
            return Err(Failure::new("it is kept, or gone, by now"));
        }
        store::notes::forget(store.as_fd(), path)?;
        store::take_out(store.as_fd(), boot, path).map(drop)
    }

    /// Takes a past root out, durably, and deletes it with its manifest.
    fn root(&mut self, boot: BootNumber, own_bytes: Option<u64>) -> Result<()> {
        let container = &self.gc.container;
        let place = Path::new(name::PAST).join(boot.to_string());
        let identity = backend::identity(container, &place).ok();
        let name = take_out(container, self.own.as_fd(), boot)?;
        self.remove(&name)?;
        self.expected = self.expected.saturating_add(own_bytes.unwrap_or(0));
        identity.map_or(Ok(()), |identity| self.manifest(identity.uuid()))
    }

    fn manifest(&self, root: uuid::Uuid) -> Result<()> {
        let directory = self.gc.container.make_directory(name::MANIFESTS)?;
        file::remove_file_durably(directory.as_fd(), OsStr::new(&format!("{root}.json")))
            .context(|| "remove its manifest")?;
        Ok(())
    }

    /// Removes what was taken out.
    fn remove(&mut self, name: &OsStr) -> Result<()> {
        let own = self.own.as_fd();
        if let Ok(directory) = resolve::open_directory(own, Path::new(name))
            && btrfs::is_subvolume(directory.as_fd()).unwrap_or(false)
        {
            let what = || "look at the subvolumes in it";
            let mut ids = vec![btrfs::subvolume_info(directory.as_fd()).context(what)?.id];
            let nested = btrfs::nested_subvolumes(directory.as_fd()).context(what)?;
            ids.extend(nested.into_iter().map(|(id, _)| id));
            btrfs::delete_subvolume_recursively(own, name).map_err(|error| explain(&error))?;
            self.deleted.extend(ids);
            return Ok(());
        }
        file::remove_tree_by_force(own, name).map_err(|error| explain(&error))
    }

    fn room(&self) -> Option<Room> {
        file::room(self.gc.container.directory()).ok()
    }

    /// Waits until what was deleted is free as far as the filesystem counts.
    fn settle(&mut self, log: &mut Log<'_>) -> Result<()> {
        if !self.deleted.is_empty() {
            log(Level::Info, "waiting for btrfs to free what was deleted");
            let ids = std::mem::take(&mut self.deleted);
            let top = self.gc.container.volume().as_fd();
            let what = || "cannot wait for btrfs to free what was deleted";
            if !btrfs::wait_until_freed(top, &ids, CLEANER).context(what)? {
                let mut problem = Problem::new(
                    Level::Warning,
                    "btrfs is still freeing what was deleted: it is not counted as free yet",
                );
                problem.hint = Some("nothing is lost; the next gc goes on from there".to_owned());
                self.stopped = true;
                self.report(problem, log);
            }
        } else if self.expected > 0 {
            file::sync_filesystem(self.gc.container.directory())
                .context(|| "cannot sync the volume")?;
            self.wait_for_room();
        }
        self.expected = 0;
        self.last = self.room();
        Ok(())
    }

    /// Waits until a filesystem other than btrfs counts what was deleted as free.
    fn wait_for_room(&self) {
        let available = || self.room().map(|room| room.available);
        let with = |more: u64| self.last.map(|last| last.available.saturating_add(more));
        let (half, all) = (with(self.expected / 2), with(self.expected));
        let start = Instant::now();
        let (mut seen, mut since) = (available(), start);
        while seen < all && start.elapsed() < SETTLED {
            if seen >= half && since.elapsed() >= STEADY {
                break;
            }
            std::thread::sleep(STEADY / 10);
            let now = available();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }

    fn is_short(&mut self, wanted: Share, log: &mut Log<'_>) -> Result<bool> {
        self.settle(log)?;
        let short = self.last.is_some_and(|room| room.available < wanted.of(room.total));
        Ok(short && !self.stopped)
    }

    /// Past roots are not given up one after the other for nothing.
    fn check_that_it_frees(
        &mut self,
        boot: BootNumber,
        own_bytes: Option<u64>,
        log: &mut Log<'_>,
    ) -> Result<()> {
        let before = self.last;
        self.settle(log)?;
        let Some(own) = own_bytes.filter(|bytes| *bytes >= WORTHWHILE) else { return Ok(()) };
        let (Some(before), Some(after)) = (before, self.last) else { return Ok(()) };
        let freed = after.available.saturating_sub(before.available);
        if freed < own / 10 && !self.stopped {
            self.stopped = true;
            let mut problem = Problem::new(
                Level::Warning,
                format!(
                    "deleting past root {boot}, which held {}, freed {}: no more are deleted for room",
                    size(own),
                    size(freed)
                ),
            );
            problem.hint = Some(
                "something else holds the same data: a snapshot, a copy by reflink, a quota; or \
                 something fills the volume"
                    .to_owned(),
            );
            self.report(problem, log);
        }
        Ok(())
    }
}

/// Renames a past root into gc's own directory: from then on it is none.
fn take_out(container: &Container, own: BorrowedFd<'_>, boot: BootNumber) -> Result<OsString> {
    let _lock = container.lock()?;
    let past = container.open_directory(Path::new(name::PAST))?;
    let number = OsString::from(boot.to_string());
    for attempt in 0..1000_u32 {
        let mut target = number.clone();
        if attempt > 0 {
            target.push(format!(".{attempt}"));
        }
        let mut renamed = file::rename_noreplace(past.as_fd(), &number, own, &target);
        if let Err(error) = &renamed
            && matches!(error.errno(), Errno::ROFS | Errno::PERM)
        {
            // Somebody has made it read-only, or immutable.
            let root =
                resolve::open_directory(past.as_fd(), Path::new(&number)).context(|| "open it")?;
            let _ = btrfs::set_read_only(root.as_fd(), false);
            let _ = file::unprotect(root.as_fd());
            renamed = file::rename_noreplace(past.as_fd(), &number, own, &target);
        }
        match renamed {
            Err(error) if error.errno() == Errno::EXIST => {}
            renamed => {
                renamed.context(|| "take it out")?;
                file::sync_filesystem(own).context(|| "sync the volume")?;
                return Ok(target);
            }
        }
    }
    Err(Failure::new("an earlier gc left a thousand of this name"))
}

/// What stands in the way of deleting something.
fn explain(error: &ebbtide_sys::Error) -> Failure {
    let hint = match error.errno() {
        Errno::PERM => {
            "it is protected by a flag that could not be cleared (`lsattr`), or it is the default \
             subvolume (`btrfs subvolume get-default`)"
        }
        Errno::BUSY => "something is mounted there: unmount it",
        Errno::NOTEMPTY => "delete the subvolume in it (`btrfs subvolume delete`)",
        _ => "the next gc tries again",
    };
    Failure::new(error.to_string()).hint(hint)
}

fn usable(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    resolve::open_directory(fd, Path::new("")).context(|| "open the container's gc")
}
