//! `ebbtide check`: finds mistakes in the declaration before the next boot does.

mod machine;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ebbtide_core::declaration::{
    self, Explanation, Outcome, Problem, Report, Severity, SourceFile,
};
use schemars::JsonSchema;
use serde::Serialize;

use self::machine::{Looked, look};
use crate::context::Context;
use crate::declaration::{read, render, surroundings};
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::{count, printable};
use ebbtide_sys::escape;

/// Finds mistakes in the declaration before the next boot does
///
/// Reads all layers: /usr/lib/ebbtide/*.toml, /etc/ebbtide/ebbtide.toml and
/// /etc/ebbtide/ebbtide.d/*.toml, and the machine's own in its state store, where later ones win.
/// Changes nothing, and needs no rights: it tells what is wrong with the words, not whether a device is
/// there.
///
/// As root on a machine that runs Ebbtide, it also tells what can only be seen there: paths at which
/// nothing ever was in three boots or more, with one that may have been meant; secrets that others can
/// read; and mounted files that a program tried to replace, which fails on a mount. Of a large directory,
/// it looks at the beginning, and says so.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  sudo ebbtide check
  ebbtide check --config new.toml
  ebbtide check --presets
  ebbtide check --explain /etc/passwd
  ebbtide check --json | jq '.problems[].message'

Exit status: 0 there are no errors; 2 there are, or there is no declaration; 1 failed.")]
pub struct Args {
    /// Check this file alone, instead of the layers of this system
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// List the presets that can be named, instead
    #[arg(long, conflicts_with = "config")]
    presets: bool,

    /// Say which file and line decides what about this path, instead
    #[arg(long, value_name = "PATH", conflicts_with = "presets")]
    explain: Option<PathBuf>,

    /// Print the problems, the presets or the explanation as JSON
    #[arg(long)]
    json: bool,
}

/// What `ebbtide check --presets --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Presets {
    /// The version of this shape.
    version: u32,
    /// All presets that can be named, by name.
    presets: Vec<Listed>,
}

/// A preset.
#[derive(Debug, Serialize, JsonSchema)]
struct Listed {
    /// Its name.
    name: String,
    /// What it is for, in a few words.
    description: String,
    /// Packages that bring the application.
    packages: Vec<String>,
    /// Whether the machine can name it.
    machine: bool,
    /// Whether a user can name it.
    user: bool,
}

fn list(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let mut presets: BTreeMap<String, Listed> = BTreeMap::new();
    for file in surroundings(context)?.presets {
        let Some(preset) = declaration::read_preset(0, &file.source, &mut Vec::new()) else {
            continue;
        };
        let name = file.name;
        let listed = Listed {
            name: name.clone(),
            description: preset.description,
            packages: preset.packages,
            machine: !preset.entries.is_empty(),
            user: !preset.user_entries.is_empty(),
        };
        presets.insert(name, listed);
    }
    let presets: Vec<Listed> = presets.into_values().collect();
    if args.json {
        context.print_json(&Presets { version: 1, presets })?;
        return Ok(Status::DONE);
    }
    let width = presets.iter().map(|preset| preset.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for preset in &presets {
        let whose = if preset.machine { "" } else { " (for users)" };
        let name = printable(&preset.name);
        let _ = writeln!(text, "{name:width$}  {}{whose}", printable(&preset.description));
    }
    context.print(&text)?;
    Ok(Status::DONE)
}

/// What `ebbtide check --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Document {
    /// The version of this shape.
    version: u32,
    /// Whether no problem is an error.
    ok: bool,
    /// All problems, in the order of files and lines.
    problems: Vec<Report>,
    /// Whether the running machine was looked at; null where there is none to look at: on a machine
    /// without Ebbtide, and with `--config`.
    machine: Option<Looked>,
}

pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    if args.presets {
        return list(args, context);
    }
    let sources = read(context, args.config.as_deref())?;
    if let Some(path) = &args.explain {
        return explain(path, &sources, args, context);
    }
    let surroundings = surroundings(context)?;
    let mut outcome = declaration::check_in(&sources, &surroundings);
    let ok = outcome.declaration.is_some();
    let looked = match args.config {
        Some(_) => None,
        None => look(&mut outcome, &surroundings, context),
    };
    if args.json {
        let problems = declaration::report(&outcome.problems, &outcome.sources);
        let document = Document { version: 1, ok, problems, machine: looked };
        context.print_json(&document)?;
    } else {
        if let Some(looked) = &looked {
            looked.tell(context);
        }
        let problems = render(&outcome.problems, &outcome.sources, context.color_out());
        context.print(&format!("{problems}{}\n", summary(&sources, &outcome)))?;
    }
    Ok(if ok { Status::DONE } else { Status::USAGE })
}

/// What `ebbtide check --explain PATH --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Explained {
    /// The version of this shape.
    version: u32,
    #[serde(flatten)]
    explanation: Explanation,
}

fn explain(
    path: &Path,
    sources: &[SourceFile],
    args: &Args,
    context: &Context,
) -> Result<Status, CommandError> {
    if !path.is_absolute() {
        return Err(CommandError::new(Kind::Usage, "cannot explain a path that is not absolute")
            .hint("write it whole, as in /home/alice/Documents"));
    }
    // Slashes too many and `.` are no part of it.
    let path: PathBuf = path.components().collect();
    let surroundings = surroundings(context)?;
    let explanation = declaration::explain(sources, &surroundings, &path);
    if args.json {
        context.print_json(&Explained { version: 1, explanation })?;
        return Ok(Status::DONE);
    }
    let shown = |path: &Path| escape(path.as_os_str().as_encoded_bytes());
    let mut text = String::new();
    if let Some(kept) = &explanation.kept {
        let within = if kept.entry == path {
            String::new()
        } else {
            format!(" within {}", shown(&kept.entry))
        };
        let _ = writeln!(text, "{} is kept{within}: {}", shown(&path), printable(&kept.origin));
        let width = kept.attributes.iter().map(|it| it.value.chars().count()).max().unwrap_or(0);
        for attribute in &kept.attributes {
            let (name, value, origin) = (attribute.name, &attribute.value, &attribute.origin);
            let _ = writeln!(text, "  {name:8}  {:width$}  {origin}", printable(value));
        }
        for overridden in &kept.overridden {
            let _ = writeln!(text, "  overrides {overridden}");
        }
    } else {
        let _ = writeln!(text, "{} is not kept: the next reset takes it", shown(&path));
    }
    for below in explanation.below.iter().take(20) {
        let _ = writeln!(text, "  below it, {} is kept", shown(below));
    }
    context.print(&text)?;
    Ok(Status::DONE)
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
