//! `ebbtide log`, over a hundred past roots.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use ebbtide_core::boot::{Boot, LOCATOR};
use ebbtide_core::past::history::history;
use ebbtide_core::past::sources::Sources;
use ebbtide_core::past::version::Contents;
use testkit::mount::Filesystem;

use super::machine::{Kept, Life, Machine, Programs, timed};
use super::measure::{Row, alternate, milliseconds};

const ROOTS: usize = 100;
const PATH: &str = "/etc/hostname";

/// All versions of a file that every tenth root has another one of.
pub fn log(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(0), |tree| {
        Ok(fs::write(tree.join(&PATH[1..]), "as in the base\n")?)
    })?;
    for number in 0..=ROOTS {
        machine.live(|life| {
            life.up()?;
            // A root that nothing was written to is used again.
            fs::write(life.root.join("etc/used"), "")?;
            if number % 10 == 0 {
                fs::write(life.root.join(&PATH[1..]), format!("version {number}\n"))?;
            }
            Ok(())
        })?;
    }
    machine.alone(|life| {
        life.up()?;
        life.mount_top()?;
        let mut looks = [Vec::new(), Vec::new()];
        for sample in 0..=2 * runs {
            let is_warm = sample % 2 == 1;
            if !is_warm {
                life.forget()?;
            }
            let look = look(life)?;
            // All of what a look needs is in memory when it was done a moment ago.
            if sample > 0 {
                looks[usize::from(!is_warm)].push(look);
            }
        }
        let [warm, cold] = looks.map(|mut looks| {
            looks.sort_unstable();
            looks.get(looks.len() / 2).copied().unwrap_or_default()
        });
        let whole = alternate(runs, &mut [&mut || timed(life.ebbtide().args(["log", PATH]))])?;
        let whole = whole.first().copied().unwrap_or_default();
        let row = |what: String, time: Duration, below: Option<u64>| Row {
            what,
            ebbtide: milliseconds(time),
            goal: below.map(|below| format!("below {below} ms")).unwrap_or_default(),
            met: below.map(|below| time < Duration::from_millis(below)),
            ..Row::default()
        };
        let what =
            format!("all versions of a file in {ROOTS} past roots, in a program that runs already");
        Ok(vec![
            row(what.clone(), warm.1, Some(1)),
            row(
                format!("{what}, and opening all roots and reading their records first"),
                warm.0,
                None,
            ),
            row(
                format!("{what}, opened first, on a volume that was mounted anew"),
                cold.0,
                Some(10),
            ),
            row(format!("`ebbtide log` of a file in {ROOTS} past roots"), whole, None),
        ])
    })
}

/// How long it takes to open all trees and to look for the path in them, and how long the latter alone does.
fn look(life: &Life<'_>) -> Result<(Duration, Duration)> {
    let failed = |failure: ebbtide_core::failure::Failure| anyhow::anyhow!(failure.chain());
    let boot = Boot::read(&life.run.join(LOCATOR), life.run.clone(), None).map_err(failed)?;
    let container = boot.open_container().map_err(failed)?;
    let started = Instant::now();
    let sources = Sources::open(&boot, &container, &life.root).map_err(failed)?;
    let opened = Instant::now();
    let found = history(&sources, Path::new(PATH), &mut Contents::default());
    let (whole, alone) = (started.elapsed(), opened.elapsed());
    let places: usize = found.runs.iter().map(|run| run.places.len()).sum();
    ensure!(places >= ROOTS && found.runs.len() > ROOTS / 10, "not all versions were found");
    Ok((whole, alone))
}
