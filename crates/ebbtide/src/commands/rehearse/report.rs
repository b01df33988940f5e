//! What `rehearse` says at the end: what is in place on the root of the next boot, and what is not.

use std::fmt::Write as _;
use std::path::PathBuf;

use ebbtide_core::compiled::DeclarationHash;
use ebbtide_core::enclosure::End;
use ebbtide_core::failure::{Level, Problem};
use ebbtide_core::record::BootNumber;
use ebbtide_core::rehearsal::{self, Came, FailedUnit, Rehearsal};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use crate::commands::status::render_problem;
use crate::commands::try_root::report::Command;
use crate::context::Context;
use crate::text::count;

/// How many lines of a failed unit's log are told to a person.
const TOLD: usize = 8;

/// A rehearsal that has ended.
pub struct Report<'a> {
    /// The rehearsal.
    pub rehearsal: &'a Rehearsal,
    /// How its command ended, if it had one.
    pub end: Option<&'a End>,
    /// What its system came to, if it had one.
    pub came: Option<&'a Came>,
}

/// What `ebbtide rehearse --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// The boot that was rehearsed.
    boot: BootNumber,
    /// The base that its root is made from.
    base: Option<u64>,
    /// The compiled declaration that it goes by.
    declaration: &'a DeclarationHash,
    /// What became of the entries.
    entries: Entries,
    /// What went wrong, or is not as in the next boot.
    problems: Vec<&'a Problem>,
    /// How the command ended, if there was one.
    command: Option<Command>,
    /// What became of the system, with `--boot`.
    system: Option<System>,
}

/// A system that booted.
#[derive(Serialize, JsonSchema)]
struct System {
    /// As `systemctl is-system-running` has it.
    state: String,
    /// Whether it had settled in time.
    settled: bool,
    /// Units that failed.
    failed: Vec<Failed>,
    /// Units that were still on their way, if it had not.
    jobs: Vec<String>,
}

/// A unit that failed.
#[derive(Serialize, JsonSchema)]
struct Failed {
    /// Its name.
    unit: String,
    /// How it failed, as systemd has it.
    result: String,
    /// The last lines of its log.
    log: Vec<String>,
    /// Paths that it looked for, and that are there today.
    missed: Vec<Missed>,
}

/// A path that is there today, and not in the rehearsal.
#[derive(Serialize, JsonSchema)]
struct Missed {
    /// The path, escaped.
    path: String,
    /// Whether an entry covers it.
    declared: bool,
}

/// Entries, by what became of them. Paths are escaped.
#[derive(Serialize, JsonSchema)]
struct Entries {
    /// How many are in place and verified.
    in_place: usize,
    /// Those that are not.
    missing: Vec<String>,
    /// Those that have no data anywhere yet.
    waiting: Vec<String>,
}

impl Report<'_> {
    /// For a machine.
    pub fn json(&self) -> Json<'_> {
        let record = self.rehearsal.record();
        Json {
            version: 1,
            boot: record.number,
            base: record.base.as_ref().map(|base| base.number),
            declaration: self.rehearsal.declaration().0,
            entries: self.entries(),
            problems: self.problems(),
            command: self.end.map(Command::of),
            system: self.came.map(System::of),
        }
    }

    /// Whether all that is declared is in place, or has no data yet.
    pub fn is_complete(&self) -> bool {
        let attached = self.rehearsal.record().attached.as_ref();
        attached.is_some_and(|it| it.missing.is_empty() && it.pending.is_empty())
    }

    fn entries(&self) -> Entries {
        let shown = |paths: &[PathBuf]| -> Vec<String> {
            paths.iter().map(|it| escape(it.as_os_str().as_encoded_bytes())).collect()
        };
        let Some(attached) = &self.rehearsal.record().attached else {
            let (_, compiled) = self.rehearsal.declaration();
            let all: Vec<_> = compiled.entries.iter().map(|it| it.path.clone()).collect();
            return Entries { in_place: 0, missing: shown(&all), waiting: Vec::new() };
        };
        Entries {
            in_place: attached.entries,
            missing: shown(&[&attached.missing[..], &attached.pending].concat()),
            waiting: shown(&attached.waiting),
        }
    }

    fn problems(&self) -> Vec<&Problem> {
        let mut all: Vec<_> =
            self.rehearsal.record().problems.iter().chain(self.rehearsal.notes()).collect();
        all.sort_by_key(|problem| problem.level);
        all
    }

    /// For a person.
    pub fn text(&self, context: &Context) -> String {
        let entries = self.entries();
        let mut text = String::new();
        let record = self.rehearsal.record();
        let base = record.base.as_ref().map_or(0, |base| base.number);
        let all = count(entries.in_place, "entry");
        let mark = if self.is_complete() { context.good("ok") } else { context.bad("!!") };
        let _ =
            write!(text, "{mark} boot {} would start from base {base} with {all}", record.number);
        if !entries.missing.is_empty() {
            let _ = write!(text, ", without {}", entries.missing.join(", "));
        }
        if !entries.waiting.is_empty() {
            let _ = write!(text, "; {} without data yet", entries.waiting.len());
        }
        text.push('\n');
        // That there is no data yet was said.
        for problem in self.problems().iter().filter(|it| it.level <= Level::Warning) {
            text.push_str(&render_problem(problem, context));
            text.push('\n');
        }
        if let Some(came) = self.came {
            render_system(&System::of(came), came.is_well(), context, &mut text);
        }
        text
    }
}

impl System {
    fn of(came: &Came) -> Self {
        let unit = |unit: &FailedUnit| Failed {
            unit: unit.name.clone(),
            result: unit.result.clone(),
            log: unit.log.clone(),
            missed: unit.missed.iter().map(Missed::of).collect(),
        };
        Self {
            state: came.state.clone(),
            settled: came.settled,
            failed: came.failed.iter().map(unit).collect(),
            jobs: came.jobs.clone(),
        }
    }
}

impl Missed {
    fn of(missed: &rehearsal::Missed) -> Self {
        let path = escape(missed.path.as_os_str().as_encoded_bytes());
        Self { path, declared: missed.declared }
    }
}

/// What became of a system, for a person.
fn render_system(system: &System, is_well: bool, context: &Context, text: &mut String) {
    let mark = if is_well { context.good("ok") } else { context.bad("!!") };
    let shown = |word: &str| escape(word.as_bytes());
    if !system.settled {
        let _ = writeln!(
            text,
            "{mark} the system did not settle in time; it is {}, and waits for {}",
            shown(&system.state),
            match &system.jobs[..] {
                [] => "nothing that it told".to_owned(),
                jobs => shown(&jobs.join(", ")),
            }
        );
    } else if is_well {
        let _ = writeln!(text, "{mark} all services run");
    } else {
        let units = count(system.failed.len(), "unit");
        let _ = writeln!(text, "{mark} the system is {}: {units} failed", shown(&system.state));
    }
    for unit in &system.failed {
        let _ =
            writeln!(text, "{} {}: {}", context.bad("!!"), shown(&unit.unit), shown(&unit.result));
        let from = unit.log.len().saturating_sub(TOLD);
        for line in unit.log.iter().skip(from) {
            let _ = writeln!(text, "   | {}", shown(line));
        }
        for missed in &unit.missed {
            let what = if missed.declared {
                "is declared, and today's root has more there than its store"
            } else {
                "is there today, and is not kept"
            };
            let _ = writeln!(text, "   {} {what}", missed.path);
        }
        let undeclared: Vec<_> =
            unit.missed.iter().filter(|it| !it.declared).map(|it| it.path.as_str()).collect();
        if !undeclared.is_empty() {
            let _ = writeln!(text, "   hint: ebbtide keep {}", undeclared.join(" "));
        }
    }
}
