//! What keeps the machine out of reach of a program that runs in a root of its own: an own `/dev`,
//! `/run`, `/proc` and `/sys`, namespaces, limits. All mounts are in those namespaces, and all processes
//! die with the caller.

mod environment;
mod inside;
mod limits;
pub(crate) mod mounts;
pub(crate) mod surface;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::child::{self, Child};
use ebbtide_sys::mount;
use ebbtide_sys::namespace::{self, Namespaces};
use rustix::io::Errno;

pub use environment::environment;
pub use inside::{FORWARDED, Program};

use crate::failure::{Context, Failure, Result};
use inside::Told;

/// A program that runs in its root.
#[derive(Debug)]
pub struct Running<'a> {
    child: Child,
    report: OwnedFd,
    console: Option<&'a OwnedFd>,
}

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It never began: no such command, or one that can't be run.
    NotStarted {
        /// Why, with the name of the command.
        message: String,
        /// Whether there is such a command.
        found: bool,
    },
}

/// Starts a program in a root that is mounted in the caller's mount namespace. `console`: a terminal of
/// the root's own, and its path in there.
pub(crate) fn start<'a>(
    root: &Path,
    console: Option<&'a (OwnedFd, PathBuf)>,
    program: &Program,
) -> Result<Running<'a>> {
    let (report, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .context(|| "cannot make a pipe")?;
    namespace::unshare(Namespaces::PROCESSES).context(|| "cannot make namespaces")?;
    let path = console.map(|(_, path)| path.as_path());
    let child = child::fork(&[write.as_fd()], |lifeline| {
        inside::run(root, path, program, write.as_fd(), lifeline)
    });
    namespace::leave_new_processes().context(|| "cannot leave the new processes alone")?;
    let child = child.context(|| "cannot start the first process")?;
    Ok(Running { child, report, console: console.map(|(master, _)| master) })
}

impl<'a> Running<'a> {
    /// The process in which all others run.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Readable once the program has ended.
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// The other side of the terminal that the program has, if it has one of the root's own.
    pub fn console(&self) -> Option<BorrowedFd<'a>> {
        self.console.map(AsFd::as_fd)
    }

    /// Waits until the program and all that it started have ended.
    pub fn wait(self) -> Result<End> {
        let mut text = Vec::new();
        std::fs::File::from(self.report)
            .read_to_end(&mut text)
            .context(|| "cannot learn how it ended")?;
        let ended = self.child.wait().context(|| "cannot wait for the first process")?;
        match serde_json::from_slice(&text) {
            Ok(Told::Exited(status)) => Ok(End::Exited(status)),
            Ok(Told::Killed(signal)) => Ok(End::Killed(signal)),
            Ok(Told::NotStarted { message, found }) => Ok(End::NotStarted { message, found }),
            Ok(Told::Failed { what, cause, hint }) => {
                let mut failure = Failure::new(what);
                if !cause.is_empty() {
                    failure = failure.caused_by(cause);
                }
                Err(match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                })
            }
            // The first process was killed, and with it all others.
            Err(_) => Ok(match ended {
                child::Ended::Killed(signal) => End::Killed(signal),
                child::Ended::Exited(_) => End::Killed(9),
            }),
        }
    }
}

/// Moves the calling thread to a mount namespace of its own, out of which nothing propagates.
pub(crate) fn enter_private_namespace() -> Result<()> {
    if !namespace::has_all_users().context(|| "cannot look at the user namespace")? {
        return Err(Failure::new(
            "cannot start: root of this container is not root for the kernel",
        )
        .caused_by(
            "in a user namespace nobody may write down what overlays need (trusted.* attributes)",
        )
        .hint("run it on the machine itself, or in a container without a user namespace"));
    }
    mount::enter_private_mount_namespace().map_err(|error| match error.errno() {
        Errno::PERM | Errno::NOSYS => {
            Failure::new("cannot start: this container does not allow mounts")
                .caused_by(error)
                .hint("start the container with CAP_SYS_ADMIN and without a filter of mount(2)")
        }
        _ => Failure::new("cannot make a mount namespace").caused_by(error),
    })
}
