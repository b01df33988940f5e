//! Which entry a path needs: a pure function of the declaration and of what the path is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Addition, Found, Kept, Section, Seen};
use crate::compiled::{Kind, StoreName};
use crate::declaration::{DECISIONS, SourceFile, Surroundings, explain, read};

/// What was asked for besides the paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The store; the declaration's default without one.
    pub store: Option<StoreName>,
    /// The method; `auto` without one.
    pub method: Option<String>,
}

/// What has to be written, and what is there already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Entries to declare.
    pub additions: Vec<Addition>,
    /// Paths that are kept, and by which entry.
    pub kept: Vec<(PathBuf, Kept)>,
}

/// Why a path can't be kept as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What is the matter, in one line.
    pub message: String,
    /// What to do instead.
    pub hint: Option<String>,
}

impl Refusal {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Decides for each path. `sources` are all layers of the declaration.
pub fn plan(
    sources: &[SourceFile],
    surroundings: &Surroundings,
    paths: &[Seen],
    options: &Options,
) -> Result<Plan, Refusal> {
    let mut plan = Plan::default();
    let users = users(sources);
    for seen in paths {
        if let Some(kept) = kept(sources, surroundings, seen, options)? {
            plan.kept.push((seen.path.clone(), kept));
            continue;
        }
        let (kind, owner) = kind(seen)?;
        let addition = addition(surroundings, &users, seen, kind, owner)?;
        // Named twice, or below another one that was named.
        let covers = |other: &Addition| {
            seen.path == other.absolute
                || (other.kind == Kind::Directory && seen.path.starts_with(&other.absolute))
        };
        if plan.additions.iter().any(covers) {
            continue;
        }
        plan.additions
            .retain(|other| kind != Kind::Directory || !other.absolute.starts_with(&seen.path));
        let (store, method) = (options.store.clone(), options.method.clone());
        plan.additions.push(Addition { store, method, ..addition });
    }
    Ok(plan)
}

/// The entry that keeps a path as it is asked for.
fn kept(
    sources: &[SourceFile],
    surroundings: &Surroundings,
    seen: &Seen,
    options: &Options,
) -> Result<Option<Kept>, Refusal> {
    let Some(kept) = explain(sources, surroundings, &seen.path).kept else { return Ok(None) };
    let value = |name: &str| {
        let mut attributes = kept.attributes.iter();
        attributes.find(|it| it.name == name).map(|it| it.value.as_str())
    };
    let other_store =
        options.store.as_ref().filter(|store| value("store").is_some_and(|it| it != store.0));
    let other_method = options
        .method
        .as_ref()
        .filter(|method| *method != "auto" && value("method").is_some_and(|it| it != *method));
    if kept.entry != seen.path {
        // In another store it has an entry of its own.
        return Ok(if other_store.is_some() { None } else { Some(kept) });
    }
    let differs = [
        other_store.map(|_| ("store", value("store"))),
        other_method.map(|_| ("method", value("method"))),
    ];
    if let Some((name, value)) = differs.into_iter().flatten().next() {
        let value = value.unwrap_or_default();
        let path = shown(&seen.path);
        return Err(Refusal::new(format!("{path} is kept already, with {name} \"{value}\""))
            .hint(format!("change it where it is declared: {}", kept.origin)));
    }
    Ok(Some(kept))
}

/// Whether it is to be a directory or a file, and its owner if it is there.
fn kind(seen: &Seen) -> Result<(Kind, Option<u32>), Refusal> {
    let path = shown(&seen.path);
    match &seen.found {
        Found::Keepable(Kind::File, _) if seen.slash => {
            Err(Refusal::new(format!("{path} is a file, and is written as a directory"))
                .hint("leave the slash at its end out"))
        }
        Found::Keepable(kind, owner) => Ok((*kind, Some(*owner))),
        Found::Nothing if seen.slash => Ok((Kind::Directory, None)),
        Found::Nothing => Err(Refusal::new(format!("there is nothing at {path}")).hint(
            "with a slash at its end it is taken as a directory that is still to come; a file is \
             declared by hand, in `files`",
        )),
        Found::Link(target) => {
            let target = seen.path.parent().unwrap_or(Path::new("/")).join(target);
            Err(Refusal::new(format!("{path} is a symbolic link"))
                .hint(format!("keep what it leads to: {}", shown(&target))))
        }
        Found::BelowALink(link) => Err(Refusal::new(format!(
            "{path} is reached through the symbolic link {}",
            shown(link)
        ))
        .hint("name it by where it really is; realpath(1) says that")),
        Found::BelowAFile => Err(Refusal::new(format!("{path} lies below a file"))),
        Found::Special => Err(Refusal::new(format!(
            "{path} is a device, a pipe or a socket: only directories and regular files are kept"
        ))
        .hint("keep the directory that it is in")),
    }
}

fn addition(
    surroundings: &Surroundings,
    users: &BTreeMap<String, Option<PathBuf>>,
    seen: &Seen,
    kind: Kind,
    owner: Option<u32>,
) -> Result<Addition, Refusal> {
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| {
            Refusal::new(format!("{} is not UTF-8, as TOML has to be", shown(&seen.path)))
                .hint("keep a directory above it")
        })
    };
    let (section, path) = match home(surroundings, users, &seen.path, owner) {
        Some((user, relative)) => (Section::User(user), text(&relative)?),
        None => (Section::Keep, text(&seen.path)?),
    };
    Ok(Addition { absolute: seen.path.clone(), section, kind, path, store: None, method: None })
}

/// The user whose home a path lies in, and the path below it: an entry of theirs, if what is there is
/// theirs too. Homes that nobody declared count where people have them.
fn home(
    surroundings: &Surroundings,
    users: &BTreeMap<String, Option<PathBuf>>,
    path: &Path,
    owner: Option<u32>,
) -> Option<(String, PathBuf)> {
    let mut homes: BTreeMap<&str, &Path> = BTreeMap::new();
    for (name, home) in &surroundings.homes {
        if users.contains_key(name) || DECISIONS.iter().any(|top| home.starts_with(top)) {
            homes.insert(name, home);
        }
    }
    for (name, home) in users {
        if let Some(home) = home {
            homes.insert(name, home);
        }
    }
    let within = homes.into_iter().filter_map(|(name, home)| {
        let relative = path.strip_prefix(home).ok()?;
        (!relative.as_os_str().is_empty()).then_some((name, home, relative))
    });
    let (name, _, relative) = within.max_by_key(|(_, home, _)| home.components().count())?;
    let theirs = match (owner, surroundings.uids.get(name)) {
        (Some(owner), Some(uid)) => owner == *uid,
        (Some(_), None) => false,
        (None, _) => true,
    };
    theirs.then(|| (name.to_owned(), relative.to_owned()))
}

/// The users that are declared, with the homes that they are given there.
fn users(sources: &[SourceFile]) -> BTreeMap<String, Option<PathBuf>> {
    let mut problems = Vec::new();
    let mut users: BTreeMap<String, Option<PathBuf>> = BTreeMap::new();
    for (index, source) in sources.iter().enumerate() {
        let file = read::read(index, source, &mut problems);
        for (name, user) in file.map(|file| file.users).unwrap_or_default() {
            let home = user.home.map(|home| home.value);
            let known = users.entry(name).or_default();
            *known = home.or(known.take());
        }
    }
    users
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}
