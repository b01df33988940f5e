//! `ebbtide boots mount`: a past root where it can be looked at.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use ebbtide_core::past::mounted;
use ebbtide_sys::escape;

use crate::boot_name::BootName;
use crate::commands::machine;
use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;

/// Mounts the whole tree of a past root for reading
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
The mount is read-only; programs with set-user-id have no effect in it, and devices can't be opened.
Whoever can reach the directory sees what owners and modes in that root allow. What was mounted from a
store is not in it. `umount DIR` ends it; until then `gc` leaves that root alone.

Examples:
  sudo ebbtide boots mount 7 /mnt
  sudo umount /mnt

Exit status: 0 done; 1 failed, or there is no such past root; 2 wrong command line or declaration.")]
pub struct Args {
    /// The number of the boot; `last`: that of the newest past root
    #[arg(value_name = "BOOT")]
    boot: BootName,
    /// Where to: an empty directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say whether it can be mounted, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let boot = machine::running(args.config.as_deref(), context)?;
    let container = boot.open_container()?;
    let number = args.boot.find(&container)?;
    let directory = escape(args.directory.as_os_str().as_encoded_bytes());
    if args.dry_run {
        mounted::check(&container, number, &args.directory)?;
        context.print(&format!("mount the root of boot {number} at {directory}\n"))?;
        return Ok(Status::DONE);
    }
    // So that gc does not take it away meanwhile.
    let _lock = container.lock()?;
    mounted::mount(&boot, &container, number, &args.directory)?;
    context.print(&format!(
        "the root of boot {number} is mounted at {directory}, for reading\n\
         {} `umount {directory}` when you are done\n",
        context.dim("--")
    ))?;
    Ok(Status::DONE)
}
