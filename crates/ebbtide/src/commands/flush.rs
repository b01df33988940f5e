//! `ebbtide flush`: takes copied-in files back into their stores, now.

use clap::Args as ClapArgs;
use ebbtide_core::failure::Level;
use ebbtide_core::flush::Flush;
use ebbtide_sys::escape;

use super::machine;
use super::status::render_problem;
use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;
use crate::text::count;

/// Takes files of the method `sync` back into their stores, now
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
They are copied in at boot, and taken back when the machine goes down. Flush before a backup of the
stores, so that it has them as they are now. What a store had before is in its .ebbtide/trash.

From a root in RAM, entries that have no data yet are copied too: no later boot finds that root.

Examples:
  sudo ebbtide flush --dry-run
  sudo ebbtide flush

Exit status: 0 done; 3 something was not taken back; 1 failed; 2 wrong command line or declaration.")]
pub struct Args {
    /// Show what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    machine::require_root()?;
    let flush = Flush::open(&machine::running(None, context)?, &context.sysroot)?;
    if args.dry_run {
        let lines = flush.preview()?;
        let text: String = lines.iter().map(|line| escape(line.as_bytes()) + "\n").collect();
        context.print(&text)?;
        return Ok(Status::DONE);
    }
    let mut log = |level: Level, message: &str| {
        if level < Level::Debug {
            context.tell(message);
        }
    };
    let flushed = flush.apply(&mut log)?;
    for problem in &flushed.problems {
        context.print(&(render_problem(problem, context) + "\n"))?;
    }
    let imported = match flushed.imported {
        0 => String::new(),
        number => format!(", {} copied that had no data yet", count(number, "path")),
    };
    let updated = count(flushed.updated, "file");
    context.print(&format!("{updated} taken back, {} deleted{imported}\n", flushed.deleted))?;
    Ok(if flushed.problems.is_empty() { Status::DONE } else { Status::FOUND })
}
