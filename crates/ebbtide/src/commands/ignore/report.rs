//! What `ignore` prints.

use std::path::Path;

use ebbtide_core::declaration::ignore::{Rule, Rules};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Args, Done};
use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;

/// What `ebbtide ignore --json` prints. Patterns are absolute, and escaped.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// Whether all of it is only what would be done.
    dry_run: bool,
    /// The files that change, escaped.
    files: Vec<&'a str>,
    /// New patterns.
    added: Vec<Added>,
    /// Patterns that were ignored already.
    ignored: Vec<Ignored<'a>>,
    /// Patterns of what is kept.
    kept: Vec<Kept<'a>>,
    /// Patterns that were taken out.
    removed: Vec<OneRule<'a>>,
    /// Patterns that were to be taken out, and were not there.
    not_ignored: Vec<String>,
    /// All that is ignored then, in the order of layers.
    rules: Vec<OneRule<'a>>,
}

/// A new pattern.
#[derive(Serialize, JsonSchema)]
struct Added {
    /// The pattern.
    pattern: String,
    /// The table that it is in: `ignore`, or `users.NAME`.
    table: String,
}

/// A pattern that was ignored already.
#[derive(Serialize, JsonSchema)]
struct Ignored<'a> {
    /// The pattern.
    pattern: String,
    /// The pattern that ignores it; null if it is noise anyway.
    by: Option<String>,
    /// Where that is declared: file and line.
    origin: Option<&'a str>,
}

/// A pattern of what is kept, so that no reset takes it.
#[derive(Serialize, JsonSchema)]
struct Kept<'a> {
    /// The pattern.
    pattern: String,
    /// The entry that keeps it.
    entry: &'a Path,
    /// Where that is declared: file and line.
    origin: &'a str,
}

/// A pattern that is declared.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Rule")]
struct OneRule<'a> {
    /// The pattern.
    pattern: String,
    /// Where it is declared: file and line.
    origin: &'a str,
}

pub(super) fn print(
    args: &Args,
    done: &Done,
    rules: &Rules,
    context: &Context,
) -> Result<Status, CommandError> {
    if !args.json {
        context.print(&done.shown)?;
        return Ok(Status::DONE);
    }
    let (plan, undo) = (&done.plan, &done.undo);
    let added = plan
        .additions
        .iter()
        .map(|it| Added { pattern: whole(&it.absolute), table: it.list.table() });
    let ignored = plan.ignored.iter().map(|(pattern, rule)| Ignored {
        pattern: whole(pattern),
        by: rule.as_ref().map(|rule| whole(&rule.pattern)),
        origin: rule.as_ref().map(|rule| rule.origin.as_str()),
    });
    let kept = plan.kept.iter().map(|(pattern, kept)| Kept {
        pattern: whole(pattern),
        entry: &kept.entry,
        origin: &kept.origin,
    });
    context.print_json(&Json {
        version: 1,
        dry_run: args.dry_run,
        files: done.files.iter().map(|(target, _)| target.source().name.as_str()).collect(),
        added: added.collect(),
        ignored: ignored.collect(),
        kept: kept.collect(),
        removed: undo.rules.iter().map(one).collect(),
        not_ignored: undo.unknown.iter().map(|pattern| whole(pattern)).collect(),
        rules: rules.rules.iter().map(one).collect(),
    })?;
    Ok(Status::DONE)
}

fn one(rule: &Rule) -> OneRule<'_> {
    OneRule { pattern: whole(&rule.pattern), origin: &rule.origin }
}

fn whole(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
