//! Scenarios that boot a real Debian again and again, in QEMU or in a container: `cargo xtask vm`, or
//! this program by itself with the arguments of any Rust test. See `docs/testing.md`.

mod demo;
mod ebbtide;
mod forgetful;
mod manual;
mod prepared;
mod programs;
mod scenario;
mod scenarios;
mod times;

use std::process::ExitCode;

use anyhow::{Context, Result};
use libtest_mimic::Arguments;
use testkit::privileged;

fn main() -> ExitCode {
    let no_test: Option<fn() -> Result<()>> = match std::env::args().nth(1).as_deref() {
        Some("demo") => Some(demo::run),
        Some("times") => Some(times::run),
        _ => None,
    };
    if let Some(run) = no_test {
        return match alone(run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // An emulated machine takes all processors there are.
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, scenario::trials(None)).exit_code();
    }

    let missing = privileged::missing();
    if let Some(reason) = missing {
        eprintln!("\n*** SKIPPED, NOT TESTED: all scenarios: {reason}\n");
        return libtest_mimic::run(&arguments, scenario::trials(missing)).exit_code();
    }
    match alone(|| Ok(libtest_mimic::run(&arguments, scenario::trials(None)))) {
        Ok(conclusion) => conclusion.exit_code(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs with mounts that nobody else sees, and with nobody else in the scenarios' directories.
fn alone<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    privileged::enter_private_mounts().context("cannot hide the scenarios' mounts")?;
    // Two runs at once would use the same directories, and be too slow anyway.
    let _lock = scenario::lock()?;
    prepared::clean()?;
    let result = work();
    prepared::clean()?;
    result
}
