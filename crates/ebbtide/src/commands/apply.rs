//! `ebbtide apply`: makes the declaration what the next boot reads, and what the running system is.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::boot::{LOCATOR, RUN};
use ebbtide_core::compiled::{Compiled, DeclarationHash};
use ebbtide_core::declaration::Declaration;
use ebbtide_core::failure::Level;
use ebbtide_core::live::{Applied, Change, Live, Plan, When, Work};
use ebbtide_core::publish::{Preview, Publication, Published};
use ebbtide_core::status;

use super::machine;
use super::status::render_problem;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use ebbtide_sys::escape;

/// Makes the declaration what the next boot reads, and brings the running system to it
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Each path that is not as declared is shown with when it is going to be:

  now         it is attached at once; what lies there is copied into its store first, and the copy
              is compared with it
  next login  only programs of the user whose home it lies in use it: it is attached when they log
              in the next time
  next boot   something uses it, or it can't be changed under a running system; what lies there by
              then is taken into the store

Nothing that is in use is unmounted or hidden, and what does not work is undone and left to the next
boot. With --dry-run nothing is written, and every step is shown.

Examples:
  sudo ebbtide apply --dry-run
  sudo ebbtide apply

  Change nothing before the next boot:
    sudo ebbtide apply --next-boot

Exit status: 0 done; 1 failed, or something that was to be done now did not work; 2 wrong command
line or declaration.")]
pub struct Args {
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show what would happen, step by step, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave the running system as it is
    #[arg(long)]
    next_boot: bool,
    /// Accept that a store is in another place now, with its data copied there already
    #[arg(long)]
    move_stores: bool,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let declaration = crate::declaration::load(context, args.config.as_deref())?;
    let how = How {
        dry_run: args.dry_run,
        next_boot: args.next_boot,
        move_stores: args.move_stores,
        moved_back: Vec::new(),
    };
    let prepared = Prepared::new(&declaration, how, context)?;
    if args.dry_run {
        context.print(&prepared.dry_run()?.text)?;
        return Ok(Status::DONE);
    }
    let done = prepared.publish()?.bring()?;
    context.print(&done.text)?;
    Ok(done.status)
}

/// How a declaration comes into force.
#[derive(Debug, Clone, Default)]
pub struct How {
    /// Nothing is changed.
    pub dry_run: bool,
    /// The running system stays as it is.
    pub next_boot: bool,
    /// Stores may be in another place than before.
    pub move_stores: bool,
    /// Paths whose data come back to the root, which somebody else sees to and tells of.
    pub moved_back: Vec<PathBuf>,
}

impl How {
    /// The changes that are left to tell of.
    fn rest(&self, mut changes: Vec<Change>) -> Vec<Change> {
        let is_moved = |it: &Change| it.work == Work::Detach && self.moved_back.contains(&it.path);
        changes.retain(|change| !is_moved(change));
        changes
    }
}

/// A declaration that can come into force. Nothing has been changed yet.
pub struct Prepared<'c> {
    publication: Publication,
    preview: Preview,
    entries: usize,
    how: How,
    context: &'c Context,
}

/// A declaration that the next boot reads.
pub struct InForce<'c> {
    published: Published,
    preview: Preview,
    entries: usize,
    how: How,
    context: &'c Context,
}

/// What was done, or would be.
pub struct Done {
    /// For people.
    pub text: String,
    /// What was done to the running system, or waits.
    pub changes: Vec<Change>,
    /// How the command ends.
    pub status: Status,
}

impl<'c> Prepared<'c> {
    /// Looks at the machine.
    pub fn new(
        declaration: &Declaration,
        how: How,
        context: &'c Context,
    ) -> Result<Self, CommandError> {
        machine::require_root()?;
        let publication = Publication::open(declaration)?;
        let mut preview = match publication.preview() {
            Ok(preview) => preview,
            // To publish may be what mends it.
            Err(failure) if !how.dry_run => {
                context.tell(&format!("warning: cannot say what will change: {}", failure.chain()));
                Preview::default()
            }
            Err(failure) => return Err(failure.into()),
        };
        preview.removed.retain(|path| !how.moved_back.contains(path));
        if let (Some(name), false) = (preview.moved_stores.first(), how.move_stores) {
            return Err(CommandError::new(
                Kind::Usage,
                format!("store {name} is declared in another place than before"),
            )
            .cause("what it keeps stays in the old place, and nothing is copied from there")
            .hint("copy it yourself, then run `ebbtide apply --move-stores`"));
        }
        as_recorded(&publication)?;
        let entries = declaration.entries.len();
        Ok(Self { publication, preview, entries, how, context })
    }

    /// What would be done to the running system, and when; nothing is known of a system that is not to be
    /// changed, or whose declaration has stores that are still to be made.
    pub fn changes(&self) -> Result<Vec<Change>, CommandError> {
        let live = match self.publication.compiled() {
            Some(compiled) if !self.how.next_boot => live(&compiled, None, self.context)?,
            _ => None,
        };
        let plan = live.map(|live| live.plan()).transpose()?;
        Ok(plan.map(|plan| plan.changes).unwrap_or_default())
    }

    /// Says what would happen, step by step.
    pub fn dry_run(&self) -> Result<Done, CommandError> {
        let live = match self.publication.compiled() {
            Some(compiled) if !self.how.next_boot => live(&compiled, None, self.context)?,
            _ => None,
        };
        let mut plan = live.map(|live| live.plan()).transpose()?;
        if let Some(plan) = &mut plan {
            plan.changes = self.how.rest(std::mem::take(&mut plan.changes));
        }
        let mut text = render(&self.preview, plan.as_ref(), self.context);
        text.push_str("the next boot would\n");
        for step in self.preview.next_reset.iter().chain(&self.preview.next_boot) {
            let _ = writeln!(text, "  {step}");
        }
        let changes = plan.map(|plan| plan.changes).unwrap_or_default();
        Ok(Done { text, changes, status: Status::DONE })
    }

    /// Makes it what the next boot reads.
    pub fn publish(self) -> Result<InForce<'c>, CommandError> {
        let Self { publication, preview, entries, how, context } = self;
        let published = publication.publish()?;
        Ok(InForce { published, preview, entries, how, context })
    }
}

impl InForce<'_> {
    /// Brings the running system to it.
    pub fn bring(self) -> Result<Done, CommandError> {
        let Self { published, preview, entries, how, context } = self;
        let live = if how.next_boot { None } else { live(&published.compiled, None, context)? };
        let applied = live.map(|live| bring(live, &published.hash, context)).transpose()?;
        let plan = applied.as_ref().map(|applied| &applied.plan);
        let mut text = render(&preview, plan, context);
        for problem in applied.iter().flat_map(|applied| &applied.problems) {
            let _ = writeln!(text, "{}", render_problem(problem, context));
        }
        let short = published.hash.as_str().get(..12).unwrap_or_default();
        let force = match plan {
            Some(plan) if plan.changes.iter().all(|it| it.when == When::Now) => "in force",
            Some(_) => "in force, but for what has to wait",
            None => "in force at the next boot",
        };
        let _ = if published.changed {
            writeln!(text, "compiled {entries} entries as {short}: {force}")
        } else {
            writeln!(text, "nothing changed: {entries} entries, compiled as {short}")
        };
        let failed = applied.as_ref().is_some_and(|applied| !applied.problems.is_empty());
        let status = if failed { Status::FAILED } else { Status::DONE };
        let changes = applied.map(|applied| applied.plan.changes).unwrap_or_default();
        Ok(Done { text, changes, status })
    }
}

/// To compile would record whatever store is there now, and the next boot would not refuse any more.
fn as_recorded(publication: &Publication) -> Result<(), CommandError> {
    let Some(other) = publication.other_stores()?.into_iter().next() else { return Ok(()) };
    let message = match other.found {
        Some(found) => {
            format!("{} is not the recorded one: {found} instead of {}", other.what, other.pinned)
        }
        None => {
            format!("{} is not the recorded one: it has no marker, or is not there", other.what)
        }
    };
    Err(CommandError::new(Kind::Failed, message)
        .hint("`ebbtide accept` shows what is there, and accepts it if it is meant"))
}

/// The running system, if it can be brought to a declaration; else it is told why not.
fn live(
    compiled: &Compiled,
    only: Option<u32>,
    context: &Context,
) -> Result<Option<Live>, CommandError> {
    if !Path::new(RUN).join(LOCATOR).exists() {
        return Ok(None);
    }
    let boot = machine::running(None, context)?;
    match Live::open(&boot, &context.sysroot, compiled, only)? {
        Ok(live) => Ok(Some(live)),
        Err(why) => {
            context.tell(&format!("note: nothing is changed now: {why}"));
            Ok(None)
        }
    }
}

fn bring(live: Live, hash: &DeclarationHash, context: &Context) -> Result<Applied, CommandError> {
    let mut log = |level: Level, message: &str| {
        if level < Level::Debug {
            context.tell(message);
        }
    };
    let applied = live.apply(hash, &mut log)?;
    if applied.found {
        // Units that were held back for it are not any more.
        let _ =
            std::process::Command::new("systemctl").args(["--no-block", "daemon-reload"]).status();
    }
    Ok(applied)
}

/// Compiles the declaration for the next boot; for units. Stores that moved need a person.
pub fn recompile(context: &Context) -> Result<(), CommandError> {
    let declaration = crate::declaration::load(context, None)?;
    machine::require_root()?;
    let publication = Publication::open(&declaration)?;
    if let Some(name) = publication.moved_stores().first() {
        return Err(CommandError::new(
            Kind::Failed,
            format!("store {name} is declared in another place than before"),
        )
        .hint("run `ebbtide apply`"));
    }
    as_recorded(&publication)?;
    let published = publication.publish()?;
    if published.changed {
        let short = published.hash.as_str().get(..12).unwrap_or_default();
        context.tell(&format!("the declaration changed: compiled as {short} for the next boot"));
    }
    Ok(())
}

/// Attaches what waited for a user to log in; for a unit.
pub fn login(uid: u32, context: &Context) -> Result<(), CommandError> {
    let boot = machine::running(None, context)?;
    let container = boot.open_container()?;
    let (hash, compiled) = status::declaration(&boot, &container)?;
    let Some(live) = live(&compiled, Some(uid), context)? else { return Ok(()) };
    for problem in bring(live, &hash, context)?.problems {
        context.tell(&problem.to_string());
    }
    Ok(())
}

/// `plan`: what is done to the running system, if anything is.
fn render(preview: &Preview, plan: Option<&Plan>, context: &Context) -> String {
    let mut text = String::new();
    for name in &preview.new_stores {
        let _ = writeln!(text, "store {name} is new");
    }
    let path = |path: &PathBuf| escape(path.as_os_str().as_encoded_bytes());
    let changes: &[Change] = plan.map(|plan| plan.changes.as_slice()).unwrap_or_default();
    for change in changes {
        let line = change.describe();
        let (sign, rest) = line.split_at(1);
        let sign = match sign {
            "+" => context.good(sign),
            "-" => context.bad(sign),
            _ => context.dim(sign),
        };
        let _ = writeln!(text, "{sign}{rest}");
    }
    let told = |path: &&PathBuf| changes.iter().any(|change| change.path == **path);
    let later = if plan.is_some() { "as soon as there is something" } else { "next boot" };
    for added in preview.added.iter().filter(|it| !told(it)) {
        let _ = writeln!(text, "{} {} ({later})", context.good("+"), path(added));
    }
    for removed in preview.removed.iter().filter(|it| !told(it)) {
        let _ = writeln!(
            text,
            "{} {} (next boot; its data stays in the store)",
            context.bad("-"),
            path(removed)
        );
    }
    for problem in &preview.problems {
        let _ = writeln!(text, "{}", render_problem(problem, context));
    }
    if preview.rebuild_initramfs {
        text.push_str(
            "!! warning: the initramfs would not find what is declared now: build that of the base \
             again, or the next boot does not reset\n",
        );
    }
    text
}
