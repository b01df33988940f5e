//! `ebbtide restore` without root: what is the user's, written with the user's own rights.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ebbtide_core::past::restore::{After, Done, Plan, Replaced};

use super::{Args, Json, absolute, json, render};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::user::ask::{self, Answers};
use crate::user::receive::Target;
use crate::user::wire::{Answer, Ask, Bytes, Found};
use crate::user::{needs_root, tell_problems};

/// One path, and what becomes of it.
struct Looked {
    plan: Plan,
    target: Target,
    found: Found,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    if args.force || args.keep {
        let what = if args.force { "replace what is there" } else { "keep it" };
        return Err(needs_root(what).hint("move away what is there, and restore without it"));
    }
    let paths = args.paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
    // All of them are looked at before anything is done.
    let mut all = Vec::new();
    for path in &paths {
        all.push((look(args, path, true, context)?.0, None));
    }
    let problems = all.iter().flat_map(|(looked, _)| looked.found.problems.clone());
    let mut problems: Vec<_> = problems.collect();
    problems.dedup();
    tell_problems(&problems, context);
    if !args.dry_run {
        for (path, outcome) in paths.iter().zip(&mut all) {
            let (looked, mut answers) = look(args, path, false, context)?;
            let received = looked.target.write(&mut answers, &looked.found.parents)?;
            let (unprivileged, sockets) = (received.lessened, Vec::new());
            let done = Done { unprivileged, sockets, ..Done::default() };
            if !args.json {
                let mut text = told(&looked, Some(&done), context);
                if received.left_out > 0 {
                    let _ = writeln!(
                        text,
                        "{} {} in it were left out: not yours, or without content",
                        context.dim("--"),
                        received.left_out
                    );
                }
                context.print(&text)?;
            }
            *outcome = (looked, Some(done));
        }
    } else if !args.json {
        for (looked, _) in &all {
            context.print(&told(looked, None, context))?;
        }
    }
    if args.json {
        let restored = all.iter().map(|(looked, done)| json(&looked.plan, done.as_ref())).collect();
        let dry_run = args.dry_run;
        context.print_json(&Json { version: 1, dry_run, restored, problems: &problems })?;
    }
    Ok(Status::DONE)
}

fn told(looked: &Looked, done: Option<&Done>, context: &Context) -> String {
    render(&looked.plan, done, &looked.found.mounted, false, context)
}

/// Looks at the place, and asks for the version.
fn look(
    args: &Args,
    path: &Path,
    dry_run: bool,
    context: &Context,
) -> Result<(Looked, Answers), CommandError> {
    let target = Target::look(&context.sysroot, path, args.to.as_deref())?;
    let mut answers = ask::ask(Ask::Restore {
        path: Bytes::of(path.as_os_str()),
        boot: args.boot.map(|boot| boot.to_string()),
        elsewhere: args.to.is_some(),
        dry_run,
    })?;
    let Answer::Found(found) = answers.next()? else { return Err(ask::unexpected()) };
    let is_directory = found.version.entries.is_some();
    if target.is_empty_directory && !is_directory {
        let shown = super::shown(&target.path);
        return Err(CommandError::new(Kind::Failed, format!("{shown} is there already"))
            .hint("move it away first; or `--to DIR` restores elsewhere"));
    }
    let plan = Plan {
        path: path.to_owned(),
        from: found.place.clone(),
        version: found.version.clone(),
        to: target.path.clone(),
        parents: parents(&target),
        replaced: if target.is_empty_directory {
            Replaced::EmptyDirectory
        } else {
            Replaced::Nothing
        },
        leftover: None,
        after: match &found.fate {
            _ if args.to.is_some() => After::Elsewhere,
            After::Forgotten if !target.on_root => After::Elsewhere,
            fate => fate.clone(),
        },
    };
    Ok((Looked { plan, target, found: *found }, answers))
}

/// The directories above it that are made, the outermost first.
fn parents(target: &Target) -> Vec<PathBuf> {
    let above = target.path.ancestors().skip(1).take(target.missing.len());
    let mut above: Vec<_> = above.map(Path::to_owned).collect();
    above.reverse();
    above
}
