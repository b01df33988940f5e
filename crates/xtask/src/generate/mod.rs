//! `cargo xtask generate`: all that is made from the definition of the command line, from the types
//! that are printed as JSON, and from the pages of the book that are manual pages as well.
//!
//! What it makes is checked in, so that a change of it is seen where it is reviewed, and a check
//! fails as long as the two differ.

pub mod completions;
mod help;
pub mod man;
mod markdown;
mod reference;
mod roff;
mod schemas;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

/// How to generate.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Options {
    /// Write nothing, and fail where something is not as it would be written
    #[arg(long)]
    pub check: bool,
}

/// Folders in which every file is generated: what is left over there is drift, too.
const FOLDERS: [&str; 3] = ["completions", man::FOLDER, schemas::FOLDER];

/// Writes everything, or checks it.
pub fn run(options: Options) -> Result<()> {
    let workspace = workspace();
    if options.check {
        return check(&workspace);
    }
    let files = files(&workspace)?;
    let mut written = 0;
    for (path, content) in &files {
        let path = workspace.join(path);
        if fs::read_to_string(&path).is_ok_and(|found| found == *content) {
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.strip_prefix(&workspace).unwrap_or(&path).display());
        written += 1;
    }
    for path in left_over(&workspace, &files)? {
        fs::remove_file(workspace.join(&path))
            .with_context(|| format!("cannot remove {}", path.display()))?;
        println!("removed {}", path.display());
        written += 1;
    }
    println!("{} generated files, {written} of them changed", files.len());
    Ok(())
}

/// Fails where a file is not as it would be generated, or where the book says something else of JSON
/// than its types.
pub fn check(workspace: &Path) -> Result<()> {
    let files = files(workspace)?;
    let mut drift = Vec::new();
    for (path, content) in &files {
        match fs::read_to_string(workspace.join(path)) {
            Ok(found) if found == *content => {}
            Ok(found) => drift.push(format!("{} {}", path.display(), differs(&found, content))),
            Err(_) => drift.push(format!("{} is missing", path.display())),
        }
    }
    let left_over = left_over(workspace, &files)?;
    drift.extend(left_over.iter().map(|path| format!("{} is left over", path.display())));
    if !drift.is_empty() {
        bail!(
            "generated files are not current:\n  {}\nrun `cargo xtask generate`, and commit what it \
             writes",
            drift.join("\n  ")
        );
    }
    schemas::check_book(workspace)
}

/// Where two texts differ first.
fn differs(found: &str, wanted: &str) -> String {
    let line = found.lines().zip(wanted.lines()).take_while(|(a, b)| a == b).count();
    format!(
        "differs at line {}: it should be {:?}",
        line + 1,
        wanted.lines().nth(line).unwrap_or("at its end")
    )
}

/// Everything that is generated: paths below the workspace, and contents.
fn files(workspace: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut command = ebbtide::definition();
    command.build();
    let mut files = BTreeMap::new();
    let mut add = |path: PathBuf, content: String| {
        files.insert(path, content);
    };
    man::pages(workspace, &command, &mut add)?;
    completions::scripts(&mut add)?;
    schemas::schemas(&mut add)?;
    add(PathBuf::from("docs/reference/cli.md"), reference::page(&mut command));
    Ok(files)
}

fn left_over(workspace: &Path, files: &BTreeMap<PathBuf, String>) -> Result<Vec<PathBuf>> {
    let mut left_over = Vec::new();
    for folder in FOLDERS {
        let Ok(found) = fs::read_dir(workspace.join(folder)) else { continue };
        for file in found {
            let path = Path::new(folder).join(file?.file_name());
            if !files.contains_key(&path) {
                left_over.push(path);
            }
        }
    }
    left_over.sort();
    Ok(left_over)
}

/// The commands that people see, with all words of their names, the program itself first.
fn visible(command: &clap::Command) -> Vec<&clap::Command> {
    let mut found = vec![command];
    for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
        found.extend(visible(below));
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn what_is_checked_in_is_current() {
        check(&workspace()).unwrap();
    }

    #[test]
    fn drift_is_told_by_file_and_line() {
        let copy = tempfile::tempdir().unwrap();
        for page in man::PAGES {
            let to = copy.path().join(page.source);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(workspace().join(page.source), to).unwrap();
        }
        for (path, content) in files(copy.path()).unwrap() {
            let path = copy.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let man = copy.path().join("docs/man");
        let page = man.join("ebbtide-status.1");
        let text = fs::read_to_string(&page).unwrap();
        fs::write(&page, text.replacen(".SH NAME\n", ".SH NAMES\n", 1)).unwrap();
        fs::remove_file(man.join("ebbtide-boots.1")).unwrap();
        fs::write(man.join("ebbtide-gone.1"), "").unwrap();
        let error = check(copy.path()).unwrap_err().to_string();
        for part in [
            "docs/man/ebbtide-status.1 differs at line ",
            "it should be \".SH NAME\"",
            "docs/man/ebbtide-boots.1 is missing",
            "docs/man/ebbtide-gone.1 is left over",
            "cargo xtask generate",
        ] {
            assert!(error.contains(part), "no {part:?} in:\n{error}");
        }
        assert_eq!(error.lines().count(), 5, "{error}");
    }
}
