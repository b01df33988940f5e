//! `ebbtide keep` of much data, against a copy that shares it.

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testkit::mount::Filesystem;
use testkit::process::run;

use super::boots::sync;
use super::machine::{Kept, Life, Machine, Programs, timed};
use super::measure::{Row, alternate, milliseconds, ratio};

const FILES: usize = 10_000;
const BYTES: usize = 1 << 30;
/// Where the data lies below the root.
const DATA: &str = "srv/data";

/// 1 GiB in 10,000 files, into a store on the same btrfs.
pub fn keep(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(0), |_| Ok(()))?;
    machine.live(|life| {
        life.up()?;
        let mut content = vec![b'x'; BYTES / FILES];
        for index in 0..FILES {
            let directory = life.root.join(DATA).join(format!("d{:02}", index / 100));
            fs::create_dir_all(&directory)?;
            content.splice(..8, index.to_le_bytes());
            fs::write(directory.join(format!("f{index}")), &content)?;
        }
        sync(&life.root)?;
        let copies = life.mount_top()?.join("state/copies");
        fs::create_dir(&copies)?;
        let turns = Cell::new(0);
        let next = |name: &str| {
            turns.set(turns.get() + 1);
            format!("{name}{}", turns.get())
        };
        let medians = alternate(
            runs,
            &mut [
                &mut || kept(life, &next("/srv/kept")),
                &mut || copied(life, &copies.join(next("copy"))),
                &mut || {
                    let started = Instant::now();
                    copied(life, &copies.join(next("copy")))?;
                    sync(&life.root)?;
                    Ok(started.elapsed())
                },
            ],
        )?;
        let [ours, theirs, durable] = medians[..] else { return Ok(Vec::new()) };
        let rows = [("", theirs, true), (" and `sync`", durable, false)];
        Ok(rows
            .map(|(more, theirs, is_goal)| Row {
                what: format!(
                    "`ebbtide keep` of 1 GiB in {FILES} files on btrfs, against `cp -a --reflink=always`{more}"
                ),
                ebbtide: milliseconds(ours),
                other: milliseconds(theirs),
                ratio: format!("{:.2}", ratio(ours, theirs)),
                goal: if is_goal { "at least 1".to_owned() } else { String::new() },
                met: is_goal.then_some(ours <= theirs),
            })
            .to_vec())
    })
}

/// Keeps data that were put at a path before the clock runs. They are in the store afterwards.
fn kept(life: &Life<'_>, path: &str) -> Result<Duration> {
    copied(life, &life.root.join(path.trim_start_matches('/')))?;
    sync(&life.root)?;
    let time = timed(life.ebbtide().args(["keep", path]))?;
    let inside = life.run.join("stores/state").join(path.trim_start_matches('/')).join("d99/f9999");
    ensure!(fs::metadata(inside)?.len() == (BYTES / FILES) as u64, "{path} is not in its store");
    Ok(time)
}

fn copied(life: &Life<'_>, to: &Path) -> Result<Duration> {
    let started = Instant::now();
    let mut copy = Command::new("cp");
    run(copy.args(["-a", "--reflink=always"]).arg(life.root.join(DATA)).arg(to))?;
    Ok(started.elapsed())
}
