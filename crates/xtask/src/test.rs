//! `cargo xtask test`: what has to pass before a change goes in.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use testkit::process::stream;

use crate::{cargo, deb, fuzz, generate, setup, vm};

/// How much to test.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Also the scenarios that are left out because they take long
    #[arg(long)]
    all: bool,
}

struct Phase {
    name: &'static str,
    took: Duration,
    result: Result<()>,
}

/// Runs all phases, also after one has failed, and ends with how long each took.
pub fn run(options: &Options) -> Result<()> {
    setup::install()?;
    let phases = [
        phase("format", || stream(cargo().args(["fmt", "--all", "--check"]))),
        phase("lints", || {
            stream(
                cargo()
                    .args(["clippy", "--workspace", "--all-targets"])
                    .args(["--", "--deny", "warnings"]),
            )?;
            generate::run(generate::Options { check: true })
        }),
        phase("tests", || {
            stream(cargo().args(["test", "--workspace", "--exclude", "vm-scenarios"]))
        }),
        // A process of its own: it goes into another mount namespace.
        phase("pictures", || {
            stream(
                cargo()
                    .args(["run", "--quiet", "--package", "xtask"])
                    .args(["--", "pictures", "--check"]),
            )
        }),
        phase("fuzzing", || fuzz::run(&fuzz::Options::share())),
        phase("package", || deb::checked().map(drop)),
        phase("virtual machines", || {
            vm::run(&vm::Options { all: options.all, ..vm::Options::default() })
        }),
    ];

    println!();
    for phase in &phases {
        let outcome = if phase.result.is_ok() { "ok" } else { "FAILED" };
        println!("{:<20} {:>7.1} s  {outcome}", phase.name, phase.took.as_secs_f64());
    }
    let failed: Vec<String> = phases
        .iter()
        .filter_map(|phase| Some(format!("{}: {:#}", phase.name, phase.result.as_ref().err()?)))
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join("\n"));
    }
    Ok(())
}

fn phase(name: &'static str, work: impl FnOnce() -> Result<()>) -> Phase {
    println!("\n=== {name} ===");
    let started = Instant::now();
    let result = work();
    if let Err(error) = &result {
        println!("FAILED: {error:#}");
    }
    Phase { name, took: started.elapsed(), result }
}
