//! Ebbtide: makes a Linux machine forget at every boot, except for what was declared.

mod bug;
mod changes;
mod cli;
mod commands;
mod context;
mod declaration;
mod difference;
mod error;
mod generator;
mod status;
mod style;
mod text;

use std::process::ExitCode;

fn main() -> ExitCode {
    bug::caught(cli::run).into()
}
