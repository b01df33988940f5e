//! What happens to a machine that runs: its volume fills up, nobody deletes what is kept no longer, its
//! userspace is started anew without a new root.

use std::os::fd::AsFd;

use ebbtide_sys::file::{self, Room};
use ebbtide_sys::text::size;

use super::{Status, stores};
use crate::boot::Boot;
use crate::compiled::{Backend, Compiled};
use crate::container::{Container, name};
use crate::failure::{Level, Problem, Result};
use crate::gc::{self, LastRun};
use crate::record::{BootNumber, Record};
use crate::{shutdown, store, undeclared};

/// A volume with less than one part in so many free is nearly full,
const NEARLY_FULL: u64 = 20;

/// unless that is still more than this.
const ENOUGH: u64 = 1 << 30;

/// So many boots without a gc are no accident: its timer is due once a day,
const BOOTS: u64 = 10;

/// and less than this many seconds after a boot that had none yet.
const DUE: i64 = 60 * 60;

/// Adds what is wrong.
pub(super) fn look(
    boot: &Boot,
    container: &Container,
    compiled: Option<&Compiled>,
    record: Option<&Record>,
    status: &mut Status,
) -> Result<()> {
    status.problems.extend(soft_reboot(shutdown::has_ended(&boot.run), container.backend()));
    let room = file::room(container.directory()).ok();
    status.problems.extend(room.and_then(nearly_full));
    let last = LastRun::read(container)?;
    if let Some(compiled) = compiled {
        status.stores = stores::usage(boot, compiled, last.as_ref());
        status.problems.extend(stores::full(&status.stores, room));
    }
    if let (Some(compiled), Some(running)) = (compiled, status.boot) {
        let past = container.numbers(name::PAST)?.len();
        let count = gc::policy(compiled).boots.count;
        // Without the time that it slept: timers do not run then.
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec;
        status.problems.extend(overdue(past, count, last.map(|run| run.boot), (running, up)));
    }
    if let Some(compiled) = compiled {
        // A store that is not there is told of with its entries.
        let _ = undeclared(container, compiled, record, status);
    }
    Ok(())
}

/// Tells of what stores have and no entry keeps any more.
fn undeclared(
    container: &Container,
    compiled: &Compiled,
    record: Option<&Record>,
    status: &mut Status,
) -> Result<()> {
    let in_use = undeclared::in_use(container, record)?;
    for (name, wanted) in &compiled.stores {
        let Ok(opened) = store::open(wanted.place(), wanted.uuid) else { continue };
        let found = undeclared::find(name, opened.as_fd(), compiled, &in_use)?;
        let known: Vec<_> = found.iter().filter(|it| it.known).collect();
        let Some(first) = known.first() else { continue };
        let more = match known.len() - 1 {
            0 => String::new(),
            more => format!(" and of {more} more paths"),
        };
        let path = undeclared::shown(&first.path);
        status.problems.push(Problem {
            hint: Some("`ebbtide gc --undeclared` moves them to the store's trash".to_owned()),
            ..Problem::new(
                Level::Info,
                format!("store {name} has data of {path}{more}, which no entry keeps any more"),
            )
        });
    }
    Ok(())
}

/// Whether the userspace was shut down and started again on the same root.
fn soft_reboot(has_ended: bool, backend: Backend) -> Option<Problem> {
    if !has_ended {
        return None;
    }
    let message = "the userspace of this boot was shut down, and started again without a new root \
                   (`systemctl soft-reboot`): the entries were unmounted, and what is written in their \
                   places is not kept";
    let hint = match backend {
        Backend::Tmpfs => "copy what matters out of it, then run `systemctl reboot`",
        _ => "run `systemctl reboot`; what was written since is in the past root then",
    };
    Some(Problem { hint: Some(hint.to_owned()), ..Problem::new(Level::Error, message) })
}

/// Whether there is little room left, and not much.
pub(super) fn is_nearly_full(room: Room) -> bool {
    room.available < room.total / NEARLY_FULL && room.available < ENOUGH
}

fn nearly_full(room: Room) -> Option<Problem> {
    let message = || {
        let (free, total) = (size(room.available), size(room.total));
        format!("the volume is nearly full: {free} of {total} are free, and a reset needs some")
    };
    is_nearly_full(room).then(|| Problem {
        hint: Some(
            "`ebbtide gc` deletes what is kept no longer; `keep-boots` says what is".to_owned(),
        ),
        ..Problem::new(Level::Warning, message())
    })
}

/// Whether more is kept than should be, and nothing was deleted for long. No clock is asked, but for how many
/// seconds the machine is up: somebody who boots often, one time after the other, is ahead of the timer.
fn overdue(
    past: usize,
    count: u32,
    last: Option<BootNumber>,
    (running, up): (BootNumber, i64),
) -> Option<Problem> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let since = running.0.saturating_sub(last.map_or(0, |last| last.0));
    let message = || {
        let last = match last {
            Some(last) => format!("gc ran last in boot {last}"),
            None => "gc never ran".to_owned(),
        };
        format!("there are {past} past roots, {count} are to be kept, and {last}")
    };
    (past > count && since > BOOTS && up > DUE).then(|| Problem {
        hint: Some(
            "run `ebbtide gc`, and see why the timer does not: `systemctl status ebbtide-gc.timer`"
                .to_owned(),
        ),
        ..Problem::new(Level::Warning, message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_nearly_full_when_little_and_not_much_is_left() {
        let room =
            |total: u64, available: u64| Room { total: total << 20, available: available << 20 };
        for (found, full) in [
            (room(1000, 50), false),
            (room(1000, 49), true),
            (room(1000, 0), true),
            (room(100_000, 1023), true),
            (room(100_000, 1024), false),
            (room(0, 0), false),
        ] {
            assert_eq!(nearly_full(found).is_some(), full, "{found:?}");
        }
        let problem = nearly_full(room(1000, 49)).unwrap();
        insta::assert_snapshot!(problem.message, @"the volume is nearly full: 49 MiB of 1000 MiB are free, and a reset needs some");
    }

    #[test]
    fn gc_is_overdue_when_it_did_not_run_and_should_have() {
        let number = BootNumber;
        for (past, last, running, is) in [
            (10, None, 50, false),
            (11, None, 10, false),
            (11, None, 11, true),
            (11, Some(40), 50, false),
            (11, Some(39), 50, true),
            (11, Some(60), 50, false),
        ] {
            let found = overdue(past, 10, last.map(number), (number(running), DUE + 1));
            assert_eq!(found.is_some(), is, "{past} {last:?} {running}");
            let early = overdue(past, 10, last.map(number), (number(running), DUE));
            assert_eq!(early, None, "the timer is not due yet");
        }
        let text = |last| overdue(12, 10, last, (number(50), DUE + 1)).unwrap().message;
        assert_eq!(text(None), "there are 12 past roots, 10 are to be kept, and gc never ran");
        assert!(text(Some(number(3))).ends_with("gc ran last in boot 3"));
    }

    #[test]
    fn a_soft_reboot_is_an_error_with_a_way_out() {
        assert_eq!(soft_reboot(false, Backend::Btrfs), None);
        for backend in [Backend::Btrfs, Backend::Overlay, Backend::Tmpfs] {
            let problem = soft_reboot(true, backend).unwrap();
            assert_eq!(problem.level, Level::Error);
            assert!(problem.hint.unwrap().contains("systemctl reboot"));
        }
    }
}
