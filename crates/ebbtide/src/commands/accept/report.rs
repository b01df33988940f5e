//! What `ebbtide accept` shows.

use std::fmt::Write as _;

use ebbtide_core::publish::{Became, Difference, Pinned};
use schemars::JsonSchema;
use serde::Serialize;

use super::Found;
use crate::context::Context;
use crate::error::CommandError;
use crate::text::date;

/// What `ebbtide accept --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// Whether nothing was to be done.
    dry_run: bool,
    /// What is not as it was pinned.
    differences: &'a [Difference],
    /// Whether that was accepted by this call.
    pub accepted: bool,
    /// Whether the initramfs has to be built again for the next boot to reset the root, once it is accepted.
    rebuild_initramfs: bool,
}

impl<'a> Json<'a> {
    /// Nothing is accepted so far.
    pub fn new(dry_run: bool, differences: &'a [Difference], rebuild_initramfs: bool) -> Self {
        Self { version: 1, dry_run, differences, accepted: false, rebuild_initramfs }
    }
}

/// What is to be done about the initramfs.
pub fn initramfs(rebuild: bool) -> &'static str {
    if rebuild {
        "!! warning: the initramfs names another container or state store: build that of the base again, or \
         the next boot does not reset\n"
    } else {
        ""
    }
}

/// Each difference with what it means.
pub fn differences(found: &Found, context: &Context) -> Result<String, CommandError> {
    let mut text = String::new();
    for it in &found.differences {
        let _ = writeln!(text, "{} {}", context.bad("!"), it.what);
        let mut line = |label: &str, value: &str| {
            let _ = writeln!(text, "    {label:10} {value}");
        };
        line("pinned", &it.pinned);
        line("there", &there(it));
        if it.what == Pinned::Container {
            line("", &history(found)?);
        }
        line("accepting", meaning(it));
        line("unproven", unproven(it));
        if it.by_name {
            line("only with", &format!("ebbtide accept {}", it.what));
        }
    }
    Ok(text)
}

fn there(it: &Difference) -> String {
    let found = it.found.as_deref().unwrap_or_default();
    match (&it.what, it.became) {
        (Pinned::Declaration, _) => "the state store has none with this hash".to_owned(),
        (_, Became::Exchanged) => found.to_owned(),
        (_, Became::ExchangedForEmpty) => format!("{found}, with nothing in it"),
        (_, Became::Unmarked) => "data without a marker".to_owned(),
        (_, Became::Empty) => "an empty directory without a marker".to_owned(),
        (_, Became::Gone) => "nothing".to_owned(),
    }
}

/// What a person may know a container by.
fn history(found: &Found) -> Result<String, CommandError> {
    let container = found.publication.container();
    let last = container.last_number()?;
    let clock = container.record(last).ok().flatten().map(|record| date(record.clock));
    Ok(match clock {
        Some(clock) => format!("its last boot was number {last}, {clock} UTC"),
        None => format!("the last number that it gave out is {last}"),
    })
}

fn meaning(it: &Difference) -> &'static str {
    match (&it.what, it.became) {
        (Pinned::Container, _) => "the next boot resets the root in it, and puts its old one away",
        (Pinned::Declaration, _) => "what /etc/ebbtide declares now is compiled and pinned",
        (_, Became::Exchanged) => "boots take what is in it for what this machine kept",
        (_, Became::Unmarked) => {
            "it gets the pinned UUID, and boots take what is in it for what was kept"
        }
        (Pinned::Store(name), _) if name.0 == "state" => {
            "boots go on without what it kept; /etc/ebbtide as it is now is copied into it"
        }
        (_, Became::ExchangedForEmpty) => "boots go on with it, without what was kept",
        (_, Became::Empty) => "it gets the pinned UUID, and boots go on without what was kept",
        (_, Became::Gone) => "an empty store is made, and boots go on without what was kept",
    }
}

fn unproven(it: &Difference) -> &'static str {
    match (&it.what, it.became) {
        (Pinned::Container, _) => "that no other machine, and no other system of this one, uses it",
        (Pinned::Declaration, _) => "that the state store is not older than it should be",
        (_, Became::Exchanged | Became::Unmarked) => "that it is whole, and how old it is",
        _ => "that the data are not on a disk that is only not there today",
    }
}
