//! Text as troff(1) reads it, with the macros of man(7).

use super::help::Block;

/// A manual page, or a part of one.
#[derive(Debug, Default)]
pub struct Roff(String);

impl Roff {
    /// What was written.
    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    /// Adds what is roff already.
    pub fn raw(&mut self, text: &str) {
        self.0.push_str(text);
    }

    /// Begins a section.
    pub fn section(&mut self, heading: &str) {
        self.line(&format!(".SH \"{}\"", plain(heading)));
    }

    /// Begins a section in a section.
    pub fn subsection(&mut self, heading: &str) {
        self.line(&format!(".SS \"{}\"", plain(heading).replace('"', "\\(dq")));
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.line(".PP");
        self.text(text);
    }

    /// Adds an item of a list, behind a mark.
    pub fn item(&mut self, mark: &str, text: &str) {
        let (mark, width) = if mark == "-" { ("\\(bu", 2) } else { (mark, 4) };
        self.line(&format!(".IP {mark} {width}"));
        self.text(text);
    }

    /// Adds a term and what it means.
    pub fn term(&mut self, term: &str, meaning: &str) {
        self.line(".TP");
        self.text(term);
        self.text(if meaning.is_empty() { "\u{a0}" } else { meaning });
    }

    /// Adds lines that stay as they are.
    pub fn verbatim(&mut self, lines: &[String]) {
        self.line(".PP");
        self.line(".RS 4");
        self.line(".nf");
        for line in lines {
            self.line(&guarded(&plain(line)));
        }
        self.line(".fi");
        self.line(".RE");
    }

    fn text(&mut self, text: &str) {
        self.line(&guarded(&inline(text)));
    }

    /// Adds a section, if there is something in it.
    pub fn blocks(&mut self, heading: &str, blocks: &[Block]) {
        if blocks.is_empty() {
            return;
        }
        self.section(heading);
        for block in blocks {
            match block {
                Block::Paragraph(text) => self.paragraph(text),
                Block::Verbatim(lines) => self.verbatim(lines),
                Block::Terms(terms) => {
                    for (term, meaning) in terms {
                        self.term(&format!("`{}`", term.trim_matches('`')), meaning);
                    }
                }
            }
        }
    }
}

/// Escapes what troff would interpret. A hyphen in a manual page is one that can be typed.
fn plain(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str("\\e"),
            '-' => escaped.push_str("\\-"),
            '\'' => escaped.push_str("\\(aq"),
            '^' => escaped.push_str("\\(ha"),
            '~' => escaped.push_str("\\(ti"),
            '`' => escaped.push_str("\\(ga"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A line that begins with a dot is text, too.
fn guarded(line: &str) -> String {
    if line.starts_with('.') { format!("\\&{line}") } else { line.to_owned() }
}

/// The little of Markdown that is used within a line: code and what is stressed in bold, links as
/// their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, from) = rest.split_at(at);
        out.push_str(&plain(before));
        let code = from.strip_prefix('`').and_then(|it| it.split_once('`'));
        let strong = from.strip_prefix("**").and_then(|it| it.split_once("**"));
        let link = from
            .strip_prefix('[')
            .and_then(|it| it.split_once("]("))
            .filter(|(text, _)| !text.contains(']'))
            .and_then(|(text, it)| Some((text, it.split_once(')')?.1)));
        if let Some((bold, after)) = code.or(strong) {
            out.push_str("\\fB");
            out.push_str(&plain(bold));
            out.push_str("\\fR");
            rest = after;
        } else if let Some((text, after)) = link {
            out.push_str(&inline(text));
            rest = after;
        } else {
            let (mark, after) = from.split_at(1);
            out.push_str(&plain(mark));
            rest = after;
        }
    }
    out.push_str(&plain(rest));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_troff_would_interpret_is_text() {
        let mut roff = Roff::default();
        roff.paragraph(".dot `a-b\\c` **strong** [text](url) [not] * `open 'x'");
        roff.verbatim(&[".SH x".to_owned(), "'quote".to_owned()]);
        assert_eq!(
            roff.into_text(),
            ".PP\n\\&.dot \\fBa\\-b\\ec\\fR \\fBstrong\\fR text [not] * \\(gaopen \\(aqx\\(aq\n\
             .PP\n.RS 4\n.nf\n\\&.SH x\n\\(aqquote\n.fi\n.RE\n"
        );
    }
}
