//! What `try` says on leaving: what the next start takes away, what stays, and how to keep more.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ebbtide_core::changes::{Changes, Group, Order, Summary, Tally};
use ebbtide_core::trial::{DEFAULT, End, Note};
use ebbtide_sys::escape;
use serde::Serialize;

use crate::commands::boots::size;
use crate::text::count;

/// How many groups are told to a person.
const TOLD: usize = 10;
/// How many groups are told to a machine.
const LISTED: usize = 1000;

/// What a throw-away root leaves behind.
pub struct Report<'a> {
    /// How its command ended.
    pub end: &'a End,
    /// What the next reset takes away.
    pub changes: &'a Changes,
    /// The paths that are kept.
    pub kept: &'a [PathBuf],
    /// What was not as it is outside.
    pub notes: &'a [Note],
    /// The state directory.
    pub state: &'a Path,
}

/// The documented shape of `try --json`.
#[derive(Serialize)]
pub struct Json {
    version: u32,
    command: Command,
    changes: Summary,
    kept: Vec<String>,
    notes: Vec<JsonNote>,
    keep: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum Command {
    Exited(u8),
    Killed(u8),
    NotStarted(String),
}

#[derive(Serialize)]
struct JsonNote {
    path: String,
    what: String,
}

impl Report<'_> {
    /// For a machine. Paths are escaped as in all other JSON of ours.
    pub fn json(&self) -> Json {
        Json {
            version: 1,
            command: match self.end {
                End::Exited(status) => Command::Exited(*status),
                End::Killed(signal) => Command::Killed(*signal),
                End::NotStarted { message, .. } => Command::NotStarted(message.clone()),
            },
            changes: self.changes.summary(LISTED, Order::Biggest),
            kept: self.kept.iter().map(|path| shown(path)).collect(),
            notes: self
                .notes
                .iter()
                .map(|note| JsonNote { path: shown(&note.path), what: note.what.clone() })
                .collect(),
            keep: self.keep(),
        }
    }

    /// For a person.
    pub fn text(&self) -> String {
        let summary = self.changes.summary(TOLD, Order::Biggest);
        let mut text = String::new();
        if summary.total.count() == 0 {
            text.push_str("nothing was changed that the next start takes away\n");
        } else {
            let _ = writeln!(text, "the next start takes away {}:", tally(&summary.total));
        }
        let paths: Vec<_> = summary.groups.iter().map(path).collect();
        let width = paths.iter().map(|path| path.chars().count()).max().unwrap_or(0).min(48);
        for (group, path) in summary.groups.iter().zip(&paths) {
            let _ = writeln!(text, "  {path:width$}  {}", what(group));
        }
        if let Some(more) = &summary.more {
            let places = count(usize::try_from(more.groups).unwrap_or(usize::MAX), "more place");
            let _ = writeln!(text, "  and {places}: {}", tally(&more.tally));
        }
        match self.kept {
            [] => {}
            [one] => {
                let _ = writeln!(text, "kept: {}", shown(one));
            }
            all => {
                let some: Vec<_> = all.iter().take(4).map(|path| shown(path)).collect();
                let more = if all.len() > 4 { ", …" } else { "" };
                let paths = count(all.len(), "path");
                let _ = writeln!(text, "kept: {paths}: {}{more}", some.join(", "));
            }
        }
        if summary.total.count() > 0 {
            let _ = writeln!(text, "to keep some of it: {}", self.keep());
        }
        text
    }

    /// The one command that keeps more.
    fn keep(&self) -> String {
        if self.state == Path::new(DEFAULT) {
            return "ebbtide keep --try PATH…".to_owned();
        }
        format!("ebbtide keep --state {} PATH…", shown(self.state))
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

fn path(group: &Group) -> String {
    let path = shown(&group.path);
    if group.directory && path != "/" { path + "/" } else { path }
}

fn what(group: &Group) -> String {
    let bytes = if group.tally.bytes > 0 {
        format!(", {}", size(group.tally.bytes))
    } else {
        String::new()
    };
    match (group.below, group.change) {
        (true, _) => tally(&group.tally),
        (false, Some("renamed")) => {
            format!("was {}", group.from.as_deref().map(shown).unwrap_or_default())
        }
        (false, Some("metadata")) => "has another owner, mode or attribute".to_owned(),
        (false, Some(change)) => change.to_owned() + &bytes,
        (false, None) => "became something else".to_owned() + &bytes,
    }
}

fn tally(tally: &Tally) -> String {
    let sorts = [
        (tally.added, "added"),
        (tally.changed, "changed"),
        (tally.deleted, "deleted"),
        (tally.metadata, "with other metadata"),
        (tally.renamed, "renamed"),
    ];
    let sorts = sorts.iter().filter(|(number, _)| *number > 0);
    let mut text: Vec<_> = sorts.map(|(number, sort)| format!("{number} {sort}")).collect();
    if tally.bytes > 0 {
        text.push(size(tally.bytes));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use ebbtide_core::changes::{Change, What};
    use ebbtide_sys::metadata::FileKind;

    use super::*;

    fn change(path: &str, what: What, bytes: u64) -> Change {
        Change { path: path.into(), what, kind: FileKind::Regular, bytes, when: None }
    }

    fn told(changes: &Changes, kept: &[PathBuf]) -> String {
        let (end, state) = (End::Exited(0), Path::new(DEFAULT));
        Report { end: &end, changes, kept, notes: &[], state }.text()
    }

    #[test]
    fn a_few_lines_that_no_name_can_disturb() {
        let mut changes = Changes::default();
        for index in 0..30 {
            let path = format!("/var/cache/apt/{index}.deb");
            changes.add(&change(&path, What::Added, 1 << 20));
        }
        changes.add(&change("/etc/passwd", What::Changed, 2000));
        changes.add(&change("/etc/motd", What::Deleted, 0));
        changes.add(&change("/root/\u{1b}[2J\nkept: /", What::Added, 5));
        changes.add(&change("/usr/bin/ls", What::Metadata, 0));
        let kept = ["/var/log", "/etc/hosts"].map(PathBuf::from);
        insta::assert_snapshot!(told(&changes, &kept));
    }

    #[test]
    fn nothing_is_said_in_one_line() {
        insta::assert_snapshot!(told(&Changes::default(), &[]), @"nothing was changed that the next start takes away");
    }
}
