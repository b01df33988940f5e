//! The commands, one file each: `Args` is what it takes, `run` is what it does.

pub mod accept;
mod apply;
pub mod boots;
pub mod check;
mod declare;
pub mod diff;
mod flush;
pub mod forget;
pub mod gc;
pub mod ignore;
mod init;
mod internal;
pub mod keep;
mod locator;
pub mod log;
pub(crate) mod machine;
mod question;
pub mod rehearse;
pub mod restore;
mod review;
mod schema;
pub mod status;
mod taken;
pub mod try_root;

use clap::Subcommand;

use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;

#[derive(Debug, Subcommand)]
pub enum Command {
    Try(try_root::Args),
    Rehearse(rehearse::Args),
    Init(init::Args),
    Apply(apply::Args),
    Accept(accept::Args),
    Keep(keep::Args),
    Forget(forget::Args),
    Ignore(ignore::Args),
    Review(review::Args),
    Check(check::Args),
    Status(status::Args),
    Diff(diff::Args),
    Boots(boots::Args),
    Log(log::Args),
    Restore(restore::Args),
    Flush(flush::Args),
    Gc(gc::Args),
    Schema(schema::Args),
    #[command(hide = true)]
    Locator(locator::Args),
    #[command(hide = true)]
    Internal(internal::Args),
}

impl Command {
    /// Does what the command does.
    pub fn run(&self, context: &Context) -> Result<Status, CommandError> {
        match self {
            Self::Try(args) => Ok(try_root::run(args, context)),
            Self::Rehearse(args) => rehearse::run(args, context),
            Self::Init(args) => init::run(args, context),
            Self::Apply(args) => apply::run(args, context),
            Self::Accept(args) => accept::run(args, context),
            Self::Keep(args) => keep::run(args, context),
            Self::Forget(args) => forget::run(args, context),
            Self::Ignore(args) => ignore::run(args, context),
            Self::Review(args) => review::run(args, context),
            Self::Check(args) => check::run(args, context),
            Self::Status(args) => status::run(args, context),
            Self::Diff(args) => diff::run(args, context),
            Self::Boots(args) => boots::run(args, context),
            Self::Log(args) => log::run(args, context),
            Self::Restore(args) => restore::run(args, context),
            Self::Flush(args) => flush::run(args, context),
            Self::Gc(args) => gc::run(args, context),
            Self::Locator(args) => locator::run(args, context),
            Self::Internal(args) => internal::run(args, context),
            Self::Schema(args) => schema::run(args, context),
        }
    }
}
