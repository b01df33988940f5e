//! A closer look at a change: what is below a directory, or how a file begins.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;

use ebbtide_core::changes::{Change, Changes, Group, Order};
use ebbtide_sys::escape;
use ebbtide_sys::file::read_link;
use ebbtide_sys::metadata::{FileKind, metadata};
use ebbtide_sys::resolve::{open_beneath, open_path};
use rustix::fs::{Mode, OFlags};

use crate::changes;
use crate::context::Context;
use crate::text::{date, printable, size};

/// How many lines are told of a directory.
const BELOW: usize = 20;
/// How many lines are shown of a file, and how many characters of each.
const LINES: usize = 12;
const WIDTH: usize = 100;
/// How much of a file is read, in bytes.
const HEAD: u64 = 4096;

/// Tells more about a group and its changes. What can't be read is said to be so: it may go at any time.
pub fn show(group: &Group, all: &[&Change], context: &Context) -> String {
    if group.below {
        let mut sum = Changes::default();
        for change in all {
            sum.add(change);
        }
        return changes::render(&sum.summary(BELOW, Order::Biggest), context);
    }
    if all.iter().all(|change| change.what.name() == "deleted") {
        return "it is not there any more; the next boot has it again, from the base\n".to_owned();
    }
    let mut text = String::new();
    let when = all.iter().filter_map(|change| change.when).max();
    if let Some((seconds, _)) = when {
        let _ = writeln!(text, "changed {}", date(seconds));
    }
    text + &look(&group.path, context).unwrap_or_else(|error| format!("{}\n", printable(&error)))
}

fn look(path: &Path, context: &Context) -> Result<String, String> {
    let root = File::open(&context.sysroot).map_err(|error| error.to_string())?;
    let opened = open_path(root.as_fd(), path).map_err(|error| error.to_string())?;
    let seen = metadata(opened.as_fd()).map_err(|error| error.to_string())?;
    let whose = format!("mode {:04o}, owner {}, group {}", seen.mode, seen.uid, seen.gid);
    Ok(match seen.kind {
        FileKind::Regular => {
            let size = size(seen.size);
            // What it became meanwhile is not waited for.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
            let file = open_beneath(root.as_fd(), path, flags, Mode::empty());
            let mut head = Vec::new();
            let file = File::from(file.map_err(|error| error.to_string())?);
            file.take(HEAD).read_to_end(&mut head).map_err(|error| error.to_string())?;
            format!("a file of {size}, {whose}\n{}", beginning(&head, seen.size))
        }
        FileKind::Directory => format!("a directory, {whose}\n"),
        FileKind::Symlink => {
            let target = read_link(root.as_fd(), path).map_err(|error| error.to_string())?;
            format!("a link to {}\n", escape(target.as_os_str().as_encoded_bytes()))
        }
        _ => format!("a device, a pipe or a socket, {whose}\n"),
    })
}

/// How a text begins, safe to print; of anything else, that it is none.
fn beginning(head: &[u8], whole: u64) -> String {
    let end = match str::from_utf8(head) {
        Ok(_) => head.len(),
        // The last character may be cut.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(_) => return "it is no text\n".to_owned(),
    };
    let Some(Ok(text)) = head.get(..end).map(str::from_utf8) else { return String::new() };
    if text.contains('\0') {
        return "it is no text\n".to_owned();
    }
    let mut shown = String::new();
    let mut lines = text.lines();
    for line in lines.by_ref().take(LINES) {
        let line = printable(&line.replace('\t', "    "));
        let cut: String = line.chars().take(WIDTH).collect();
        let rest = if cut.len() < line.len() { "…" } else { "" };
        let _ = writeln!(shown, "  | {cut}{rest}");
    }
    if lines.next().is_some() || (head.len() as u64) < whole {
        shown += "  | …\n";
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shown_so_that_it_disturbs_nothing() {
        let text = "one\n\ttwo\u{1b}[2J\r\n".to_owned() + &"x".repeat(200) + "\n";
        let shown = beginning(text.as_bytes(), text.len() as u64);
        let long = "x".repeat(100);
        assert_eq!(shown, format!("  | one\n  |     two\\x1b[2J\n  | {long}…\n"));
        let many = "line\n".repeat(30);
        let shown = beginning(many.as_bytes(), 150);
        assert_eq!(shown.lines().count(), LINES + 1);
        assert!(shown.ends_with("  | …\n"));
        assert_eq!(beginning(b"", 0), "");
        assert_eq!(beginning(b"\x7fELF\0\0", 6), "it is no text\n");
        assert_eq!(beginning(b"a\xff\xffb", 4), "it is no text\n");
        assert_eq!(beginning("aä".as_bytes().get(..2).unwrap(), 9000), "  | a\n  | …\n");
    }
}
