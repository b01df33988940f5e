//! `ebbtide boots show`: all that is known about one boot.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use ebbtide_core::boot::Boot;
use ebbtide_core::container::Container;
use ebbtide_core::past::{self, Shown};
use ebbtide_core::record::{Attached, BootNumber, Ending, Outcome, Record, Switch};
use ebbtide_core::{status, store};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use super::{age, now};
use crate::commands::status::render_problem;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::{count, size};

/// What `ebbtide boots show BOOT --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    #[serde(flatten)]
    shown: &'a Shown,
}

pub(super) fn run(
    boot: &Boot,
    container: &Container,
    kernel_boot_id: &str,
    number: BootNumber,
    json: bool,
    context: &Context,
) -> Result<Status, CommandError> {
    let mut stores = BTreeMap::new();
    match status::declaration(boot, container) {
        Ok((_, compiled)) => {
            for (name, wanted) in &compiled.stores {
                match store::open(wanted.place(), wanted.uuid) {
                    Ok(opened) => drop(stores.insert(name.clone(), opened)),
                    Err(failure) => {
                        context.tell(&format!("warning: store {name}: {}", failure.chain()));
                    }
                }
            }
        }
        Err(failure) => context.tell(&format!("warning: {}", failure.chain())),
    }
    let path = &boot.locator.container.path;
    let shown = past::show(container, path, kernel_boot_id, &stores, number)?.ok_or_else(|| {
        CommandError::new(Kind::Failed, format!("cannot find boot {number}"))
            .cause("there is neither a root nor a record of it")
            .hint("`ebbtide boots` lists those that there are")
    })?;
    if json {
        context.print_json(&Json { version: 1, shown: &shown })?;
    } else {
        context.print(&render(&shown, now(), context))?;
    }
    Ok(Status::DONE)
}

fn render(shown: &Shown, now: i64, context: &Context) -> String {
    let boot = &shown.boot;
    let mut text = format!("boot {}\n", boot.number);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {:<12} {value}", format!("{name}:"));
    };
    match &shown.record {
        Some(record) => {
            let ago = age(now.saturating_sub(record.clock));
            line("began", format!("{ago} ago by its clock, which may have been wrong"));
            line("kernel", escape(record.kernel_release.as_bytes()));
            line("root", root(record));
            if let Some(number) = record.put_away {
                line("put away", format!("the root before it, as past root {number}"));
            }
            if let Some(declaration) = &record.declaration {
                line("declaration", declaration.as_str().get(..12).unwrap_or_default().to_owned());
            }
            line("entries", entries(record.attached.as_ref()));
        }
        None => line("record", "gone, or it cannot be read".to_owned()),
    }
    let ended = match (boot.ended, boot.current) {
        (_, true) => "not yet: it runs",
        (Some(Ending::Clean), _) => "cleanly",
        (Some(Ending::Unclean), _) => "uncleanly: a power cut, a crash or the reset button",
        (None, _) => "unknown",
    };
    line("ended", ended.to_owned());
    line("kept", kept(shown));
    for trash in &shown.trash {
        let files = count(usize::try_from(trash.files).unwrap_or(usize::MAX), "file");
        line(
            "trash",
            format!(
                "{files}, {}, in .ebbtide/trash/{} of store {}",
                size(trash.bytes),
                boot.number,
                trash.store
            ),
        );
    }
    let attached = shown.record.as_ref().and_then(|record| record.attached.as_ref());
    for (what, paths) in lists(attached) {
        for path in paths {
            let _ = writeln!(text, "{what} {}", escape(path.as_os_str().as_encoded_bytes()));
        }
    }
    for carried in shown.record.iter().filter_map(|record| record.carried.as_ref()) {
        for (what, paths) in [("", &carried.paths), ("not ", &carried.left)] {
            for path in paths {
                let path = escape(path.as_os_str().as_encoded_bytes());
                let _ = writeln!(text, "{what}carried over from boot {}: {path}", carried.from);
            }
        }
    }
    for problem in shown.record.iter().flat_map(|record| &record.problems) {
        let _ = writeln!(text, "{}", render_problem(problem, context));
    }
    text
}

fn root(record: &Record) -> String {
    let what = match &record.outcome {
        Outcome::Reset => "new",
        Outcome::Kept(Switch::Off) => "that of the boot before: ebbtide=off",
        Outcome::Kept(Switch::Keep) => "that of the boot before: ebbtide=keep",
        Outcome::Postponed => "that of the boot before, kept once",
        Outcome::Refused => "not reset",
    };
    let base =
        record.base.as_ref().map_or_else(String::new, |base| format!(", of base {}", base.number));
    let identity = record.root.as_ref().map_or_else(String::new, |root| format!(", {root}"));
    format!("{what}{base}{identity}")
}

fn entries(attached: Option<&Attached>) -> String {
    let Some(attached) = attached else { return "never attached".to_owned() };
    let mut text = format!("{} in place", attached.entries);
    for (what, paths) in lists(Some(attached)) {
        if !paths.is_empty() {
            let _ = write!(text, ", {} {}", paths.len(), what.trim_end_matches(':'));
        }
    }
    text
}

/// Paths that are not in place, by why.
fn lists(attached: Option<&Attached>) -> [(&'static str, &[PathBuf]); 3] {
    let paths = |list: fn(&Attached) -> &Vec<PathBuf>| {
        attached.map(|attached| list(attached).as_slice()).unwrap_or_default()
    };
    [
        ("missing:", paths(|it| &it.missing)),
        ("without data yet:", paths(|it| &it.waiting)),
        ("put off to the next boot:", paths(|it| &it.pending)),
    ]
}

fn kept(shown: &Shown) -> String {
    let boot = &shown.boot;
    let own =
        boot.own_bytes.map_or_else(String::new, |bytes| format!(", {} of its own", size(bytes)));
    match (&boot.root, boot.continued_as) {
        (Some(place), _) => {
            format!("its root is {}{own}", escape(place.as_os_str().as_encoded_bytes()))
        }
        (None, Some(later)) => format!("its root went on as that of boot {later}"),
        (None, None) => "its root is gone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use ebbtide_core::failure::{Level, Problem};
    use ebbtide_core::past::{PastBoot, Trash};
    use ebbtide_core::record::{BaseIdentity, Carried, RootIdentity};
    use uuid::Uuid;

    use super::*;
    use crate::context::Color;

    fn shown(record: Option<Record>) -> Shown {
        Shown {
            boot: PastBoot {
                number: BootNumber(7),
                current: false,
                clock: Some(1000),
                outcome: Some(Outcome::Reset),
                ended: Some(Ending::Unclean),
                root: Some(PathBuf::from("ebbtide/past/7")),
                continued_as: None,
                own_bytes: Some(5 << 20),
                problems: 1,
            },
            record,
            trash: Vec::new(),
        }
    }

    #[test]
    fn all_about_a_boot_and_nothing_that_a_terminal_would_interpret() {
        let odd = || vec![PathBuf::from("/home/odd\u{1b}[2J\n")];
        let record = Record {
            version: 1,
            number: BootNumber(7),
            kernel_boot_id: String::new(),
            kernel_release: "6.1.0-\u{1b}".to_owned(),
            clock: 1000,
            outcome: Outcome::Reset,
            root: Some(RootIdentity::Overlay {
                uuid: Uuid::nil(),
                base: Uuid::nil(),
                in_ram: false,
            }),
            base: Some(BaseIdentity { number: 1, uuid: Uuid::nil() }),
            put_away: Some(BootNumber(6)),
            fallback: None,
            declaration: None,
            attached: Some(Attached {
                entries: 5,
                missing: odd(),
                waiting: Vec::new(),
                pending: vec![PathBuf::from("/srv")],
                partial: false,
                mounted: BTreeMap::new(),
            }),
            carried: Some(Carried { from: BootNumber(6), paths: odd(), left: vec!["/srv".into()] }),
            problems: vec![Problem::new(Level::Error, "odd\u{1b}")],
            ended: Some(Ending::Unclean),
        };
        let mut found = shown(Some(record));
        let store = ebbtide_core::compiled::StoreName("state".to_owned());
        found.trash.push(Trash { store, files: 1, bytes: 2048 });
        let context = Context::new(PathBuf::from("/"), Color::Never);
        insta::assert_snapshot!("boots_show", render(&found, 1000 + 7200, &context));
        insta::assert_snapshot!(render(&shown(None), 0, &context), @r"
        boot 7
          record:      gone, or it cannot be read
          ended:       uncleanly: a power cut, a crash or the reset button
          kept:        its root is ebbtide/past/7, 5.0 MiB of its own
        ");
    }
}
