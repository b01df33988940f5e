//! What users see and restore without root: the command line asks a service, which tells them what is
//! theirs and writes nothing.
//!
//! One request, one answer, over a Unix socket, for which systemd starts a process. The service opens past
//! roots for reading as root, becomes the user that the kernel says is at the other end, and only then looks
//! for what was asked for. What is restored is written by the command line, with the rights of whoever
//! called it.

pub mod ask;
pub mod receive;
mod send;
pub mod serve;
pub mod wire;

use crate::context::Context;
use crate::error::{CommandError, Kind};

/// What a command says that only root can do.
pub fn needs_root(what: &str) -> CommandError {
    CommandError::new(Kind::Failed, format!("cannot {what} without root"))
        .hint("run it again with sudo")
}

/// Tells what else there is to know about what was found.
pub fn tell_problems(problems: &[ebbtide_core::failure::Problem], context: &Context) {
    for problem in problems {
        context.tell(&format!("{}: {problem}", crate::user::label(problem.level)));
    }
}

fn label(level: ebbtide_core::failure::Level) -> &'static str {
    if level <= ebbtide_core::failure::Level::Warning { "warning" } else { "note" }
}
