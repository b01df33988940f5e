//! `cargo xtask vm`: the package, then the scenarios of `tests/vm`.

use anyhow::{Context, Result};
use testkit::process::stream;

use crate::{cargo, deb};

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

/// Builds the package and runs the scenarios, which find it in `EBBTIDE_DEB`.
pub fn run(options: &Options) -> Result<()> {
    let mut scenarios = cargo();
    scenarios.args(["run", "--quiet", "--package", "vm-scenarios", "--"]);
    if options.list {
        return stream(scenarios.arg("--list"));
    }
    let package = deb::build().context("cannot build the package to test")?;
    scenarios.env("EBBTIDE_DEB", package);
    if options.all {
        scenarios.arg("--include-ignored");
    }
    stream(scenarios.args(&options.filter))
}
