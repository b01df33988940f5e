//! `cargo xtask demo`: shows the main thing on a machine of its own.

use anyhow::{Context, Result};
use testkit::process::stream;

use crate::{cargo, deb, setup};

/// Installs what it needs, builds package and machine, boots it twice, and shows what was forgotten
/// and what was kept.
pub fn run() -> Result<()> {
    setup::install()?;
    let package = deb::build().context("cannot build the package to show")?;
    stream(
        cargo()
            .args(["run", "--quiet", "--package", "vm-scenarios", "--", "demo"])
            .env("EBBTIDE_DEB", package),
    )
}
