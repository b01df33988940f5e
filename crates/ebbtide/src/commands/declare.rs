//! What `keep`, `forget` and `ignore` have in common: files of the declaration get another text, which is checked,
//! comes into force, and is taken back if it can't.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ebbtide_core::declaration::{Declaration, Problem, SourceFile, Target};
use ebbtide_sys::escape;

use super::apply::{Done, How, InForce, Prepared};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::text::{count, printable};

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
    write_files(files)?;
    prepared.publish().map_err(|error| put_back(error, files))
}

/// Writes the files; if one can't be, puts the others back.
pub fn write_files(files: &[(Target, String)]) -> Result<(), CommandError> {
    for (index, (target, text)) in files.iter().enumerate() {
        if let Err(failure) = target.write(text) {
            return Err(put_back(failure.into(), files.get(..index).unwrap_or_default()));
        }
    }
    Ok(())
}

/// Puts back what was written, since something failed.
pub fn put_back(error: CommandError, written: &[(Target, String)]) -> CommandError {
    written.iter().rev().fold(error, |error, (target, _)| {
        let name = &target.source().name;
        match target.undo() {
            Ok(()) => error.hint(format!("{name} is as it was")),
            Err(undo) => error.hint(format!("{name} is changed all the same: {}", undo.chain())),
        }
    })
}

/// The files that something is taken out of, each with its new text. `state` is the one of a throw-away
/// root.
pub fn taken_out<P, E: Display>(
    by_file: &BTreeMap<usize, Vec<P>>,
    sources: &[SourceFile],
    mut state: Option<Target>,
    context: &Context,
    remove: impl Fn(&str, &[P]) -> Result<String, E>,
) -> Result<Vec<(Target, String)>, CommandError> {
    let mut files = Vec::new();
    for (index, positions) in by_file {
        let Some(source) = sources.get(*index) else { continue };
        let cannot = || format!("cannot take it out of {}", printable(&source.name));
        let target = match state.take() {
            Some(target) => Some(target),
            None => Target::named(&context.sysroot, &source.name)?,
        };
        let target = target.filter(|it| it.source().text == source.text).ok_or_else(|| {
            CommandError::new(Kind::Usage, cannot())
                .cause("it is read-only")
                .hint("take it out where that file is made, such as the system's configuration")
        })?;
        let text = remove(&source.text, positions)
            .map_err(|error| CommandError::new(Kind::Usage, cannot()).cause(error.to_string()))?;
        files.push((target, text));
    }
    Ok(files)
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
