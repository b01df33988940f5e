//! The machine that a command runs on: its declaration, and what finds its container.

use std::path::{Path, PathBuf};

use ebbtide_core::boot::{Boot, IMPORT_LIMIT, LOCATOR, RUN};
use ebbtide_core::declaration;
use ebbtide_core::switches::Switches;

use crate::context::Context;
use crate::error::{CommandError, Kind};

/// The running machine as its boot found it; as declared, if that boot was not Ebbtide's, or if a
/// declaration is named.
pub fn running(config: Option<&Path>, context: &Context) -> Result<Boot, CommandError> {
    let run = PathBuf::from(RUN);
    let locator = run.join(LOCATOR);
    // What is declared today may have a mistake in it; what this boot went by has not.
    if config.is_none() && locator.exists() {
        require_root()?;
        return Ok(Boot::read(&locator, run, None)?);
    }
    let declaration = crate::declaration::load(context, config)?;
    require_root()?;
    Ok(Boot {
        locator: declaration::locate(&declaration)?,
        run: PathBuf::from(RUN),
        run_later: PathBuf::from(RUN),
        switches: Switches::default(),
        import_limit: IMPORT_LIMIT,
    })
}

/// The container and the stores are for root only.
pub fn require_root() -> Result<(), CommandError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(CommandError::new(Kind::Failed, "cannot open the container: only root may read it")
        .hint("run it again with sudo"))
}
