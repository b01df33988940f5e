//! Attaching: system calls per entry, and time against what people use instead.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use testkit::process::run;

use super::machine::{Kept, Machine, Programs};
use super::measure::Row;

/// System calls per entry: of a whole boot, reset and verification included.
pub fn calls(programs: &Programs, _: usize) -> Result<Vec<Row>> {
    let few = count(programs, Kept::Bound(100), "up")?;
    let many = count(programs, Kept::Bound(1000), "up")?;
    let per_entry = (many as f64 - few as f64) / 900.0;
    Ok(vec![Row {
        what: "system calls per entry, of a whole boot with 1000".to_owned(),
        ebbtide: format!("{per_entry:.1}"),
        other: String::new(),
        ratio: String::new(),
        goal: "at most 8".to_owned(),
        met: Some(per_entry <= 8.0),
    }])
}

fn count(programs: &Programs, kept: Kept, verb: &str) -> Result<u64> {
    let machine = Machine::new(programs, kept, |_| Ok(()))?;
    machine.live(|life| {
        let summary = life.run.join("calls");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-o"]).arg(&summary);
        run(&mut life.traced(&mut strace, verb))?;
        let summary = fs::read_to_string(&summary)?;
        total(&summary).with_context(|| format!("strace said:\n{summary}"))
    })
}

/// The number of calls in the last line of `strace -c`.
fn total(summary: &str) -> Option<u64> {
    let line = summary.lines().find(|line| line.ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
