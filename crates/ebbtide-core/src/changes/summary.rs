//! Many changes in few lines: added up by directory, within a limit.

mod branches;

use std::cell::OnceCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, Time};
use serde::{Serialize, Serializer};

use super::{Change, What};

pub use branches::Branch;

/// How many paths are remembered: beyond that, the smallest ones are only counted.
const REMEMBERED: usize = 20_000;

/// How deep paths are told apart.
const DEPTH: usize = 64;

/// The version of the JSON shape of a [`Summary`].
const VERSION: u32 = 1;

/// How many changes of each sort, and what they amount to.
///
/// A new directory counts only while nothing in it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Tally {
    /// In the root only.
    pub added: u64,
    /// With other content.
    pub changed: u64,
    /// In the base only.
    pub deleted: u64,
    /// With other metadata.
    pub metadata: u64,
    /// Directories that are somewhere else in the base.
    pub renamed: u64,
    /// The sizes of all added and changed files, holes included; each name of a file counts.
    pub bytes: u64,
    /// When the last of them changed, in seconds since 1970 by the clock of then.
    #[serde(serialize_with = "seconds")]
    #[cfg_attr(feature = "declaration", schemars(with = "Option<i64>"))]
    pub newest: Option<Time>,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn seconds<S: Serializer>(time: &Option<Time>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|(seconds, _)| seconds).serialize(serializer)
}

impl Tally {
    /// How many changes.
    pub fn count(&self) -> u64 {
        self.added + self.changed + self.deleted + self.metadata + self.renamed
    }

    fn add(&mut self, other: &Self) {
        self.added += other.added;
        self.changed += other.changed;
        self.deleted += other.deleted;
        self.metadata += other.metadata;
        self.renamed += other.renamed;
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.newest = self.newest.max(other.newest);
    }

    #[cfg(feature = "declaration")]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        self.add(other);
        self
    }

    fn of(own: &Own) -> Self {
        let mut tally = Self { bytes: own.bytes, newest: own.when, ..Self::default() };
        *match own.what {
            What::Added => &mut tally.added,
            What::Changed => &mut tally.changed,
            What::Deleted => &mut tally.deleted,
            What::Metadata => &mut tally.metadata,
            What::Renamed { .. } => &mut tally.renamed,
        } = 1;
        tally
    }

    pub(crate) fn weight(&self, order: Order) -> Weight {
        match order {
            Order::Biggest => (self.bytes, self.count(), self.newest),
            Order::Newest => (0, 0, self.newest),
        }
    }
}

pub(crate) type Weight = (u64, u64, Option<Time>);

/// What comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// What has most bytes; then what has most changes.
    #[default]
    Biggest,
    /// What changed last.
    Newest,
}

/// All changes, added up as a tree of directories; of very many, the smallest are only counted.
#[derive(Debug, Clone)]
pub struct Changes {
    top: Node,
    nodes: usize,
    /// How many nodes there may be.
    remembered: usize,
}

impl Default for Changes {
    fn default() -> Self {
        Self { top: Node::default(), nodes: 0, remembered: REMEMBERED }
    }
}

#[derive(Debug, Clone, Default)]
struct Node {
    /// Changes of this path itself: two, if it has become something of another type.
    own: Vec<Own>,
    below: BTreeMap<OsString, Node>,
    /// What is below, and not remembered by its path.
    rest: Option<Box<Tally>>,
    /// All of it, if anything is below and it was added up.
    sum: OnceCell<Box<Tally>>,
}

#[derive(Debug, Clone)]
struct Own {
    what: What,
    kind: FileKind,
    bytes: u64,
    when: Option<Time>,
}

impl Own {
    fn of(change: &Change) -> Self {
        let &Change { ref what, kind, bytes, when, .. } = change;
        Self { what: what.clone(), kind, bytes, when }
    }
}

impl Node {
    fn is_leaf(&self) -> bool {
        self.below.is_empty() && self.rest.is_none()
    }

    fn rest(&self) -> Tally {
        self.rest.as_deref().copied().unwrap_or_default()
    }

    /// Its own changes that count.
    fn own(&self) -> impl Iterator<Item = &Own> {
        let implied = |own: &&Own| {
            own.what == What::Added && own.kind == FileKind::Directory && !self.is_leaf()
        };
        self.own.iter().filter(move |own| !implied(own))
    }

    fn tally(&self) -> Tally {
        let add_up = || {
            let mut all = self.rest();
            self.own().for_each(|own| all.add(&Tally::of(own)));
            self.below.values().for_each(|node| all.add(&node.tally()));
            all
        };
        if self.below.is_empty() {
            return add_up();
        }
        **self.sum.get_or_init(|| Box::new(add_up()))
    }

    fn leaves(&self, weights: &mut Vec<Weight>) {
        if self.below.is_empty() {
            weights.push(self.tally().weight(Order::Biggest));
        }
        for node in self.below.values() {
            node.leaves(weights);
        }
    }

    /// Forgets the paths of leaves up to this weight, but for the one at `current`: what lies in it
    /// may come next. Returns how many.
    fn forget(&mut self, limit: Weight, current: &Path) -> usize {
        let mut forgotten = 0;
        self.sum.take();
        let rest = &mut self.rest;
        let mut names = current.iter();
        let on_the_way = names.next();
        self.below.retain(|name, node| {
            let current = Some(name.as_os_str()) == on_the_way;
            if !node.below.is_empty() {
                let further = if current { names.as_path() } else { Path::new("") };
                forgotten += node.forget(limit, further);
                return true;
            }
            let tally = node.tally();
            let goes = !current && tally.weight(Order::Biggest) <= limit;
            if goes {
                rest.get_or_insert_default().add(&tally);
                forgotten += 1;
            }
            !goes
        });
        forgotten
    }
}

impl Changes {
    /// With less memory than else: so many paths.
    #[cfg(feature = "declaration")]
    pub(crate) fn remembering(paths: usize) -> Self {
        Self { remembered: paths, ..Self::default() }
    }

    /// Adds a change.
    pub fn add(&mut self, change: &Change) {
        let own = Own::of(change);
        let mut node = &mut self.top;
        for (depth, name) in change.path.iter().skip(1).enumerate() {
            node.sum.take();
            if depth == DEPTH {
                node.rest.get_or_insert_default().add(&Tally::of(&own));
                return;
            }
            // Most directories are known already, and in the order of a walk they are the last ones: no name is
            // copied for them, and none is looked for.
            let is_last = node.below.last_key_value().is_some_and(|(last, _)| last == name);
            let below = if is_last {
                node.below.last_entry().map(OccupiedEntry::into_mut)
            } else {
                if !node.below.contains_key(name) {
                    self.nodes += 1;
                    node.below.insert(name.to_owned(), Node::default());
                }
                node.below.get_mut(name)
            };
            let Some(below) = below else { return };
            node = below;
        }
        node.sum.take();
        // Nearly always the only one.
        node.own.reserve_exact(1);
        node.own.push(own);
        if self.nodes > self.remembered {
            self.forget(&change.path);
        }
    }

    /// Forgets the paths of at least half of the leaves.
    fn forget(&mut self, current: &Path) {
        let mut weights = Vec::new();
        self.top.leaves(&mut weights);
        let middle = weights.len() / 2;
        let (_, limit, _) = weights.select_nth_unstable(middle);
        let limit = *limit;
        self.nodes -= self.top.forget(limit, current.strip_prefix("/").unwrap_or(current));
    }

    /// Everything added up.
    pub fn total(&self) -> Tally {
        self.top.tally()
    }

    /// Whether there is no change at all.
    pub fn is_empty(&self) -> bool {
        self.total().count() == 0
    }

    /// Says it in at most `limit` groups. Beginning at the top, the heaviest directory is told by
    /// what is in it instead, as long as that fits.
    pub fn summary(&self, limit: usize, order: Order) -> Summary {
        let mut groups = pieces(Path::new("/"), &self.top);
        let mut done = Vec::new();
        let place = |groups: &[Piece<'_>]| {
            let weights = groups.iter().enumerate().filter(|(_, piece)| piece.can_be_told_apart());
            weights.max_by_key(|(_, piece)| piece.tally.weight(order)).map(|(index, _)| index)
        };
        while let Some(index) = place(&groups) {
            let piece = groups.swap_remove(index);
            let inner = piece.node.map(|node| pieces(&piece.path, node)).unwrap_or_default();
            if groups.len() + done.len() + inner.len() <= limit {
                groups.extend(inner);
            } else {
                done.push(piece);
            }
        }
        groups.append(&mut done);
        let key = |piece: &Piece<'_>| piece.tally.weight(order);
        groups.sort_by(|a, b| (Reverse(key(a)), &a.path).cmp(&(Reverse(key(b)), &b.path)));
        let hidden = groups.split_off(limit.min(groups.len()));
        let mut more = More { groups: hidden.len() as u64, tally: Tally::default() };
        for piece in &hidden {
            more.tally.add(&piece.tally);
        }
        Summary {
            version: VERSION,
            total: self.total(),
            groups: groups.into_iter().map(Piece::told).collect(),
            more: (more.groups > 0).then_some(more),
        }
    }
}

/// A part of the tree on its way into a summary.
struct Piece<'n> {
    path: PathBuf,
    tally: Tally,
    /// The whole directory or file; without it, only what is not remembered, or only `own`.
    node: Option<&'n Node>,
    own: Vec<&'n Own>,
}

/// What a directory is told by: its own changes, what is in it, and what is not remembered. A
/// directory with nothing but one other is told by that one.
fn pieces<'n>(path: &Path, node: &'n Node) -> Vec<Piece<'n>> {
    let mut all = Vec::new();
    let own: Vec<_> = node.own().collect();
    if !own.is_empty() {
        let mut tally = Tally::default();
        for own in &own {
            tally.add(&Tally::of(own));
        }
        all.push(Piece { path: path.to_owned(), tally, node: None, own });
    }
    if let Some(rest) = &node.rest {
        let (path, tally) = (path.to_owned(), **rest);
        all.push(Piece { path, tally, node: None, own: Vec::new() });
    }
    for (name, mut node) in &node.below {
        let mut path = path.join(name);
        while let (Some((name, only)), 1, None, None) =
            (node.below.first_key_value(), node.below.len(), &node.rest, node.own().next())
        {
            path.push(name);
            node = only;
        }
        let own = if node.is_leaf() { node.own().collect() } else { Vec::new() };
        all.push(Piece { path, tally: node.tally(), node: Some(node), own });
    }
    all
}

impl Piece<'_> {
    fn can_be_told_apart(&self) -> bool {
        self.node.is_some_and(|node| !node.below.is_empty())
    }

    fn told(self) -> Group {
        let change = match self.own.as_slice() {
            [own] => Some(own.what.clone()),
            _ => None,
        };
        let directory = match self.own.last() {
            Some(own) => own.kind == FileKind::Directory,
            None => true,
        };
        let below = self.own.is_empty();
        let from = match &change {
            Some(What::Renamed { from }) => Some(from.clone()),
            _ => None,
        };
        Group {
            path: self.path,
            directory,
            below,
            change: change.as_ref().map(What::name),
            from,
            tally: self.tally,
        }
    }
}

/// What changed, in a few lines. As JSON, its paths are escaped as [`ebbtide_sys::escape`] does: no two
/// paths look the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Summary {
    /// The version of this shape.
    pub version: u32,
    /// Everything added up.
    pub total: Tally,
    /// The first ones in order.
    pub groups: Vec<Group>,
    /// What there is besides.
    pub more: Option<More>,
}

/// A single path that changed, or a directory with all changes in it that no other group tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Group {
    /// Absolute.
    #[serde(serialize_with = "escaped")]
    #[cfg_attr(feature = "declaration", schemars(with = "String"))]
    pub path: PathBuf,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether this is about what lies below the path.
    pub below: bool,
    /// For a single path: what is different about it. Without one it has become something of another
    /// type.
    pub change: Option<&'static str>,
    /// Where the base has a renamed directory.
    #[serde(serialize_with = "maybe_escaped", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "declaration", schemars(with = "Option<String>"))]
    pub from: Option<PathBuf>,
    /// How much it is.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Groups that are only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct More {
    /// How many.
    pub groups: u64,
    /// How much they are.
    #[serde(flatten)]
    pub tally: Tally,
}

fn escaped<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&super::shown(path))
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn maybe_escaped<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    match path {
        Some(path) => escaped(path, serializer),
        None => serializer.serialize_none(),
    }
}
