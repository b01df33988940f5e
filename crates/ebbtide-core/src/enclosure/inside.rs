//! The first process of a root in namespaces: makes the rest of it, starts the command, and looks after
//! what nobody else waits for. When it ends, the kernel ends all others.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ebbtide_sys::child::{self, Ended};
use ebbtide_sys::namespace::{self, Namespaces};
use ebbtide_sys::signal::{Signal, Signals, send_to_group};
use ebbtide_sys::terminal;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::mounts::open_directory;
use super::{limits, surface};
use crate::failure::{Context, Failure, Result};

/// What is started, and in what.
#[derive(Debug)]
pub struct Program {
    /// The command and its arguments; a shell if there is none.
    pub command: Vec<OsString>,
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts, if there is such a directory inside.
    pub directory: PathBuf,
    /// Which of standard input, output and error is a terminal of the root's own, instead of what
    /// the caller has.
    pub console: [bool; 3],
    /// Whether the network is the one outside.
    pub network: bool,
}

/// What the first process has to tell.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Told {
    /// The command ended, with this status.
    Exited(u8),
    /// The command was killed, by this signal.
    Killed(u8),
    /// The command could not be started.
    NotStarted { message: String, found: bool },
    /// The root could not be made.
    Failed { what: String, cause: String, hint: Option<String> },
}

/// Signals that are passed on to the command.
pub const FORWARDED: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// Runs as the first process: of a new namespace of processes, in a mount namespace where `root` is
/// put together but for what the kernel shows of namespaces. Returns its exit status.
pub(super) fn run(
    root: &Path,
    console: Option<&Path>,
    program: &Program,
    report: BorrowedFd<'_>,
    lifeline: BorrowedFd<'_>,
) -> u8 {
    let told = match enter(root, program) {
        Ok(()) => match start(console, program) {
            Ok((pid, signals, _terminal)) => {
                let Some(told) = look_after(pid, &signals, lifeline) else { return 1 };
                told
            }
            Err(told) => told,
        },
        Err(failure) => failed(&failure),
    };
    let status = u8::from(!matches!(told, Told::Exited(_)));
    let report = report.try_clone_to_owned().ok().map(File::from);
    if let (Some(mut report), Ok(text)) = (report, serde_json::to_vec(&told)) {
        let _ = report.write_all(&text);
    }
    status
}

fn failed(failure: &Failure) -> Told {
    let source = std::error::Error::source(failure);
    let mut cause = source.map(ToString::to_string).unwrap_or_default();
    let mut next = source.and_then(std::error::Error::source);
    while let Some(error) = next {
        cause = format!("{cause}: {error}");
        next = error.source();
    }
    Told::Failed { what: failure.to_string(), cause, hint: failure.advice().map(str::to_owned) }
}

/// Namespaces, mounts, root, limits.
fn enter(root: &Path, program: &Program) -> Result<()> {
    namespace::unshare(Namespaces::MOUNT | Namespaces::UTS | Namespaces::IPC)
        .context(|| "cannot make namespaces")?;
    match namespace::unshare(Namespaces::CGROUP) {
        // Not every kernel has them.
        Err(error) if error.errno() == Errno::INVAL => {}
        made => made.context(|| "cannot make a cgroup namespace")?,
    }
    if !program.network {
        namespace::unshare(Namespaces::NETWORK).context(|| "cannot make a network namespace")?;
        match namespace::bring_up_loopback() {
            // In a throw-away root in a throw-away root nobody may; it is down then.
            Err(error) if error.errno() == Errno::PERM => {}
            up => up.context(|| "cannot bring up the loopback interface")?,
        }
    }
    surface::mount_kernel(root)?;
    let root = open_directory(root)?;
    namespace::enter_root(root.as_fd()).context(|| "cannot enter the root")?;
    // Keys of the session outside; a kernel without them has none to give.
    let _ = namespace::join_new_keyring();
    limits::apply()
}

/// Starts the command; it is the leader of a session of its own.
fn start(
    console: Option<&Path>,
    program: &Program,
) -> std::result::Result<(u32, Signals, Option<OwnedFd>), Told> {
    let mut all = FORWARDED.to_vec();
    all.push(Signal::CHILD);
    let prepare = || -> Result<_> {
        let signals = Signals::block(&all).context(|| "cannot watch signals")?;
        let terminal = match console {
            Some(path) => {
                Some(terminal::open_terminal(path).context(|| "cannot open the terminal")?)
            }
            None => None,
        };
        Ok((signals, terminal))
    };
    let (signals, terminal) = prepare().map_err(|failure| failed(&failure))?;
    let (name, arguments) = match program.command.split_first() {
        Some((name, arguments)) => (name.clone(), arguments),
        None => (shell(program), &[][..]),
    };
    let mut command = Command::new(&name);
    command.args(arguments).env_clear().envs(program.environment.iter().cloned());
    command.current_dir(if program.directory.is_dir() {
        &program.directory
    } else {
        Path::new("/")
    });
    let again = || terminal.as_ref().and_then(|terminal| terminal.try_clone().ok());
    let [input, output, error] = program.console;
    if let (true, Some(terminal)) = (input, again()) {
        command.stdin(Stdio::from(terminal));
    }
    if let (true, Some(terminal)) = (output, again()) {
        command.stdout(Stdio::from(terminal));
    }
    if let (true, Some(terminal)) = (error, again()) {
        command.stderr(Stdio::from(terminal));
    }
    match child::in_new_session(&mut command, again()).spawn() {
        Ok(started) => Ok((started.id(), signals, terminal)),
        Err(error) => Err(Told::NotStarted {
            message: format!("{}: {error}", ebbtide_sys::escape(name.as_encoded_bytes())),
            found: error.kind() != std::io::ErrorKind::NotFound,
        }),
    }
}

/// The shell of the environment, if it is there.
fn shell(program: &Program) -> OsString {
    let wanted = program.environment.iter().find(|(name, _)| name == "SHELL");
    let wanted = wanted.map(|(_, path)| path.clone()).filter(|path| Path::new(path).is_file());
    wanted.unwrap_or_else(|| "/bin/sh".into())
}

/// Waits until the command ends, which is told; nothing if the parent went before.
fn look_after(pid: u32, signals: &Signals, lifeline: BorrowedFd<'_>) -> Option<Told> {
    loop {
        let ready = child::wait_for(&[signals.as_fd(), lifeline], None).ok()?;
        if ready.get(1).copied().unwrap_or(true) {
            return None;
        }
        while let Some(signal) = signals.next() {
            if signal == Signal::CHILD {
                continue;
            }
            send_to_group(pid, signal);
        }
        for (ended, how) in child::reap() {
            if ended == pid {
                return Some(match how {
                    Ended::Exited(status) => Told::Exited(status),
                    Ended::Killed(signal) => Told::Killed(signal),
                });
            }
        }
    }
}
