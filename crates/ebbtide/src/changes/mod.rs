//! What the next reset takes away, in lines for a person.

mod applications;
pub mod hidden;
mod tree;

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use ebbtide_core::changes::{Group, Summary, Tally};
use ebbtide_sys::escape;

use crate::context::Context;
use crate::text::{columns, padded, shortened, size};

pub use applications::{has_preset, render as render_applications};
pub use tree::render as render_tree;

/// A path that is longer pushes what follows to the right.
const WIDTH: usize = 48;
/// So many columns of a line are taken before a path: by the mark, the size and what is between them.
const BEFORE: usize = 12;
/// A path or what is told of it is not cut to less than this.
const LEAST: usize = 16;

/// Renders a summary: a line for each group with its mark, size, path and what is different, and the
/// total at the end. Empty if there is no change.
pub fn render(summary: &Summary, context: &Context) -> String {
    if summary.total.count() == 0 {
        return String::new();
    }
    lines(summary, "", context) + &total(&summary.total)
}

/// The lines of groups, and of what there is besides, each after `indent`.
fn lines(summary: &Summary, indent: &str, context: &Context) -> String {
    let room =
        context.columns().map_or(usize::MAX, |all| all.saturating_sub(indent.len() + BEFORE));
    let told = |group: &Group| fitted(&path(group), &what(group), room);
    let told: Vec<_> = summary.groups.iter().map(told).collect();
    let width = told.iter().map(|(path, _)| columns(path)).max().unwrap_or(0).min(WIDTH);
    // What is told of a path that was not cut has its place in the line, too.
    let widest = told.iter().map(|(_, what)| columns(what)).max().unwrap_or(0);
    let width = width.min(room.saturating_sub(widest + 2));
    let mut text = String::new();
    for (group, (path, what)) in summary.groups.iter().zip(&told) {
        let size = amount(&group.tally);
        let path = padded(path, width);
        let _ = writeln!(text, "{indent}{} {size:>8}  {path}  {what}", mark(group, context));
    }
    if let Some(more) = &summary.more {
        let size = amount(&more.tally);
        let groups = padded(&format!("… and {} more", more.groups), width);
        let _ = writeln!(text, "{indent}  {size:>8}  {groups}  {}", counts(&more.tally));
    }
    text
}

/// A path, and what is told of it two columns further, so that both fit into so many columns. Where even
/// little of the path does not, the line is longer.
fn fitted(path: &str, what: &str, room: usize) -> (String, String) {
    if columns(path).saturating_add(columns(what) + 2) <= room {
        return (path.to_owned(), what.to_owned());
    }
    // Of a renamed directory, it is a path itself.
    let what = shortened(what, LEAST.max(room / 2));
    let path = shortened(path, LEAST.max(room.saturating_sub(columns(&what) + 2)));
    (path, what)
}

/// Renders one group by itself, in a line on which so many columns are taken.
pub fn line(group: &Group, before: usize, context: &Context) -> String {
    let size = amount(&group.tally);
    let size = if size.is_empty() { size } else { format!("{size}  ") };
    let room =
        context.columns().map_or(usize::MAX, |all| all.saturating_sub(before + 2 + size.len()));
    let (path, what) = fitted(&path(group), &what(group), room);
    format!("{} {size}{path}  {what}", mark(group, context))
}

/// The line of the total.
fn total(tally: &Tally) -> String {
    match tally.bytes {
        0 => format!("{}\n", counts(tally)),
        bytes => format!("{}: {}\n", counts(tally), size(bytes)),
    }
}

/// `3 new, 1 changed, 2.9 KiB`.
pub fn amount_of(tally: &Tally) -> String {
    match tally.bytes {
        0 => counts(tally),
        bytes => format!("{}, {}", counts(tally), size(bytes)),
    }
}

fn path(group: &Group) -> String {
    let slash = if group.directory && group.path.as_os_str() != "/" { "/" } else { "" };
    escape(group.path.as_os_str().as_bytes()) + slash
}

/// Nothing where there is no content to lose.
fn amount(tally: &Tally) -> String {
    if tally.added + tally.changed == 0 { String::new() } else { size(tally.bytes) }
}

/// What all of a group has in common.
fn mark(group: &Group, context: &Context) -> String {
    let tally = &group.tally;
    match tally.count() {
        all if all == tally.added => context.good("+"),
        all if all == tally.deleted => context.bad("-"),
        _ => context.dim("~"),
    }
}

fn what(group: &Group) -> String {
    let from = group.from.as_ref().map(|from| escape(from.as_os_str().as_bytes()));
    match (group.change, from) {
        (Some("added"), _) => "new".to_owned(),
        (Some("metadata"), _) => "other owner or mode".to_owned(),
        (Some("renamed"), Some(from)) => format!("was {from}"),
        (Some(change), _) => change.to_owned(),
        (None, _) if group.below => counts(&group.tally),
        (None, _) => "replaced".to_owned(),
    }
}

/// `3 new, 1 changed`: what there is none of is left out.
fn counts(tally: &Tally) -> String {
    let sorts = [
        (tally.added, "new"),
        (tally.changed, "changed"),
        (tally.deleted, "deleted"),
        (tally.renamed, "renamed"),
        (tally.metadata, "with other owner or mode"),
    ];
    let some = sorts.into_iter().filter(|(count, _)| *count > 0);
    some.map(|(count, name)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use ebbtide_core::changes::{Change, Changes, Order, What};
    use ebbtide_sys::metadata::FileKind::{self, Directory, Regular, Symlink};

    use super::*;
    use crate::context::Color;

    fn changes() -> Changes {
        let mut changes = Changes::default();
        let mut add = |path: &[u8], what: What, kind: FileKind, bytes: u64| {
            let path = OsStr::from_bytes(path).into();
            changes.add(&Change { path, what, kind, bytes, when: None });
        };
        for number in 0..3000_u32 {
            let path = format!("/home/alice/.cache/pages/{number}");
            add(path.as_bytes(), What::Added, Regular, 400_000);
        }
        add(b"/home/alice/letter", What::Added, Regular, 5000);
        add(b"/etc/hosts", What::Changed, Regular, 220);
        add(b"/etc/motd", What::Deleted, Regular, 0);
        add(b"/etc/app", What::Metadata, Directory, 0);
        add(b"/srv/old", What::Deleted, Directory, 0);
        add(b"/srv/new", What::Renamed { from: "/srv/old".into() }, Directory, 0);
        add(b"/opt/app", What::Deleted, Directory, 0);
        add(b"/opt/app", What::Added, Symlink, 0);
        add(b"/var/\x1b[31m\n\xff", What::Added, Regular, 1);
        changes
    }

    #[test]
    fn many_changes_in_few_lines() {
        let context = Context::new("/".into(), Color::Never);
        let changes = changes();
        let render = |limit| render(&changes.summary(limit, Order::Biggest), &context);
        insta::assert_snapshot!(render(20), @r"
        +  1.1 GiB  /home/alice/.cache/pages/  3000 new
        +  4.8 KiB  /home/alice/letter         new
        ~    220 B  /etc/hosts                 changed
        +      1 B  /var/\x1b[31m\n\xff        new
        ~      0 B  /opt/app                   replaced
        ~           /etc/app/                  other owner or mode
        -           /etc/motd                  deleted
        ~           /srv/new/                  was /srv/old
        -           /srv/old/                  deleted
        3003 new, 1 changed, 3 deleted, 1 renamed, 1 with other owner or mode: 1.1 GiB
        ");
        insta::assert_snapshot!(render(4), @r"
        +  1.1 GiB  /home/alice/         3001 new
        ~    220 B  /etc/                1 changed, 1 deleted, 1 with other owner or mode
        +      1 B  /var/\x1b[31m\n\xff  new
        ~      0 B  /opt/app             replaced
                    … and 1 more         1 deleted, 1 renamed
        3003 new, 1 changed, 3 deleted, 1 renamed, 1 with other owner or mode: 1.1 GiB
        ");
        insta::assert_snapshot!(render(1), @r"
        +  1.1 GiB  /home/alice/  3001 new
             221 B  … and 4 more  2 new, 1 changed, 3 deleted, 1 renamed, 1 with other owner or mode
        3003 new, 1 changed, 3 deleted, 1 renamed, 1 with other owner or mode: 1.1 GiB
        ");
    }

    #[test]
    fn lines_fit_a_terminal() {
        let mut changes = changes();
        let path = "/srv/an/exceptionally/long/way/to/a/file/with/a/name.txt".into();
        changes.add(&Change { path, what: What::Added, kind: Regular, bytes: 2, when: None });
        let (path, from) = ("/srv/日本語".into(), "/srv/before/it/was/moved/to/where/it/is".into());
        let what = What::Renamed { from };
        changes.add(&Change { path, what, kind: Directory, bytes: 0, when: None });
        let told = |context: &Context| render(&changes.summary(20, Order::Biggest), context);
        let text = |columns| told(&Context::new("/".into(), Color::Never).on_terminal(columns));
        let narrow = text(50);
        assert!(narrow.lines().take(11).all(|line| columns(line) <= 50), "{narrow}");
        insta::assert_snapshot!(narrow, @r"
        +  1.1 GiB  /home/alice/.cache/pages/  3000 new
        +  4.8 KiB  /home/alice/letter  new
        ~    220 B  /etc/hosts         changed
        +      2 B  /srv/an/exceptio…/with/a/name.txt  new
        +      1 B  /var/\x1b[31m\n\xff  new
        ~      0 B  /opt/app           replaced
        ~           /etc/app/          other owner or mode
        -           /etc/motd          deleted
        ~           /srv/new/          was /srv/old
        -           /srv/old/          deleted
        ~           /srv/日本語/       was /srv/…ere/it/is
        3004 new, 1 changed, 3 deleted, 2 renamed, 1 with other owner or mode: 1.1 GiB
        ");
        assert_eq!(text(500), told(&Context::new("/".into(), Color::Never)));
    }

    #[test]
    fn no_change_is_no_line() {
        let context = Context::new("/".into(), Color::Never);
        assert_eq!(render(&Changes::default().summary(9, Order::Biggest), &context), "");
    }

    #[test]
    fn only_colours_are_control_characters() {
        let context = Context::new("/".into(), Color::Always);
        let text = render(&changes().summary(20, Order::Biggest), &context);
        assert!(text.contains("\u{1b}[32m+\u{1b}[0m"), "{text}");
        let colours = ["\u{1b}[32m", "\u{1b}[1;31m", "\u{1b}[2m", "\u{1b}[0m"];
        let plain = colours.iter().fold(text, |text, colour| text.replace(colour, ""));
        assert!(!plain.chars().any(|c| c.is_control() && c != '\n'), "{plain:?}");
    }
}
