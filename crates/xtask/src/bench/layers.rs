//! `ebbtide diff` where roots are overlays, on a disk and in RAM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbtide_sys::metadata::metadata_of_entry;
use testkit::mount::Filesystem;

use super::boots::sync;
use super::forest::Forest;
use super::machine::{Kept, Machine, Programs, timed};
use super::measure::{Row, alternate, milliseconds, ratio};
use super::seeing::{found, timed_diff};

const FOREST: Forest = Forest { files: 200_000 };
const CHANGES: usize = 20_000;

/// An overlay on ext4, against a list of what is in its upper directory.
pub fn overlay(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine =
        Machine::new(programs, Filesystem::Ext4, Kept::Bound(0), |tree| FOREST.grow(tree))?;
    let upper = machine.top().join("ebbtide/root/upper");
    let mut rows = Vec::new();
    for changes in [500, CHANGES] {
        rows.extend(machine.live(|life| {
            life.up()?;
            if changes == CHANGES {
                FOREST.cluster(&life.root, changes, changes / 40)?;
            } else {
                FOREST.scatter(&life.root, changes)?;
            }
            sync(&life.root)?;
            found(life, changes)?;
            let medians = alternate(
                runs,
                &mut [
                    &mut || timed_diff(life),
                    &mut || timed(Command::new("find").arg(&upper)),
                    &mut || {
                        timed(Command::new("find").arg(&upper).args(["-printf", "%s %C@ %p\n"]))
                    },
                ],
            )?;
            let [ours, names, nodes] = medians[..] else { return Ok(Vec::new()) };
            let what = format!("`ebbtide diff` of {changes} changes in an overlay on ext4");
            Ok(vec![
                row(
                    format!("{what}, against `find` in its upper directory"),
                    ours,
                    names,
                    Some(1.3),
                ),
                row(
                    format!("{what}, against a `find` that looks at each file there"),
                    ours,
                    nodes,
                    None,
                ),
            ])
        })?);
    }
    Ok(rows)
}

/// A root in RAM, of which nothing is a snapshot, against a look at each of its files from several threads.
pub fn in_ram(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine = Machine::in_ram(programs, |tree| FOREST.grow(tree))?;
    machine.live(|life| {
        life.up()?;
        FOREST.cluster(&life.root, CHANGES, CHANGES / 40)?;
        found(life, CHANGES)?;
        let upper = life.run.join("ram/upper");
        let medians = alternate(
            runs,
            &mut [
                &mut || timed_diff(life),
                &mut || look_at_all(&life.root, FOREST.files),
                &mut || look_at_all(&upper, CHANGES / 2),
            ],
        )?;
        let [ours, whole, written] = medians[..] else { return Ok(Vec::new()) };
        let what = format!(
            "`ebbtide diff` of {CHANGES} changes in a root in RAM over {} files",
            FOREST.files
        );
        Ok(vec![
            row(
                format!("{what}, against a parallel look at all files of the root"),
                ours,
                whole,
                Some(1.2),
            ),
            row(
                format!("{what}, against a parallel look at what was written"),
                ours,
                written,
                None,
            ),
        ])
    })
}

/// `within`: how many times longer it may take than the other one.
fn row(what: String, ours: Duration, other: Duration, within: Option<f64>) -> Row {
    let times = ratio(ours, other);
    Row {
        what,
        ebbtide: milliseconds(ours),
        other: milliseconds(other),
        ratio: format!("{times:.2}"),
        goal: within.map(|within| format!("at most {within} times as long")).unwrap_or_default(),
        met: within.map(|within| times * within >= 1.0),
    }
}

/// Calls statx(2) for each file below a directory, from as many threads as there are processors.
fn look_at_all(top: &Path, at_least: usize) -> Result<Duration> {
    let started = Instant::now();
    let waiting = Mutex::new((vec![top.to_owned()], 0_usize));
    let threads = std::thread::available_parallelism()?.get();
    let counts = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&waiting))).collect();
        workers.into_iter().map(|worker| worker.join().ok()).collect::<Option<Vec<_>>>()
    });
    let counts = counts.context("a thread panicked")?.into_iter().collect::<Result<Vec<_>>>()?;
    let looked_at: usize = counts.iter().sum();
    ensure!(looked_at >= at_least, "only {looked_at} files were looked at");
    Ok(started.elapsed())
}

/// Takes directories off the list until there are none, and nobody is going to add one.
fn work(waiting: &Mutex<(Vec<PathBuf>, usize)>) -> Result<usize> {
    let lock = || waiting.lock().map_err(|_| anyhow::anyhow!("a thread panicked"));
    let mut count = 0;
    loop {
        let next = {
            let mut waiting = lock()?;
            let next = waiting.0.pop();
            if next.is_none() && waiting.1 == 0 {
                return Ok(count);
            }
            waiting.1 += usize::from(next.is_some());
            next
        };
        let Some(directory) = next else {
            std::thread::yield_now();
            continue;
        };
        let opened = fs::File::open(&directory)?;
        let mut inner = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            count += 1;
            metadata_of_entry(std::os::fd::AsFd::as_fd(&opened), &entry.file_name())?;
            if entry.file_type()?.is_dir() {
                inner.push(entry.path());
            }
        }
        let mut waiting = lock()?;
        waiting.0.append(&mut inner);
        waiting.1 -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_looked_at() -> Result<()> {
        let directory = tempfile::tempdir()?;
        Forest { files: 320 }.grow(directory.path())?;
        look_at_all(directory.path(), 320 + 20 + 3)?;
        assert!(look_at_all(directory.path(), 320 + 20 + 4).is_err());
        Ok(())
    }
}
