//! Two texts as a unified diff, safe to print.

use std::fmt::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use similar::{Algorithm, DiffOp, capture_diff_slices_deadline, group_diff_ops};

use crate::context::Context;
use crate::text::printable;

/// How many lines are shown around each change.
const AROUND: usize = 3;

/// How long it looks for the shortest one: after that, a longer one is told.
const TIME: Duration = Duration::from_secs(2);

/// How much is looked at to find out whether it is text, in bytes.
const BEGINNING: usize = 8192;

/// Whether it is a text: in any encoding that has no byte 0.
pub fn is_text(bytes: &[u8]) -> bool {
    !bytes.iter().take(BEGINNING).any(|byte| *byte == 0)
}

/// Renders the hunks, without what the texts are called. Nothing if they are the same.
///
/// What a terminal would interpret is escaped, so it is for the eye, and no patch.
pub fn render(old: &[u8], new: &[u8], context: &Context) -> String {
    let (old, new) = (lines(old), lines(new));
    let until = Some(Instant::now() + TIME);
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &old, &new, until);
    let mut text = String::new();
    for group in group_diff_ops(ops, AROUND) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { continue };
        let place = |first: Range<usize>, last: Range<usize>| place(first.start..last.end);
        let left = place(first.old_range(), last.old_range());
        let right = place(first.new_range(), last.new_range());
        let _ = writeln!(text, "{}", context.dim(&format!("@@ -{left} +{right} @@")));
        for op in &group {
            hunk(&mut text, op, &old, &new, context);
        }
    }
    text
}

fn hunk(text: &mut String, op: &DiffOp, old: &[&[u8]], new: &[&[u8]], context: &Context) {
    let part = |of: &[&[u8]], range: Range<usize>, sign: &str| -> String {
        let lines = of.get(range).unwrap_or_default().iter();
        lines.map(|line| told(sign, line, context)).collect()
    };
    if let DiffOp::Equal { .. } = op {
        text.push_str(&part(old, op.old_range(), " "));
    } else {
        text.push_str(&part(old, op.old_range(), "-"));
        text.push_str(&part(new, op.new_range(), "+"));
    }
}

fn told(sign: &str, line: &[u8], context: &Context) -> String {
    let (line, end) = match line.strip_suffix(b"\n") {
        Some(line) => (line, ""),
        None => (line, "\\ No newline at end of file\n"),
    };
    let line = format!("{sign}{}", shown(line));
    let line = match sign {
        "-" => context.bad(&line),
        "+" => context.good(&line),
        _ => line,
    };
    format!("{line}\n{end}")
}

/// Lines with their ends, the last one perhaps without.
fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').collect()
}

/// The line and the number of lines; of none, the line before.
fn place(range: Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        length => format!("{},{length}", range.start + 1),
    }
}

/// A line for a terminal: tabs stay.
fn shown(line: &[u8]) -> String {
    let mut safe = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        let parts: Vec<String> = chunk.valid().split('\t').map(printable).collect();
        safe.push_str(&parts.join("\t"));
        for byte in chunk.invalid() {
            let _ = write!(safe, "\\x{byte:02x}");
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Color;

    fn plain(old: &str, new: &[u8]) -> String {
        render(old.as_bytes(), new, &Context::new("/".into(), Color::Never))
    }

    #[test]
    fn hunks_with_what_is_around_them() {
        let old = (1..=20).map(|line| line.to_string()).collect::<Vec<_>>().join("\n") + "\n";
        let new = old.replace("\n2\n", "\ntwo\n").replace("\n19\n20\n", "\n20\n\tesc\u{1b}[2J ä");
        insta::assert_snapshot!(plain(&old, &[new.as_bytes(), b"\xff"].concat()), @r"
        @@ -1,5 +1,5 @@
         1
        -2
        +two
         3
         4
         5
        @@ -16,5 +16,5 @@
         16
         17
         18
        -19
         20
        +	esc\x1b[2J ä\xff
        \ No newline at end of file
        ");
        assert_eq!(plain("", b"a\n"), "@@ -0,0 +1 @@\n+a\n");
        assert_eq!(plain("a\nb\n", b""), "@@ -1,2 +0,0 @@\n-a\n-b\n");
        assert_eq!(plain("a", b"a\n"), "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+a\n");
        assert_eq!(plain("a\n", b"a\n"), "");
    }

    #[test]
    fn texts_have_no_zeros() {
        assert!(is_text(b"") && is_text(b"\xff\xfe\x1b") && !is_text(b"ELF\0"));
    }
}
