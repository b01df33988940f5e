//! `ebbtide rehearse`: the next boot, in namespaces, without a reboot.

pub mod report;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use ebbtide_core::compiled::RamSize;
use ebbtide_core::enclosure::{Program, environment};
use ebbtide_core::failure::Level;
use ebbtide_core::rehearsal::{Rehearsal, SIZE};

use self::report::Report;
use super::try_root::{STDOUT, status_of, write};
use super::{machine, try_root};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::relay;
use crate::status::Status;
use crate::text::json;

/// Runs a command, or a shell, on the root that the next boot would make
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
A new root is made from the base, by the code of a boot, with all that is declared in place: as
`ebbtide apply` compiled it last. Everything in it can be changed; what is written goes to RAM and
is gone afterwards. Base, stores and container are the machine's, and stay as they are.

With --boot, systemd boots in it, in a container of systemd-nspawn without network and devices.
When it has settled, failed units are listed with what they wrote last, and with paths that they
missed: such as are there today. Else no service runs. It protects from mistakes, not from malice,
as `ebbtide try` does.

Examples:
  Look around in the next boot:
    ebbtide rehearse

  Would the configuration of a program survive?
    ebbtide rehearse -- nginx -t

  Would all services start? For scripts:
    ebbtide rehearse --boot --json=report.json

Exit status: that of the command; 128 and the number of the signal that killed it; 127 if there
is no such command, 126 if it can't be run; 125 if `rehearse` itself failed. With --boot: 0 if all
runs and all entries are in place, 3 if not, 1 if that could not be found out, 2 for a wrong
command line or declaration.")]
pub struct Args {
    /// Find the container by this declaration, instead of as this boot did
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How much RAM what is written may take: a share, or bytes with K, M, G or T
    #[arg(long, value_name = "SIZE", default_value_t = SIZE)]
    size: RamSize,
    /// Boot systemd in it, and list the units that fail
    #[arg(long, conflicts_with_all = ["command", "no_network"])]
    boot: bool,
    /// How long to wait until the system has settled, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "boot")]
    timeout: u64,
    /// Have no network but the loopback interface
    #[arg(long)]
    no_network: bool,
    /// Print what is in place and what is not as JSON, or write it to a file
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

/// Runs the command. Failures have a status of their own where there is a command, so that nobody takes
/// them for those of what it runs.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    if args.boot {
        return boot(args, context);
    }
    Ok(attempt(args, context).unwrap_or_else(|error| {
        error.print(context.color_err());
        Status::NOT_TRIED
    }))
}

fn boot(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let rehearsal = make(args, context)?;
    let came = rehearsal.boot(Duration::from_secs(args.timeout))?;
    let report = Report { rehearsal: &rehearsal, end: None, came: Some(&came) };
    if args.json.is_some() {
        tell(args, &report, context)?;
    } else {
        context.print(&report.text(context))?;
    }
    let well = came.is_well() && report.is_complete();
    Ok(if well { Status::DONE } else { Status::FOUND })
}

fn attempt(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let console = relay::terminals();
    let program = Program {
        command: args.command.clone(),
        environment: environment("rehearsal", std::env::vars_os()),
        directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
        console,
        network: !args.no_network,
    };
    let mut rehearsal = make(args, context)?;
    rehearsal.furnish(console.contains(&true))?;
    if program.command.is_empty() && console[0] {
        let number = rehearsal.record().number;
        context.tell(&format!("boot {number}, rehearsed: leave it with `exit`, and nothing stays"));
    }
    let signals = relay::watch().map_err(|error| {
        CommandError::new(Kind::Failed, "cannot watch signals").cause(error.to_string())
    })?;
    let end = relay::relay(rehearsal.start(&program)?, &signals)?;
    drop(signals);
    let report = Report { rehearsal: &rehearsal, end: Some(&end), came: None };
    tell(args, &report, context)?;
    Ok(status_of(end, context))
}

fn make(args: &Args, context: &Context) -> Result<Rehearsal, CommandError> {
    if !rustix::process::geteuid().is_root() {
        return Err(CommandError::new(
            Kind::Failed,
            "cannot rehearse the next boot: only root may mount filesystems",
        )
        .hint("run it again with sudo"));
    }
    let machine = machine::running(args.config.as_deref(), context)?;
    // What goes wrong is in the record, and is told at the end.
    let mut log = |_: Level, _: &str| ();
    Ok(Rehearsal::make(&machine, &context.sysroot, args.size, &mut log)?)
}

/// Says what is in place and what is not.
fn tell(args: &Args, report: &Report<'_>, context: &Context) -> Result<(), CommandError> {
    match &args.json {
        None => context.tell_styled(report.text(&context.on_standard_error()).trim_end()),
        Some(path) if path == Path::new(STDOUT) => context.print_json(&report.json())?,
        Some(path) => {
            let text = json(&report.json()).map_err(|error| try_root::bug(&error))?;
            write(path, &text)?;
        }
    }
    Ok(())
}
