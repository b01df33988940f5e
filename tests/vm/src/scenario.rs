//! What a scenario is, and how one is run.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use libtest_mimic::{Failed, Trial};
use testkit::process::{Lock, target_directory};

use crate::ebbtide::{BTRFS, Kind};
use crate::scenarios::SCENARIOS;

/// One story about a machine, told in one function.
pub struct Scenario {
    pub name: &'static str,
    pub story: Story,
}

/// Tells a story, in a directory of its own.
#[derive(Clone, Copy)]
pub enum Story {
    /// About one machine.
    Of(When, fn(&Path) -> Result<()>),
    /// About machines that differ in what they make their roots of.
    OfEach(&'static [(Kind, When)], fn(&Path, Kind) -> Result<()>),
}

/// When a story is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Always,
    /// Only when all are asked for.
    ForAll,
    /// Where the boot binary of an earlier revision could be built.
    WithOlderBoot,
}

impl When {
    fn is_now(self) -> bool {
        match self {
            Self::Always => true,
            Self::ForAll => false,
            Self::WithOlderBoot => older_boot().is_some(),
        }
    }
}

/// The boot binary of an earlier revision.
pub fn older_boot() -> Option<PathBuf> {
    std::env::var_os("EBBTIDE_OLDER_BOOT").map(PathBuf::from)
}

type Tell = dyn Fn(&Path) -> Result<()> + Send;

/// Returns all scenarios as tests; they count as ignored if they cannot run here because of
/// `missing`.
pub fn trials(missing: Option<&str>) -> Vec<Trial> {
    let trial = |name: String, when: When, tell: Box<Tell>| {
        let own = name.clone();
        Trial::test(name, move || run(&own, &*tell))
            .with_ignored_flag(!when.is_now() || missing.is_some())
    };
    let mut trials = Vec::new();
    for Scenario { name, story } in SCENARIOS {
        match *story {
            Story::Of(when, tell) => trials.push(trial((*name).to_owned(), when, Box::new(tell))),
            Story::OfEach(kinds, tell) => {
                for (kind, when) in kinds.iter().copied() {
                    let name = match kind {
                        BTRFS => (*name).to_owned(),
                        kind => format!("{name}-{}", kind.name()),
                    };
                    let tell = move |directory: &Path| tell(directory, kind);
                    trials.push(trial(name, when, Box::new(tell)));
                }
            }
        }
    }
    trials
}

/// Waits until no other run of the scenarios, of whatever checkout, is at work: the whole machine sees
/// the labels of their disks.
pub fn lock() -> Result<Lock> {
    Lock::wait_for(&std::env::temp_dir().join("ebbtide-scenarios"))
}

fn run(name: &str, tell: &dyn Fn(&Path) -> Result<()>) -> Result<(), Failed> {
    let started = Instant::now();
    let result = run_in_own_directory(name, tell);
    // The harness prints the name before and the outcome after.
    let _ = write!(std::io::stdout(), "{:.1} s ... ", started.elapsed().as_secs_f64());
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

/// Runs it in `target/vm/<name>`. What it leaves there is kept if it fails, else only its logs.
fn run_in_own_directory(name: &str, tell: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let directory = target_directory().join("vm").join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot delete {}", directory.display()))?;
    }
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    tell(&directory).with_context(|| format!("see {}", directory.display()))?;
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
