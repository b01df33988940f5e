//! `ebbtide forget`: keeps paths no longer; what their stores have stays there, or comes back to the root.

mod move_back;

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::declaration::forget::{self, Plan};
use ebbtide_core::declaration::keep::Refusal;
use ebbtide_core::declaration::{Declaration, SourceFile, Target, explain};
use ebbtide_core::live::{self, Back};
use ebbtide_core::trial::DECLARATION;
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use super::apply::{How, Prepared};
use super::declare::{absolute, in_force, sound, taken_out, tell};
use super::keep::once::TakenBack;
use super::machine;
use crate::context::Context;
use crate::difference;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::printable;
use move_back::Mover;

/// Takes paths out of the declaration; what their stores have stays there
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The entry of each path goes from the file that has it, wherever in the declaration that is; everything
else there stays as it is written. Then it does what `ebbtide apply` does: what is mounted at the path
is unmounted, now or, where something uses it, at the next boot. If that fails, the files are put back.

The data stay in their store, under the path that they had. The root has what its base has there: the
next reset takes away what is written there from now on. To have the data back, `ebbtide keep` the path
again; to have them out of the store, `ebbtide gc --undeclared`.

With --move-back the data come back to the root, as plain files that live until the next reset: they are
copied and compared, unmounted, and put in place; then the entry goes, and last what the store has goes to
its trash. What something uses is named, and nothing is done.

What is not kept is no failure. What was to be carried over the next reset (`ebbtide keep --once`) is
not any more.

Examples:
  ebbtide forget /var/lib/app ~/.config/app
  ebbtide forget --dry-run /etc/motd
  ebbtide forget --move-back /srv/site

Exit status: 0 done, or not kept; 1 failed; 2 it can't be forgotten like this.")]
pub struct Args {
    /// What not to keep any more: the paths of entries
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Forget it for the throw-away root whose state is in this directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Bring the data back to the root, and move the store's own to its trash
    #[arg(long, conflicts_with = "state")]
    move_back: bool,
    /// Show what would be written and done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `ebbtide forget --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// Whether all of it is only what would be done.
    dry_run: bool,
    /// The files that had the entries, escaped.
    files: Vec<&'a str>,
    /// What is kept no longer.
    forgotten: Vec<Forgotten<'a>>,
    /// Paths that were not kept, escaped.
    not_kept: Vec<String>,
    /// Paths that were to be carried over the next reset, and are not any more, escaped.
    not_carried: Vec<String>,
    /// What is done to the running system.
    changes: &'a [live::Change],
    /// With `--move-back`, what becomes of the data.
    moved_back: &'a [Back],
}

/// A path that is kept no longer.
#[derive(Serialize, JsonSchema)]
struct Forgotten<'a> {
    /// The path.
    path: &'a Path,
    /// Where its entry was: file and line.
    origin: &'a str,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let state = args.state.as_deref().map(|state| Target::in_directory(state, DECLARATION));
    let state = state.transpose()?;
    let sources = match &state {
        Some(target) => vec![target.source().clone()],
        None => crate::declaration::read(context, None)?,
    };
    sound(&sources, context)?;
    let mut plan = plan(args, &sources, context)?;
    let wished = match &state {
        Some(_) => TakenBack::none(),
        None => TakenBack::find(&absolute_paths(args)?, context),
    };
    plan.unknown.retain(|path| !wished.paths.contains(path));
    let mut shown = unknown(&plan) + &wished.text(args.dry_run, context);
    let not_carried = Outcome { not_carried: wished.paths.clone(), ..Outcome::default() };
    if plan.files.is_empty() {
        if !args.dry_run {
            wished.apply()?;
        }
        report(args, &plan, &[], &not_carried, &shown, context)?;
        return Ok(Status::DONE);
    }
    let is_state = state.is_some();
    if !is_state {
        machine::require_root()?;
    }
    let files = taken_out(&plan.files, &sources, state, context, forget::remove)?;
    let declaration = check(&files, &sources, &plan, context)?;
    let paths = || plan.declared.iter().map(|(path, _)| path.clone()).collect();
    let mover = args.move_back.then(|| Mover::new(paths(), context)).transpose()?;
    if args.dry_run {
        for (target, text) in &files {
            let source = target.source();
            shown += &difference::render(&source.name, &source.text, text, context);
        }
        let mut outcome = not_carried;
        if !is_state {
            let how = How { dry_run: true, ..How::default() };
            let how = mover.as_ref().map_or(how, |mover| mover.how(true));
            let done = Prepared::new(&declaration, how, context)?.dry_run()?;
            outcome.changes = done.changes;
            if let Some(mover) = mover {
                shown += &move_back::render(&mover.plan, true, context);
                outcome.backs = mover.plan;
            }
            shown += &done.text;
        }
        report(args, &plan, &files, &outcome, &shown, context)?;
        return Ok(Status::DONE);
    }
    for (path, origin) in &plan.declared {
        let _ = writeln!(
            shown,
            "{} {} is not declared any more: {}",
            context.bad("-"),
            escape(path.as_os_str().as_bytes()),
            printable(origin)
        );
    }
    if is_state {
        for (target, text) in &files {
            target.write(text)?;
        }
        shown +=
            "its data stay in the store of this state; the next `ebbtide try` begins without\n";
        report(args, &plan, &files, &Outcome::default(), &shown, context)?;
        return Ok(Status::DONE);
    }
    let (done, backs) = match mover {
        Some(mover) => mover.apply(&declaration, &files, context)?,
        None => (in_force(&declaration, &files, context)?, Vec::new()),
    };
    wished.apply()?;
    shown += &move_back::render(&backs, false, context);
    shown += &done.text;
    let outcome = Outcome { changes: done.changes, backs, ..not_carried };
    report(args, &plan, &files, &outcome, &shown, context)?;
    Ok(done.status)
}

/// What was done beside the declaration, or would be.
#[derive(Default)]
struct Outcome {
    changes: Vec<live::Change>,
    backs: Vec<Back>,
    not_carried: Vec<PathBuf>,
}

fn absolute_paths(args: &Args) -> Result<Vec<PathBuf>, CommandError> {
    args.paths.iter().map(|path| absolute(path)).collect()
}

fn plan(args: &Args, sources: &[SourceFile], context: &Context) -> Result<Plan, CommandError> {
    let paths = absolute_paths(args)?;
    let surroundings = crate::declaration::surroundings(context)?;
    forget::plan(sources, &surroundings, &paths).map_err(refused)
}

fn refused(Refusal { message, hint }: Refusal) -> CommandError {
    let error = CommandError::new(Kind::Usage, format!("cannot forget it: {message}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Checks the declaration without the entries, and that they are not kept by something else.
fn check(
    files: &[(Target, String)],
    sources: &[SourceFile],
    plan: &Plan,
    context: &Context,
) -> Result<Declaration, CommandError> {
    let mut changed = sources.to_vec();
    for (target, text) in files {
        changed = target.with_text(&changed, text);
    }
    let surroundings = crate::declaration::surroundings(context)?;
    for (path, _) in &plan.declared {
        let kept = explain(&changed, &surroundings, path).kept;
        if let Some(kept) = kept.filter(|kept| kept.entry == *path) {
            let path = escape(path.as_os_str().as_bytes());
            return Err(refused(Refusal {
                message: format!("{path} is kept by a preset as well: {}", kept.origin),
                hint: Some("take the preset out of `presets` first".to_owned()),
            }));
        }
    }
    let outcome = crate::declaration::check(context, &changed)?;
    outcome.declaration.ok_or_else(|| {
        tell(&outcome.problems, &outcome.sources, context);
        CommandError::new(Kind::Usage, "cannot forget it: nothing was written")
            .cause("the declaration would not be sound without it")
    })
}

/// What was not kept, for people.
fn unknown(plan: &Plan) -> String {
    let mut text = String::new();
    for path in &plan.unknown {
        let _ = writeln!(text, "{} is not kept", escape(path.as_os_str().as_bytes()));
    }
    text
}

fn report(
    args: &Args,
    plan: &Plan,
    files: &[(Target, String)],
    outcome: &Outcome,
    text: &str,
    context: &Context,
) -> Result<(), CommandError> {
    if !args.json {
        return context.print(text);
    }
    let forgotten = plan.declared.iter().map(|(path, origin)| Forgotten { path, origin });
    context.print_json(&Json {
        version: 1,
        dry_run: args.dry_run,
        files: files.iter().map(|(target, _)| target.source().name.as_str()).collect(),
        forgotten: forgotten.collect(),
        not_kept: plan.unknown.iter().map(|it| escape(it.as_os_str().as_bytes())).collect(),
        not_carried: outcome
            .not_carried
            .iter()
            .map(|it| escape(it.as_os_str().as_bytes()))
            .collect(),
        changes: &outcome.changes,
        moved_back: &outcome.backs,
    })
}
