//! `ebbtide diff --content`: what is different in files.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ebbtide_core::diff::content::{Compared, Content, LIMIT, Node};
use ebbtide_core::diff::{Side, Sides};
use ebbtide_core::past::sources::Place;
use ebbtide_sys::escape;
use ebbtide_sys::metadata::FileKind;

use super::report::kind;
use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;
use crate::text::size;
use crate::unified;

/// Tells what is different about each path. All are looked at before the first one is told.
pub fn run(sides: &Sides, paths: &[PathBuf], context: &Context) -> Result<Status, CommandError> {
    let mut status = Status::DONE;
    let mut text = String::new();
    for path in paths {
        let compared = sides.compare(path)?;
        if !compared.is_same() {
            status = Status::FOUND;
        }
        text.push_str(&render(path, &compared, sides, context));
    }
    context.print(&text)?;
    Ok(status)
}

fn render(path: &Path, compared: &Compared, sides: &Sides, context: &Context) -> String {
    let shown = escape(path.as_os_str().as_bytes());
    let (old, new) = (named(&sides.old), named(&sides.new));
    let mut text = if compared.is_same() {
        format!("{shown} is the same in {old} and in {new}\n")
    } else {
        let name = |node: &Option<Node>, side: &str| match node {
            Some(_) => format!("{side}: {shown}"),
            None => format!("{side}: not there"),
        };
        let (old, new) = (name(&compared.old, &old), name(&compared.new, &new));
        let (old, new) = (context.bad(&format!("--- {old}")), context.good(&format!("+++ {new}")));
        format!("{old}\n{new}\n{}", difference(compared, context))
    };
    if sides.is_kept(path) {
        let _ = writeln!(text, "{} it is kept: no reset takes anything from it", context.dim("--"));
    }
    text
}

fn named(side: &Side) -> String {
    match &side.place {
        Place::Now => "the running root".to_owned(),
        Place::Base(number) => format!("base {number}"),
        Place::Boot(number) => format!("boot {number}"),
        Place::Store(name) => format!("store {name}"),
    }
}

fn difference(compared: &Compared, context: &Context) -> String {
    let mut text = String::new();
    match (&compared.old, &compared.new) {
        (Some(old), Some(new)) if old.metadata.kind == new.metadata.kind => {
            metadata(&mut text, old, new);
            if compared.other_content {
                text.push_str(&content(Some(old), Some(new), context));
            }
        }
        (Some(old), Some(new)) => {
            let (from, to) = (kind(old.metadata.kind), kind(new.metadata.kind));
            let _ = writeln!(text, "it was a {from}, and is a {to}");
            text.push_str(&content(Some(old), None, context));
            text.push_str(&content(None, Some(new), context));
        }
        (old, new) => text.push_str(&content(old.as_ref(), new.as_ref(), context)),
    }
    text
}

/// What is different about two of one type.
fn metadata(text: &mut String, old: &Node, new: &Node) {
    let (before, now) = (&old.metadata, &new.metadata);
    if before.mode != now.mode {
        let _ = writeln!(text, "mode: {:04o}, now {:04o}", before.mode, now.mode);
    }
    let owner = |it: &ebbtide_sys::metadata::Metadata| format!("{}:{}", it.uid, it.gid);
    if owner(before) != owner(now) {
        let _ = writeln!(text, "owner and group: {}, now {}", owner(before), owner(now));
    }
    let names = old.attributes.iter().chain(&new.attributes).map(|(name, _)| name);
    let names: std::collections::BTreeSet<_> = names.collect();
    for name in names {
        let value = |of: &Node| {
            of.attributes.iter().find(|(it, _)| it == name).map(|(_, value)| escape(value))
        };
        let shown = escape(name.as_bytes());
        let _ = match (value(old), value(new)) {
            (Some(before), Some(now)) if before != now => {
                writeln!(text, "attribute {shown}: {before}, now {now}")
            }
            (Some(before), None) => writeln!(text, "attribute {shown}: {before}, now gone"),
            (None, Some(now)) => writeln!(text, "attribute {shown}: none, now {now}"),
            _ => Ok(()),
        };
    }
}

/// What is different in two of one type, or what one has alone.
fn content(old: Option<&Node>, new: Option<&Node>, context: &Context) -> String {
    let bytes = |node: Option<&Node>| match node.map(|node| &node.content) {
        Some(Content::Bytes(bytes)) if unified::is_text(bytes) => Some(bytes.clone()),
        None => Some(Vec::new()),
        Some(_) => None,
    };
    let is_file = |node: &Node| node.metadata.kind == FileKind::Regular;
    if ![old, new].into_iter().flatten().all(is_file) {
        let of = |node: Option<&Node>| node.map(described);
        return match (of(old), of(new)) {
            (Some(old), Some(new)) => format!(
                "{}\n{}\n",
                context.bad(&format!("-{old}")),
                context.good(&format!("+{new}"))
            ),
            (Some(old), None) => format!("{}\n", context.bad(&format!("-{old}"))),
            (None, Some(new)) => format!("{}\n", context.good(&format!("+{new}"))),
            (None, None) => String::new(),
        };
    }
    if let (Some(old), Some(new)) = (bytes(old), bytes(new)) {
        return unified::render(&old, &new, context);
    }
    let long = |node: &Node| node.content == Content::Large;
    let why = if [old, new].into_iter().flatten().any(long) {
        format!("more than {}", size(LIMIT))
    } else {
        "binary".to_owned()
    };
    let amount = |node: Option<&Node>| node.map(|node| size(node.metadata.size));
    match (amount(old), amount(new)) {
        (Some(old), Some(new)) => format!("{why}: {old}, now {new}; the content is not shown\n"),
        (Some(old), None) => format!("{why}: {old}, now gone; the content is not shown\n"),
        (None, new) => {
            format!("{why}: new, {}; the content is not shown\n", new.unwrap_or_default())
        }
    }
}

/// What has no lines.
fn described(node: &Node) -> String {
    match &node.content {
        Content::Link(target) => {
            format!("symbolic link to {}", escape(target.as_os_str().as_bytes()))
        }
        Content::Device(major, minor) => {
            format!("{} {major}:{minor}", kind(node.metadata.kind))
        }
        Content::Bytes(_) | Content::Large => format!("file, {}", size(node.metadata.size)),
        Content::None => kind(node.metadata.kind).to_owned(),
    }
}
