//! `cargo xtask vm`: the package, then the scenarios of `tests/vm`.

use anyhow::{Context, Result};
use testkit::process::stream;

use crate::{cargo, deb, older};

/// Which scenarios to run.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Only those with this in their name
    pub filter: Option<String>,
    /// Also those that are left out because they take long
    #[arg(long)]
    pub all: bool,
    /// Only print their names
    #[arg(long)]
    pub list: bool,
}

/// Builds the package and runs the scenarios, which find it in `EBBTIDE_DEB`, and an older boot binary in
/// `EBBTIDE_OLDER_BOOT`.
pub fn run(options: &Options) -> Result<()> {
    let mut scenarios = cargo();
    scenarios.args(["run", "--quiet", "--package", "vm-scenarios", "--"]);
    if options.list {
        return stream(scenarios.arg("--list"));
    }
    let package = deb::build().context("cannot build the package to test")?;
    scenarios.env("EBBTIDE_DEB", package);
    match older::build().context("cannot build an older boot binary")? {
        Some(program) => {
            scenarios.env("EBBTIDE_OLDER_BOOT", program);
        }
        None => eprintln!(
            "\n*** SKIPPED, NOT TESTED: older-boot-binary: this checkout has no history that goes so far \
             back\n"
        ),
    }
    if options.all {
        scenarios.arg("--include-ignored");
    }
    stream(scenarios.args(&options.filter))
}
