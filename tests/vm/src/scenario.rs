//! What a scenario is, and how one is run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use libtest_mimic::{Failed, Trial};
use testkit::process::{Lock, target_directory};

use crate::scenarios::SCENARIOS;

/// One story about a machine, told in one function.
pub struct Scenario {
    pub name: &'static str,
    /// Whether it runs only when all are asked for.
    pub slow: bool,
    /// Tells it, in a directory of its own.
    pub run: fn(&Path) -> Result<()>,
}

/// Returns all scenarios as tests; they count as ignored if they cannot run here because of
/// `missing`.
pub fn trials(missing: Option<&str>) -> Vec<Trial> {
    SCENARIOS
        .iter()
        .map(|scenario| {
            Trial::test(scenario.name, || run(scenario))
                .with_ignored_flag(scenario.slow || missing.is_some())
        })
        .collect()
}

/// Waits until no other run of the scenarios uses the target directory.
pub fn lock() -> Result<Lock> {
    Lock::wait_for(&target_directory().join("vm"))
}

fn run(scenario: &Scenario) -> Result<(), Failed> {
    let started = Instant::now();
    let result = run_in_own_directory(scenario);
    // The harness prints the name before and the outcome after.
    let _ = write!(std::io::stdout(), "{:.1} s ... ", started.elapsed().as_secs_f64());
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

/// Runs it in `target/vm/<name>`. What it leaves there is kept if it fails, else only its logs.
fn run_in_own_directory(scenario: &Scenario) -> Result<()> {
    let directory = target_directory().join("vm").join(scenario.name);
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot delete {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    (scenario.run)(&directory).with_context(|| format!("see {}", directory.display()))?;
    for file in files(&directory)? {
        if file.extension().is_none_or(|extension| extension != "log") {
            fs::remove_file(&file).with_context(|| format!("cannot delete {}", file.display()))?;
        }
    }
    Ok(())
}

/// Returns the files in a directory and in the directories below it.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}
