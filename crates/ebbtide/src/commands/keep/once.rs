//! `ebbtide keep --once`: carries paths over the next reset, without declaring them; and how `forget` takes
//! that back.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_core::boot::{LOCATOR, RUN};
use ebbtide_core::once::{Once, Plan};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Already, Args, already, kept_already, plan};
use crate::commands::machine;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;

/// What `ebbtide keep --once --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json {
    /// The version of this shape.
    version: u32,
    /// Whether all of it is only what would be done.
    dry_run: bool,
    /// Paths that are carried over the next reset now, escaped.
    carried: Vec<String>,
    /// Paths that were going to be carried over already, escaped.
    already: Vec<String>,
    /// What an entry keeps.
    kept: Vec<Already>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    machine::require_root()?;
    let sources = crate::declaration::read(context, None)?;
    let declared = plan(args, &sources, context)?;
    let paths: Vec<PathBuf> = declared.additions.iter().map(|it| it.absolute.clone()).collect();
    let mut decided = Plan::default();
    if !paths.is_empty() {
        let once = Once::open(&machine::running(None, context)?, &context.sysroot)?;
        let _lock = if args.dry_run { None } else { Some(once.lock()?) };
        decided =
            once.plan(&paths).map_err(|failure| CommandError::from_error(Kind::Usage, &failure))?;
        if !args.dry_run && !decided.added.is_empty() {
            once.apply(&decided)?;
        }
    }
    if args.json {
        context.print_json(&Json {
            version: 1,
            dry_run: args.dry_run,
            carried: decided.added.iter().map(|path| shown(path)).collect(),
            already: decided.already.iter().map(|path| shown(path)).collect(),
            kept: kept_already(&declared),
        })?;
        return Ok(Status::DONE);
    }
    let mut text = already(&declared);
    for path in &decided.already {
        let _ = writeln!(text, "{} is carried over the next reset already", shown(path));
    }
    let is = if args.dry_run { "would be" } else { "is" };
    for path in &decided.added {
        let mark = context.good("+");
        let _ = writeln!(text, "{mark} {} {is} carried over the next reset, once", shown(path));
    }
    context.print(&text)?;
    Ok(Status::DONE)
}

/// Paths that were to be carried over, and are to be no longer.
pub struct TakenBack {
    once: Option<Once>,
    /// Which ones.
    pub paths: Vec<PathBuf>,
}

impl TakenBack {
    /// None at all.
    pub fn none() -> Self {
        Self { once: None, paths: Vec::new() }
    }

    /// Finds out which of these paths are going to be carried over; changes nothing.
    pub fn find(paths: &[PathBuf], context: &Context) -> Self {
        let none = Self::none();
        // Elsewhere nothing can have been asked for, and only root can have done it.
        if !Path::new(RUN).join(LOCATOR).exists() || machine::require_root().is_err() {
            return none;
        }
        let opened = machine::running(None, context)
            .ok()
            .and_then(|boot| Once::open(&boot, &context.sysroot).ok());
        let Some(once) = opened else { return none };
        match once.asked_for(paths) {
            Ok(paths) => Self { once: Some(once), paths },
            Err(failure) => {
                context.tell(&format!("warning: {}", failure.chain()));
                none
            }
        }
    }

    /// Takes them back.
    pub fn apply(&self) -> Result<(), CommandError> {
        match &self.once {
            Some(once) if !self.paths.is_empty() => {
                let _lock = once.lock()?;
                Ok(once.take_back(&self.paths)?)
            }
            _ => Ok(()),
        }
    }

    /// The same for people.
    pub fn text(&self, dry_run: bool, context: &Context) -> String {
        let is = if dry_run { "would not be" } else { "is not" };
        let line = |path: &PathBuf| {
            let mark = context.bad("-");
            format!("{mark} {} {is} carried over the next reset any more\n", shown(path))
        };
        self.paths.iter().map(line).collect()
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}
