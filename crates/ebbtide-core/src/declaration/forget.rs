//! Keeping a path no longer: which entries have to go from which files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::file::{File, User};
use super::keep::{Refusal, Section};
use super::users::{Resident, residents};
use super::{SourceFile, Surroundings, explain, read};
use crate::compiled::Kind;

pub use super::edit::{EditError, Position, remove};

/// What has to be taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By file, as its index among the sources.
    pub files: BTreeMap<usize, Vec<Position>>,
    /// Paths that are declared, each with where: file and line.
    pub declared: Vec<(PathBuf, String)>,
    /// Paths that are not kept.
    pub unknown: Vec<PathBuf>,
}

/// Decides for each path. `sources` are all layers of the declaration.
///
/// # Errors
///
/// A path that is kept and can't be forgotten by itself is refused, with what to do instead.
pub fn plan(
    sources: &[SourceFile],
    surroundings: &Surroundings,
    paths: &[PathBuf],
) -> Result<Plan, Refusal> {
    let mut problems = Vec::new();
    let files: Vec<Option<File>> = (0..)
        .zip(sources)
        .map(|(index, source)| read::read(index, source, &mut problems))
        .collect();
    let mut users: BTreeMap<String, User> = BTreeMap::new();
    for (name, later) in files.iter().flatten().flat_map(|file| file.users.clone()) {
        match users.get_mut(&name) {
            Some(earlier) => earlier.extend(later),
            None => drop(users.insert(name, later)),
        }
    }
    let residents = residents(users, &surroundings.homes, &mut problems);
    let mut plan = Plan::default();
    for path in paths {
        // The state of a service with `DynamicUser=` lies elsewhere than where it may be declared.
        let path = surroundings.private.get(path).unwrap_or(path);
        let links = surroundings.private.iter().filter(|(_, target)| *target == path);
        let names: Vec<&Path> =
            links.map(|(link, _)| link.as_path()).chain([path.as_path()]).collect();
        let mut found = false;
        for (index, file) in files.iter().enumerate() {
            let Some(file) = file else { continue };
            for position in positions(file, &residents, &names) {
                found = true;
                plan.files.entry(index).or_default().push(position);
            }
        }
        let kept = explain(sources, surroundings, path).kept;
        match kept {
            None if found => {}
            None => plan.unknown.push(path.clone()),
            Some(kept) if kept.entry != *path && !found => {
                return Err(Refusal {
                    message: format!(
                        "{} is kept within {}: {}",
                        shown(path),
                        shown(&kept.entry),
                        kept.origin
                    ),
                    hint: Some(format!(
                        "keep what should stay of {} by itself, and forget that",
                        shown(&kept.entry)
                    )),
                });
            }
            Some(kept) if !found => return Err(fixed(path, &kept.origin)),
            Some(kept) => plan.declared.push((path.clone(), kept.origin)),
        }
    }
    for index in plan.files.keys() {
        if let Some(source) = sources.get(*index).filter(|it| it.name.starts_with("/usr/")) {
            return Err(Refusal {
                message: format!("{} belongs to a package, and keeps it", source.name),
                hint: Some("what a package declares goes with the package".to_owned()),
            });
        }
    }
    Ok(plan)
}

/// A path that no list of a file has by itself.
fn fixed(path: &Path, origin: &str) -> Refusal {
    let path = shown(path);
    if origin == "built in" {
        return Refusal { message: format!("{path} is always kept"), hint: None };
    }
    Refusal {
        message: format!("{path} comes with a preset: {origin}"),
        hint: Some(
            "take the preset out of `presets`, and keep the others of its paths by themselves"
                .to_owned(),
        ),
    }
}

/// Where in a file an entry for one of these paths stands.
fn positions(
    file: &File,
    residents: &BTreeMap<String, Resident>,
    paths: &[&Path],
) -> Vec<Position> {
    let keep = [(Kind::Directory, &file.keep.directories), (Kind::File, &file.keep.files)];
    let own = keep.into_iter().map(|(kind, list)| (Section::Keep, Path::new("/"), kind, list));
    let of_users = file.users.iter().flat_map(|(name, user)| {
        let lists = [(Kind::Directory, &user.directories), (Kind::File, &user.files)];
        let home = residents.get(name).map(|resident| resident.home.as_path());
        home.into_iter().flat_map(move |home| {
            lists.map(|(kind, list)| (Section::User(name.clone()), home, kind, list))
        })
    });
    let mut found = Vec::new();
    for (section, above, kind, list) in own.chain(of_users) {
        for (index, entry) in list.iter().enumerate() {
            if paths.iter().any(|path| above.join(&entry.path.value) == **path) {
                found.push(Position { section: section.clone(), kind, index });
            }
        }
    }
    found
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}
