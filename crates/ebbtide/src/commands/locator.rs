//! `ebbtide locator`: what an initramfs has to carry, for its hook.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use ebbtide_core::declaration;

use super::machine;
use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;

/// Prints what an initramfs needs to find the container (called by its hook)
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the kernel modules of the filesystems instead, one a line
    #[arg(long, conflicts_with = "devices")]
    modules: bool,
    /// Print the devices instead, as declared, one a line
    #[arg(long)]
    devices: bool,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let declaration = crate::declaration::load(context, args.config.as_deref())?;
    let lines = |lines: Vec<String>| lines.into_iter().map(|line| line + "\n").collect::<String>();
    if args.modules {
        let modules = declaration::modules(&declaration);
        context.print(&lines(modules.into_iter().map(ToOwned::to_owned).collect()))?;
    } else if args.devices {
        let devices = declaration::devices(&declaration);
        context.print(&lines(devices.into_iter().map(|device| device.0).collect()))?;
    } else {
        machine::require_root()?;
        context.print_json(&declaration::locate(&declaration)?)?;
    }
    Ok(Status::DONE)
}
