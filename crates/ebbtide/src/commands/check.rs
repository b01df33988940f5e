//! `ebbtide check`: finds mistakes in the declaration before the next boot does.

use std::path::PathBuf;

use ebbtide_core::declaration::{self, Outcome, Problem, Report, Severity, SourceFile};
use serde::Serialize;

use crate::context::Context;
use crate::declaration::{read, render};
use crate::error::CommandError;
use crate::status::Status;
use crate::text::count;

/// Finds mistakes in the declaration before the next boot does
///
/// Reads all layers: /usr/lib/ebbtide/*.toml, /etc/ebbtide/ebbtide.toml and
/// /etc/ebbtide/ebbtide.d/*.toml, where later ones win. Changes nothing, needs no rights, and looks
/// at no disk: it tells what is wrong with the words, not whether a device is there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ebbtide check
  ebbtide check --config new.toml
  ebbtide check --json | jq '.problems[].message'

Exit status: 0 if there are no errors, 2 if there are.")]
pub struct Args {
    /// Check this file alone, instead of the layers of this system
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the problems as JSON
    #[arg(long)]
    json: bool,
}

/// The shape of `check --json`; see docs/reference/json.md.
#[derive(Debug, Serialize)]
struct Document {
    version: u32,
    ok: bool,
    problems: Vec<Report>,
}

pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let sources = read(context, args.config.as_deref())?;
    let outcome = declaration::check(&sources);
    let ok = outcome.declaration.is_some();
    if args.json {
        let problems = declaration::report(&outcome.problems, &sources);
        let document = Document { version: 1, ok, problems };
        context.print_json(&document)?;
    } else {
        let problems = render(&outcome.problems, &sources, context.color_out());
        context.print(&format!("{problems}{}\n", summary(&sources, &outcome)))?;
    }
    Ok(if ok { Status::DONE } else { Status::USAGE })
}

/// Everything in one line.
fn summary(sources: &[SourceFile], outcome: &Outcome) -> String {
    let mut parts = Vec::new();
    if let Some(declaration) = &outcome.declaration {
        parts.push(count(declaration.entries.len(), "entry"));
    }
    for (severity, name) in
        [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")]
    {
        let of_kind = |problem: &&Problem| problem.severity == severity;
        match outcome.problems.iter().filter(of_kind).count() {
            0 => {}
            number => parts.push(count(number, name)),
        }
    }
    if outcome.problems.is_empty() {
        parts.push("no problems".to_owned());
    }
    format!("checked {}: {}", count(sources.len(), "file"), parts.join(", "))
}
