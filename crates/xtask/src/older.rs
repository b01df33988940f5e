//! The boot binary of an earlier revision: an initramfs that was not built again has it, and meets what
//! today's programs write.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use testkit::process::{run, stream, target_directory};

use crate::cargo;

/// The first revision whose formats are kept: `crates/ebbtide-core/tests/formats` began with it.
const REVISION: &str = "b3ee188a122eaa615edfd34681f746f459f38b09";

/// Builds `ebbtide-boot` of that revision and returns its path; `None` where the checkout has no history
/// that goes so far back.
pub fn build() -> Result<Option<PathBuf>> {
    let known = Command::new("git")
        .args(["cat-file", "-e", &format!("{REVISION}^{{commit}}")])
        .stderr(Stdio::null())
        .status();
    if !known.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let directory = target_directory().join("older");
    let source = directory.join(REVISION);
    let program = directory.join("debug/ebbtide-boot");
    if !source.exists() {
        unpack(&directory, &source)?;
    }
    stream(
        cargo()
            .args(["build", "--quiet", "--locked", "--package", "ebbtide-boot"])
            .env("CARGO_TARGET_DIR", &directory)
            // Of that revision's lints, none is of interest.
            .env("RUSTFLAGS", "--cap-lints=allow")
            .current_dir(&source),
    )?;
    Ok(Some(program))
}

/// Appears under its name when it is complete.
fn unpack(directory: &Path, source: &Path) -> Result<()> {
    let partial = directory.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let archive = directory.join("source.tar");
    run(Command::new("git").args(["archive", REVISION, "--output"]).arg(&archive))?;
    run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&partial))?;
    fs::remove_file(&archive)?;
    Ok(fs::rename(&partial, source)?)
}
