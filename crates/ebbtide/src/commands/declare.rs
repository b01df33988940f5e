//! What `keep` and `forget` have in common: files of the declaration get another text, which is checked,
//! comes into force, and is taken back if it can't.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ebbtide_core::declaration::{Declaration, Problem, SourceFile, Target};
use ebbtide_sys::escape;

use super::apply::{Done, How, InForce, Prepared};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::text::count;

/// Writes the files and brings them into force; if the next boot would not read them, puts all back.
pub fn in_force(
    declaration: &Declaration,
    files: &[(Target, String)],
    context: &Context,
) -> Result<Done, CommandError> {
    let prepared = Prepared::new(declaration, How::default(), context)?;
    bring(write(prepared, files)?)
}

/// Writes the files and makes them what the next boot reads; if that fails, puts all back.
pub fn write<'c>(
    prepared: Prepared<'c>,
    files: &[(Target, String)],
) -> Result<InForce<'c>, CommandError> {
    let mut written = Vec::new();
    let mut write = || -> Result<(), CommandError> {
        for (target, text) in files {
            target.write(text)?;
            written.push(target);
        }
        Ok(())
    };
    write().and_then(|()| prepared.publish()).map_err(|mut error| {
        for target in written.iter().rev() {
            let name = &target.source().name;
            error = match target.undo() {
                Ok(()) => error.hint(format!("{name} is as it was")),
                Err(undo) => {
                    error.hint(format!("{name} is changed all the same: {}", undo.chain()))
                }
            };
        }
        error
    })
}

/// Brings the running system to what the next boot reads.
pub fn bring(published: InForce<'_>) -> Result<Done, CommandError> {
    published.bring().map_err(|error| {
        error.hint("it is declared so, and the next boot goes by it; `ebbtide status` says more")
    })
}

/// Checks what is declared so far: a mistake in it is not one of the new entry. Returns the warnings.
pub fn sound(sources: &[SourceFile], context: &Context) -> Result<BTreeSet<String>, CommandError> {
    let outcome = crate::declaration::check(context, sources)?;
    let errors = outcome.problems.iter().filter(|problem| problem.is_error()).count();
    if errors > 0 {
        tell(&outcome.problems, &outcome.sources, context);
        return Err(CommandError::new(
            Kind::Usage,
            format!("cannot change the declaration: {} in it so far", count(errors, "error")),
        ));
    }
    Ok(outcome.problems.into_iter().map(|problem| problem.message).collect())
}

/// Shows problems of the declaration.
pub fn tell(problems: &[Problem], sources: &[SourceFile], context: &Context) {
    if !problems.is_empty() {
        let text = crate::declaration::render(problems, sources, context.color_err());
        context.tell_styled(text.trim_end());
    }
}

/// The path as the declaration has it. `..` is taken by its text: links are not followed later either.
pub fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    let cannot = |error: &std::io::Error| {
        let shown = escape(path.as_os_str().as_bytes());
        CommandError::new(Kind::Usage, format!("cannot find {shown}")).cause(error.to_string())
    };
    let whole = std::path::absolute(path).map_err(|error| cannot(&error))?;
    let mut normal = PathBuf::from("/");
    for component in whole.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => {
                normal.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(normal)
}
