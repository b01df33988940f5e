//! Rotation of roots, harvest, `status`, and what the programs weigh.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ebbtide_sys::file;
use ebbtide_sys::process::wait_with_peak;
use testkit::mount::Filesystem;
use testkit::process::run;

use super::machine::{Kept, Machine, Programs, timed};
use super::measure::{Row, alternate, milliseconds, ratio};

/// A new btrfs root instead of the last one, against the usual script.
pub fn rotation(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for files in [10_000, 200_000] {
        let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(0), |tree| {
            many_files(&tree.join("srv/many"), files)
        })?;
        let top = machine.top();
        let other = top.join("other");
        fs::create_dir(&other)?;
        let snapshot = |to: &str| {
            let mut btrfs = Command::new("btrfs");
            btrfs.args(["subvolume", "snapshot"]).arg(top.join("ebbtide/bases/1"));
            run(btrfs.arg(other.join(to)))
        };
        snapshot("blank")?;
        snapshot("root")?;
        let script = machine.directory().join("recipe.sh");
        fs::write(&script, RECIPE)?;
        let device = machine.device();
        let medians = alternate(
            runs,
            &mut [
                &mut || {
                    // A root that nothing was written to stays where it is.
                    fs::write(top.join("ebbtide/root/written"), "x\n")?;
                    sync(top)?;
                    machine.live(|life| timed(&mut life.boot("reset")))
                },
                &mut || {
                    machine.live(|life| {
                        timed(Command::new("sh").arg(&script).arg(device).arg(&life.root))
                    })
                },
                &mut || machine.live(|_| exchange(&other)),
            ],
        )?;
        let [ours, theirs, limit] = medians[..] else { continue };
        rows.push(Row {
            what: format!(
                "rotation of a btrfs root of {files} files, against the limit: two names \
                 exchanged, and the commit that makes it last"
            ),
            ebbtide: milliseconds(ours),
            other: milliseconds(limit),
            ratio: format!("{:.1}", ratio(ours, limit)),
            ..Row::default()
        });
        let times = ratio(ours, theirs);
        rows.push(Row {
            what: format!("rotation of a btrfs root of {files} files, against a shell script"),
            ebbtide: milliseconds(ours),
            other: milliseconds(theirs),
            ratio: format!("{times:.1}"),
            goal: "at least 4, and within 15 ms".to_owned(),
            met: Some(times >= 4.0 && ours <= Duration::from_millis(15)),
        });
    }
    Ok(rows)
}

/// What nothing that forgets a btrfs root can do without, in a program that runs already.
fn exchange(other: &Path) -> Result<Duration> {
    let directory = fs::File::open(other)?;
    let started = Instant::now();
    let [one, another] = ["blank", "root"].map(OsStr::new);
    file::exchange(directory.as_fd(), one, directory.as_fd(), another)?;
    file::sync_filesystem(directory.as_fd())?;
    Ok(started.elapsed())
}

/// What people put into their initramfs: the old root goes aside under its time, what is older than a
/// month is deleted (there is nothing), and a snapshot takes its place.
const RECIPE: &str = r#"set -e
mount -o subvolid=5 "$1" "$2"
cd "$2/other"
if [ -e root ]; then
    mkdir -p old
    time=$(date --date="@$(stat -c %Y root)" "+%Y-%m-%d_%H:%M:%S")
    mv root "old/$time-$$"
fi
for old in $(find old -maxdepth 1 -mindepth 1 -ctime +30); do
    btrfs subvolume delete "$old"
done
btrfs subvolume snapshot blank root
cd /
umount "$2"
"#;

/// A whole boot on an overlay whose last root wrote 10,000 files, against deleting these.
pub fn overlay(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    const FILES: usize = 10_000;
    let machine = Machine::new(programs, Filesystem::Ext4, Kept::Bound(0), |_| Ok(()))?;
    let upper = machine.top().join("upper");
    let medians = alternate(
        runs,
        &mut [
            &mut || {
                machine.live(|life| {
                    life.up()?;
                    many_files(&life.root.join("srv/many"), FILES)
                })?;
                sync(machine.top())?;
                machine.live(|life| timed(&mut life.boot("up")))
            },
            &mut || {
                many_files(&upper, FILES)?;
                sync(machine.top())?;
                timed(Command::new("rm").arg("-rf").arg(&upper))
            },
        ],
    )?;
    let [ours, theirs] = medians[..] else { return Ok(Vec::new()) };
    Ok(vec![Row {
        what: format!(
            "a whole boot after a root that wrote {FILES} files (overlay on ext4), against `rm -rf`"
        ),
        ebbtide: milliseconds(ours),
        other: milliseconds(theirs),
        ratio: format!("{:.1}", ratio(ours, theirs)),
        ..Row::default()
    }])
}

/// How many of 1000 synced files are opened for reading when none has changed.
pub fn harvest(programs: &Programs, _: usize) -> Result<Vec<Row>> {
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Synced(1000), |_| Ok(()))?;
    let (calls, opened) = machine.live(|life| {
        let trace = life.run.join("trace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o"]).arg(&trace);
        run(&mut life.traced(&mut strace, "reset"))?;
        let trace = fs::read_to_string(&trace)?;
        let opened = trace.lines().filter(|line| reads_entry(line)).count();
        Ok((trace.lines().count(), opened))
    })?;
    ensure!(calls > 1000, "the harvest looked at nothing: {calls} calls");
    Ok(vec![Row {
        what: "files that are opened for reading in a reset with 1000 unchanged synced files"
            .to_owned(),
        ebbtide: opened.to_string(),
        goal: "none".to_owned(),
        met: Some(opened == 0),
        ..Row::default()
    }])
}

/// Whether a line of strace opens an entry, and not only its place.
fn reads_entry(line: &str) -> bool {
    line.contains("open") && line.contains("/entry") && !line.contains("O_PATH")
}

/// `ebbtide status` on a machine with 1000 entries.
pub fn status(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(1000), |_| Ok(()))?;
    let median = machine.live(|life| {
        life.up()?;
        let medians = alternate(
            runs,
            &mut [&mut || {
                let mut status = life.ebbtide();
                let started = std::time::Instant::now();
                let output = status.args(["status", "--json"]).output()?;
                let said = String::from_utf8_lossy(&output.stdout);
                ensure!(said.contains("\"proved\": true"), "status said {said}");
                Ok(started.elapsed())
            }],
        )?;
        medians.first().copied().context("nothing was measured")
    })?;
    Ok(vec![Row {
        what: "`ebbtide status` with 1000 entries".to_owned(),
        ebbtide: milliseconds(median),
        goal: "below 20 ms".to_owned(),
        met: Some(median < Duration::from_millis(20)),
        ..Row::default()
    }])
}

/// Size and peak memory of the boot binary.
pub fn weight(programs: &Programs, _: usize) -> Result<Vec<Row>> {
    let size = fs::metadata(&programs.boot)?.len();
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(1000), |_| Ok(()))?;
    let peak = machine.live(|life| {
        let child = life.boot("up").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (ended, peak) = wait_with_peak(&child)?;
        ensure!(ended.success(), "a boot failed");
        Ok(peak)
    })?;
    let row = |what: &str, bytes: u64, limit: u64| Row {
        what: what.to_owned(),
        ebbtide: format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000),
        goal: format!("below {} MB", limit / 1_000_000),
        met: Some(bytes < limit),
        ..Row::default()
    };
    Ok(vec![
        row("size of `ebbtide-boot`, static", size, 2_000_000),
        row("most memory of a boot with 1000 entries", peak, 8_000_000),
    ])
}

pub fn many_files(directory: &Path, count: usize) -> Result<()> {
    for index in 0..count {
        let place = directory.join(format!("d{:04}", index / 100));
        if index % 100 == 0 {
            fs::create_dir_all(&place)?;
        }
        fs::write(place.join(format!("f{index}")), "a file\n")?;
    }
    Ok(())
}

pub fn sync(place: &Path) -> Result<()> {
    run(Command::new("sync").arg("--file-system").arg(place)).map(drop)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_place_is_not_read() {
        let opened = |flags: &str| format!("1 openat2(5, \"a/entry0001\", {{flags={flags}}}) = 6");
        assert!(super::reads_entry(&opened("O_RDONLY|O_NONBLOCK|O_CLOEXEC")));
        assert!(!super::reads_entry(&opened("O_PATH|O_NOFOLLOW|O_CLOEXEC")));
    }
}
