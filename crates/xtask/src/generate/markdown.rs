//! Pages of the book as manual pages. Reads the Markdown that the book is written in: headings,
//! paragraphs, lists, tables, code.

use super::roff::Roff;

/// Renders a page; its title is left out.
pub fn render(markdown: &str, roff: &mut Roff) {
    let mut lines = markdown.lines().peekable();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix("### ") {
            roff.subsection(&heading.replace('`', ""));
        } else if let Some(heading) = line.strip_prefix("## ") {
            // What is code keeps its letters.
            let is_code = heading.contains('`');
            let heading = heading.replace('`', "");
            roff.section(&if is_code { heading } else { heading.to_uppercase() });
        } else if line.starts_with("# ") || line.trim().is_empty() {
        } else if line.starts_with("```") {
            let code: Vec<String> =
                lines.by_ref().take_while(|line| line.trim() != "```").map(str::to_owned).collect();
            roff.verbatim(&code);
        } else if let Some(first) = line.strip_prefix("    ") {
            let mut code = vec![first.to_owned()];
            while let Some(more) = lines.peek().and_then(|line| line.strip_prefix("    ")) {
                code.push(more.to_owned());
                lines.next();
            }
            roff.verbatim(&code);
        } else if line.starts_with('|') {
            let mut rows = vec![cells(line)];
            while let Some(row) = lines.next_if(|line| line.starts_with('|')) {
                rows.push(cells(row));
            }
            // The head, and the line below it.
            for row in rows.iter().skip(2) {
                let (term, meaning) = row.split_first().map_or(("", &[][..]), |(a, b)| (a, b));
                match meaning {
                    [brief, meaning] if !brief.is_empty() => {
                        roff.term(&format!("{term} ({brief})"), meaning);
                    }
                    _ => roff.term(term, meaning.last().map_or("", String::as_str)),
                }
            }
        } else if let Some((mark, text)) = item(line) {
            let mut text = text.to_owned();
            while let Some(more) = lines.next_if(|it| it.starts_with("  ")) {
                text = format!("{text} {}", more.trim());
            }
            roff.item(mark, &text);
        } else {
            let mut text = line.to_owned();
            while let Some(more) = lines.next_if(|it| is_prose(it)) {
                text = format!("{text} {}", more.trim());
            }
            roff.paragraph(&text);
        }
    }
}

fn is_prose(line: &str) -> bool {
    !line.trim().is_empty()
        && !line.starts_with(['#', '|'])
        && !line.starts_with("```")
        && item(line).is_none()
}

/// The mark and the text of a list's item.
fn item(line: &str) -> Option<(&str, &str)> {
    if let Some(text) = line.strip_prefix("- ") {
        return Some(("-", text));
    }
    let (number, text) = line.split_once(". ")?;
    let end = number.len() + 1;
    (!number.is_empty() && number.bytes().all(|it| it.is_ascii_digit()))
        .then(|| (&line[..end], text))
}

/// The cells of a table's row; `\|` is a bar in one of them.
fn cells(row: &str) -> Vec<String> {
    let row = row.replace("\\|", "\u{0}");
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| cell.trim().replace('\u{0}', "|")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_book_is_a_manual_page() {
        let mut roff = Roff::default();
        render(
            "# Title\n\nFirst\nline.\n\n## `x`\n\n1. one\n   more\n2. two\n\n- a\n\n```toml\nk = 1\n```\n\n\
             ### y\n\n| key | | |\n|---|---|---|\n| `a` | required | `\"x\\|y\"` |\n| `b` | | c |\n",
            &mut roff,
        );
        assert_eq!(
            roff.into_text(),
            ".PP\nFirst line.\n.SH \"x\"\n.IP 1. 4\none more\n.IP 2. 4\ntwo\n.IP \\(bu 2\na\n\
             .PP\n.RS 4\n.nf\nk = 1\n.fi\n.RE\n.SS \"y\"\n.TP\n\\fBa\\fR (required)\n\\fB\"x|y\"\\fR\n\
             .TP\n\\fBb\\fR\nc\n"
        );
    }
}
