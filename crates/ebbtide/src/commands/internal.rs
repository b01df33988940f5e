//! `ebbtide internal`: what units and maintainer scripts call.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use ebbtide_core::archive::{self, Archived};
use ebbtide_core::boot::RUN;
use ebbtide_core::failure::{Level, Problem};
use ebbtide_core::flush::{self, Flushed, Pace};
use ebbtide_core::shutdown;
use ebbtide_core::{labels, refused};
use ebbtide_sys::escape;

use super::machine;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::{count, size};

/// Steps that units and maintainer scripts call
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// At the start of a boot: removes a mark of a clean end that the initramfs did not
    Began,
    /// When the system is up: notes durably that this boot came up
    CameUp,
    /// Early in a boot: has the kernel note what tries to write to a read-only root, if that is declared
    Audit,
    /// Early in a boot: gives what the initramfs made without a label of SELinux the one that the policy has for it
    Labels,
    /// Where the root is in RAM: flushes after each change, for as long as it runs
    Watch,
    /// At shutdown: makes a past root of a root in RAM, if that is declared
    Archive,
    /// At shutdown: unmounts all entries and stores, innermost first
    Detach,
    /// At shutdown, last: syncs everything and writes the mark of a clean end
    MarkClean,
    /// Before a user's services start: attaches what waited for their login
    Login {
        /// The number of the user
        uid: u32,
    },
    /// Answers a user who asks on standard input what is theirs: for ebbtide-user.socket
    ServeUser,
    /// Fails, and says why a declared path is not there
    Missing {
        /// The path
        path: PathBuf,
    },
    /// Leaves one line for those who log in, if something should be looked at
    Attention,
    /// Leaves one line for those who log in, if the last reset took something away
    Taken,
    /// At shutdown: tells what the next reset is about to take away, if that is declared
    AboutToGo {
        /// Seconds after which it ends without having told it
        #[arg(long, value_name = "SECONDS", default_value_t = 5)]
        within: u64,
    },
    /// Compiles the declaration for the next boot, and says so only if it is another than before
    Recompile,
    /// Succeeds if / is a root of this container
    OwnsRoot,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    match &args.step {
        Step::Began => shutdown::began(&machine::running(None, context)?)?,
        Step::CameUp => {
            if !shutdown::came_up(&machine::running(None, context)?, &context.sysroot)? {
                let message =
                    "this is not the root that this boot made, so it is not noted that it came up";
                say(context, Level::Notice, message);
            }
        }
        Step::Detach => {
            shutdown::detach(Path::new(RUN), &mut |level, message| say(context, level, message))?;
        }
        Step::Audit => {
            let compiled = machine::running(None, context)?.in_force()?;
            if compiled.is_some_and(|compiled| compiled.root.audit) {
                refused::note()?;
            }
        }
        Step::Labels => {
            let labelled = labels::restore(&machine::running(None, context)?)?;
            if labelled > 0 {
                say(context, Level::Info, &format!("labelled {}", count(labelled, "path")));
            }
        }
        Step::Archive => {
            let boot = machine::running(None, context)?;
            match archive::archive(&boot, Path::new("/"))? {
                Archived::NotWanted => {}
                Archived::As(number) => {
                    let message = format!("the root in RAM is archived as past root {number}");
                    say(context, Level::Info, &message);
                }
                Archived::TooLarge { size: found, limit } => {
                    let message = format!(
                        "the root in RAM is not archived: {} were written to it, and `archive` \
                         allows {}",
                        size(found),
                        size(limit)
                    );
                    say(context, Level::Warning, &message);
                }
            }
        }
        Step::Watch => {
            let boot = machine::running(None, context)?;
            let mut log = |level: Level, message: &str| say(context, level, message);
            let mut go_on = |flushed: &Flushed| {
                let files = flushed.updated + flushed.deleted + flushed.imported;
                if files > 0 {
                    say(context, Level::Info, &format!("flushed {}", count(files, "path")));
                }
                true
            };
            flush::watch(&boot, Path::new("/"), Pace::USUAL, &mut log, &mut go_on);
        }
        Step::MarkClean => {
            // An end that is not marked counts as unclean, and nobody is left to be told by a unit
            // that fails at shutdown: the kernel log is.
            let boot = machine::running(None, context)?;
            if let Err(failure) = shutdown::mark_clean(&boot, &context.sysroot) {
                say(context, Level::Warning, &failure.chain());
            }
        }
        Step::Login { uid } => super::apply::login(*uid, context)?,
        Step::ServeUser => crate::user::serve::serve(context)?,
        Step::Attention => super::status::attention(context)?,
        Step::Taken => {
            // Nobody waits for it, and a unit that fails would be more than it is worth.
            if let Err(error) = super::taken::leave(context) {
                say(context, Level::Notice, &error.line());
            }
        }
        Step::AboutToGo { within } => {
            let within = Duration::from_secs(*within);
            match super::taken::about_to_go(within, &context.plain()) {
                Ok(told) => {
                    told.lines().for_each(|line| say(context, Level::Warning, line));
                }
                Err(error) => say(context, Level::Notice, &error.line()),
            }
        }
        Step::Recompile => super::apply::recompile(context)?,
        Step::Missing { path } => return Err(why_missing(path, context)?),
        Step::OwnsRoot => {
            // What can't be found out counts as owned: this is asked before the package goes.
            let boot = machine::running(None, context)?;
            let known = std::path::Path::new(RUN).join(ebbtide_core::boot::LOCATOR).exists();
            if !shutdown::owns(&boot, &context.sysroot)
                .or_else(|failure| if known { Ok(true) } else { Err(failure) })?
            {
                return Ok(Status::FAILED);
            }
        }
    }
    Ok(Status::DONE)
}

/// Says something to the journal or to the kernel log, which read the level from the front.
fn say(context: &Context, level: Level, message: &str) {
    if level < Level::Debug {
        context.tell(&format!("<{}>ebbtide: {message}", level as u8));
    }
}

/// Why a service does not start, as the journal is going to have it.
fn why_missing(path: &Path, context: &Context) -> Result<CommandError, CommandError> {
    let shown = escape(path.as_os_str().as_encoded_bytes());
    let record = machine::running(None, context)?.read_record();
    let named = |problem: &&Problem| problem.message.contains(&shown);
    let problem = record.iter().flat_map(|record| &record.problems).find(named);
    let error = CommandError::new(
        Kind::Failed,
        format!("{shown} is declared and not there, so what needs it does not start"),
    );
    let error = match problem {
        Some(problem) => error.cause(problem.message.clone()),
        None => error,
    };
    Ok(error.hint("see `ebbtide status`; once it is mended, run `ebbtide apply`"))
}
