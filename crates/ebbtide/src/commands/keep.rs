//! `ebbtide keep`: declares paths, imports what lies there, and attaches it.

pub mod once;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, ValueEnum};
use ebbtide_core::compiled::StoreName;
use ebbtide_core::declaration::keep::{self, Addition, Found, Options, Plan, Refusal, Section};
use ebbtide_core::declaration::{Declaration, Outcome, Problem, Severity, SourceFile, Target};
use ebbtide_core::live;
use ebbtide_core::trial::{DECLARATION, LastRoot};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use super::apply::{How, Prepared};
use super::declare::{absolute, sound, tell};
use super::question::confirmed;
use super::{declare, ignore, machine};
use crate::context::Context;
use crate::difference;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::printable;

/// Declares paths, takes what lies there into a store, and attaches it
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Each path becomes an entry of /etc/ebbtide/ebbtide.toml, at the end of its list; everything else in
that file stays as it is written. Where the file is read-only, the entry goes to the machine's own,
.ebbtide/keep.toml in the state store. What lies in a user's home and belongs to them goes to
[users.NAME]. Then it does what `ebbtide apply` does. If that fails, the file is put back.

What a process has open for writing, or mapped so, or is in, cannot be put in place under it: it is named,
with its process, and `keep` asks whether the next boot is to do it, which then takes what lies there. Without
a terminal it keeps nothing, and says so, unless --next-boot answers that beforehand. Where only programs of
the user whose home it is use it, it waits for their next login.

A directory that is still to come is written with a slash at its end. What is kept already is no
failure.

With --once nothing is declared: what lies at the path when the next reset comes is copied to the new
root, before anything starts there, and the reset after that takes it away. A boot without a reset
leaves it to come. What the base has is not carried over, nor is what a new root has by then: it stays
in the past root, from which `ebbtide restore` brings it back. `ebbtide forget` takes the wish back.

Examples:
  ebbtide keep /var/lib/app ~/.config/app
  ebbtide keep --dry-run /etc/motd
  ebbtide keep --next-boot /var/lib/database


  Over one reset, and no further:
    ebbtide keep --once ~/half-done

Exit status: 0 done, or kept already; 1 failed, or it is in use; 2 it can't be kept like this.")]
#[expect(clippy::struct_excessive_bools, reason = "the options of a command")]
pub struct Args {
    /// What to keep: directories, or single files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Carry it over the next reset only, and declare nothing
    #[arg(long, conflicts_with_all = ["state", "store", "method", "next_boot"])]
    once: bool,
    /// Keep it for the throw-away root whose state is in this directory: it is attached there the
    /// next time
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The store that keeps it, if not that of the declaration's default
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// How it is put in place
    #[arg(long, value_name = "METHOD", value_enum)]
    method: Option<Method>,
    /// Keep what is in use now from the next boot on, without asking
    #[arg(long, conflicts_with = "state")]
    next_boot: bool,
    /// Show what would be written and done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// What is to be ignored in the same go.
    #[arg(skip)]
    ignored: Vec<PathBuf>,
}

impl Args {
    /// Keeps paths as the declaration's defaults say.
    pub fn of(paths: Vec<PathBuf>) -> Self {
        Self::reviewed(paths, Vec::new(), false)
    }

    /// Keeps paths so, and ignores these absolute patterns.
    pub fn reviewed(paths: Vec<PathBuf>, ignored: Vec<PathBuf>, dry_run: bool) -> Self {
        let (state, store, method) = (None, None, None);
        let (once, next_boot) = (false, false);
        Self { paths, once, state, store, method, next_boot, dry_run, json: false, ignored }
    }
}

/// A method that can be asked for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Method {
    Auto,
    Bind,
    Symlink,
    Sync,
}

/// What `ebbtide keep --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// Whether all of it is only what would be done.
    dry_run: bool,
    /// The file that has the new entries, escaped; null if there are none.
    file: Option<&'a str>,
    /// New entries.
    added: Vec<Added<'a>>,
    /// What was kept already.
    kept: Vec<Already>,
    /// What is done to the running system.
    changes: &'a [live::Change],
}

/// A new entry.
#[derive(Serialize, JsonSchema)]
struct Added<'a> {
    /// Its path.
    path: &'a Path,
    /// `directory` or `file`.
    kind: String,
    /// The table that it is in: `keep`, or `users.NAME`.
    table: String,
}

/// A path that was kept already.
#[derive(Serialize, JsonSchema)]
struct Already {
    /// The path, escaped.
    path: String,
    /// The entry that keeps it.
    entry: PathBuf,
    /// Where that is declared: file and line.
    origin: String,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    if args.once {
        return once::run(args, context);
    }
    let state = args.state.as_deref().map(|state| Target::in_directory(state, DECLARATION));
    let state = state.transpose()?;
    let sources = match &state {
        Some(target) => vec![target.source().clone()],
        None => crate::declaration::read(context, None)?,
    };
    let before = sound(&sources, context)?;
    let plan = plan(args, &sources, context)?;
    let ignored = ignore::planned(&args.ignored, &sources, context)?;
    if plan.additions.is_empty() && ignored.additions.is_empty() {
        report(args, &plan, None, &[], &already(&plan), context)?;
        return Ok(Status::DONE);
    }
    let is_state = state.is_some();
    if !is_state {
        machine::require_root()?;
    }
    let target = state.map_or_else(|| Target::find(&context.sysroot), Ok)?;
    let cannot = || format!("cannot add to {}", target.source().name);
    let text = keep::add(&target.source().text, &plan.additions)
        .map_err(|error| CommandError::new(Kind::Usage, cannot()).cause(error.to_string()))?;
    let text = ignore::with(&ignored, &text, &target.source().name)?;
    let declaration = check(&target.with_text(&sources, &text), &before, &plan, context)?;
    let mut shown = already(&plan);
    if args.dry_run {
        let source = target.source();
        shown += &difference::render(&source.name, &source.text, &text, context);
        let changes = if is_state {
            Vec::new()
        } else {
            let how = How { dry_run: true, ..How::default() };
            let done = Prepared::new(&declaration, how, context)?.dry_run()?;
            shown += &done.text;
            done.changes
        };
        report(args, &plan, Some(&target), &changes, &shown, context)?;
        return Ok(Status::DONE);
    }
    for addition in &plan.additions {
        let path = escape(addition.absolute.as_os_str().as_bytes());
        let file = printable(&target.source().name);
        let _ = writeln!(shown, "{} {path} is declared: {file}", context.good("+"));
    }
    shown += &ignore::told(&ignored, Some(&target), context);
    if is_state {
        target.write(&text)?;
        shown += "it is attached the next time that `ebbtide try` runs on this state\n";
        report(args, &plan, Some(&target), &[], &shown, context)?;
        return Ok(Status::DONE);
    }
    let written = [(target, text)];
    let prepared = Prepared::new(&declaration, How::default(), context)?;
    if !args.next_boot {
        agree_to_wait(&prepared, &plan, args)?;
    }
    let done = declare::bring(declare::write(prepared, &written)?)?;
    let [(target, _)] = written;
    shown += &done.text;
    report(args, &plan, Some(&target), &done.changes, &shown, context)?;
    Ok(done.status)
}

/// Finds who uses what is to be kept: it would go on with what lies below a mount. Asks whether it is to be
/// kept from the next boot on, and refuses where nobody can say so.
fn agree_to_wait(prepared: &Prepared, plan: &Plan, args: &Args) -> Result<(), CommandError> {
    let concerns = |change: &live::Change| {
        let together = |it: &Addition| {
            it.absolute.starts_with(&change.path) || change.path.starts_with(&it.absolute)
        };
        change.when == live::When::NextBoot && plan.additions.iter().any(together)
    };
    let changes = prepared.changes()?;
    let users: Vec<_> =
        changes.iter().filter(|it| concerns(it)).flat_map(|change| &change.users).collect();
    if users.is_empty() {
        return Ok(());
    }
    let mut told = String::new();
    for user in &users {
        let _ = writeln!(told, "  {user}");
    }
    let refused = |message: &str| {
        let error = CommandError::new(Kind::Failed, message);
        users.iter().fold(error, |error, user| error.cause(user.to_string()))
    };
    let question = format!(
        "{told}What they write would be lost below the mount. Keep it from the next boot on?"
    );
    let answer = if args.json { None } else { confirmed(&question)? };
    match answer {
        Some(true) => Ok(()),
        Some(false) => Err(refused("nothing was kept: it is in use")
            .hint("stop what uses it, and keep it then")),
        None => Err(refused("cannot keep it now: it is in use").hint(
            "stop what uses it; or keep it from the next boot on, which takes what lies there then: \
             `ebbtide keep --next-boot PATH`",
        )),
    }
}

/// Checks the declaration with the new entries in it. Only what they brought is told.
fn check(
    sources: &[SourceFile],
    before: &BTreeSet<String>,
    plan: &Plan,
    context: &Context,
) -> Result<Declaration, CommandError> {
    let Outcome { declaration, mut problems, sources } =
        crate::declaration::check(context, sources)?;
    problems
        .retain(|problem| problem.severity != Severity::Note && !before.contains(&problem.message));
    tell(&problems, &sources, context);
    declaration.ok_or_else(|| {
        let paths = plan.additions.iter().map(|it| escape(it.absolute.as_os_str().as_bytes()));
        let paths = paths.collect::<Vec<_>>().join(", ");
        CommandError::new(Kind::Usage, format!("cannot keep {paths}: nothing was written"))
    })
}

/// Checks whether these paths could be kept together, as the declaration's defaults say.
///
/// # Errors
///
/// What speaks against it.
pub fn verify(paths: Vec<PathBuf>, context: &Context) -> Result<(), CommandError> {
    let sources = crate::declaration::read(context, None)?;
    let plan = plan(&Args::of(paths), &sources, context)?;
    let target = Target::find(&context.sysroot)?;
    let cannot = || CommandError::new(Kind::Usage, "cannot keep it");
    let text = keep::add(&target.source().text, &plan.additions)
        .map_err(|error| cannot().cause(error.to_string()))?;
    let outcome = crate::declaration::check(context, &target.with_text(&sources, &text))?;
    let Some(problem) = outcome.problems.into_iter().find(Problem::is_error) else { return Ok(()) };
    let error = cannot().cause(problem.message);
    Err(match problem.hint {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

fn plan(args: &Args, sources: &[SourceFile], context: &Context) -> Result<Plan, CommandError> {
    let options = Options {
        store: args.store.clone().map(StoreName),
        method: args
            .method
            .and_then(|it| it.to_possible_value())
            .map(|it| it.get_name().to_owned()),
    };
    let last = args.state.as_deref().map(|state| LastRoot::open(state, &context.sysroot));
    let last = last.transpose()?;
    let sysroot = last.as_ref().map_or(context.sysroot.as_path(), LastRoot::base);
    let mut seen = Vec::new();
    for path in &args.paths {
        let slash = path.as_os_str().as_bytes().ends_with(b"/");
        let path = absolute(path)?;
        let mut found = match &last {
            Some(last) => last.observe(&path, slash)?,
            None => keep::observe(&[root(sysroot)?.as_fd()], &path, slash)?,
        };
        // What is still to come can be declared; there is nothing in it to carry over.
        found.slash |= args.once && found.found == Found::Nothing;
        seen.push(found);
    }
    let surroundings = crate::declaration::surroundings(&context.for_sysroot(sysroot))?;
    keep::plan(sources, &surroundings, &seen, &options).map_err(|Refusal { message, hint }| {
        let error = CommandError::new(Kind::Usage, format!("cannot keep it: {message}"));
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}

fn root(sysroot: &Path) -> Result<File, CommandError> {
    File::open(sysroot).map_err(|error| {
        let path = escape(sysroot.as_os_str().as_bytes());
        CommandError::new(Kind::Failed, format!("cannot open {path}")).cause(error.to_string())
    })
}

/// What is kept already, for people.
fn already(plan: &Plan) -> String {
    let mut text = String::new();
    for (path, kept) in &plan.kept {
        let shown = |path: &Path| escape(path.as_os_str().as_bytes());
        let within = if kept.entry == *path {
            String::new()
        } else {
            format!(" within {}", shown(&kept.entry))
        };
        let _ =
            writeln!(text, "{} is kept already{within}: {}", shown(path), printable(&kept.origin));
    }
    text
}

/// The same for a machine.
fn kept_already(plan: &Plan) -> Vec<Already> {
    let kept = plan.kept.iter().map(|(path, kept)| Already {
        path: escape(path.as_os_str().as_bytes()),
        entry: kept.entry.clone(),
        origin: kept.origin.clone(),
    });
    kept.collect()
}

fn report(
    args: &Args,
    plan: &Plan,
    target: Option<&Target>,
    changes: &[live::Change],
    text: &str,
    context: &Context,
) -> Result<(), CommandError> {
    if !args.json {
        return context.print(text);
    }
    let table = |addition: &Addition| match &addition.section {
        Section::Keep => "keep".to_owned(),
        Section::User(name) => format!("users.{name}"),
    };
    let added = plan.additions.iter().map(|addition| Added {
        path: &addition.absolute,
        kind: addition.kind.to_string(),
        table: table(addition),
    });
    context.print_json(&Json {
        version: 1,
        dry_run: args.dry_run,
        file: target.map(|target| target.source().name.as_str()),
        added: added.collect(),
        kept: kept_already(plan),
        changes,
    })
}
