//! What users keep: entries below their homes, and nowhere else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{At, Entry, User};
use super::path::reserved;
use super::problem::{Mark, Problem, Severity, quote};
use crate::compiled::Principal;
use crate::pattern;

/// A user with a home that is known.
#[derive(Debug)]
pub(super) struct Resident {
    pub user: User,
    pub home: PathBuf,
}

impl Resident {
    /// What is only counted of what lies in the home, as absolute patterns.
    pub(super) fn ignored(&self) -> impl Iterator<Item = At<PathBuf>> {
        // A name in the home is no pattern, whatever is in it.
        let home = PathBuf::from(pattern::literal(&self.home.to_string_lossy()));
        self.user
            .ignore
            .iter()
            .map(move |rule| At { value: home.join(&rule.value), place: rule.place.clone() })
    }
}

/// Finds the homes: as declared, else as in the accounts of the system, else the usual place.
pub(super) fn residents(
    users: BTreeMap<String, User>,
    homes: &BTreeMap<String, PathBuf>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Resident> {
    let mut residents: BTreeMap<String, Resident> = BTreeMap::new();
    for (name, user) in users {
        let declared = user.home.as_ref();
        let mark = declared.map_or(&user.place, |home| &home.place).mark("");
        let home = match (declared, homes.get(&name)) {
            (Some(home), _) => home.value.clone(),
            (None, Some(home)) => home.clone(),
            (None, None) => {
                let home = usual(&name);
                problems.push(Problem {
                    severity: Severity::Note,
                    message: format!(
                        "there is no user {} here: the home is taken to be {}",
                        quote(&name),
                        quote(&home.to_string_lossy())
                    ),
                    mark: mark.clone(),
                    other: None,
                    hint: Some("if it is elsewhere, add `home = \"/…\"`".to_owned()),
                });
                home
            }
        };
        if let Some(why) = unfit(&home) {
            let shown = quote(&home.to_string_lossy());
            let message = format!("{shown} cannot be the home of {}", quote(&name));
            problems.push(error(message, mark, None, why));
            continue;
        }
        let inside = |one: &Path, other: &Path| one.starts_with(other) || other.starts_with(one);
        if let Some((other, found)) = residents.iter().find(|(_, it)| inside(&it.home, &home)) {
            let message =
                format!("the homes of {} and {} are not apart", quote(other), quote(&name));
            let place = found.user.place.mark("the other one");
            problems.push(error(message, mark, Some(place), "a home belongs to one user"));
            continue;
        }
        residents.insert(name, Resident { user, home });
    }
    residents
}

fn usual(name: &str) -> PathBuf {
    if name == "root" { PathBuf::from("/root") } else { Path::new("/home").join(name) }
}

/// Why a path is no home, if it is none.
fn unfit(home: &Path) -> Option<&'static str> {
    let depth = home.components().count();
    let normal = super::path::absolute(home.to_str().unwrap_or_default()).is_ok();
    if !normal {
        return Some("a home is an absolute path in its normal spelling");
    }
    let trees = ["/etc", "/var/lib", "/var/log", "/var/cache", "/var/spool", "/var/mail", "/tmp"];
    let top = trees.iter().any(|tree| home == Path::new(tree)) || home.starts_with("/etc");
    if reserved(home).is_some() {
        return Some("nothing there can be kept");
    }
    // The root itself counts as one component.
    ((depth < 3 && home != Path::new("/root")) || top)
        .then_some("it is a tree of the system; a home is a directory of its own below one")
}

/// An entry of a user, below their home.
pub(super) fn at_home(name: &str, home: &Path, entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    entry.path.value = home.join(&entry.path.value);
    entry.user = Some(Principal::Name(name.to_owned()));
    entry.group = None;
    entry.home = Some(home.to_owned());
    entry
}

fn error(message: String, mark: Mark, other: Option<Mark>, hint: &str) -> Problem {
    Problem { severity: Severity::Error, message, mark, other, hint: Some(hint.to_owned()) }
}
