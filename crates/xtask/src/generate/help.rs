//! The help of a command, as the parts that it is made of.
//!
//! What stands below the options of a help text has a form: prose, then sections. A section begins
//! with one of the known headings and a colon, at the start of a line.

/// The headings that begin a section.
const HEADINGS: [&str; 5] = ["Examples", "Example", "Exit status", "Environment", "Files"];

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// Prose, on one line.
    Paragraph(String),
    /// Lines that stay as they are.
    Verbatim(Vec<String>),
    /// Words, with what they mean.
    Terms(Vec<(String, String)>),
}

/// The help of one command, without its options.
#[derive(Debug, Default)]
pub struct Help {
    /// What it does, at length.
    pub description: Vec<Block>,
    /// What it means when it ends.
    pub exit_status: Vec<Block>,
    /// Variables that it heeds.
    pub environment: Vec<Block>,
    /// Files that it knows.
    pub files: Vec<Block>,
    /// How it is used.
    pub examples: Vec<Block>,
}

impl Help {
    /// Takes the help of a command apart.
    pub fn of(command: &clap::Command) -> Self {
        let about = command.get_long_about().map(ToString::to_string);
        let about = about.or_else(|| command.get_about().map(|about| format!("{about}.")));
        let after = command.get_after_long_help().or_else(|| command.get_after_help());
        let after = after.map(ToString::to_string).unwrap_or_default();
        let mut help = Self::default();
        let mut text = Vec::new();
        // The first line of a long text is the short one, which has no full stop.
        for (number, line) in about.unwrap_or_default().lines().enumerate() {
            let is_title = number == 0 && !line.ends_with('.');
            text.push(if is_title { format!("{line}.") } else { line.to_owned() });
        }
        text.push(String::new());
        let mut heading = "";
        for line in after.lines() {
            let found = HEADINGS.iter().find_map(|heading| {
                Some((*heading, line.strip_prefix(heading)?.strip_prefix(':')?.trim()))
            });
            let Some((next, rest)) = found else {
                text.push(line.to_owned());
                continue;
            };
            help.put(heading, &text);
            heading = next;
            text = vec![rest.to_owned()];
        }
        help.put(heading, &text);
        help
    }

    fn put(&mut self, heading: &str, lines: &[String]) {
        match heading {
            "" => self.description = blocks(lines),
            "Exit status" => self.exit_status = terms(lines),
            "Environment" => self.environment = terms(lines),
            "Files" => self.files = terms(lines),
            _ => self.examples = examples(lines),
        }
    }
}

/// Prose, and lines that are indented: those stay as they are.
fn blocks(lines: &[String]) -> Vec<Block> {
    let mut blocks = Vec::new();
    for chunk in lines.split(|line| line.trim().is_empty()) {
        for lines in chunk.chunk_by(|a, b| a.starts_with(' ') == b.starts_with(' ')) {
            match lines.first() {
                Some(first) if first.starts_with(' ') => {
                    let lines = dedent(lines);
                    match blocks.last_mut() {
                        Some(Block::Verbatim(before)) => {
                            before.push(String::new());
                            before.extend(lines);
                        }
                        _ => blocks.push(Block::Verbatim(lines)),
                    }
                }
                Some(_) => blocks.push(Block::Paragraph(joined(lines))),
                None => {}
            }
        }
    }
    blocks
}

/// A list of words, two spaces, and what they mean; else prose.
fn terms(lines: &[String]) -> Vec<Block> {
    let lines: Vec<_> = lines.iter().filter(|line| !line.is_empty()).cloned().collect();
    let term = |line: &String| {
        let (term, meaning) = line.strip_prefix("  ")?.split_once("  ")?;
        Some((term.to_owned(), meaning.trim().to_owned()))
    };
    match lines.iter().map(term).collect::<Option<Vec<_>>>() {
        Some(terms) if !terms.is_empty() => vec![Block::Terms(terms)],
        _ => blocks(&lines),
    }
}

/// What is at the margin explains what is indented below it; where nothing is indented, all of it is
/// to be typed.
fn examples(lines: &[String]) -> Vec<Block> {
    let lines = dedent(lines);
    let mut examples = Vec::new();
    for chunk in lines.split(|line| line.trim().is_empty()).filter(|chunk| !chunk.is_empty()) {
        if chunk.iter().any(|line| line.starts_with(' ')) {
            examples.extend(blocks(chunk));
        } else {
            examples.push(Block::Verbatim(chunk.to_vec()));
        }
    }
    examples
}

fn joined(lines: &[String]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

fn dedent(lines: &[String]) -> Vec<String> {
    let margin = |line: &String| line.len() - line.trim_start().len();
    let full = lines.iter().filter(|line| !line.trim().is_empty());
    let margin = full.map(margin).min().unwrap_or(0);
    lines.iter().map(|line| line.get(margin..).unwrap_or_default().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paragraph(text: &str) -> Block {
        Block::Paragraph(text.to_owned())
    }

    fn verbatim(lines: &[&str]) -> Block {
        Block::Verbatim(lines.iter().map(|line| (*line).to_owned()).collect())
    }

    #[test]
    fn a_help_text_is_taken_apart() {
        let command = clap::Command::new("x").about("Does it").after_help(
            "Prose that goes\non.\n\n  now    at once\n         or so\n\n  later  not\n\nMore.\n\n\
             Examples:\n  x --all\n  x --none\n\n  With a reason:\n    x \\\n      --why\n\n\
             Exit status: 0 done;\n1 failed.\n\nFiles:\n  /etc/x    of the administrator\n  /y  other",
        );
        let help = Help::of(&command);
        assert_eq!(
            help.description,
            [
                paragraph("Does it."),
                paragraph("Prose that goes on."),
                verbatim(&["now    at once", "       or so", "", "later  not"]),
                paragraph("More."),
            ]
        );
        assert_eq!(
            help.examples,
            [
                verbatim(&["x --all", "x --none"]),
                paragraph("With a reason:"),
                verbatim(&["x \\", "  --why"]),
            ]
        );
        assert_eq!(help.exit_status, [paragraph("0 done; 1 failed.")]);
        let terms = [("/etc/x", "of the administrator"), ("/y", "other")];
        let terms = terms.map(|(term, meaning)| (term.to_owned(), meaning.to_owned()));
        assert_eq!(help.files, [Block::Terms(terms.into())]);
        assert!(help.environment.is_empty());
    }

    /// What a newcomer looks for in every command's help.
    #[test]
    fn every_command_says_how_it_is_used_and_how_it_ends() {
        let definition = ebbtide::definition();
        for command in super::super::visible(&definition) {
            let help = Help::of(command);
            assert!(!help.examples.is_empty(), "{}: no Examples:", command.get_name());
            assert!(!help.exit_status.is_empty(), "{}: no Exit status:", command.get_name());
        }
    }
}
