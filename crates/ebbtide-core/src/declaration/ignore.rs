//! What tools only count when they tell what the next reset takes away. It is taken away all the same: no
//! boot knows of it, and it is not compiled.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::file::{At, File, User};
use super::keep::{Kept, Refusal};
use super::merge::merge;
use super::path;
use super::preset::Library;
use super::problem::Lines;
use super::users::{Resident, residents};
use super::{SourceFile, Surroundings, explain, read};
use crate::changes::is_noise;
use crate::pattern::{covers, is_special, literal};

pub use super::edit::{EditError, List, RulePosition, add_rules, remove_rules};

/// A pattern of what is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Absolute.
    pub pattern: PathBuf,
    /// Where it is declared: file and line.
    pub origin: String,
}

/// What is ignored, by all layers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// In the order of layers.
    pub rules: Vec<Rule>,
    /// Names of files that could not be understood, so that nothing is known of theirs.
    pub unread: Vec<String>,
}

impl Rules {
    /// Reads the rules of all layers. Mistakes are passed over: what is told depends on nothing else there.
    pub fn read(sources: &[SourceFile], surroundings: &Surroundings) -> Self {
        let mut problems = Vec::new();
        let files = read_all(sources, &mut problems);
        let is_unread = |(file, source): (&Option<File>, &SourceFile)| {
            file.is_none().then(|| source.name.clone())
        };
        let unread = files.iter().zip(sources).filter_map(is_unread).collect();
        // No preset ignores anything.
        let library = Library::default();
        let merged = merge(files.into_iter().flatten(), &library, surroundings, &mut problems);
        let rules = merged
            .ignored
            .into_iter()
            .map(|rule| Rule { origin: origin(sources, &rule), pattern: rule.value });
        Self { rules: rules.collect(), unread }
    }

    /// The first rule that a path is ignored by.
    pub fn covering(&self, path: &Path) -> Option<&Rule> {
        self.rules.iter().find(|rule| covers(&rule.pattern, path))
    }

    /// A rule by which all is ignored that a pattern describes.
    fn containing(&self, pattern: &Path) -> Option<&Rule> {
        let fixed = fixed(pattern);
        let whole = |rule: &&Rule| covers(&rule.pattern, &fixed);
        self.rules
            .iter()
            .find(|rule| rule.pattern == pattern)
            .or_else(|| self.rules.iter().find(whole))
    }
}

/// A pattern that is to be declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    /// The whole pattern.
    pub absolute: PathBuf,
    /// The list that it goes into.
    pub list: List,
    /// The pattern as it is written there.
    pub pattern: String,
}

/// What has to be written, and what needs no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Patterns to declare.
    pub additions: Vec<Addition>,
    /// Patterns that are ignored already, and by which rule; without one, it is noise that is built in.
    pub ignored: Vec<(PathBuf, Option<Rule>)>,
    /// Patterns of what is kept, and by which entry: no reset takes it.
    pub kept: Vec<(PathBuf, Kept)>,
}

/// What has to be taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undo {
    /// By file, as its index among the sources.
    pub files: BTreeMap<usize, Vec<RulePosition>>,
    /// The rules.
    pub rules: Vec<Rule>,
    /// Patterns that are not ignored.
    pub unknown: Vec<PathBuf>,
}

/// Makes a pattern absolute and checks it, as `[ignore]` would.
///
/// # Errors
///
/// What is wrong with its spelling, with the right one where there is one.
pub fn pattern(text: &str) -> Result<PathBuf, Refusal> {
    path::pattern(text)
        .map_err(|fault| Refusal { message: fault.message.to_owned(), hint: fault.hint })
}

/// Decides for each absolute pattern. `sources` are all layers of the declaration.
///
/// # Errors
///
/// A pattern that TOML can't have is refused.
pub fn plan(
    sources: &[SourceFile],
    surroundings: &Surroundings,
    patterns: &[PathBuf],
) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    let mut rules = Rules::read(sources, surroundings);
    let residents = all_residents(&read_all(sources, &mut Vec::new()), surroundings);
    for pattern in patterns {
        if let Some(rule) = rules.containing(pattern) {
            // One that is only about to be declared has no place yet.
            if !rule.origin.is_empty() {
                plan.ignored.push((pattern.clone(), Some(rule.clone())));
            }
            continue;
        }
        let fixed = fixed(pattern);
        if is_noise(&fixed) {
            plan.ignored.push((pattern.clone(), None));
            continue;
        }
        let outer = fixed.parent().and_then(|_| explain(sources, surroundings, &fixed).kept);
        if let Some(kept) = outer {
            plan.kept.push((pattern.clone(), kept));
            continue;
        }
        let (list, relative) = place(&residents, pattern);
        let text = relative.to_str().ok_or_else(|| Refusal {
            message: format!("{} is not UTF-8, as TOML has to be", shown(pattern)),
            hint: Some("ignore a directory above it, or write `?` for each such byte".to_owned()),
        })?;
        rules.rules.push(Rule { pattern: pattern.clone(), origin: String::new() });
        let (absolute, pattern) = (pattern.clone(), text.to_owned());
        plan.additions.push(Addition { absolute, list, pattern });
    }
    Ok(plan)
}

/// Finds the rules of these absolute patterns.
///
/// # Errors
///
/// One that is ignored by another rule is refused, and so is one that a package declares.
pub fn undo(
    sources: &[SourceFile],
    surroundings: &Surroundings,
    patterns: &[PathBuf],
) -> Result<Undo, Refusal> {
    let files = read_all(sources, &mut Vec::new());
    let residents = all_residents(&files, surroundings);
    let rules = Rules::read(sources, surroundings);
    let mut undo = Undo::default();
    for pattern in patterns {
        let mut found = false;
        for (index, file) in files.iter().enumerate() {
            let Some(file) = file else { continue };
            for (position, rule) in positions(file, &residents) {
                if rule.value != *pattern {
                    continue;
                }
                found = true;
                let rule = Rule { origin: origin(sources, &rule), pattern: rule.value };
                if sources.get(index).is_some_and(|source| source.name.starts_with("/usr/")) {
                    return Err(Refusal {
                        message: format!(
                            "{} is ignored by a package: {}",
                            shown(pattern),
                            rule.origin
                        ),
                        hint: Some("what a package declares goes with the package".to_owned()),
                    });
                }
                let positions = undo.files.entry(index).or_default();
                if !positions.contains(&position) {
                    positions.push(position);
                    undo.rules.push(rule);
                }
            }
        }
        if found {
            continue;
        }
        if let Some(other) = rules.containing(pattern) {
            return Err(Refusal {
                message: format!(
                    "{} is ignored by {}: {}",
                    shown(pattern),
                    shown(&other.pattern),
                    other.origin
                ),
                hint: Some("name that one".to_owned()),
            });
        }
        undo.unknown.push(pattern.clone());
    }
    Ok(undo)
}

fn read_all(sources: &[SourceFile], problems: &mut Vec<super::Problem>) -> Vec<Option<File>> {
    sources.iter().enumerate().map(|(index, source)| read::read(index, source, problems)).collect()
}

fn all_residents(
    files: &[Option<File>],
    surroundings: &Surroundings,
) -> BTreeMap<String, Resident> {
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for (name, later) in files.iter().flatten().flat_map(|file| file.users.clone()) {
        match users.get_mut(&name) {
            Some(earlier) => earlier.extend(later),
            None => drop(users.insert(name, later)),
        }
    }
    residents(users, &surroundings.homes, &mut Vec::new())
}

/// The list that a pattern goes into, and how it is written there: that of a user who is declared, if it
/// lies in their home.
fn place(residents: &BTreeMap<String, Resident>, pattern: &Path) -> (List, PathBuf) {
    let within = residents.iter().find_map(|(name, resident)| {
        let home = literal(resident.home.to_str()?);
        let relative = pattern.strip_prefix(home).ok()?;
        let is_whole = relative.iter().all(|name| name.as_bytes().iter().all(|it| *it == b'*'));
        (!is_whole).then(|| (List::User(name.clone()), relative.to_owned()))
    });
    if let Some(within) = within {
        return within;
    }
    // A name that is meant wherever it is, as people write it.
    let name = pattern.strip_prefix("/**").ok().filter(|rest| rest.iter().count() == 1);
    (List::Machine, name.unwrap_or(pattern).to_owned())
}

/// All patterns of a file, absolute, with where they stand.
fn positions(
    file: &File,
    residents: &BTreeMap<String, Resident>,
) -> Vec<(RulePosition, At<PathBuf>)> {
    let at = |list: &List, index| RulePosition { list: list.clone(), index };
    let machine = file.ignore.paths.iter().cloned().enumerate();
    let mut all: Vec<_> = machine.map(|(index, rule)| (at(&List::Machine, index), rule)).collect();
    for (name, user) in &file.users {
        let Some(resident) = residents.get(name) else { continue };
        let (list, home) = (List::User(name.clone()), resident.home.clone());
        let own = Resident { user: user.clone(), home };
        all.extend(own.ignored().enumerate().map(|(index, rule)| (at(&list, index), rule)));
    }
    all
}

/// The part of an absolute pattern before the first name that is none.
fn fixed(pattern: &Path) -> PathBuf {
    pattern.iter().take_while(|name| !is_special(name.as_bytes())).collect()
}

fn origin(sources: &[SourceFile], rule: &At<PathBuf>) -> String {
    let Some(source) = sources.get(rule.place.file) else { return String::new() };
    format!("{}:{}", source.name, Lines::of(&source.text).line(rule.place.span.start))
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests;
