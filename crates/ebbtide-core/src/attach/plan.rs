//! What attaching will do: a pure function of the declaration and what was observed.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::compiled::{Entry, Kind, Method, MountOption, StoreName};
use crate::failure::{Level, Problem};
use crate::harvest::{Content, Witness};
use crate::record::BootNumber;

/// Owner and permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Permission bits, `0o0000` to `0o7777`.
    pub mode: u32,
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {:04o}", self.uid, self.gid, self.mode)
    }
}

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Nothing.
    Absent,
    /// A directory.
    Directory(Attributes),
    /// A regular file.
    File(Attributes),
    /// A symbolic link to this.
    Link(PathBuf),
    /// Something that can't be kept, or a way there that leads through a link or a file.
    Unusable(String),
}

impl Node {
    fn attributes(&self) -> Option<Attributes> {
        match self {
            Self::Directory(attributes) | Self::File(attributes) => Some(*attributes),
            _ => None,
        }
    }

    fn is(&self, kind: Kind) -> bool {
        matches!((self, kind), (Self::Directory(_), Kind::Directory) | (Self::File(_), Kind::File))
    }
}

/// A directory above an entry that is not there yet, with what it should be.
pub type MissingParent = (PathBuf, Attributes);

/// What was seen of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The path in the store; `Err` if the store is not there, or the entry could not be looked at.
    pub source: Result<Node, String>,
    /// The path in the root, whatever may be mounted on it.
    pub target: Node,
    /// Whether what is planned for the entry is there already: the right mount, link or content.
    pub in_place: bool,
    /// For an entry whose store has nothing yet: where its first content can come from.
    pub seed: Option<Seed>,
    /// Whether the store had its first content once, and has nothing now.
    pub deleted: bool,
    /// Owner and group of the declaration, resolved in the target: `Err` names what is unknown.
    pub owner: Result<(Option<u32>, Option<u32>), String>,
    /// What lies in the place of an entry that is synced, if it was read, and how the file looked just
    /// before.
    pub content: Option<(Witness, Content)>,
    /// Parents missing in the store, outermost first.
    pub missing_in_store: Vec<MissingParent>,
    /// Parents missing in the root, outermost first.
    pub missing_in_root: Vec<MissingParent>,
}

impl Observation {
    /// Of an entry that could not be looked at. What is known of it is why.
    pub(super) fn unseen(why: String) -> Self {
        Self {
            source: Err(why),
            target: Node::Absent,
            in_place: false,
            seed: None,
            deleted: false,
            owner: Ok((None, None)),
            content: None,
            missing_in_store: Vec::new(),
            missing_in_root: Vec::new(),
        }
    }
}

/// First content of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Where it lies.
    pub source: SeedSource,
    /// What lies there.
    pub node: Node,
    /// How many bytes have to be copied; 0 where content can be shared, or was not measured.
    /// Counting stops beyond the limit of a boot.
    pub size: u64,
}

/// A tree that first content can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SeedSource {
    /// The past root of this boot.
    OldRoot(BootNumber),
    /// Another store, which kept it until now.
    Store(StoreName),
    /// The root itself: what the base brought along.
    Root,
    /// The root that a system runs on.
    Running,
}

impl fmt::Display for SeedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OldRoot(number) => write!(f, "past root {number}"),
            Self::Store(name) => write!(f, "store {name}"),
            Self::Root => f.write_str("the base"),
            Self::Running => f.write_str("the running root"),
        }
    }
}

/// How much may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everything that the declaration asks for.
    Full,
    /// Only mounts on what is there: `ebbtide=off`, and roots that were not reset.
    AsItWas,
    /// The same where no last root is left, because roots are in RAM: what is required is put in place
    /// on a new one, and nothing is changed in a store.
    RootOnly,
}

/// Which tree a step works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tree {
    /// The entry's store.
    Store,
    /// The root.
    Root,
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Store => "the store",
            Self::Root => "the root",
        })
    }
}

/// One step of attaching an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make a missing parent directory.
    MakeParent(Tree, PathBuf, Attributes),
    /// Make an empty directory or file.
    Make(Tree, Kind, Attributes),
    /// Copy first content into the store.
    Import(SeedSource),
    /// Change owner and mode of what the store keeps.
    SetAttributes(Attributes),
    /// Mount the store's path on the root's, with these options.
    Bind(Vec<MountOption>),
    /// Put a symbolic link into the store in place.
    Link,
    /// Copy the store's content into the root.
    Copy,
    /// Copy the store's file into the root, with all its metadata.
    CopyIn,
    /// Remove the base's file from the root, because it was deleted on an earlier one.
    Unlink,
    /// Make a new machine id in the store.
    NewMachineId,
}

/// The steps for all entries, in order, and what can't be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Index of the entry, and what to do for it.
    pub steps: Vec<(usize, Step)>,
    /// Entries that can't be attached, and things worth knowing; by index.
    pub problems: Vec<(usize, Problem)>,
    /// Entries with no data anywhere yet; by index.
    pub waiting: Vec<usize>,
    /// Entries whose first content is too much to copy now; by index.
    pub postponed: Vec<usize>,
}

/// Plans attaching. `entries` and `observed` run side by side; entries are sorted by path, so that
/// an outer mount is made before what lies below it.
pub fn plan(entries: &[Entry], observed: &[Observation], policy: Policy) -> Plan {
    let mut plan = Plan::default();
    for (index, (entry, seen)) in entries.iter().zip(observed).enumerate() {
        match plan_entry(entry, seen, policy) {
            Verdict::Do(steps, notice) => {
                plan.steps.extend(steps.into_iter().map(|step| (index, step)));
                plan.problems.extend(notice.map(|problem| (index, problem)));
            }
            Verdict::Refuse(problem) => plan.problems.push((index, problem)),
            Verdict::Wait(notice) => {
                plan.waiting.push(index);
                plan.problems.extend(notice.map(|problem| (index, problem)));
            }
        }
    }
    plan
}

/// What is to be done for one entry.
enum Verdict {
    /// These steps, and something worth knowing.
    Do(Vec<Step>, Option<Problem>),
    /// Nothing: it can't be attached.
    Refuse(Problem),
    /// Nothing until it has data.
    Wait(Option<Problem>),
}

fn plan_entry(entry: &Entry, seen: &Observation, policy: Policy) -> Verdict {
    let source = match usable_source(entry, seen) {
        Ok(source) => source,
        Err(verdict) => return verdict,
    };
    if let (Some(home), Err(who)) = (&entry.home, &seen.owner) {
        // Nothing in a home is made for somebody else.
        let home = ebbtide_sys::text::escape(bytes(home));
        let hint = "make the user first, or keep the account files, so that it is known at boot";
        return refuse(entry, &format!("it lies in the home {home}, and {who}"), hint);
    }
    if policy == Policy::AsItWas {
        return as_it_was(entry, seen, source);
    }
    if policy == Policy::RootOnly {
        return root_only(entry, seen, source);
    }
    if entry.method == Method::Sync && *source == Node::Absent {
        match &seen.target {
            _ if seen.in_place => return Verdict::Do(Vec::new(), None),
            Node::File(_) if seen.deleted => return Verdict::Do(vec![Step::Unlink], None),
            _ if seen.deleted => return Verdict::Wait(None),
            _ => {}
        }
    }
    let mut steps = Vec::new();
    let mut notice = seen.owner.as_ref().err().map(|who| Problem {
        level: Level::Warning,
        message: format!("{}: {who}, so its owner is left as it is", entry.path.display()),
        hint: None,
    });
    let kept = if let Some(now) = source.attributes() {
        let wanted = declared(entry, seen, now);
        if wanted != now {
            steps.push(Step::SetAttributes(wanted));
            let said = format!(
                "{} in store {} was {now}, is now {wanted}",
                entry.path.display(),
                entry.store
            );
            notice = notice.or_else(|| Some(Problem::new(Level::Notice, said)));
        }
        wanted
    } else {
        match fill_store(entry, seen, &mut steps) {
            Ok(kept) => kept,
            Err(verdict) => return verdict,
        }
    };
    if !seen.in_place
        && let Err(verdict) = put_in_place(entry, seen, kept, &mut steps)
    {
        return verdict;
    }
    Verdict::Do(steps, notice)
}

fn refuse(entry: &Entry, why: &str, hint: &str) -> Verdict {
    Verdict::Refuse(Problem {
        level: if entry.optional { Level::Notice } else { Level::Error },
        message: format!("{} is not attached: {why}", entry.path.display()),
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
    })
}

/// What the store has, if that can be attached or filled.
fn usable_source<'a>(entry: &Entry, seen: &'a Observation) -> Result<&'a Node, Verdict> {
    let source = seen.source.as_ref().map_err(|why| refuse(entry, why, ""))?;
    if let Node::Unusable(what) = source {
        return Err(refuse(
            entry,
            &format!("in store {} {what}", entry.store),
            "move it away in the store, under /run/ebbtide/stores",
        ));
    }
    if *source != Node::Absent && !source.is(entry.kind) {
        let why = format!(
            "it is declared as a {}, and store {} has {} there",
            entry.kind,
            entry.store,
            describe(source)
        );
        return Err(refuse(entry, &why, "declare it as what it is, or move it away in the store"));
    }
    Ok(source)
}

/// What the store's copy should be: owned as declared, and no looser than declared. An owner that
/// can't be resolved stays.
fn declared(entry: &Entry, seen: &Observation, now: Attributes) -> Attributes {
    let (uid, gid) = seen.owner.as_ref().copied().unwrap_or((None, None));
    Attributes {
        uid: uid.unwrap_or(now.uid),
        gid: gid.unwrap_or(now.gid),
        mode: entry.mode.map_or(now.mode, |mode| now.mode & mode.0),
    }
}

fn make_parents(tree: Tree, missing: &[MissingParent]) -> impl Iterator<Item = Step> {
    missing.iter().map(move |(path, attributes)| Step::MakeParent(tree, path.clone(), *attributes))
}

/// Gives the store its first content. Returns the attributes that it is going to have.
fn fill_store(
    entry: &Entry,
    seen: &Observation,
    steps: &mut Vec<Step>,
) -> Result<Attributes, Verdict> {
    steps.extend(make_parents(Tree::Store, &seen.missing_in_store));
    match (&seen.seed, entry.method) {
        (Some(Seed { source, node, .. }), _) if node.is(entry.kind) => {
            steps.push(Step::Import(source.clone()));
            let now = node.attributes().unwrap_or(DEFAULT_FILE);
            let wanted = declared(entry, seen, now);
            if wanted != now {
                steps.push(Step::SetAttributes(wanted));
            }
            Ok(wanted)
        }
        (_, Method::Copy) => {
            steps.push(Step::NewMachineId);
            Ok(Attributes { mode: 0o444, ..DEFAULT_FILE })
        }
        (Some(Seed { source, node: Node::Unusable(what), .. }), _) => {
            Err(refuse(entry, &format!("in {source}, {what}"), "it is left there"))
        }
        (Some(Seed { source, node, .. }), _) => {
            let has = describe(node);
            let why = format!("it is declared as a {}, and {source} has {has} there", entry.kind);
            Err(refuse(entry, &why, "declare it as what it is"))
        }
        // An empty file would not be nothing: ssh-keygen -A, for one, makes no key then.
        (None, _) if entry.kind == Kind::File || entry.optional || entry.lazy => {
            let message = format!(
                "{} is not there yet: neither in store {}, nor in the old root, nor in the base",
                entry.path.display(),
                entry.store
            );
            let hint = "once something has made it, the next boot takes it into the store";
            let silent = entry.optional || entry.lazy;
            Err(Verdict::Wait((!silent).then(|| Problem {
                level: Level::Notice,
                message,
                hint: Some(hint.to_owned()),
            })))
        }
        (None, _) => {
            let usual = if entry.home.is_some() { 0o700 } else { 0o755 };
            let fresh = Attributes {
                mode: entry.mode.map_or(usual, |mode| mode.0),
                ..declared(entry, seen, DEFAULT_FILE)
            };
            steps.push(Step::Make(Tree::Store, entry.kind, fresh));
            Ok(fresh)
        }
    }
}

/// Puts the entry in place on the root. What the base has there stays below the mount.
fn put_in_place(
    entry: &Entry,
    seen: &Observation,
    kept: Attributes,
    steps: &mut Vec<Step>,
) -> Result<(), Verdict> {
    steps.extend(make_parents(Tree::Root, &seen.missing_in_root));
    match (entry.method, &seen.target) {
        (Method::Bind, Node::Absent) => steps.push(Step::Make(Tree::Root, entry.kind, kept)),
        (Method::Bind, target) if target.is(entry.kind) => {}
        // Removing a directory is left to rmdir(2), which takes an empty one only.
        (Method::Symlink, Node::Absent | Node::File(_) | Node::Link(_) | Node::Directory(_))
        | (Method::Copy | Method::Sync, Node::Absent | Node::File(_)) => {}
        (_, target) => {
            let why = format!("the root has {} there", describe(target));
            return Err(refuse(entry, &why, "declare the path that it really has"));
        }
    }
    steps.push(match entry.method {
        Method::Bind => Step::Bind(entry.options.clone()),
        Method::Symlink => Step::Link,
        Method::Copy => Step::Copy,
        Method::Sync => Step::CopyIn,
    });
    Ok(())
}

/// With nothing changed on any disk, an entry can only be mounted where both sides exist.
fn as_it_was(entry: &Entry, seen: &Observation, source: &Node) -> Verdict {
    let mountable = entry.method == Method::Bind && seen.target.is(entry.kind);
    if seen.in_place || entry.method != Method::Bind {
        return Verdict::Do(Vec::new(), None);
    }
    if source.is(entry.kind) && mountable {
        return Verdict::Do(vec![Step::Bind(entry.options.clone())], None);
    }
    let absent = *source == Node::Absent && seen.target == Node::Absent;
    if entry.optional || absent {
        return Verdict::Wait(None);
    }
    Verdict::Refuse(Problem::new(
        Level::Warning,
        format!(
            "{} is not attached: this boot changes nothing, and the path is not both in store {} \
             and in the root",
            entry.path.display(),
            entry.store
        ),
    ))
}

/// With nothing changed in any store, what is required is put in place.
fn root_only(entry: &Entry, seen: &Observation, source: &Node) -> Verdict {
    let Some(kept) = source.attributes().filter(|_| !entry.optional) else {
        return Verdict::Wait(None);
    };
    let mut steps = Vec::new();
    if !seen.in_place
        && let Err(verdict) = put_in_place(entry, seen, kept, &mut steps)
    {
        return verdict;
    }
    Verdict::Do(steps, None)
}

const DEFAULT_FILE: Attributes = Attributes { uid: 0, gid: 0, mode: 0o644 };

fn describe(node: &Node) -> String {
    match node {
        Node::Absent => "nothing".to_owned(),
        Node::Directory(_) => "a directory".to_owned(),
        Node::File(_) => "a file".to_owned(),
        Node::Link(target) => {
            format!("a symbolic link to {}", ebbtide_sys::text::escape(bytes(target)))
        }
        Node::Unusable(what) => what.clone(),
    }
}

fn bytes(path: &Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt;
    path.as_os_str().as_bytes()
}

/// Groups entries, by index, so that each comes after those that it lies below: what is mounted on
/// an outer one decides what an inner one finds.
pub fn waves(entries: &[Entry]) -> Vec<Vec<usize>> {
    // By their bytes: they are spelled in one way only, and paths are slow to compare.
    let paths: HashSet<&OsStr> = entries.iter().map(|entry| entry.path.as_os_str()).collect();
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let depth = entry
            .path
            .ancestors()
            .skip(1)
            .filter(|above| paths.contains(above.as_os_str()))
            .count();
        if waves.len() <= depth {
            waves.resize(depth + 1, Vec::new());
        }
        if let Some(wave) = waves.get_mut(depth) {
            wave.push(index);
        }
    }
    waves.retain(|wave| !wave.is_empty());
    waves
}

impl Plan {
    /// Postpones the entries whose first content is more than may be copied now, all imports taken
    /// together, in the order of the plan. `observed` is what the plan was made from.
    pub fn postpone_imports_beyond(&mut self, limit: u64, observed: &[Observation]) {
        let mut copied: u64 = 0;
        for (index, step) in &self.steps {
            if !matches!(step, Step::Import(_)) {
                continue;
            }
            let size = observed.get(*index).and_then(|seen| seen.seed.as_ref());
            let size = size.map_or(0, |seed| seed.size);
            match copied.checked_add(size) {
                Some(sum) if sum <= limit => copied = sum,
                _ => self.postponed.push(*index),
            }
        }
        self.steps.retain(|(index, _)| !self.postponed.contains(index));
    }

    /// Whether there is nothing left to do.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// The plan as lines for a person; `entries` are those that it was made from.
    pub fn render(&self, entries: &[Entry]) -> String {
        use fmt::Write;
        let mut text = String::new();
        for (index, step) in &self.steps {
            if let Some(entry) = entries.get(*index) {
                let _ = writeln!(text, "{}", step.describe(entry));
            }
        }
        for (_, problem) in &self.problems {
            let _ = writeln!(text, "! {problem}");
        }
        text
    }
}

impl Step {
    /// Whether the step gives a store its first content, and leaves the root alone.
    pub fn fills_store(&self) -> bool {
        match self {
            Self::MakeParent(tree, ..) | Self::Make(tree, ..) => *tree == Tree::Store,
            Self::Import(_) | Self::SetAttributes(_) | Self::NewMachineId => true,
            Self::Bind(_) | Self::Link | Self::Copy | Self::CopyIn | Self::Unlink => false,
        }
    }

    /// The step as a line for a person.
    pub fn describe(&self, entry: &Entry) -> String {
        let path = ebbtide_sys::text::escape(bytes(&entry.path));
        let store = &entry.store;
        match self {
            Self::MakeParent(Tree::Store, parent, attributes) => {
                format!("make {store}:{} as {attributes}", ebbtide_sys::text::escape(bytes(parent)))
            }
            Self::MakeParent(Tree::Root, parent, attributes) => {
                format!("make {} as {attributes}", ebbtide_sys::text::escape(bytes(parent)))
            }
            Self::Make(Tree::Store, kind, attributes) => {
                format!("make an empty {kind} {store}:{path} as {attributes}")
            }
            Self::Make(Tree::Root, kind, attributes) => {
                format!("make an empty {kind} {path} as {attributes}")
            }
            Self::Import(source) => format!("copy {path} from {source} to {store}:{path}"),
            Self::SetAttributes(attributes) => format!("set {store}:{path} to {attributes}"),
            Self::Bind(options) if options.is_empty() => format!("bind {store}:{path} on {path}"),
            Self::Bind(options) => {
                let options: Vec<_> = options.iter().map(ToString::to_string).collect();
                format!("bind {store}:{path} on {path} with {}", options.join(","))
            }
            Self::Link => format!("link {path} to {store}:{path}"),
            Self::Copy | Self::CopyIn => format!("copy {store}:{path} to {path}"),
            Self::Unlink => format!("remove {path}, which was deleted in an earlier boot"),
            Self::NewMachineId => format!("make a new machine id in {store}:{path}"),
        }
    }
}
