//! `ebbtide apply`: makes the declaration what the next boot reads.

use std::fmt::Write;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use ebbtide_core::publish::{Preview, Publication};

use super::machine;
use super::status::render_problem;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use ebbtide_sys::escape;

/// Compiles the declaration; the next boot reads it
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Nothing changes in the running system: what is new is attached at the next boot. A path that has
data by then, and none in its store, is taken into the store.

With --dry-run nothing is written, and every step of the next boot is shown.")]
pub struct Args {
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Show what would happen, step by step, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Accept that a store is in another place now, with its data copied there already
    #[arg(long)]
    move_stores: bool,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let declaration = crate::declaration::load(context, args.config.as_deref())?;
    machine::require_root()?;
    let publication = Publication::open(&declaration)?;
    let preview = match publication.preview() {
        Ok(preview) => preview,
        // To publish may be what mends it.
        Err(failure) if !args.dry_run => {
            context.tell(&format!("warning: cannot say what will change: {}", failure.chain()));
            Preview::default()
        }
        Err(failure) => return Err(failure.into()),
    };
    if let (Some(name), false) = (preview.moved_stores.first(), args.move_stores) {
        return Err(CommandError::new(
            Kind::Usage,
            format!("store {name} is declared in another place than before"),
        )
        .cause("what it keeps stays in the old place, and nothing is copied from there")
        .hint("copy it yourself, then run `ebbtide apply --move-stores`"));
    }
    if args.dry_run {
        context.print(&render(&preview, context))?;
        let mut steps = String::from("the next boot would\n");
        for step in preview.next_reset.iter().chain(&preview.next_boot) {
            let _ = writeln!(steps, "  {step}");
        }
        context.print(&steps)?;
        return Ok(Status::DONE);
    }
    let (hash, changed) = publication.publish()?;
    let mut text = render(&preview, context);
    let short = hash.as_str().get(..12).unwrap_or_default();
    let count = declaration.entries.len();
    let _ = if changed {
        writeln!(text, "compiled {count} entries as {short}: in force at the next boot")
    } else {
        writeln!(text, "nothing changed: {count} entries, compiled as {short}")
    };
    context.print(&text)?;
    Ok(Status::DONE)
}

fn render(preview: &Preview, context: &Context) -> String {
    let mut text = String::new();
    for name in &preview.new_stores {
        let _ = writeln!(text, "store {name} is new");
    }
    for (name, recorded, found) in &preview.exchanged_stores {
        let _ = writeln!(
            text,
            "store {name} is another than the recorded one: {found} instead of {recorded}"
        );
    }
    let path = |path: &PathBuf| escape(path.as_os_str().as_encoded_bytes());
    for added in &preview.added {
        let _ = writeln!(text, "{} {} (next boot)", context.good("+"), path(added));
    }
    for removed in &preview.removed {
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
