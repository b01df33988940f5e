//! Attaching: system calls per entry, and time against what people use instead.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use testkit::mount::Filesystem;
use testkit::process::run;

use super::bare::{Place, bind_all};
use super::machine::{Kept, Life, Machine, Programs, fill, timed};
use super::measure::{Row, alternate, milliseconds, ratio};

/// System calls per entry: of a whole boot, reset and verification included.
pub fn calls(programs: &Programs, _: usize) -> Result<Vec<Row>> {
    let few = count(programs, 100)?;
    let many = count(programs, 1000)?;
    let calls = u32::try_from(many.saturating_sub(few)).unwrap_or(u32::MAX);
    let per_entry = f64::from(calls) / 900.0;
    Ok(vec![Row {
        what: "system calls per entry of a boot with 1000, nothing of them in the base".to_owned(),
        ebbtide: format!("{per_entry:.1}"),
        goal: "at most 8".to_owned(),
        met: Some(per_entry <= 8.0),
        ..Row::default()
    }])
}

fn count(programs: &Programs, entries: usize) -> Result<u64> {
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(entries), |_| Ok(()))?;
    machine.live(|life| {
        let summary = life.run.join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-o"]).arg(&summary);
        run(&mut life.traced(&mut strace, "up"))?;
        let summary = fs::read_to_string(&summary)?;
        total(&summary).with_context(|| format!("strace said:\n{summary}"))
    })
}

/// The number of calls in the last line of `strace -c`.
fn total(summary: &str) -> Option<u64> {
    let line = summary.lines().find(|line| line.ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Time to attach 100 and 1000 entries, against mount(8) for each; and 5000, against 1000.
pub fn attach(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entries in [100, 1000] {
        rows.extend(against_others(programs, runs, entries)?);
    }
    rows.push(in_the_base(programs, runs, 1000)?);
    let [one, five] = [1000, 5000].map(|entries| -> Result<Duration> {
        let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(entries), |_| Ok(()))?;
        let medians = alternate(runs, &mut [&mut || machine.live(ours)])?;
        medians.first().copied().context("nothing was measured")
    });
    let (one, five) = (one?, five?);
    let growth = ratio(one, five);
    rows.push(Row {
        what: "attach 5000 entries, against 1000".to_owned(),
        ebbtide: milliseconds(five),
        other: milliseconds(one),
        ratio: format!("{growth:.1}"),
        goal: "at most 5.5: linear".to_owned(),
        met: Some(growth <= 5.5),
    });
    Ok(rows)
}

fn against_others(programs: &Programs, runs: usize, entries: usize) -> Result<Vec<Row>> {
    let kept = Kept::Bound(entries);
    let machine = Machine::new(programs, Filesystem::Btrfs, kept, |_| Ok(()))?;
    let scripts = Scripts::write(&machine, kept)?;
    let expected = mounts(&machine, |life| ours(life).map(drop))?;
    for script in [&scripts.tmpfiles, &scripts.shell] {
        let made = mounts(&machine, |life| theirs(life, script).map(drop))?;
        ensure!(
            made == entries && expected >= entries,
            "{made} and {expected} of {entries} mounts"
        );
    }
    let places = Place::all(kept)?;
    let medians = alternate(
        runs,
        &mut [
            &mut || machine.live(ours),
            &mut || machine.live(|life| theirs(life, &scripts.tmpfiles)),
            &mut || machine.live(|life| theirs(life, &scripts.shell)),
            &mut || machine.live(|life| bare(&machine, life, &places)),
        ],
    )?;
    let [ours, tmpfiles, shell, limit] = medians[..] else { return Ok(Vec::new()) };
    let row = |name: &str, theirs: Duration| {
        let times = ratio(ours, theirs);
        let in_time = entries < 1000 || ours <= Duration::from_millis(30);
        Row {
            what: format!("attach {entries} entries, against {name}"),
            ebbtide: milliseconds(ours),
            other: milliseconds(theirs),
            ratio: format!("{times:.0}"),
            goal: if entries < 1000 { "" } else { "at least 100, and within 30 ms" }.to_owned(),
            met: (entries >= 1000).then_some(times >= 100.0 && in_time),
        }
    };
    let limit = Row {
        what: format!(
            "attach {entries} entries, against the limit: the bare calls that make and mount them, and \
             one look at the mount table"
        ),
        ebbtide: milliseconds(ours),
        other: milliseconds(limit),
        ratio: format!("{:.1}", ratio(ours, limit)),
        ..Row::default()
    };
    Ok(vec![
        row("`systemd-tmpfiles` and `mount --bind` for each", tmpfiles),
        row("a shell loop with `findmnt` and `mount` for each", shell),
        limit,
    ])
}

/// The same with a base that has the entries already, as one that was taken from an installed system:
/// nothing is made, all of it is only mounted.
fn in_the_base(programs: &Programs, runs: usize, entries: usize) -> Result<Row> {
    let kept = Kept::Bound(entries);
    let machine = Machine::new(programs, Filesystem::Btrfs, kept, |tree| {
        kept.entries()
            .iter()
            .try_for_each(|entry| fill(&tree.join(&entry.path), entry.is_directory))
    })?;
    let scripts = Scripts::write(&machine, kept)?;
    let medians = alternate(
        runs,
        &mut [&mut || machine.live(ours), &mut || {
            machine.live(|life| theirs(life, &scripts.tmpfiles))
        }],
    )?;
    let [ours, theirs] = medians[..] else { bail!("nothing was measured") };
    Ok(Row {
        what: format!(
            "attach {entries} entries that the base has, against `systemd-tmpfiles` and `mount \
             --bind` for each"
        ),
        ebbtide: milliseconds(ours),
        other: milliseconds(theirs),
        ratio: format!("{:.0}", ratio(ours, theirs)),
        ..Row::default()
    })
}

/// The calls that nothing can do without, and one look at the mount table.
fn bare(machine: &Machine, life: &Life<'_>, places: &[Place]) -> Result<Duration> {
    life.reset()?;
    let store = machine.mount_store(life)?;
    let started = Instant::now();
    bind_all(&store, &life.root, places)?;
    let table = fs::read("/proc/thread-self/mountinfo")?;
    let took = started.elapsed();
    let lines = table.split(|byte| *byte == b'\n').count();
    ensure!(lines > places.len(), "{lines} mounts of {}", places.len());
    Ok(took)
}

/// How many mounts there are below the root.
fn mounts(machine: &Machine, work: impl FnOnce(&Life<'_>) -> Result<()> + Send) -> Result<usize> {
    machine.live(|life| {
        work(life)?;
        let below = format!("{}/var/", life.root.display());
        let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
        Ok(table.lines().filter(|line| line.contains(&below)).count())
    })
}

/// The whole program, its start, its checks and its record on the disk included.
fn ours(life: &Life<'_>) -> Result<Duration> {
    life.reset()?;
    timed(&mut life.boot("attach"))
}

fn theirs(life: &Life<'_>, script: &Path) -> Result<Duration> {
    life.reset()?;
    timed(Command::new("sh").arg(script).arg(&life.root))
}

/// What others do for the same entries, as scripts that take the root as argument.
struct Scripts {
    tmpfiles: PathBuf,
    shell: PathBuf,
}

impl Scripts {
    fn write(machine: &Machine, kept: Kept) -> Result<Self> {
        let mut lines = String::new();
        let mut binds = String::new();
        let mut loops = String::from(LOOP);
        let state = machine.state();
        for entry in kept.entries() {
            let (path, source) = (&entry.path, state.join(&entry.path));
            let (kind, mode) = if entry.is_directory { ("d", "0755") } else { ("f", "0644") };
            writeln!(lines, "{kind} /{path} {mode} root root -")?;
            writeln!(binds, "mount --bind {} \"$1/{path}\"", source.display())?;
            let which = if entry.is_directory { "directory" } else { "file" };
            writeln!(loops, "keep {which} {} \"$1\" /{path}", state.display())?;
        }
        let directory = machine.directory();
        let configuration = directory.join("entries.conf");
        fs::write(&configuration, lines)?;
        let tmpfiles = directory.join("tmpfiles.sh");
        let create =
            format!("systemd-tmpfiles --create --root=\"$1\" {}\n", configuration.display());
        fs::write(&tmpfiles, format!("set -e\n{create}{binds}"))?;
        let shell = directory.join("loop.sh");
        fs::write(&shell, loops)?;
        Ok(Self { tmpfiles, shell })
    }
}

/// What scripts of this kind do for each entry: parents on both sides, made with the mode that the
/// other side has, then a mount unless there is one.
const LOOP: &str = r#"set -e
keep() {
    kind=$1 store=$2 root=$3 path=$4
    parents=$(dirname "$path")
    done=
    IFS=/
    for part in $parents; do
        [ -n "$part" ] || continue
        done=$done/$part
        if [ ! -d "$root$done" ]; then
            mkdir "$root$done"
            chown --reference="$store$done" "$root$done"
            chmod --reference="$store$done" "$root$done"
        fi
    done
    unset IFS
    if findmnt "$root$path" > /dev/null; then
        return
    fi
    if [ "$kind" = directory ]; then
        mkdir -p "$root$path"
    else
        touch "$root$path"
    fi
    mount -o bind "$store$path" "$root$path"
}
"#;

#[cfg(test)]
mod tests {
    #[test]
    fn the_last_line_of_strace_has_the_sum() {
        let summary = "% time seconds usecs/call calls errors syscall\n\
            60.0 0.1 9 12 open\n------\n100.00 0.2 3 345 6 total\n";
        assert_eq!(super::total(summary), Some(345));
        assert_eq!(super::total("nothing"), None);
    }
}
