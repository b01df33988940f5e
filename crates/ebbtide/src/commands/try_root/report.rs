//! What `try` says on leaving: what the next start takes away, what stays, and how to keep more.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ebbtide_core::changes::{Changes, Order, Summary, Tally};
use ebbtide_core::trial::{End, Note};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use crate::changes;
use crate::changes::hidden::Hidden;
use crate::context::Context;
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
    /// What of that is only counted.
    pub hidden: &'a Hidden,
    /// The paths that are kept.
    pub kept: &'a [PathBuf],
    /// What was not as it is outside.
    pub notes: &'a [Note],
    /// Whether what was written is gone already.
    pub in_ram: bool,
    /// The state directory.
    pub state: &'a Path,
}

/// What `ebbtide try --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json {
    /// The version of this shape.
    version: u32,
    /// How the command ended.
    command: Command,
    /// What the next start takes away.
    changes: Summary,
    /// Caches, locks and the like, which are not in the groups.
    noise: Tally,
    /// What the declaration ignores, which is not in the groups either.
    ignored: Tally,
    /// Paths that are kept because somebody declared them, escaped.
    kept: Vec<String>,
    /// What was not as it is outside.
    notes: Vec<JsonNote>,
    /// Whether what was written is gone already.
    in_ram: bool,
    /// The command that keeps more.
    keep: String,
}

/// How a command ended.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
    /// It did not even start, and why.
    NotStarted(String),
}

/// Something that was not as it is outside.
#[derive(Serialize, JsonSchema)]
struct JsonNote {
    /// The path, escaped.
    path: String,
    /// What, for people.
    what: String,
}

impl Command {
    /// How it ended, for a machine.
    pub fn of(end: &End) -> Self {
        match end {
            End::Exited(status) => Self::Exited(*status),
            End::Killed(signal) => Self::Killed(*signal),
            End::NotStarted { message, .. } => Self::NotStarted(message.clone()),
        }
    }
}

impl Report<'_> {
    /// For a machine. Paths are escaped as in all other JSON of ours.
    pub fn json(&self) -> Json {
        Json {
            version: 1,
            command: Command::of(self.end),
            changes: self.changes.summary(LISTED, Order::Biggest),
            noise: self.hidden.noise(),
            ignored: self.hidden.ignored(),
            kept: self.kept.iter().map(|path| shown(path)).collect(),
            notes: self
                .notes
                .iter()
                .map(|note| JsonNote { path: shown(&note.path), what: note.what.clone() })
                .collect(),
            in_ram: self.in_ram,
            keep: self.keep(),
        }
    }

    /// For a person.
    pub fn text(&self, context: &Context) -> String {
        let summary = self.changes.summary(TOLD, Order::Biggest);
        let mut text = String::new();
        if summary.total.count() == 0 {
            text.push_str("nothing was changed that the next start takes away\n");
        } else {
            let intro = if self.in_ram {
                "what was written was in RAM, and this is gone already:\n"
            } else {
                "the next start takes away:\n"
            };
            text.push_str(intro);
            text.push_str(&changes::render(&summary, context));
        }
        text += &self.hidden.line();
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
        format!("ebbtide keep --state {} PATH…", shown(self.state))
    }
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use ebbtide_core::changes::{Change, What};
    use ebbtide_sys::metadata::FileKind;

    use super::*;
    use crate::context::Color;

    fn change(path: &str, what: What, bytes: u64) -> Change {
        Change { path: path.into(), what, kind: FileKind::Regular, bytes, when: None }
    }

    fn told(changes: &Changes, kept: &[PathBuf]) -> String {
        let (end, state) = (End::Exited(0), Path::new("/var/lib/ebbtide/try"));
        let context = Context::new("/".into(), Color::Never);
        let hidden = Hidden::nothing();
        Report { end: &end, changes, hidden: &hidden, kept, notes: &[], in_ram: false, state }
            .text(&context)
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
