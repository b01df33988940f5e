//! `ebbtide restore`: brings versions of paths back from past roots.

mod for_user;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::compiled::StoreName;
use ebbtide_core::failure::Problem;
use ebbtide_core::past::restore::{After, Done, Plan, Replaced, Request, Restore, Wanted};
use ebbtide_core::past::sources::Place;
use ebbtide_core::past::version::{Kind, Version};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use super::declare::absolute;
use super::log::places;
use super::{keep, machine};
use crate::boot_name::BootOrBase;
use crate::context::Context;
use crate::error::CommandError;

use crate::status::Status;
use crate::text::{count, date, size};
use crate::user::ask;

/// Brings files and directories back from past roots
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Without `--boot` it takes the newest version that is not what is there now. It is copied beside its
place, compared, and put there in one step, with owner, mode, times, ACLs, capabilities and all other
attributes as they were; directories above it that are missing are made as they were. Nothing is
replaced without `--force`: then what was there goes to .ebbtide/trash, of the root or of the store.
Restored into what an entry keeps, it is kept; else the next reset takes it away again.

With `--to`, programs lose set-user-id, set-group-id and capabilities, and devices are left out: an
old program may have been replaced because it was not safe. No symbolic link is followed.

Examples:
  sudo ebbtide restore /etc/hosts
  sudo ebbtide restore --boot 7 --dry-run /var/lib/app
  sudo ebbtide restore --boot last /srv
  sudo ebbtide restore --keep /var/lib/app
  sudo ebbtide restore --to /tmp /etc/nftables.conf

Without root, users restore what is theirs, with their own rights: --force and --keep are for root.

Exit status: 0 done; 1 failed, or it is there already; 2 wrong command line or declaration.")]
#[expect(clippy::struct_excessive_bools, reason = "the options of a command")]
pub struct Args {
    /// What to bring back: files or directories
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The version that the root of this boot had; `last`: the newest past root; `base`: that of the base
    #[arg(long, value_name = "BOOT")]
    boot: Option<BootOrBase>,
    /// Put it into this directory, and not in its own place
    #[arg(long, value_name = "DIR", conflicts_with_all = ["force", "keep"])]
    to: Option<PathBuf>,
    /// Replace what is there, which goes to the trash
    #[arg(long)]
    force: bool,
    /// Keep it from now on: then does what `ebbtide keep PATH` does
    #[arg(long)]
    keep: bool,
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    config: Option<PathBuf>,
    /// Show what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "keep")]
    json: bool,
}

/// What `ebbtide restore --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// Whether nothing was done.
    dry_run: bool,
    /// One for each path, in the order of the command line.
    restored: Vec<Restored<'a>>,
    /// What could not be looked at.
    problems: &'a [Problem],
}

/// What was brought back.
#[derive(Serialize, JsonSchema)]
struct Restored<'a> {
    /// Its path, escaped.
    path: String,
    /// Where the version was.
    from: &'a Place,
    /// Which version that is.
    what: &'a Version,
    /// Where it is now, escaped.
    to: String,
    /// Directories that were made, as they were, escaped.
    parents: Vec<String>,
    /// What became of what was there.
    replaced: &'a Replaced,
    /// Where that is, escaped: absolute, or below the store that keeps the path. Null with `dry_run`.
    trash: Option<String>,
    /// What is kept of it.
    kept: &'a After,
    /// Files without the privileges that they had, and devices left out, escaped: only with `--to`.
    unprivileged: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    if ask::is_possible(args.config.as_deref()) {
        return for_user::run(args, context);
    }
    let boot = machine::running(args.config.as_deref(), context).map_err(ask::or_turn_it_on)?;
    let wanted = match args.boot {
        None => Wanted::Newest,
        Some(BootOrBase::Base) => Wanted::Base,
        Some(BootOrBase::Boot(name)) => Wanted::Boot(name.find(&boot.open_container()?)?),
    };
    let requests: Vec<Request> = args
        .paths
        .iter()
        .map(|path| {
            Ok(Request { path: absolute(path)?, wanted, to: args.to.clone(), force: args.force })
        })
        .collect::<Result<_, CommandError>>()?;
    let mut restore = Restore::open(&boot, &context.sysroot)?;
    let lock = if args.dry_run { None } else { Some(restore.lock()?) };
    for problem in restore.problems() {
        context.tell(&format!("warning: {problem}"));
    }
    // All of them are looked at before anything is done.
    let mut outcomes = Vec::new();
    for request in &requests {
        outcomes.push((restore.plan(request)?, None));
    }
    if !args.dry_run {
        for (request, outcome) in requests.iter().zip(&mut outcomes) {
            let (plan, done) = restore.apply(request)?;
            if !args.json {
                context.print(&render(
                    &plan,
                    Some(&done),
                    &mounted(&restore, &plan),
                    args.keep,
                    context,
                ))?;
            }
            *outcome = (plan, Some(done));
        }
    } else if !args.json {
        for (plan, _) in &outcomes {
            context.print(&render(plan, None, &mounted(&restore, plan), args.keep, context))?;
        }
    }
    if args.json {
        let restored = outcomes.iter().map(|(plan, done)| json(plan, done.as_ref())).collect();
        let (dry_run, problems) = (args.dry_run, restore.problems());
        context.print_json(&Json { version: 1, dry_run, restored, problems })?;
    }
    drop(lock);
    if !args.keep {
        return Ok(Status::DONE);
    }
    let paths: Vec<PathBuf> = requests.into_iter().map(|request| request.path).collect();
    if args.dry_run {
        let shown: Vec<_> = paths.iter().map(|path| shown(path)).collect();
        context.print(&format!("then: ebbtide keep {}\n", shown.join(" ")))?;
        return Ok(Status::DONE);
    }
    keep::run(&keep::Args::of(paths), context)
        .map_err(|error| error.hint("it is restored, and not kept: see above"))
}

fn json<'a>(plan: &'a Plan, done: Option<&'a Done>) -> Restored<'a> {
    let list = |paths: &[PathBuf]| paths.iter().map(|path| shown(path)).collect();
    Restored {
        path: shown(&plan.path),
        from: &plan.from,
        what: &plan.version,
        to: shown(&plan.to),
        parents: list(&plan.parents),
        replaced: &plan.replaced,
        trash: done.and_then(|done| done.trash.as_deref()).map(shown),
        kept: &plan.after,
        unprivileged: done.map(|done| list(&done.unprivileged)).unwrap_or_default(),
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

/// What was mounted below it in the root that it comes from, escaped.
fn mounted(restore: &Restore, plan: &Plan) -> Vec<(String, StoreName)> {
    let all = restore.mounted_below(plan).into_iter();
    all.map(|(path, store)| (shown(path), store.clone())).collect()
}

/// What is done with one path, or was.
fn render(
    plan: &Plan,
    done: Option<&Done>,
    mounted: &[(String, StoreName)],
    keep: bool,
    context: &Context,
) -> String {
    let path = shown(&plan.path);
    let from = places(std::slice::from_ref(&plan.from));
    let mut text = match done {
        Some(_) => format!("{} {path} is restored from {from}", context.good("+")),
        None => format!("restore {path} from {from}"),
    };
    if plan.to != plan.path {
        let _ = write!(text, " to {}", shown(&plan.to));
    }
    let _ = writeln!(text, ": {}", described(&plan.version));
    let mut note = |line: String| {
        let _ = writeln!(text, "{} {line}", context.dim("--"));
    };
    if !plan.parents.is_empty() {
        let parents: Vec<_> = plan.parents.iter().map(|path| shown(path)).collect();
        note(format!("made as they were: {}", parents.join(", ")));
    }
    if let Some(leftover) = &plan.leftover {
        match done.map(|done| &done.leftover) {
            Some(None) => {}
            Some(Some(trash)) => note(format!(
                "{} was left by a restore that was cut off, and is now {}",
                shown(leftover),
                place(trash, plan)
            )),
            None => note(format!(
                "{} was left by a restore that was cut off, and goes to the trash",
                shown(leftover)
            )),
        }
    }
    match (&plan.replaced, done.and_then(|done| done.trash.as_ref())) {
        (Replaced::Trash, None) => note("what is there goes to the trash".to_owned()),
        (Replaced::Trash, Some(trash)) => {
            note(format!("what was there is now {}", place(trash, plan)));
        }
        (Replaced::EmptyDirectory | Replaced::EmptyEntry | Replaced::Nothing, _) => {}
    }
    for (below, store) in mounted {
        note(format!("{below} is not in it: it was mounted from store {store}, and is there"));
    }
    for inner in done.map(|done| done.sockets.as_slice()).unwrap_or_default() {
        note(format!("{} is not in it: it was a socket", shown(inner)));
    }
    let unprivileged = done.map(|done| done.unprivileged.as_slice()).unwrap_or_default();
    if !unprivileged.is_empty() {
        let all: Vec<_> = unprivileged.iter().map(|inner| shown(&plan.to.join(inner))).collect();
        note(format!("without the privileges that it had, or left out: {}", all.join(", ")));
    }
    match &plan.after {
        After::Forgotten if keep => {}
        After::Forgotten => note(format!(
            "no entry keeps it, so the next reset takes it away: `ebbtide keep {path}` keeps it"
        )),
        After::Kept(kept) => {
            note(format!("it is kept by the entry {} (store {})", kept.entry, kept.store));
        }
        After::Synced(kept) => note(format!(
            "the entry {} takes it into store {} at shutdown; `ebbtide flush` does so now",
            kept.entry, kept.store
        )),
        After::First(kept) => note(format!(
            "the entry {} takes it into store {} at the next boot; `ebbtide apply` does so now",
            kept.entry, kept.store
        )),
        After::Elsewhere => {}
    }
    text
}

/// Where something in a trash is.
fn place(trash: &Path, plan: &Plan) -> String {
    match &plan.after {
        After::Kept(kept) => format!("{} of store {}", shown(trash), kept.store),
        _ => shown(trash),
    }
}

fn described(version: &Version) -> String {
    let when = date(version.modified);
    match (version.kind, version.entries) {
        (Kind::File, _) => format!("{}, modified {when} UTC", size(version.bytes)),
        (Kind::Directory, Some(entries)) => {
            let more = if version.complete { "" } else { "more than " };
            let entries = count(usize::try_from(entries).unwrap_or(usize::MAX), "entry");
            format!("{more}{entries}, {}, modified {when} UTC", size(version.bytes))
        }
        (Kind::Link, _) => {
            format!("a link to {}", version.target.as_deref().unwrap_or_default())
        }
        _ => format!("modified {when} UTC"),
    }
}
