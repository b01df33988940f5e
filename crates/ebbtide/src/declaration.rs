//! The declaration as commands find it.

use std::fmt::Write as _;
use std::path::Path;

use ebbtide_core::declaration::{
    self, Declaration, Outcome, Problem, ReadError, Severity, SourceFile, Surroundings,
};

use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::text::count;

/// More problems than this are only counted.
const SHOWN: usize = 50;

/// Reads the declaration: all layers of the system, or one file.
pub fn read(context: &Context, config: Option<&Path>) -> Result<Vec<SourceFile>, CommandError> {
    let failed = |error: ReadError| {
        let error = CommandError::from_error(Kind::Usage, &error);
        match config {
            Some(_) => error,
            None => error.hint("name another file with `--config`"),
        }
    };
    let sources = match config {
        Some(path) => vec![declaration::read_file(path).map_err(failed)?],
        None => declaration::read_layers(&context.sysroot).map_err(failed)?,
    };
    if sources.is_empty() {
        return Err(CommandError::new(Kind::Usage, "cannot find a declaration")
            .cause("there is no file /etc/ebbtide/ebbtide.toml, and none beside it")
            .hint("`ebbtide init` sets a machine up; `--config` names another file"));
    }
    Ok(sources)
}

/// Reads and checks the declaration for a command that needs it without errors. Warnings are told.
pub fn load(context: &Context, config: Option<&Path>) -> Result<Declaration, CommandError> {
    accept(context, &read(context, config)?)
}

/// Checks files that were read, as [`load`] does.
pub fn accept(context: &Context, sources: &[SourceFile]) -> Result<Declaration, CommandError> {
    let Outcome { declaration, problems, sources } = check(context, sources)?;
    let mut worth_telling = problems;
    worth_telling.retain(|problem| problem.severity != Severity::Note);
    let errors = worth_telling.iter().filter(|problem| problem.is_error()).count();
    if !worth_telling.is_empty() {
        context.tell_styled(render(&worth_telling, &sources, context.color_err()).trim_end());
    }
    declaration.ok_or_else(|| {
        CommandError::new(
            Kind::Usage,
            format!("cannot use the declaration: {}", count(errors, "error")),
        )
    })
}

/// Checks files with what this system has of presets and users.
pub fn check(context: &Context, sources: &[SourceFile]) -> Result<Outcome, CommandError> {
    Ok(declaration::check_in(sources, &surroundings(context)?))
}

/// The presets and users of this system.
pub fn surroundings(context: &Context) -> Result<Surroundings, CommandError> {
    Surroundings::read(&context.sysroot)
        .map_err(|error| CommandError::from_error(Kind::Usage, &error))
}

/// Draws problems one after the other.
pub fn render(problems: &[Problem], sources: &[SourceFile], color: bool) -> String {
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        text += &problem.render(sources, color);
        text += "\n\n";
    }
    if let Some(more @ 1..) = problems.len().checked_sub(SHOWN) {
        let _ = write!(text, "… and {}\n\n", count(more, "more problem"));
    }
    text
}
