//! What can be done now for a declaration, and what has to wait: a pure function of what was seen.

use std::fmt;
use std::path::{Path, PathBuf};

use ebbtide_sys::process::User;
use serde::Serialize;

use crate::attach::{self, Attributes, Node, Policy, Step};
use crate::compiled::{Entry, Kind, Method, StoreName};
use crate::failure::Problem;
use crate::harvest;

/// When a change comes into force.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// At once.
    Now,
    /// When the user whose home it lies in logs in the next time.
    NextLogin,
    /// At the next boot.
    NextBoot,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Now => "now",
            Self::NextLogin => "next login",
            Self::NextBoot => "next boot",
        })
    }
}

/// What is to be done for a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Mount the store's directory or file there, with what lies there as its first content.
    Attach,
    /// Put a symbolic link into the store there.
    Link,
    /// Take the file into the store, and back into it from now on.
    Sync,
    /// Give the mount the declared options.
    Options,
    /// Give what the store has the declared owner and mode.
    Attributes,
    /// Take the mount away; its data stays in the store.
    Detach,
}

/// One path that is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Change {
    /// The path.
    pub path: PathBuf,
    /// What is to be done.
    pub work: Work,
    /// When that can be.
    pub when: When,
    /// Why not now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The processes that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<InUse>,
    /// Its index among the entries; a path that is not kept any more has none.
    #[serde(skip)]
    pub entry: Option<usize>,
}

/// A process that uses a path: it has something there open for writing or mapped so, or is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct InUse {
    /// Its number.
    pub pid: u32,
    /// The name that it gave to itself, escaped.
    pub command: String,
    /// What it uses; the first, if there is more.
    #[serde(serialize_with = "escaped")]
    #[cfg_attr(feature = "declaration", schemars(with = "String"))]
    pub path: PathBuf,
}

fn escaped<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&shown(path))
}

impl From<&User> for InUse {
    fn from(user: &User) -> Self {
        let command = ebbtide_sys::escape(user.name.as_encoded_bytes());
        Self { pid: user.pid, command, path: user.uses.clone() }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) uses {}", self.command, self.pid, shown(&self.path))
    }
}

/// All changes, sorted by path, and what can't be done at all.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What is to be done.
    pub changes: Vec<Change>,
    /// Why entries can't be put in place, by index.
    pub problems: Vec<(usize, Problem)>,
    /// Entries that have no data anywhere yet, by index.
    pub waiting: Vec<usize>,
}

/// What is mounted at a path itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mounted {
    /// Nothing.
    Nothing,
    /// The path of this store.
    From(StoreName),
    /// Something else.
    Other,
}

/// What was seen of one entry in the running system.
#[derive(Debug, Clone)]
pub struct Seen {
    /// In store and root.
    pub attach: attach::Observation,
    /// What is mounted at its path.
    pub mounted: Mounted,
    /// Mount points below it.
    pub below: Vec<PathBuf>,
    /// Who writes below it, or is there.
    pub users: Vec<User>,
    /// Whether the running root has data there: a file, or a directory that is not empty.
    pub root_has_data: bool,
    /// Whether store and root have the same file.
    pub same: bool,
    /// For `sync`: whether the manifest of the running root has it.
    pub listed: bool,
    /// For `sync`: why the root's file can't be synced now.
    pub unfit: Option<String>,
}

/// A mount of a path that is not declared any more.
#[derive(Debug, Clone)]
pub struct Leftover {
    /// Where it is mounted.
    pub path: PathBuf,
    /// Mount points below it that stay.
    pub below: Vec<PathBuf>,
    /// Who uses it.
    pub users: Vec<User>,
}

/// Plans bringing the running system to a declaration. `entries` and `seen` run side by side.
pub fn plan(entries: &[Entry], seen: &[Seen], leftovers: &[Leftover]) -> Plan {
    let mut plan = Plan::default();
    for (index, (entry, seen)) in entries.iter().zip(seen).enumerate() {
        let one = std::slice::from_ref(entry);
        let attach = attach::plan(one, std::slice::from_ref(&seen.attach), Policy::Full);
        if !attach.waiting.is_empty() {
            plan.waiting.push(index);
        } else if let Some((work, when, why)) = decide(entry, seen, &attach) {
            let path = entry.path.clone();
            // Only a bind mount hides what a process goes on with.
            let waits = when != When::Now && entry.method == Method::Bind;
            let users = seen.users.iter().filter(|_| waits).map(InUse::from).collect();
            plan.changes.push(Change { path, work, when, why, users, entry: Some(index) });
        }
        if !seen.listed {
            plan.problems.extend(attach.problems.into_iter().map(|(_, it)| (index, it)));
        }
    }
    wait_for_outer(entries, &mut plan.changes);
    wait_for_leftovers(leftovers, &mut plan.changes);
    wait_for_set(&mut plan.changes);
    plan.changes.extend(leftovers.iter().map(detach));
    plan.changes.sort_by(|a, b| a.path.cmp(&b.path));
    plan
}

type Decision = (Work, When, Option<String>);

fn now(work: Work) -> Decision {
    (work, When::Now, None)
}

fn later(work: Work, why: impl Into<String>) -> Decision {
    (work, When::NextBoot, Some(why.into()))
}

fn decide(entry: &Entry, seen: &Seen, attach: &attach::Plan) -> Option<Decision> {
    match entry.method {
        // Systemd reads the machine id once, when it starts.
        Method::Copy => None,
        Method::Sync if seen.listed => None,
        Method::Sync => Some(sync(entry, seen, seen.attach.source.as_ref().ok()?)),
        _ if seen.attach.in_place => attach
            .steps
            .iter()
            .any(|(_, step)| matches!(step, Step::SetAttributes(_)))
            .then(|| now(Work::Attributes)),
        // It was refused.
        _ if attach.steps.is_empty() => None,
        Method::Symlink if seen.attach.target == Node::Absent => Some(now(Work::Link)),
        Method::Symlink => Some(later(Work::Link, "something else lies there")),
        Method::Bind => Some(bind(entry, seen)),
    }
}

fn sync(entry: &Entry, seen: &Seen, source: &Node) -> Decision {
    match (source, &seen.attach.target) {
        _ if seen.unfit.is_some() => later(Work::Sync, seen.unfit.clone().unwrap_or_default()),
        (Node::Absent, Node::File(_)) if seen.attach.deleted => {
            later(Work::Sync, "it was deleted in an earlier boot, and the base has it")
        }
        (Node::File(_), Node::File(_)) if !seen.same => {
            later(Work::Sync, format!("store {} has another one of its own", entry.store))
        }
        (Node::Absent | Node::File(_), Node::File(_)) | (_, Node::Absent) => now(Work::Sync),
        _ => later(Work::Sync, "something else lies there"),
    }
}

fn bind(entry: &Entry, seen: &Seen) -> Decision {
    match &seen.mounted {
        Mounted::Nothing => {}
        Mounted::From(store) if *store == entry.store => return now(Work::Options),
        Mounted::From(store) => {
            return later(Work::Attach, format!("it is mounted from store {store}"));
        }
        Mounted::Other => return later(Work::Attach, "something else is mounted there"),
    }
    if let Some(below) = seen.below.first() {
        return later(Work::Attach, format!("{} is mounted below it", shown(below)));
    }
    let has_both = seen.root_has_data && seen.attach.source != Ok(Node::Absent);
    if has_both && !(entry.kind == Kind::File && seen.same) {
        let why =
            format!("the running root and store {} have data of their own there", entry.store);
        return later(Work::Attach, why);
    }
    let Some(first) = seen.users.first() else { return now(Work::Attach) };
    let owner = seen.attach.owner.as_ref().ok().and_then(|(uid, _)| *uid);
    let theirs = entry.home.is_some() && seen.users.iter().all(|user| Some(user.uid) == owner);
    let when = if theirs { When::NextLogin } else { When::NextBoot };
    (Work::Attach, when, Some(in_use(first, seen.users.len())))
}

pub(super) fn in_use(first: &User, count: usize) -> String {
    let name = ebbtide_sys::escape(first.name.as_encoded_bytes());
    match count {
        1 => format!("{name} ({}) uses it", first.pid),
        _ => format!("{name} ({}) and {} more use it", first.pid, count - 1),
    }
}

fn shown(path: &Path) -> String {
    ebbtide_sys::escape(path.as_os_str().as_encoded_bytes())
}

/// What lies below a mount that is still to come is put in place together with it.
fn wait_for_outer(entries: &[Entry], changes: &mut [Change]) {
    let bound = |change: &Change| change.work == Work::Attach;
    loop {
        let mut worse = None;
        for (index, inner) in changes.iter().enumerate().filter(|(_, it)| bound(it)) {
            for (other, outer) in changes.iter().enumerate().filter(|(_, it)| bound(it)) {
                if index == other || !inner.path.starts_with(&outer.path) {
                    continue;
                }
                // The later of the two decides, for both.
                if inner.when > outer.when {
                    worse = Some((other, inner.when.clone(), inner.path.clone()));
                } else if outer.when > inner.when {
                    worse = Some((index, outer.when.clone(), outer.path.clone()));
                }
            }
        }
        let Some((index, when, because)) = worse else { break };
        if let Some(change) = changes.get_mut(index) {
            change.when = when;
            change.why = Some(format!("it comes together with {}", shown(&because)));
        }
    }
    // Anything else below such a mount would lie under it.
    let late: Vec<(PathBuf, When)> = changes
        .iter()
        .filter(|it| bound(it))
        .map(|it| (it.path.clone(), it.when.clone()))
        .collect();
    for change in changes.iter_mut().filter(|it| !bound(it)) {
        let outer = late.iter().find(|(path, _)| {
            change.path.starts_with(path) && change.path != *path && change.entry.is_some()
        });
        if let Some((outer, _)) = outer
            && change.entry.and_then(|it| entries.get(it)).is_some()
        {
            change.when = When::NextBoot;
            change.why = Some(format!("it comes after {}", shown(outer)));
        }
    }
}

/// Below a mount that is going to be taken away, nothing is put in place.
fn wait_for_leftovers(leftovers: &[Leftover], changes: &mut [Change]) {
    for change in changes.iter_mut() {
        let inside = |leftover: &&Leftover| change.path.starts_with(&leftover.path);
        if let Some(leftover) = leftovers.iter().find(inside) {
            change.when = When::NextBoot;
            let over = shown(&leftover.path);
            change.why = Some(format!("it lies in {over}, which is not kept any more"));
        }
    }
}

/// Files that belong together wait for each other.
fn wait_for_set(changes: &mut [Change]) {
    let late: Vec<(String, PathBuf)> = changes
        .iter()
        .filter(|change| change.work == Work::Sync && change.when != When::Now)
        .filter_map(|change| Some((harvest::set_of(&change.path)?, change.path.clone())))
        .collect();
    for change in changes.iter_mut().filter(|change| change.work == Work::Sync) {
        let set = harvest::set_of(&change.path);
        let held = late.iter().find(|(other, _)| set.as_ref() == Some(other));
        if let (When::Now, Some((_, path))) = (&change.when, held) {
            change.when = When::NextBoot;
            change.why = Some(format!("it comes together with {}", shown(path)));
        }
    }
}

fn detach(leftover: &Leftover) -> Change {
    let why = match (leftover.users.first(), leftover.below.first()) {
        (Some(first), _) => Some(in_use(first, leftover.users.len())),
        (None, Some(below)) => Some(format!("{} is mounted below it", shown(below))),
        (None, None) => None,
    };
    Change {
        path: leftover.path.clone(),
        work: Work::Detach,
        when: if why.is_some() { When::NextBoot } else { When::Now },
        why,
        users: leftover.users.iter().map(InUse::from).collect(),
        entry: None,
    }
}

impl Plan {
    /// The heads of what is attached now, each with the indices of the entries that are mounted
    /// together with it, itself first.
    pub(super) fn groups(&self) -> Vec<Vec<usize>> {
        let now = |change: &&Change| change.work == Work::Attach && change.when == When::Now;
        let mut groups: Vec<(PathBuf, Vec<usize>)> = Vec::new();
        for change in self.changes.iter().filter(now) {
            let Some(index) = change.entry else { continue };
            match groups.iter_mut().find(|(head, _)| change.path.starts_with(head)) {
                Some((_, group)) => group.push(index),
                None => groups.push((change.path.clone(), vec![index])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// The indices of the entries for which this is to be done now.
    pub(super) fn now(&self, work: &Work) -> Vec<usize> {
        let wanted = |change: &&Change| change.work == *work && change.when == When::Now;
        self.changes.iter().filter(wanted).filter_map(|change| change.entry).collect()
    }

    /// Puts a change off until the next boot, with all that is attached together with it.
    pub(super) fn put_off(&mut self, path: &Path, why: &str) {
        for change in &mut self.changes {
            if change.path.starts_with(path) && change.when == When::Now {
                change.when = When::NextBoot;
                let own = change.path == path;
                change.why = Some(if own {
                    why.to_owned()
                } else {
                    format!("it comes together with {}", shown(path))
                });
            }
        }
    }
}

impl Change {
    /// The change as a line for a person.
    pub fn describe(&self) -> String {
        let path = shown(&self.path);
        let what = match self.work {
            Work::Attach => format!("+ {path}"),
            Work::Link => format!("+ {path}, as a link into its store"),
            Work::Sync => format!("+ {path}, taken back when the machine goes down"),
            Work::Options => format!("~ {path}: its mount options"),
            Work::Attributes => format!("~ {path}: owner and mode in its store"),
            Work::Detach => format!("- {path}; its data stays in the store"),
        };
        match &self.why {
            Some(why) => format!("{what} ({}: {why})", self.when),
            None => format!("{what} ({})", self.when),
        }
    }
}

/// The owner and mode that an entry's data is to have, where that is all there is to do.
pub(super) fn attributes(attach: &attach::Plan) -> Option<Attributes> {
    attach.steps.iter().find_map(|(_, step)| match step {
        Step::SetAttributes(attributes) => Some(*attributes),
        _ => None,
    })
}
