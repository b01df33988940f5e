//! Everything around the code: `cargo xtask COMMAND`.

mod bench;
mod deb;
mod demo;
mod fuzz;
mod generate;
mod older;
mod pictures;
mod setup;
mod test;
mod vm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};

/// Package, virtual machines and tests of Ebbtide.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install the Debian packages that the other commands need (as root)
    Setup,
    /// Write manual pages, completions, the reference of the command line, and JSON schemas
    Generate(generate::Options),
    /// Build the Debian package, and let lintian look at it
    Deb,
    /// Boot a Debian twice, and show what was forgotten and what was kept (as root)
    Demo,
    /// Run the scenarios that reboot a virtual machine (as root)
    Vm(vm::Options),
    /// Record the pictures of docs/pictures from the program as it is now (as root)
    Pictures(pictures::Options),
    /// Make inputs up for everything that is parsed, and look for one that breaks it
    Fuzz(fuzz::Options),
    /// Measure, against what people use instead (as root)
    Bench(bench::Options),
    /// Run everything that CI does (as root)
    Test(test::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Setup => setup::install(),
        Task::Generate(options) => generate::run(options),
        Task::Deb => deb::checked().map(|path| println!("{}", path.display())),
        Task::Demo => demo::run(),
        Task::Vm(options) => vm::run(&options),
        Task::Pictures(options) => pictures::run(options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Bench(options) => bench::run_benches(&options),
        Task::Test(options) => test::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The top of the source.
fn workspace() -> PathBuf {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    above.canonicalize().unwrap_or(above)
}

/// Prepares a call of the cargo that runs this, in the workspace.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}
