//! What a text has that another one has not, line by line.

use crate::context::Context;
use crate::text::printable;

/// How many lines are shown around each change.
const AROUND: usize = 2;

/// More comparisons than this are not made: the whole middle is shown then.
const LIMIT: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Line<'t> {
    Same(&'t str),
    Gone(&'t str),
    New(&'t str),
}

/// Renders the changes of a file, safe to print.
pub fn render(name: &str, old: &str, new: &str, context: &Context) -> String {
    let lines = compare(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let changed: Vec<usize> = (0..lines.len())
        .filter(|index| !matches!(lines.get(*index), Some(Line::Same(_))))
        .collect();
    let near = |index: usize| changed.iter().any(|changed| changed.abs_diff(index) <= AROUND);
    let mut text = format!("{}\n", context.dim(&printable(name)));
    let mut last = None;
    for (index, line) in lines.iter().enumerate().filter(|(index, _)| near(*index)) {
        if last.is_some_and(|last| last + 1 != index) {
            text += &context.dim("  …\n");
        }
        last = Some(index);
        let shown = match line {
            Line::Same(line) => format!("  {}", printable(line)),
            Line::Gone(line) => context.bad(&format!("- {}", printable(line))),
            Line::New(line) => context.good(&format!("+ {}", printable(line))),
        };
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    text
}

/// The longest common subsequence, behind what both begin with and before what both end with.
fn compare<'t>(old: &[&'t str], new: &[&'t str]) -> Vec<Line<'t>> {
    let begin = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[begin..], &new[begin..]);
    let end = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - end], &b[..b.len() - end]);
    let mut lines: Vec<_> = old[..begin].iter().map(|line| Line::Same(line)).collect();
    if a.len().saturating_mul(b.len()) > LIMIT {
        lines.extend(a.iter().map(|line| Line::Gone(line)));
        lines.extend(b.iter().map(|line| Line::New(line)));
    } else {
        middle(a, b, &mut lines);
    }
    lines.extend(old[old.len() - end..].iter().map(|line| Line::Same(line)));
    lines
}

fn middle<'t>(a: &[&'t str], b: &[&'t str], lines: &mut Vec<Line<'t>>) {
    let width = b.len() + 1;
    // How many lines are common behind each pair of places.
    let mut common = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push(Line::Same(a[i]));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len()
            && (j == b.len() || common[(i + 1) * width + j] >= common[i * width + j + 1])
        {
            lines.push(Line::Gone(a[i]));
            i += 1;
        } else {
            lines.push(Line::New(b[j]));
            j += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Color;

    #[test]
    fn only_what_changed_and_what_is_around_it() {
        let context = Context::new("/".into(), Color::Never);
        let old = "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
        let new = "1\n2\n3\n4\nfour\n5\n6\n7\n8\n9\n10\neleven \u{1b}[31m\n12\n13\n";
        insta::assert_snapshot!(render("x.toml", old, new, &context), @r"
        x.toml
          3
          4
        + four
          5
          6
          …
          9
          10
        - 11
        + eleven \x1b[31m
          12
        + 13
        ");
    }

    #[test]
    fn both_texts_are_in_it() {
        for (old, new) in
            [("", ""), ("", "a"), ("a", ""), ("a\nb\nc", "b\nc\nd"), ("x\nx", "x\nx\nx")]
        {
            let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
            let lines = compare(&old, &new);
            let of = |wanted: fn(&Line<'_>) -> bool| -> Vec<&str> {
                let lines = lines.iter().filter(|line| wanted(line));
                lines.map(|(Line::Same(it) | Line::Gone(it) | Line::New(it))| *it).collect()
            };
            assert_eq!(of(|line| !matches!(line, Line::New(_))), old);
            assert_eq!(of(|line| !matches!(line, Line::Gone(_))), new);
        }
    }
}
