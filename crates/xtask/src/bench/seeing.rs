//! `ebbtide diff` on btrfs, against what people compare snapshots with.

use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbtide_sys::process::wait_with_peak;
use testkit::mount::Filesystem;

use super::boots::{many_files, sync};
use super::forest::Forest;
use super::machine::{Kept, Life, Machine, Programs};
use super::measure::{Contender, Row, alternate, milliseconds, ratio};
use super::rivals::{Rivals, is_installed};

const FOREST: Forest = Forest { files: 200_000 };
const FEW: usize = 500;
const MANY: usize = 20_000;

/// How many times longer another one has to take at least.
type Goal = Option<f64>;

/// A base of 200,000 files, and few or many changes.
pub fn diff(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine =
        Machine::new(programs, Filesystem::Btrfs, Kept::Bound(0), |tree| FOREST.grow(tree))?;
    let mut rows = machine.live(|life| {
        life.up()?;
        FOREST.scatter(&life.root, FEW)?;
        warm(life, FEW, runs)
    })?;
    rows.extend(machine.live(|life| {
        life.up()?;
        FOREST.cluster(&life.root, MANY, MANY / 40)?;
        warm(life, MANY, runs)
    })?);
    rows.extend(machine.alone(|life| {
        life.up()?;
        FOREST.scatter(&life.root, FEW)?;
        cold(life, runs.min(3))
    })?);
    Ok(rows)
}

fn warm(life: &Life<'_>, changes: usize, runs: usize) -> Result<Vec<Row>> {
    let top = life.mount_top()?;
    let rivals = Rivals::new(&top)?;
    found(life, changes)?;
    let few = changes == FEW;
    let goal = |of_few, of_many| if few { of_few } else { of_many };
    let mut others: Vec<(&str, Goal, bool, Box<Rival<'_>>)> = vec![
        (
            "`btrfs send --no-data` and `receive --dump`",
            goal(Some(4.0), Some(15.0)),
            true,
            Box::new(|| rivals.send()),
        ),
        (
            "the limit: one bare search of the kernel for what is newer than the base",
            goal(Some(0.5), None),
            true,
            Box::new(|| rivals.scan()),
        ),
        ("`snapper status`", None, rivals.has_snapper(), Box::new(|| rivals.snapper())),
        (
            "`btrfs subvolume find-new`, which sees no deletion, no rename and no metadata",
            None,
            true,
            Box::new(|| rivals.find_new()),
        ),
    ];
    if few {
        others.push((
            "`rsync -an --delete`",
            Some(50.0),
            is_installed("rsync"),
            Box::new(|| rivals.rsync()),
        ));
        others.push(("`diff -rq`", None, is_installed("diff"), Box::new(|| rivals.diff())));
    }
    let what = format!(
        "`ebbtide diff` of {changes} changes{} in a btrfs root of {} files",
        if few { "" } else { " in 500 directories" },
        FOREST.files
    );
    let rows = table(&what, runs, &mut || timed_diff(life), others)?;
    rivals.end(&top)?;
    Ok(rows)
}

fn cold(life: &Life<'_>, runs: usize) -> Result<Vec<Row>> {
    let top = life.mount_top()?;
    let rivals = Rivals::new(&top)?;
    let others: Vec<(&str, Goal, bool, Box<Rival<'_>>)> = vec![
        (
            "`rsync -an --delete`",
            Some(10.0),
            is_installed("rsync"),
            Box::new(|| {
                life.forget()?;
                rivals.rsync()
            }),
        ),
        (
            "`btrfs send --no-data` and `receive --dump`",
            None,
            true,
            Box::new(|| {
                life.forget()?;
                rivals.send()
            }),
        ),
    ];
    let what = format!(
        "`ebbtide diff` of {FEW} changes in a btrfs root of {} files, mounted anew",
        FOREST.files
    );
    let mut ours = || {
        life.forget()?;
        timed_diff(life)
    };
    table(&what, runs, &mut ours, others)
}

/// Another one, if it is there.
type Rival<'a> = dyn FnMut() -> Result<Duration> + 'a;

/// Lets all of them run in turn, with a row for each. Those that are not there have a row that says so.
fn table(
    what: &str,
    runs: usize,
    ours: Contender<'_>,
    mut others: Vec<(&str, Goal, bool, Box<Rival<'_>>)>,
) -> Result<Vec<Row>> {
    let mut contenders: Vec<Contender<'_>> = vec![ours];
    for (_, _, is_there, rival) in &mut others {
        if *is_there {
            contenders.push(rival.as_mut());
        }
    }
    let medians = alternate(runs, &mut contenders)?;
    let mut medians = medians.into_iter();
    let ours = medians.next().context("nothing was measured")?;
    let mut rows = Vec::new();
    for (name, goal, is_there, _) in &others {
        let mut row = Row {
            what: format!("{what}, against {name}"),
            ebbtide: milliseconds(ours),
            ..Row::default()
        };
        if *is_there {
            let theirs = medians.next().context("nothing was measured")?;
            let times = ratio(ours, theirs);
            row.other = milliseconds(theirs);
            row.ratio = format!("{times:.2}");
            row.met = goal.map(|goal| times >= goal);
        } else {
            "skipped: not installed".clone_into(&mut row.other);
        }
        row.goal = goal.map(|goal| format!("at least {goal}")).unwrap_or_default();
        rows.push(row);
    }
    Ok(rows)
}

/// How long `ebbtide diff` takes, its start included. It has to find something.
pub fn timed_diff(life: &Life<'_>) -> Result<Duration> {
    let mut diff = life.ebbtide();
    diff.arg("diff").stdout(Stdio::null());
    let started = Instant::now();
    let ended = diff.status()?;
    ensure!(ended.code() == Some(3), "`ebbtide diff`: {ended}");
    Ok(started.elapsed())
}

/// Fails if it does not find all changes: what is fast and wrong is not measured.
pub fn found(life: &Life<'_>, changes: usize) -> Result<()> {
    let output = life.ebbtide().args(["diff", "--all", "--json"]).output()?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let count = said.get("paths").and_then(|it| it.as_array()).map_or(0, Vec::len);
    ensure!(count == changes, "`ebbtide diff` finds {count} of {changes} changes");
    Ok(())
}

/// The most memory that a diff of a million new files takes, on btrfs and on an overlay.
pub fn memory(programs: &Programs, _: usize) -> Result<Vec<Row>> {
    const FILES: usize = 1_000_000;
    const LIMIT: u64 = 64 << 20;
    let mut rows = Vec::new();
    for (filesystem, name) in
        [(Filesystem::Btrfs, "a btrfs root"), (Filesystem::Ext4, "an overlay on ext4")]
    {
        let machine = Machine::new(programs, filesystem, Kept::Bound(0), |_| Ok(()))?;
        let peak = machine.live(|life| {
            life.up()?;
            many_files(&life.root.join("srv/many"), FILES)?;
            sync(&life.root)?;
            let mut diff = life.ebbtide();
            let mut child = diff.arg("diff").stdout(Stdio::piped()).spawn()?;
            let mut said = String::new();
            child.stdout.take().context("no output")?.read_to_string(&mut said)?;
            let (ended, peak) = wait_with_peak(&child)?;
            ensure!(ended.code() == Some(3), "`ebbtide diff`: {ended}");
            ensure!(said.contains("1000000"), "`ebbtide diff` did not find all files: {said}");
            Ok(peak)
        })?;
        rows.push(Row {
            what: format!("most memory of `ebbtide diff` of {FILES} new files in {name}"),
            ebbtide: format!("{} MiB", peak.div_ceil(1 << 20)),
            goal: "at most 64 MiB".to_owned(),
            met: Some(peak <= LIMIT),
            ..Row::default()
        });
    }
    Ok(rows)
}
