//! `ebbtide try`: a throw-away root over this machine, right now.

pub mod report;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use ebbtide_core::changes::{Change, Changes};
use ebbtide_core::failure::Level;
use ebbtide_core::trial::{self, End, Program, State, Trial};

use self::report::Report;
use crate::changes::hidden::Hidden;
use crate::context::Context;
use crate::declaration;
use crate::error::{CommandError, Kind};
use crate::relay;
use crate::status::Status;
use crate::text::json;

/// The name of standard output, as `--json` without a file has it.
pub const STDOUT: &str = "-";

/// Runs a command, or a shell, on a throw-away root over this machine
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Inside, everything looks as it does outside, and everything can be changed, installed, deleted:
the machine stays as it is. On leaving, `try` says what the next start takes away; `ebbtide keep`
keeps some of it. The next `try` starts anew with what is kept in place, as a machine with
Ebbtide boots.

The network is the one outside; services and devices are not: there is no system bus, no socket
of theirs, no disk. It protects from mistakes, not from malice: what runs as root inside and
means to break out can. --no-network keeps abstract sockets out as well.

Examples:
  Make a mess, look at it, leave:
    ebbtide try

  See what an installation would leave behind:
    ebbtide try -- apt-get install -y nginx

  Another system than this one, for example one made by debootstrap:
    ebbtide try --base /srv/trixie -- /bin/bash

  For scripts:
    ebbtide try --json=report.json -- ./install.sh

Exit status: that of the command; 128 and the number of the signal that killed it; 127 if there
is no such command, 126 if it can't be run; 125 if `try` itself failed.")]
pub struct Args {
    /// Start from this directory instead of from the running system
    #[arg(long, value_name = "DIRECTORY")]
    base: Option<PathBuf>,
    /// Where the root, what is kept and what was put away lies
    #[arg(long, value_name = "DIRECTORY", default_value = trial::DEFAULT)]
    state: PathBuf,
    /// Keep what this declaration says, instead of `ebbtide.toml` in the state directory
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Have no network but the loopback interface
    #[arg(long)]
    no_network: bool,
    /// Tell caches, locks and the like too, and what is ignored
    #[arg(long)]
    all: bool,
    /// Print what the next start takes away as JSON, or write it to a file
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = STDOUT
    )]
    json: Option<PathBuf>,
    /// The command and its arguments; without one, a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command. Its failures have a status of their own, so that nobody takes them for those of
/// what it runs.
pub fn run(args: &Args, context: &Context) -> Status {
    attempt(args, context).unwrap_or_else(|error| {
        error.print(context.color_err());
        Status::NOT_TRIED
    })
}

fn attempt(args: &Args, context: &Context) -> Result<Status, CommandError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CommandError::new(
            Kind::Failed,
            "cannot make a throw-away root: only root may mount filesystems",
        )
        .hint("run it again with sudo"));
    }
    let base = args.base.as_deref().unwrap_or(&context.sysroot);
    let state = State::open(&args.state)?;
    let path = match &args.config {
        Some(path) => path.clone(),
        None => state.declaration()?,
    };
    // Users and presets are those of the system that is tried.
    let tried = context.for_sysroot(base);
    let declaration = declaration::load(&tried, Some(&path))?;
    let hidden =
        if args.all { Hidden::nothing() } else { Hidden::as_declared(Some(&path), &tried) };
    let console = relay::terminals();
    let directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let program = Program {
        command: args.command.clone(),
        environment: trial::environment("try", std::env::vars_os()),
        directory,
        console,
        network: !args.no_network,
    };
    let mut log = |level: Level, message: &str| {
        if level <= Level::Warning {
            context.tell(message);
        }
    };
    let console = console.contains(&true);
    let trial = Trial::make(&state, base, &declaration, console, &mut log)?;
    greet(&program, &trial, context);
    let signals = relay::watch().map_err(|error| {
        CommandError::new(Kind::Failed, "cannot watch signals").cause(error.to_string())
    })?;
    let end = relay::relay(trial.start(&program)?, &signals)?;
    // From here on, whoever does not want to wait can interrupt.
    drop(signals);
    // What the command did counts, also if the end can't be noted on a disk that is full.
    if let Err(failure) = trial.end(&mut log) {
        context.tell(&format!("the end of this root could not be noted: {}", failure.chain()));
    }
    report(args, &trial, &end, hidden, state.path(), context)?;
    Ok(status_of(end, context))
}

/// The status of a command that ended, passed on; why one never began is said.
pub fn status_of(end: End, context: &Context) -> Status {
    match end {
        End::Exited(status) => Status::of_command(status),
        End::Killed(signal) => Status::of_signal(signal),
        End::NotStarted { message, found } => {
            CommandError::new(Kind::Failed, "cannot run the command")
                .cause(message)
                .print(context.color_err());
            Status::of_command(if found { 126 } else { 127 })
        }
    }
}

/// Says where one is, and what is different there. A script that asked for a command wants no more
/// than what it must know.
fn greet(program: &Program, trial: &Trial, context: &Context) {
    if program.command.is_empty() && program.console[0] {
        context.tell("a throw-away root: leave it with `exit`, and the machine is as it was");
    }
    if trial.in_ram() {
        context.tell(
            "what is written goes to RAM and is gone afterwards: the state directory can't hold it",
        );
    }
    for note in trial.notes() {
        context.tell(&format!("{} {}", note.path.display(), note.what));
    }
}

/// Says what the next reset takes away.
fn report(
    args: &Args,
    trial: &Trial,
    end: &End,
    mut hidden: Hidden,
    state: &Path,
    context: &Context,
) -> Result<(), CommandError> {
    let mut changes = Changes::default();
    let mut add = |change: Change| changes.add(&change);
    trial.each_change(&mut |change| hidden.sift(change, &mut add))?;
    hidden.finish(&mut add);
    let (kept, notes) = (trial.kept(), trial.notes());
    let in_ram = trial.in_ram();
    let report = Report { end, changes: &changes, hidden: &hidden, kept, notes, in_ram, state };
    match &args.json {
        None => context.tell_styled(report.text(&context.on_standard_error()).trim_end()),
        Some(path) if path == Path::new(STDOUT) => context.print_json(&report.json())?,
        Some(path) => write(path, &json(&report.json()).map_err(|error| bug(&error))?)?,
    }
    Ok(())
}

/// Output that can't be written as JSON.
pub fn bug(error: &serde_json::Error) -> CommandError {
    CommandError::new(Kind::Bug, "cannot write JSON").cause(error.to_string())
}

/// Writes a report to a file.
pub fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    std::fs::File::create(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(
        |error| {
            CommandError::new(Kind::Failed, format!("cannot write {}", path.display()))
                .cause(error.to_string())
        },
    )
}
