//! Points in time that stamps of files can be compared with.

use std::time::{Duration, SystemTime};

use ebbtide_sys::metadata::Time;

/// The kernel stamps files with the time of its last tick, which is at most 10 ms ago.
const TICK: Duration = Duration::from_millis(12);

/// A time that no stamp of an earlier change reaches, and every one of a later change does.
pub(crate) fn now() -> Time {
    std::thread::sleep(TICK * 2);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let then = now.saturating_sub(TICK);
    (i64::try_from(then.as_secs()).unwrap_or(i64::MAX), then.subsec_nanos())
}
