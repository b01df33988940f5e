//! What `diff` says.

use std::fmt::Write as _;
use std::path::Path;

use ebbtide_core::applications::{Application, Grouped};
use ebbtide_core::changes::{Change, Changes, Order, Summary, Tally, What};
use ebbtide_core::diff::About;
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

/// How many carried paths are named to a person.
const NAMED: usize = 5;

/// What was found.
pub struct Report<'a> {
    /// What was compared.
    pub about: &'a About,
    /// How much all changes are.
    pub total: Tally,
    /// They added up, for a tree and for a machine.
    pub changes: &'a Changes,
    /// What is only counted.
    pub hidden: &'a Hidden,
    /// What is carried over the reset, once.
    pub carried: Tally,
    /// The same for each application, but for a tree.
    pub grouped: &'a Grouped,
    /// All changes one by one with the application of each, where they are wanted.
    pub list: &'a [(Change, Option<Application>)],
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
    /// The boot whose past root it is compared with; without one, it is compared with its base.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<BootNumber>,
    /// Whether it is a past root, so that a reset has taken the changes already.
    past: bool,
    /// The number of the base that the root was made from.
    base: u64,
    /// What is taken away, in groups.
    changes: Summary,
    /// What is taken away of each application, and nothing of those that have none.
    applications: Vec<ApplicationJson>,
    /// Caches, locks and the like, which are not in the groups.
    noise: Tally,
    /// What the declaration ignores, which is not in the groups either.
    ignored: Tally,
    /// What is carried over the next reset, once, or was over the one after a past boot; it is not in the groups.
    carried: Carried,
    /// Each change, in the order of a walk.
    paths: Vec<PathJson>,
    /// Entries that were not in place in this boot, so that what was written there is told, escaped.
    uncovered: Vec<String>,
}

/// What is carried over the next reset.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "CarriedChanges")]
struct Carried {
    /// The paths that were asked for, escaped.
    asked_for: Vec<String>,
    /// How much of it is no change that is taken away.
    #[serde(flatten)]
    tally: Tally,
}

/// What changed of one application.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ApplicationChanges")]
struct ApplicationJson {
    /// Which one: `{"preset": NAME}`, or `{"package": NAME}`.
    application: Application,
    /// How much it is.
    #[serde(flatten)]
    tally: Tally,
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
    /// The application that it belongs to, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Application>,
}

impl Report<'_> {
    /// For a machine.
    pub fn json(&self) -> Json {
        Json {
            version: 1,
            boot: self.about.boot,
            since: self.about.since,
            past: self.about.is_past,
            base: self.about.base.number,
            changes: self.changes.summary(LISTED, self.order),
            applications: self
                .grouped
                .tallies(self.order)
                .into_iter()
                .map(|(it, tally)| ApplicationJson { application: it.clone(), tally })
                .collect(),
            noise: self.hidden.noise(),
            ignored: self.hidden.ignored(),
            carried: Carried {
                asked_for: self.about.carried.iter().map(|path| shown(path)).collect(),
                tally: self.carried,
            },
            paths: self
                .list
                .iter()
                .map(|(change, application)| one(change, application.as_ref()))
                .collect(),
            uncovered: self.about.uncovered.iter().map(|path| shown(path)).collect(),
        }
    }

    /// For a person, in so many lines at most.
    pub fn text(&self, lines: usize, context: &Context) -> String {
        let told =
            changes::render_applications(self.grouped, &self.total, lines, self.order, context);
        let mut text = self.around(&told);
        let is_running = !self.about.is_past && self.about.since.is_none();
        if is_running && changes::has_preset(self.grouped) {
            text.push_str(
                "to keep all that a preset names: put its name into `presets` of [keep]\n",
            );
        }
        text
    }

    /// For a person, with every path.
    pub fn tree(&self, context: &Context) -> String {
        self.around(&changes::render_tree(self.changes, self.order, context))
    }

    /// What is different, after what was compared.
    fn told(&self, told: &str) -> String {
        let now = self.about.boot.filter(|_| self.about.is_past);
        let nothing = self.total.count() == 0;
        match (self.about.since, now) {
            (Some(since), Some(boot)) if nothing => {
                format!("boots {since} and {boot} left roots that are the same\n")
            }
            (Some(since), Some(boot)) => {
                format!("the root of boot {boot}, compared with that of boot {since}:\n{told}")
            }
            (Some(since), None) if nothing => {
                format!("the running root is the same as that of boot {since}\n")
            }
            (Some(since), None) => {
                format!("the running root, compared with that of boot {since}:\n{told}")
            }
            (None, None) if nothing => {
                "nothing was changed that the next reset takes away\n".to_owned()
            }
            (None, None) => format!("the next reset takes away:\n{told}"),
            (None, Some(boot)) if nothing => {
                format!("the reset after boot {boot} took nothing away\n")
            }
            (None, Some(boot)) => format!("the reset after boot {boot} took away:\n{told}"),
        }
    }

    /// What is carried over, for a person.
    fn carried(&self) -> String {
        let paths = &self.about.carried;
        let named: Vec<_> = paths.iter().take(NAMED).map(|path| shown(path)).collect();
        let more = match paths.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        if paths.is_empty() {
            return String::new();
        }
        let amount = changes::amount_of(&self.carried);
        let amount = if amount.is_empty() { "nothing new" } else { &amount };
        format!("carried over it, once: {}{more}: {amount}\n", named.join(", "))
    }

    fn around(&self, told: &str) -> String {
        // A past root is that of a boot whose number is known.
        let past = self.about.boot.filter(|_| self.about.is_past);
        let mut text = self.told(told);
        text += &self.hidden.line();
        text += &self.carried();
        let which = if past.is_some() { "that boot" } else { "this boot" };
        let _ = match self.about.uncovered.as_slice() {
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
            _ if self.total.count() == 0 || self.about.since.is_some() => Ok(()),
            None => writeln!(text, "to keep some of it: ebbtide keep PATH…"),
            Some(boot) => {
                writeln!(text, "to bring some of it back: ebbtide restore --boot {boot} PATH…")
            }
        };
        text
    }
}

fn one(change: &Change, application: Option<&Application>) -> PathJson {
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
        application: application.cloned(),
    }
}

pub(super) fn kind(kind: FileKind) -> &'static str {
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
