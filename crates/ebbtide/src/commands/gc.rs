//! `ebbtide gc`: deletes past roots, records and trash that are kept no longer.

use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use clap::Args as ClapArgs;
use ebbtide_core::failure::{Level, Problem};
use ebbtide_core::gc::{Done, Gc, Plan, Step};
use ebbtide_core::store::Since;
use ebbtide_core::undeclared::Undeclared;
use ebbtide_sys::escape;
use ebbtide_sys::file::Room;
use schemars::JsonSchema;
use serde::Serialize;

use super::machine;
use super::status::render_problem;
use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;
use crate::text::{count, date, size};

/// Deletes past roots and trash that are kept no longer
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
What stays is declared: `keep-boots` of [root], `trash` of [store.NAME], and of a store of class `cache`
also `limit` and `max-age`, by which files go for good and not to the trash. Never deleted are the root
that runs, bases, past roots that are mounted, and the newest past root whose boot came up without
an error and ended cleanly, and files of caches that something has open. A timer runs it every day.

What a store has and no entry keeps, because it was forgotten, is listed and stays. With --undeclared it
goes to the store's trash, and from there as `trash` says. What somebody else put into a store stays, as
does what is mounted still.

Examples:
  sudo ebbtide gc --dry-run
  sudo ebbtide gc
  sudo ebbtide gc --dry-run --undeclared

Exit status: 0 done; 3 something was not deleted that should have been; 1 failed; 2 wrong command
line or declaration.")]
pub struct Args {
    /// Move what no entry keeps any more to the trash of its store
    #[arg(long)]
    undeclared: bool,
    /// Show what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `ebbtide gc --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// Whether nothing was done.
    dry_run: bool,
    #[serde(flatten)]
    plan: &'a Plan,
    /// Those of the steps that were done. Absent with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<&'a [Step]>,
    /// Bytes that were free on the volume before. Absent with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    available_before: Option<u64>,
    /// Bytes that are free on it now. Absent with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    available: Option<u64>,
    /// What was not deleted that should have been, and what else went wrong.
    problems: &'a [Problem],
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    machine::require_root()?;
    let gc = Gc::open(&machine::running(None, context)?, &context.sysroot)?
        .with_undeclared(args.undeclared);
    if args.dry_run {
        let plan = gc.preview()?;
        if args.json {
            context.print_json(&json(true, &plan, None))?;
        } else {
            context.print(&(render(&plan, context) + if_nothing(&plan)))?;
        }
        return Ok(Status::DONE);
    }
    let mut log = |level: Level, message: &str| {
        // Problems come at the end.
        if level == Level::Info && !args.json {
            context.tell(message);
        }
    };
    let done = gc.apply(&mut log)?;
    if args.json {
        context.print_json(&json(false, &done.plan, Some(&done)))?;
    } else {
        context.print(&render_done(&done, context))?;
    }
    Ok(if done.problems.is_empty() { Status::DONE } else { Status::FOUND })
}

fn json<'a>(dry_run: bool, plan: &'a Plan, done: Option<&'a Done>) -> Json<'a> {
    let room = done.and_then(|done| done.room);
    Json {
        version: 1,
        dry_run,
        plan,
        done: done.map(|done| done.done.as_slice()),
        available_before: room.map(|(before, _)| before.available),
        available: room.map(|(_, after)| after.available),
        problems: done.map(|done| done.problems.as_slice()).unwrap_or_default(),
    }
}

fn if_nothing(plan: &Plan) -> &'static str {
    if plan.steps.is_empty() { "nothing to delete\n" } else { "" }
}

fn render(plan: &Plan, context: &Context) -> String {
    let mut text = notes(plan, context);
    for step in &plan.steps {
        let _ = writeln!(text, "{step}");
    }
    text
}

fn notes(plan: &Plan, context: &Context) -> String {
    let note = |note: &String| format!("{} note: {}\n", context.dim("--"), escape(note.as_bytes()));
    let mut text: String = plan.notes.iter().map(note).collect();
    for it in plan.undeclared.iter().filter(|it| !is_moved(plan, it)) {
        let (path, store) = (escape(it.path.as_os_str().as_bytes()), &it.store);
        let since = match it.since {
            Some(Since { boot, clock }) => format!(" since boot {boot}, {} UTC", date(clock)),
            None => String::new(),
        };
        let what = if it.known {
            format!("no entry keeps it{since}: `ebbtide gc --undeclared` moves it to the trash")
        } else {
            "no entry ever kept it: it stays".to_owned()
        };
        let _ = writeln!(
            text,
            "{} note: store {store} has {path} ({}), and {what}",
            context.dim("--"),
            size(it.bytes)
        );
    }
    text
}

/// Whether the plan moves it.
fn is_moved(plan: &Plan, it: &Undeclared) -> bool {
    let moves = |step: &Step| matches!(step, Step::Undeclared { store, path, .. } if *store == it.store && *path == it.path);
    plan.steps.iter().any(moves)
}

fn render_done(done: &Done, context: &Context) -> String {
    let mut text = notes(&done.plan, context);
    for problem in &done.problems {
        let _ = writeln!(text, "{}", render_problem(problem, context));
    }
    let roots = done.done.iter().filter(|step| matches!(step, Step::Root { .. })).count();
    let moved = done.done.iter().filter(|step| matches!(step, Step::Undeclared { .. })).count();
    if moved > 0 {
        let _ = writeln!(text, "{} moved to the trash", count(moved, "path"));
    }
    let mut files = 0;
    for step in &done.done {
        if let Step::Cache { files: gone, .. } = step {
            files += gone;
            let _ = writeln!(text, "{}", step.to_string().replacen("delete ", "deleted ", 1));
        }
    }
    let caches = done.done.iter().filter(|step| matches!(step, Step::Cache { .. })).count();
    let _ = match done.room {
        _ if done.done.len() == moved + caches && files > 0 => {
            write!(
                text,
                "{} of caches deleted",
                count(usize::try_from(files).unwrap_or(usize::MAX), "file")
            )
        }
        _ if done.done.len() == moved => write!(text, "nothing deleted"),
        Some((before, after)) if after.available > before.available => {
            let freed = size(after.available - before.available);
            write!(text, "{} deleted, {freed} freed", count(roots, "past root"))
        }
        _ => write!(text, "{} deleted", count(roots, "past root")),
    };
    if let Some((_, Room { total, available })) = done.room {
        let _ = write!(text, "; {} of {} are free", size(available), size(total));
    }
    text.push('\n');
    text
}
