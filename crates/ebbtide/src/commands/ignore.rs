//! `ebbtide ignore`: what nobody needs to be told about is only counted from now on.

mod report;

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::declaration::ignore::{self, Plan, Rules, Undo};
use ebbtide_core::declaration::keep::Refusal;
use ebbtide_core::declaration::{SourceFile, Target};
use ebbtide_core::pattern;
use ebbtide_core::trial::DECLARATION;
use ebbtide_sys::escape;

pub use self::report::Json;
use super::declare::{self, absolute, sound, tell};
use super::machine;
use crate::context::Context;
use crate::difference;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::printable;

/// Declares what `diff` need not tell; without a pattern, lists it
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
What a pattern describes is only counted from now on, with all that lies below it: by `ebbtide diff`,
`ebbtide review` and the report of `ebbtide try`. The next reset takes it away all the same, so it is
for what is not worth keeping.

A pattern is a path, or has *, ? or [a-z] for parts of a name and ** for any number of directories. One
with such characters and without a slash is a name, wherever it is; a name without any is written with
**/ before it. In quotes, the shell leaves it alone.

Each pattern is added to [ignore] in /etc/ebbtide/ebbtide.toml, or to the table of a user who is
declared there if it lies in their home; everything else in that file stays as it is written. Where the
file is read-only, it goes to the machine's own, .ebbtide/keep.toml in the state store. What is kept,
or ignored already, adds nothing.

Examples:
  ebbtide ignore /var/lib/app/spool '*.pyc' '**/node_modules'
  ebbtide ignore --undo '*.pyc'
  ebbtide ignore

Exit status: 0 done, or nothing to do; 1 failed; 2 it is no pattern, or can't be changed like this.")]
pub struct Args {
    /// What to ignore
    #[arg(value_name = "PATTERN")]
    patterns: Vec<PathBuf>,
    /// Take these patterns out of the declaration, so that what they describe is told again
    #[arg(long, requires = "patterns")]
    undo: bool,
    /// Do so for the throw-away root whose state is in this directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Show what would be written, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Ignores patterns that are absolute already.
    pub fn of(patterns: Vec<PathBuf>, dry_run: bool) -> Self {
        Self { patterns, undo: false, state: None, dry_run, json: false }
    }
}

/// What is done, for the report.
#[derive(Default)]
struct Done {
    plan: Plan,
    undo: Undo,
    /// The files that change, each with its new text.
    files: Vec<(Target, String)>,
    shown: String,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let state = args.state.as_deref().map(|state| Target::in_directory(state, DECLARATION));
    let state = state.transpose()?;
    let sources = match &state {
        Some(target) => vec![target.source().clone()],
        None => crate::declaration::read(context, None)?,
    };
    if args.patterns.is_empty() {
        let rules = rules(&sources, context)?;
        let shown = listed(&rules);
        return report::print(args, &Done { shown, ..Done::default() }, &rules, context);
    }
    sound(&sources, context)?;
    let is_state = state.is_some();
    let patterns: Vec<PathBuf> =
        args.patterns.iter().map(|it| wanted(it)).collect::<Result<_, _>>()?;
    let mut done = if args.undo {
        taken_out(&patterns, &sources, state, context)?
    } else {
        added(&patterns, &sources, state, context)?
    };
    let mut changed = sources.clone();
    for (target, text) in &done.files {
        changed = target.with_text(&changed, text);
    }
    checked(&changed, context)?;
    if args.dry_run {
        for (target, text) in &done.files {
            let source = target.source();
            done.shown += &difference::render(&source.name, &source.text, text, context);
        }
    } else {
        if !done.files.is_empty() && !is_state {
            machine::require_root()?;
        }
        declare::write_files(&done.files)?;
        done.shown += &told(&done.plan, done.files.first().map(|(target, _)| target), context);
        for rule in &done.undo.rules {
            let (mark, path) = (context.bad("-"), shown(&rule.pattern));
            let origin = printable(&rule.origin);
            let _ = writeln!(done.shown, "{mark} {path} is not ignored any more: {origin}");
        }
    }
    report::print(args, &done, &rules(&changed, context)?, context)
}

/// A pattern as it was typed, made absolute: relative ones are taken from the working directory, and a
/// name with special characters is one wherever it is.
pub fn wanted(typed: &Path) -> Result<PathBuf, CommandError> {
    let bytes = typed.as_os_str().as_bytes();
    let cannot = || format!("cannot ignore {}", escape(bytes));
    let text = typed.to_str().ok_or_else(|| {
        CommandError::new(Kind::Usage, cannot())
            .cause("it is not UTF-8, as TOML has to be")
            .hint("ignore a directory above it, or write `?` for each such byte")
    })?;
    let is_name = !text.contains('/') && pattern::is_special(bytes);
    let whole = if is_name || text.starts_with("**/") {
        text.to_owned()
    } else if typed.is_absolute() {
        absolute(typed)?.to_string_lossy().into_owned()
    } else {
        // What the working directory is called is no pattern.
        let here = absolute(Path::new("."))?;
        let here = here.to_str().ok_or_else(|| {
            CommandError::new(Kind::Usage, cannot())
                .cause("the path of the working directory is not UTF-8, as TOML has to be")
        })?;
        let path = Path::new(&pattern::literal(here)).join(typed);
        absolute(&path)?.to_string_lossy().into_owned()
    };
    ignore::pattern(&whole).map_err(refused)
}

/// Decides for absolute patterns.
pub fn planned(
    patterns: &[PathBuf],
    sources: &[SourceFile],
    context: &Context,
) -> Result<Plan, CommandError> {
    let surroundings = crate::declaration::surroundings(context)?;
    ignore::plan(sources, &surroundings, patterns).map_err(refused)
}

/// The text with what was planned.
pub fn with(plan: &Plan, text: &str, name: &str) -> Result<String, CommandError> {
    let rules = plan.additions.iter().map(|it| (&it.list, it.pattern.as_str()));
    ignore::add_rules(text, rules).map_err(|error| {
        CommandError::new(Kind::Usage, format!("cannot add to {}", printable(name)))
            .cause(error.to_string())
    })
}

/// What is new, for people.
pub fn told(plan: &Plan, target: Option<&Target>, context: &Context) -> String {
    let file = target.map(|target| printable(&target.source().name)).unwrap_or_default();
    let mut text = String::new();
    for addition in &plan.additions {
        let (mark, path) = (context.good("+"), shown(&addition.absolute));
        let _ = writeln!(text, "{mark} {path} is ignored: {file}");
    }
    text
}

/// What needs nothing, for people.
pub fn already(plan: &Plan) -> String {
    let mut text = String::new();
    for (pattern, rule) in &plan.ignored {
        let path = shown(pattern);
        let _ = match rule {
            None => {
                writeln!(text, "{path} is only counted anyway, as caches, locks and the like are")
            }
            Some(rule) => {
                let by = if rule.pattern == *pattern {
                    String::new()
                } else {
                    format!(" by {}", shown(&rule.pattern))
                };
                writeln!(text, "{path} is ignored already{by}: {}", printable(&rule.origin))
            }
        };
    }
    for (pattern, kept) in &plan.kept {
        let within = if kept.entry == *pattern {
            String::new()
        } else {
            format!(" within {}", shown(&kept.entry))
        };
        let (path, origin) = (shown(pattern), printable(&kept.origin));
        let _ = writeln!(text, "{path} is kept{within}, so it is not told: {origin}");
    }
    text
}

fn added(
    patterns: &[PathBuf],
    sources: &[SourceFile],
    state: Option<Target>,
    context: &Context,
) -> Result<Done, CommandError> {
    let plan = planned(patterns, sources, context)?;
    let mut files = Vec::new();
    if !plan.additions.is_empty() {
        let target = state.map_or_else(|| Target::find(&context.sysroot), Ok)?;
        let text = with(&plan, &target.source().text, &target.source().name)?;
        files.push((target, text));
    }
    let shown = already(&plan);
    Ok(Done { plan, files, shown, ..Done::default() })
}

fn taken_out(
    patterns: &[PathBuf],
    sources: &[SourceFile],
    state: Option<Target>,
    context: &Context,
) -> Result<Done, CommandError> {
    let surroundings = crate::declaration::surroundings(context)?;
    let undo = ignore::undo(sources, &surroundings, patterns).map_err(refused)?;
    let files = declare::taken_out(&undo.files, sources, state, context, ignore::remove_rules)?;
    let mut text = String::new();
    for pattern in &undo.unknown {
        let _ = writeln!(text, "{} is not ignored", shown(pattern));
    }
    Ok(Done { undo, files, shown: text, ..Done::default() })
}

/// Checks the declaration as it is going to be.
fn checked(sources: &[SourceFile], context: &Context) -> Result<(), CommandError> {
    let outcome = crate::declaration::check(context, sources)?;
    if outcome.declaration.is_some() {
        return Ok(());
    }
    tell(&outcome.problems, &outcome.sources, context);
    Err(CommandError::new(Kind::Usage, "cannot change what is ignored: nothing was written")
        .cause("the declaration would not be sound with it"))
}

fn rules(sources: &[SourceFile], context: &Context) -> Result<Rules, CommandError> {
    Ok(Rules::read(sources, &crate::declaration::surroundings(context)?))
}

/// All that is ignored, for people.
fn listed(rules: &Rules) -> String {
    let mut text = String::new();
    let paths: Vec<String> = rules.rules.iter().map(|rule| shown(&rule.pattern)).collect();
    let width = paths.iter().map(|path| path.chars().count()).max().unwrap_or(0).min(48);
    for (path, rule) in paths.iter().zip(&rules.rules) {
        let _ = writeln!(text, "{path:width$}  {}", printable(&rule.origin));
    }
    for file in &rules.unread {
        let _ = writeln!(text, "{} can't be understood: see `ebbtide check`", printable(file));
    }
    if text.is_empty() {
        text += "nothing is ignored; caches, locks and the like are only counted anyway\n";
    }
    text
}

fn refused(Refusal { message, hint }: Refusal) -> CommandError {
    let error = CommandError::new(Kind::Usage, format!("cannot ignore it: {message}"));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// A pattern as people write it.
pub fn shown(pattern: &Path) -> String {
    let name = pattern.strip_prefix("/**").ok().filter(|rest| rest.iter().count() == 1);
    escape(name.unwrap_or(pattern).as_os_str().as_bytes())
}
