//! Whole boots and shutdowns of a Debian in a container, with and without entries.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use testkit::container::Container;
use testkit::guest::Guest;
use testkit::mount::Filesystem;

use super::bare::{Place, bind_all};
use super::machine::{Kept, Life, Machine, Programs};
use super::measure::{Row, alternate, ratio};

/// How many entries, and by how many percent a boot with a shutdown may be longer for it.
const ENTRIES: [(usize, f64); 2] = [(100, 1.0), (1000, 5.0)];

/// How long it stays up between boot and shutdown, which does not count. systemd looks at the mount table
/// five times in a second at most; the mounts of a boot have used that up, and a shutdown in the same
/// second would have it unmount what is not mounted any more, with a process for each. No person is as
/// quick as that.
const PAUSE: Duration = Duration::from_secs(2);

/// Powers off when everything that a boot starts has started, and that pause is over.
fn power_off() -> String {
    format!(
        "[Unit]\nDescription=Power Off After Each Boot\nAfter=multi-user.target\n\n[Service]\n\
         Type=oneshot\nExecStartPre=sleep {}\nExecStart=systemctl --no-block poweroff\n",
        PAUSE.as_secs()
    )
}

/// From the start of `ebbtide-boot up` to the end of the last process of a system that starts what a
/// Debian starts, and powers off then.
pub fn containers(programs: &Programs, runs: usize) -> Result<Vec<Row>> {
    let machine = Machine::new(programs, Filesystem::Btrfs, Kept::Bound(0), |tree| {
        Guest::debian_12()?.copy_to(tree)?;
        // The kernel is the host's, and the base has no modules for it.
        fs::remove_dir_all(tree.join("usr/lib/modules"))?;
        let units = tree.join("usr/lib/systemd/system");
        fs::write(units.join("power-off.service"), power_off())?;
        symlink("../power-off.service", units.join("multi-user.target.wants/power-off.service"))?;
        // What takes the entries down at shutdown, as the package installs it.
        let unit = "ebbtide-entries.service";
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd").join(unit);
        fs::copy(here, units.join(unit))?;
        symlink(format!("../{unit}"), units.join("sysinit.target.wants").join(unit))?;
        fs::copy(&programs.command_line, tree.join("usr/bin/ebbtide"))?;
        Ok(())
    })?;
    let life = |entries: usize| -> Result<Duration> {
        // Not measured: compiling what is declared, and a boot for it.
        machine.declare(Kept::Bound(entries))?;
        machine.live(|life| one(&machine, life, entries))
    };
    let plain = |entries: usize| -> Result<Duration> {
        machine.declare(Kept::Bound(0))?;
        let places = Place::all(Kept::Bound(entries))?;
        machine.live(|life| bound_by_hand(&machine, life, &places))
    };
    let [(few, few_percent), (many, many_percent)] = ENTRIES;
    // What the entries keep is in the store from here on.
    life(many).context("the first life")?;
    let medians = alternate(
        runs,
        &mut [
            &mut || life(0),
            &mut || life(few),
            &mut || life(many),
            &mut || plain(few),
            &mut || plain(many),
        ],
    )?;
    let [none, with_few, with_many, plain_few, plain_many] = medians[..] else {
        return Ok(Vec::new());
    };
    let row = |entries: usize, percent: f64, time: Duration| {
        let longer = (ratio(none, time) - 1.0) * 100.0;
        Row {
            what: format!(
                "boot and shutdown of a Debian in `systemd-nspawn`, {entries} entries against none"
            ),
            ebbtide: format!("{:.2} s", time.as_secs_f64()),
            other: format!("{:.2} s", none.as_secs_f64()),
            ratio: format!("{longer:+.1} %"),
            goal: format!("at most {percent} % longer"),
            met: Some(longer <= percent),
        }
    };
    let limit = |entries: usize, time: Duration, other: Duration| Row {
        what: format!(
            "the same with {entries} entries, against as many mounts that systemd alone takes down"
        ),
        ebbtide: format!("{:.2} s", time.as_secs_f64()),
        other: format!("{:.2} s", other.as_secs_f64()),
        ratio: format!("{:.2}", ratio(time, other)),
        ..Row::default()
    };
    Ok(vec![
        row(few, few_percent, with_few),
        row(many, many_percent, with_many),
        limit(few, with_few, plain_few),
        limit(many, with_many, plain_many),
    ])
}

/// With entries: what declares them is there already.
fn one(machine: &Machine, life: &Life<'_>, entries: usize) -> Result<Duration> {
    let started = Instant::now();
    life.up()?;
    boot_and_power_off(machine, life, started.elapsed(), entries)
}

/// With mounts of the same data in the same places that Ebbtide knows nothing of.
fn bound_by_hand(machine: &Machine, life: &Life<'_>, places: &[Place]) -> Result<Duration> {
    let started = Instant::now();
    life.up()?;
    let up = started.elapsed();
    let store = machine.mount_store(life)?;
    let started = Instant::now();
    bind_all(&store, &life.root, places)?;
    boot_and_power_off(machine, life, up + started.elapsed(), places.len())
}

fn boot_and_power_off(
    machine: &Machine,
    life: &Life<'_>,
    assembled: Duration,
    entries: usize,
) -> Result<Duration> {
    let console = machine.directory().join("console.log");
    let below = format!("{}/var/lib/bench/", life.root.display());
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let found = table.lines().filter(|line| line.contains(&below)).count();
    ensure!(found == entries, "{found} of {entries} entries are in place");
    let lived = Container::boot_to_the_end(&life.root, &life.run, &console)?;
    lived.checked_sub(PAUSE).map(|lived| assembled + lived).context("it ended too early")
}
