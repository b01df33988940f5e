//! `ebbtide internal`: what units and maintainer scripts call.

use std::path::{Path, PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use ebbtide_core::boot::RUN;
use ebbtide_core::failure::{Level, Problem};
use ebbtide_core::shutdown;
use ebbtide_sys::escape;

use super::machine;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;

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
    /// At shutdown: unmounts all entries and stores, innermost first
    Detach,
    /// At shutdown, last: syncs everything and writes the mark of a clean end
    MarkClean,
    /// Before a user's services start: attaches what waited for their login
    Login {
        /// The number of the user
        uid: u32,
    },
    /// Fails, and says why a declared path is not there
    Missing {
        /// The path
        path: PathBuf,
    },
    /// Leaves one line for those who log in, if something should be looked at
    Attention,
    /// Compiles the declaration for the next boot, and says so only if it is another than before
    Recompile,
    /// Succeeds if / is a root of this container
    OwnsRoot,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    match &args.step {
        Step::Began => shutdown::began(&machine::running(None, context)?)?,
        Step::Detach => {
            let mut log = |level: Level, message: &str| {
                if level < Level::Debug {
                    context.tell(&format!("<{}>ebbtide: {message}", level as u8));
                }
            };
            shutdown::detach(Path::new(RUN), &mut log)?;
        }
        Step::MarkClean => {
            // An end that is not marked counts as unclean, and nobody is left to be told by a unit
            // that fails at shutdown: the kernel log is.
            let boot = machine::running(None, context)?;
            if let Err(failure) = shutdown::mark_clean(&boot, &context.sysroot) {
                context.tell(&format!("<{}>ebbtide: {}", Level::Warning as u8, failure.chain()));
            }
        }
        Step::Login { uid } => super::apply::login(*uid, context)?,
        Step::Attention => super::status::attention(context)?,
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
