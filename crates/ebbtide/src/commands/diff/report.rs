//! What `diff` says.

use std::fmt::Write as _;
use std::path::Path;

use ebbtide_core::changes::{Change, Changes, Order, Summary, Tally, What};
use ebbtide_core::diff::Diff;
use ebbtide_core::record::BootNumber;
use ebbtide_sys::escape;
use ebbtide_sys::metadata::FileKind;
use schemars::JsonSchema;
use serde::Serialize;

use crate::changes;
use crate::changes::hidden::Hidden;
use crate::context::Context;
use crate::text::count;

/// How many groups are told to a machine.
const LISTED: usize = 1000;

/// What was found.
pub struct Report<'a> {
    /// What was compared.
    pub diff: &'a Diff,
    /// All changes added up.
    pub changes: &'a Changes,
    /// What is only counted.
    pub hidden: &'a Hidden,
    /// All changes one by one, where they are wanted.
    pub list: &'a [Change],
    /// What comes first.
    pub order: Order,
}

/// What `ebbtide diff --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json {
    /// The version of this shape.
    version: u32,
    /// The boot whose root it is, if that is known.
    boot: Option<BootNumber>,
    /// Whether it is a past root, so that a reset has taken the changes already.
    past: bool,
    /// The number of the base that the root was made from.
    base: u64,
    /// What is taken away, in groups.
    changes: Summary,
    /// Caches, locks and the like, which are not in the groups.
    noise: Tally,
    /// What the declaration ignores, which is not in the groups either.
    ignored: Tally,
    /// Each change, in the order of a walk.
    paths: Vec<PathJson>,
    /// Entries that were not in place in this boot, so that what was written there is told, escaped.
    uncovered: Vec<String>,
}

/// One change.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Path")]
struct PathJson {
    /// Absolute, escaped.
    path: String,
    /// What is different: `added`, `changed`, `deleted`, `metadata` or `renamed`.
    change: &'static str,
    /// What it is in the root; for what is deleted, what it was in the base.
    kind: &'static str,
    /// The size of a new or changed file, holes included; else 0.
    bytes: u64,
    /// When it changed, in seconds since 1970 by the clock of then; null for what is deleted.
    when: Option<i64>,
    /// Where the base has a renamed directory, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

impl Report<'_> {
    /// For a machine.
    pub fn json(&self) -> Json {
        Json {
            version: 1,
            boot: self.diff.boot,
            past: self.diff.is_past,
            base: self.diff.base.number,
            changes: self.changes.summary(LISTED, self.order),
            noise: self.hidden.noise(),
            ignored: self.hidden.ignored(),
            paths: self.list.iter().map(one).collect(),
            uncovered: self.diff.uncovered.iter().map(|path| shown(path)).collect(),
        }
    }

    /// For a person, in so many lines at most.
    pub fn text(&self, lines: usize, context: &Context) -> String {
        self.around(&changes::render(&self.changes.summary(lines, self.order), context))
    }

    /// For a person, with every path.
    pub fn tree(&self, context: &Context) -> String {
        self.around(&changes::render_tree(self.changes, self.order, context))
    }

    fn around(&self, told: &str) -> String {
        // A past root is that of a boot whose number is known.
        let past = self.diff.boot.filter(|_| self.diff.is_past);
        let mut text = match (past, self.changes.is_empty()) {
            (None, true) => "nothing was changed that the next reset takes away\n".to_owned(),
            (None, false) => format!("the next reset takes away:\n{told}"),
            (Some(boot), true) => format!("the reset after boot {boot} took nothing away\n"),
            (Some(boot), false) => format!("the reset after boot {boot} took away:\n{told}"),
        };
        text += &self.hidden.line();
        let which = if past.is_some() { "that boot" } else { "this boot" };
        let _ = match self.diff.uncovered.as_slice() {
            [] => Ok(()),
            [path] => {
                let path = shown(path);
                writeln!(text, "{path} is declared and was not in place in {which}")
            }
            all => {
                let all = count(all.len(), "path");
                writeln!(text, "{all} are declared and were not in place in {which}")
            }
        };
        let _ = match past {
            _ if self.changes.is_empty() => Ok(()),
            None => writeln!(text, "to keep some of it: ebbtide keep PATH…"),
            Some(boot) => {
                writeln!(text, "to bring some of it back: ebbtide restore --boot {boot} PATH…")
            }
        };
        text
    }
}

fn one(change: &Change) -> PathJson {
    PathJson {
        path: shown(&change.path),
        change: change.what.name(),
        kind: kind(change.kind),
        bytes: change.bytes,
        when: change.when.map(|(seconds, _)| seconds),
        from: match &change.what {
            What::Renamed { from } => Some(shown(from)),
            _ => None,
        },
    }
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Fifo => "fifo",
        FileKind::Socket => "socket",
        FileKind::CharDevice => "char-device",
        FileKind::BlockDevice => "block-device",
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}
