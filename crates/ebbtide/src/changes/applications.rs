//! Changes by application, for a person.

use std::fmt::Write as _;

use ebbtide_core::applications::{Application, Grouped, Part};
use ebbtide_core::changes::{Order, Tally};

use super::{amount_of, lines, total};
use crate::context::Context;
use crate::text::printable;

/// Renders each application with what changed of it, in so many lines at most, and the total at the end.
/// Empty if there is no change.
///
/// If nothing belongs to any, it is told as [`super::render`] does.
pub fn render(
    grouped: &Grouped,
    all: &Tally,
    limit: usize,
    order: Order,
    context: &Context,
) -> String {
    let parts = grouped.parts(limit, order);
    let mut text = String::new();
    match parts.as_slice() {
        [] => return text,
        [Part { application: None, summary }] => text.push_str(&lines(summary, "", context)),
        parts => {
            for part in parts.iter().take(limit) {
                let name = name(part.application.as_ref());
                let _ = writeln!(text, "{name}: {}", amount_of(&part.summary.total));
                // Where there is no room for a single line, the name has to do.
                if !part.summary.groups.is_empty() {
                    text.push_str(&lines(&part.summary, "  ", context));
                }
            }
            if let Some(hidden) = parts.len().checked_sub(limit).filter(|hidden| *hidden > 0) {
                let _ = writeln!(text, "… and {hidden} more");
            }
        }
    }
    text.push_str(&total(all));
    text
}

/// Whether something of it could be kept by naming a preset.
pub fn has_preset(grouped: &Grouped) -> bool {
    let all = grouped.tallies(Order::Newest);
    all.iter().any(|(application, _)| matches!(application, Application::Preset(_)))
}

fn name(application: Option<&Application>) -> String {
    match application {
        Some(Application::Preset(name)) => format!("preset {}", printable(name)),
        Some(Application::Package(name)) => format!("package {}", printable(name)),
        None => "of no known application".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ebbtide_core::changes::{Change, Changes, What};
    use ebbtide_sys::metadata::FileKind::Regular;

    use super::*;
    use crate::context::Color;

    #[test]
    fn each_application_has_a_heading() {
        let context = Context::new("/".into(), Color::Never);
        let (mut grouped, mut changes) = (Grouped::default(), Changes::default());
        let mut add = |application: Option<Application>, path: &str, when: i64| {
            let (path, what) = (path.into(), What::Added);
            let change = Change { path, what, kind: Regular, bytes: 1500, when: Some((when, 0)) };
            grouped.add(application.as_ref(), &change);
            changes.add(&change);
        };
        add(Some(Application::Package("nginx\u{1b}".to_owned())), "/etc/nginx/a", 5);
        add(Some(Application::Package("nginx\u{1b}".to_owned())), "/var/log/nginx/b", 4);
        add(Some(Application::Preset("ssh".to_owned())), "/etc/ssh/key", 9);
        add(None, "/srv/x", 20);
        add(None, "/opt/y", 20);
        let render = |limit| render(&grouped, &changes.total(), limit, Order::Newest, &context);
        insta::assert_snapshot!(render(20), @r"
        preset ssh: 1 new, 1.4 KiB
          +  1.4 KiB  /etc/ssh/key  new
        package nginx\x1b: 2 new, 2.9 KiB
          +  1.4 KiB  /etc/nginx/a      new
          +  1.4 KiB  /var/log/nginx/b  new
        of no known application: 2 new, 2.9 KiB
          +  1.4 KiB  /opt/y  new
          +  1.4 KiB  /srv/x  new
        5 new: 7.3 KiB
        ");
        insta::assert_snapshot!(render(6), @r"
        preset ssh: 1 new, 1.4 KiB
          +  1.4 KiB  /etc/ssh/key  new
        package nginx\x1b: 2 new, 2.9 KiB
          +  1.4 KiB  /etc/nginx/a  new
             1.4 KiB  … and 1 more  1 new
        of no known application: 2 new, 2.9 KiB
          +  1.4 KiB  /opt/y  new
             1.4 KiB  … and 1 more  1 new
        5 new: 7.3 KiB
        ");
        insta::assert_snapshot!(render(2), @r"
        preset ssh: 1 new, 1.4 KiB
        package nginx\x1b: 2 new, 2.9 KiB
        … and 1 more
        5 new: 7.3 KiB
        ");
        assert!(has_preset(&grouped));
        let nothing =
            super::render(&Grouped::default(), &Tally::default(), 9, Order::Newest, &context);
        assert_eq!(nothing, "");
    }
}
