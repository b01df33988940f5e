//! Help texts as wide as the terminal. What stands below the options is written by hand, in lines; clap
//! breaks those that are too long, and leaves the rest of each on a line of its own.

use std::io::{stderr, stdin, stdout};

use rustix::termios::tcgetwinsize;

/// The widest that help gets, and its width where there is no terminal.
pub const WIDEST: usize = 100;

/// The width that clap is going to use.
pub fn width() -> usize {
    let sizes = [tcgetwinsize(stdout()), tcgetwinsize(stderr()), tcgetwinsize(stdin())];
    let terminal = sizes.into_iter().flatten().map(|size| usize::from(size.ws_col));
    let variable = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    terminal.chain(variable).find(|columns| *columns > 0).unwrap_or(WIDEST).min(WIDEST)
}

/// A command, and those below it, with texts of that width.
pub fn filled(mut command: clap::Command, width: usize) -> clap::Command {
    if let Some(text) = command.get_after_help().map(ToString::to_string) {
        command = command.after_help(fill(&text, width));
    }
    if let Some(text) = command.get_after_long_help().map(ToString::to_string) {
        command = command.after_long_help(fill(&text, width));
    }
    command.mut_subcommands(|below| filled(below, width))
}

/// Fills paragraphs at the margin, and what stands beside a word. Other lines stay as they are.
fn fill(text: &str, width: usize) -> String {
    let mut filled = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let column = match meaning(line) {
            Some(column) => column,
            None if is_prose(line) => 0,
            None => {
                filled.push(line.to_owned());
                continue;
            }
        };
        let (mut current, rest) = (line[..column].to_owned(), &line[column..]);
        let mut words: Vec<&str> = rest.split(' ').filter(|word| !word.is_empty()).collect();
        let goes_on = |line: &&str| match column {
            0 => is_prose(line) && !line.ends_with(':'),
            _ => line.len() - line.trim_start().len() == column,
        };
        while let Some(more) = lines.next_if(goes_on) {
            words.extend(more.split(' ').filter(|word| !word.is_empty()));
        }
        let mut is_empty = true;
        for word in words {
            if !is_empty && current.chars().count() + 1 + word.chars().count() > width {
                filled.push(std::mem::replace(&mut current, " ".repeat(column)));
                is_empty = true;
            }
            if !is_empty {
                current.push(' ');
            }
            current.push_str(word);
            is_empty = false;
        }
        filled.push(current);
    }
    filled.join("\n")
}

fn is_prose(line: &str) -> bool {
    !line.is_empty() && !line.starts_with(' ')
}

/// Where the meaning begins in a line that is two spaces, a word or more, two spaces or more, meaning.
fn meaning(line: &str) -> Option<usize> {
    let term = line.strip_prefix("  ").filter(|term| !term.starts_with(' '))?;
    let (term, after) = term.split_once("  ")?;
    let spaces = after.len() - after.trim_start().len();
    let column = 2 + term.len() + 2 + spaces;
    (column < line.len()).then_some(column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_meanings_are_filled_and_commands_are_not() {
        let text = "One two three\nfour five.\n\nExamples:\n  run it --with=a-long-option\n\n  word  what it\n        \
                    means here\n  other thing  is\n";
        assert_eq!(
            fill(text, 16),
            "One two three\nfour five.\n\nExamples:\n  run it --with=a-long-option\n\n  word  what it\n        means\n        \
             here\n  other thing  is"
        );
        assert_eq!(
            fill(text, 80).lines().next(),
            Some("One two three four five."),
            "lines that were broken for a narrower page are joined"
        );
    }
}
