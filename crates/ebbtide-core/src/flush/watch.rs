//! Watching a root in RAM: what is copied back at shutdown is copied back shortly after each change,
//! because the power may fail at any time.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ebbtide_sys::resolve;
use ebbtide_sys::watch::Watch;

use super::{Flush, Flushed};
use crate::boot::{Boot, DECLARATION, RECORD};
use crate::compiled::Kind;
use crate::failure::{Context, Level, Log, Result};

/// How soon things happen.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long after the last change.
    pub quiet: Duration,
    /// How long after the first one, if changes do not stop.
    pub limit: Duration,
    /// How long without any: what no watch tells, such as a change deep in a directory, is found then.
    pub idle: Duration,
    /// How long after a first failure; doubled with each one that follows, up to `idle`.
    pub retry: Duration,
}

impl Pace {
    /// For a running system.
    pub const USUAL: Self = Self {
        quiet: Duration::from_secs(1),
        limit: Duration::from_secs(5),
        idle: Duration::from_secs(600),
        retry: Duration::from_secs(5),
    };
}

/// Flushing takes at most that part of the time, however much is written: one in five.
const SHARE: u32 = 4;

/// Flushes after each change, until `go_on` says no; it is asked after each flush. Whatever goes
/// wrong is said, once, and tried again.
pub fn watch(
    boot: &Boot,
    sysroot: &Path,
    pace: Pace,
    log: &mut Log<'_>,
    go_on: &mut dyn FnMut(&Flushed) -> bool,
) {
    let mut retry = pace.retry;
    let mut said = BTreeSet::new();
    loop {
        let began = Instant::now();
        let mut wait = pace.idle;
        let mut watch = None;
        match round(boot, sysroot, log, &mut watch) {
            Ok(flushed) => {
                let problems = flushed.problems.iter();
                let told: BTreeSet<_> = problems.map(|it| (it.level, it.to_string())).collect();
                told.difference(&said).for_each(|(level, message)| log(*level, message));
                said = told;
                retry = pace.retry;
                if !go_on(&flushed) {
                    return;
                }
            }
            Err(failure) => {
                let told = (Level::Warning, failure.chain());
                if !said.contains(&told) {
                    log(told.0, &told.1);
                    said = BTreeSet::from([told]);
                }
                wait = retry;
                retry = (retry * 2).min(pace.idle);
            }
        }
        let took = began.elapsed();
        let Some(watch) = watch else {
            std::thread::sleep(wait);
            continue;
        };
        if let Err(error) = sleep(&watch, wait, pace, took) {
            log(Level::Warning, &format!("cannot wait for changes: {error}"));
            std::thread::sleep(wait);
        }
    }
}

/// Watches, and then flushes: a change in between is seen by both.
fn round(
    boot: &Boot,
    sysroot: &Path,
    log: &mut Log<'_>,
    armed: &mut Option<Watch>,
) -> Result<Flushed> {
    let mut watch = Watch::new().context(|| "cannot watch for changes")?;
    // Another declaration has other paths.
    let run = super::open(&boot.run)?;
    for name in [DECLARATION, RECORD] {
        watch
            .add(run.as_fd(), Some(name.as_ref()))
            .context(|| format!("cannot watch {}", boot.run.display()))?;
    }
    let watch = armed.insert(watch);
    let flush = Flush::open(boot, sysroot)?;
    for (path, kind) in flush.paths()? {
        if let Err(failure) = arm(watch, &flush, &path, kind) {
            let path = ebbtide_sys::escape(path.as_os_str().as_encoded_bytes());
            log(Level::Warning, &format!("cannot watch {path}: {}", failure.chain()));
        }
    }
    flush.apply(log)
}

/// Watches the directory that a path is in, or the nearest one that there is; of a directory also what
/// is directly in it.
fn arm(watch: &mut Watch, flush: &Flush, path: &Path, kind: Kind) -> Result<()> {
    let what = || "open it";
    let root = flush.root.as_fd();
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut name = path;
    for above in path.ancestors().skip(1) {
        match resolve::open_directory(root, above) {
            Ok(directory) => {
                watch.add(directory.as_fd(), name.file_name()).context(what)?;
                break;
            }
            // A link or a file in the way may be replaced by what is wanted.
            Err(error) if is_absent(&error) => name = above,
            Err(error) => return Err(error).context(what),
        }
    }
    if kind == Kind::Directory {
        match resolve::open_directory(root, path) {
            Ok(directory) => watch.add(directory.as_fd(), None).context(what)?,
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error).context(what),
        }
    }
    Ok(())
}

fn is_absent(error: &ebbtide_sys::Error) -> bool {
    use rustix::io::Errno;
    matches!(error.errno(), Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Returns when a change is to be flushed, or when `idle` is over. The longer the last flush took, the
/// later.
fn sleep(watch: &Watch, idle: Duration, pace: Pace, took: Duration) -> ebbtide_sys::Result<()> {
    if !watch.wait(idle)? {
        return Ok(());
    }
    let rest = (took * SHARE).min(idle);
    watch.settle(pace.quiet.max(rest), pace.limit.max(rest))
}

impl Flush {
    /// The paths that a flush may copy: files of the manifest, and entries without data.
    fn paths(&self) -> Result<Vec<(PathBuf, Kind)>> {
        let synced = self.manifest.items.iter().map(|item| (item.path.clone(), Kind::File));
        let mut paths: Vec<_> = synced.collect();
        if let Ok(Some(imports)) = &self.imports {
            paths.extend(imports.paths()?);
        }
        Ok(paths)
    }
}
