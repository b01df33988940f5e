//! Changes as a tree, for a person.

use std::os::unix::ffi::OsStrExt;

use ebbtide_core::changes::{Branch, Changes, Order};
use ebbtide_sys::escape;

use super::{BEFORE, amount, fitted, mark, total, what};
use crate::context::Context;

/// Renders each directory with what changed in it, and each path in it below it.
pub fn render(changes: &Changes, order: Order, context: &Context) -> String {
    let mut text = String::new();
    changes.branches(order, &mut |branch| text.push_str(&line(&branch, context)));
    let all = changes.total();
    if all.count() > 0 {
        text.push_str(&total(&all));
    }
    text
}

fn line(branch: &Branch, context: &Context) -> String {
    let group = &branch.group;
    let indent = "  ".repeat(branch.depth);
    let slash = if group.directory && !branch.label.as_os_str().is_empty() { "/" } else { "" };
    let top = if branch.depth == 0 && !branch.counted { "/" } else { "" };
    let label = if branch.counted {
        "…".to_owned()
    } else {
        format!("{top}{}{slash}", escape(branch.label.as_os_str().as_bytes()))
    };
    let (mark, size) = (mark(group, context), amount(&group.tally));
    let before = BEFORE + indent.len();
    let room = context.columns().map_or(usize::MAX, |all| all.saturating_sub(before));
    let (label, what) = fitted(&label, &what(group), room);
    format!("{mark} {size:>8}  {indent}{label}  {}\n", context.dim(&what))
}

#[cfg(test)]
mod tests {
    use ebbtide_core::changes::{Change, What};
    use ebbtide_sys::metadata::FileKind::{self, Directory, Regular};

    use super::*;
    use crate::context::Color;

    #[test]
    fn a_directory_stands_above_what_is_in_it() {
        let mut changes = Changes::default();
        let mut add = |path: &str, what: What, kind: FileKind, bytes: u64, when: i64| {
            let when = Some((when, 0));
            changes.add(&Change { path: path.into(), what, kind, bytes, when });
        };
        add("/var/lib/app", What::Added, Directory, 0, 5);
        add("/var/lib/app/db", What::Added, Regular, 3000, 6);
        add("/var/lib/app/log/1", What::Added, Regular, 10, 9);
        add("/etc", What::Metadata, Directory, 0, 1);
        add("/etc/motd", What::Deleted, Regular, 0, 1);
        add("/etc/a\n", What::Changed, Regular, 7, 2);
        add("/srv/new", What::Renamed { from: "/srv/old".into() }, Directory, 0, 3);
        add("/srv/new/x", What::Added, Regular, 1, 3);
        let context = Context::new("/".into(), Color::Never);
        insta::assert_snapshot!(render(&changes, Order::Newest, &context), @r"
        +  2.9 KiB  /var/lib/app/  2 new
        +     10 B    log/1  new
        +  2.9 KiB    db  new
        ~      1 B  /srv/new/  was /srv/old
        +      1 B    x  new
        ~      7 B  /etc/  1 changed, 1 deleted, 1 with other owner or mode
        ~      7 B    a\n  changed
        -             motd  deleted
        3 new, 1 changed, 1 deleted, 1 renamed, 1 with other owner or mode: 2.9 KiB
        ");
        insta::assert_snapshot!(render(&changes, Order::Biggest, &context), @r"
        +  2.9 KiB  /var/lib/app/  2 new
        +  2.9 KiB    db  new
        +     10 B    log/1  new
        ~      7 B  /etc/  1 changed, 1 deleted, 1 with other owner or mode
        ~      7 B    a\n  changed
        -             motd  deleted
        ~      1 B  /srv/new/  was /srv/old
        +      1 B    x  new
        3 new, 1 changed, 1 deleted, 1 renamed, 1 with other owner or mode: 2.9 KiB
        ");
        assert_eq!(render(&Changes::default(), Order::Newest, &context), "");
    }
}
