//! What is wrong with a declaration, where, and what to do about it.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Element, Level, Renderer, Snippet};
use schemars::JsonSchema;
use serde::Serialize;

use super::SourceFile;
use crate::compiled::Origin;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The declaration cannot be used.
    Error,
    /// The declaration works, but perhaps not as meant.
    Warning,
    /// Worth knowing.
    Note,
}

/// A place in a file, and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Index into the sources that were checked.
    pub file: usize,
    /// Range of bytes.
    pub span: Range<usize>,
    /// A few words, shown beside the caret; may be empty.
    pub label: String,
}

/// A problem of a declaration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one line, safe to print.
    pub message: String,
    /// Where.
    pub mark: Mark,
    /// The other place, where two places contradict each other.
    pub other: Option<Mark>,
    /// What to do about it.
    pub hint: Option<String>,
}

/// A problem for machines: the element of `problems` in `ebbtide check --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem of what was declared at a place that an entry remembers. `sources` are those that were
    /// checked; in them the path is marked, or its line.
    pub fn at(
        severity: Severity,
        message: impl Into<String>,
        path: &Path,
        origin: &Origin,
        sources: &[SourceFile],
    ) -> Self {
        let file = sources.iter().position(|source| source.name == origin.file);
        let text = file.and_then(|file| sources.get(file)).map_or("", |it| it.text.as_str());
        let number = usize::try_from(origin.line).unwrap_or(usize::MAX).saturating_sub(1);
        let before: usize = text.split_inclusive('\n').take(number).map(str::len).sum();
        let line = text.get(before..).and_then(|rest| rest.lines().next()).unwrap_or_default();
        let written = path.to_str().and_then(|path| {
            let quoted = toml_string(path);
            line.find(&quoted).map(|at| at..at + quoted.len())
        });
        let indent = line.len() - line.trim_start().len();
        let span = written.unwrap_or(indent..line.trim_end().len().max(indent));
        let mark = Mark {
            file: file.unwrap_or(usize::MAX),
            span: before + span.start..before + span.end,
            label: String::new(),
        };
        Self { severity, message: message.into(), mark, other: None, hint: None }
    }

    /// Whether it keeps the declaration from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Draws the problem with its excerpts, as rustc does. Nothing in the result but the colours
    /// is a control character, other than newlines.
    ///
    /// `sources` are those that were checked.
    pub fn render(&self, sources: &[SourceFile], color: bool) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let mut group =
            level.primary_title(printable(&self.message)).elements(self.excerpts(sources));
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.with_name("hint").message(printable(hint)));
        }
        let renderer = if color { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    /// One excerpt per file: the place itself, and the other one as context.
    fn excerpts<'a>(&'a self, sources: &'a [SourceFile]) -> Vec<Element<'a>> {
        let primary = (AnnotationKind::Primary, &self.mark);
        let context = self.other.as_ref().map(|mark| (AnnotationKind::Context, mark));
        let (same, apart): (Vec<_>, Vec<_>) =
            context.into_iter().partition(|(_, mark)| mark.file == self.mark.file);
        let first = std::iter::once(primary).chain(same).collect();
        [first, apart]
            .into_iter()
            .filter_map(|marks: Vec<(AnnotationKind, &Mark)>| {
                let source = sources.get(marks.first()?.1.file)?;
                let annotations = marks.into_iter().map(|(kind, mark)| {
                    let annotation = kind.span(printable_span(&source.text, &mark.span));
                    match mark.label.as_str() {
                        "" => annotation,
                        label => annotation.label(printable(label)),
                    }
                });
                let snippet = Snippet::source(printable_text(&source.text))
                    .path(printable(&source.name))
                    .annotations(annotations);
                Some(Element::from(snippet))
            })
            .collect()
    }
}

/// The problems for machines, with their places resolved. `sources` are those that were checked.
pub fn report(problems: &[Problem], sources: &[SourceFile]) -> Vec<Report> {
    let lines: Vec<_> = sources.iter().map(|source| Lines::of(&source.text)).collect();
    let report = |problem: &Problem| {
        let mark = &problem.mark;
        let source = sources.get(mark.file).zip(lines.get(mark.file));
        let (line, column) =
            source.map_or((1, 1), |(source, lines)| lines.position(&source.text, mark.span.start));
        Report {
            file: source.map_or_else(String::new, |(source, _)| source.name.clone()),
            line,
            column,
            severity: problem.severity,
            message: problem.message.clone(),
            hint: problem.hint.clone(),
        }
    };
    problems.iter().map(report).collect()
}

/// The lines of a text, to find many positions in it.
pub(super) struct Lines {
    /// Where each line but the first begins.
    starts: Vec<usize>,
}

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(newline, _)| newline + 1).collect();
        Self { starts }
    }

    /// The line of a byte, counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset) + 1
    }

    /// Line and column of a byte of the same text, counted from 1; the column in characters.
    fn position(&self, text: &str, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let start = line.checked_sub(2).and_then(|index| self.starts.get(index)).copied();
        let before = text.get(start.unwrap_or(0)..offset).unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

/// Quotes what a user wrote, so that it is safe to print and its ends are seen.
pub(super) fn quote(text: &str) -> String {
    format!("`{}`", ebbtide_sys::escape(text.as_bytes()))
}

/// Writes a string as TOML, so that a hint can be copied into the file.
pub(super) fn toml_string(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            quoted.push('\\');
            quoted.push(c);
        } else if misleading(c) {
            let _ = write!(quoted, "\\U{:08X}", u32::from(c));
        } else {
            quoted.push(c);
        }
    }
    quoted.push('"');
    quoted
}

/// Joins words as in "a, b and c".
pub(super) fn join(words: &[String], last: &str) -> String {
    match words {
        [] => String::new(),
        [word] => word.clone(),
        [head @ .., tail] => format!("{} {last} {tail}", head.join(", ")),
    }
}

/// Whether a terminal would act on this character, or show it as something else than it is.
fn misleading(c: char) -> bool {
    let harmless = c.is_ascii_graphic() || c == ' ';
    let escaped = || ebbtide_sys::escape(c.encode_utf8(&mut [0; 4]).as_bytes());
    !harmless && !escaped().chars().eq([c])
}

/// Replaces what could do harm in one line of text.
fn printable(text: &str) -> String {
    text.chars().map(|c| if misleading(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Replaces what could do harm in an excerpt, where lines and tabs are drawn by the renderer.
fn printable_text(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => c,
            c if misleading(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Where a span lies after [`printable_text`].
fn printable_span(text: &str, span: &Range<usize>) -> Range<usize> {
    let at = |offset: usize| printable_text(text.get(..offset).unwrap_or(text)).len();
    let start = at(span.start);
    start..at(span.end).max(start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rendering_never_prints_a_control_character(
            name in any::<String>(), text in any::<String>(), message in any::<String>(),
            label in any::<String>(), hint in any::<String>(),
            from in 0_usize..40, length in 0_usize..40, color in any::<bool>(),
        ) {
            let mark = Mark { file: 0, span: from..from + length, label };
            let problem = Problem {
                severity: Severity::Warning,
                message,
                mark,
                other: Some(Mark { file: 0, span: 0..1, label: String::new() }),
                hint: Some(hint),
            };
            let sources = [SourceFile { name, text }];
            let rendered = problem.render(&sources, color);
            let plain = if color { without_colours(&rendered) } else { rendered };
            prop_assert!(!plain.chars().any(|c| c != '\n' && misleading(c)), "{:?}", plain);
            let _ = report(&[problem], &sources);
        }

        #[test]
        fn positions_agree_with_counting(text in "[aä\n]{0,20}", place in 0_usize..20) {
            let offset = text.char_indices().nth(place).map_or(text.len(), |(offset, _)| offset);
            let before: Vec<_> = text[..offset].split('\n').collect();
            let expected = (before.len(), before[before.len() - 1].chars().count() + 1);
            prop_assert_eq!(Lines::of(&text).position(&text, offset), expected);
        }

        #[test]
        fn quoting_is_printable_and_reversible(text in any::<String>()) {
            prop_assert!(!quote(&text).chars().any(misleading));
            let toml = toml_string(&text);
            prop_assert!(!toml.chars().any(misleading));
            let document = format!("text = {toml}");
            let table = toml::de::DeTable::parse(&document).unwrap();
            prop_assert_eq!(table.get_ref()["text"].get_ref().as_str(), Some(text.as_str()));
        }
    }

    fn without_colours(text: &str) -> String {
        let mut parts = text.split("\u{1b}[");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
    }
}
