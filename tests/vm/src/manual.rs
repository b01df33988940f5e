//! Pages of the documentation that are run: their blocks of commands, and what these print.

use anyhow::{Result, bail, ensure};

/// Where a block's commands are typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `sh package`: where the package is built.
    Package,
    /// `sh`: on the machine of the reader.
    Host,
    /// `sh qemu`: there, and it boots the machine of the page.
    Qemu,
    /// `sh guest`: on the machine of the page.
    Guest,
}

/// A fenced block of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub kind: Kind,
    /// Its number of the line that begins it, from 1.
    pub line: usize,
    pub text: String,
    /// What the block `text` after it shows as its output.
    pub shows: Option<String>,
}

/// Returns the blocks of a page, in order.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let line = number + 1;
        let content: Vec<&str> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        let text = content.join("\n");
        let kind = match info {
            "sh package" => Kind::Package,
            "sh" => Kind::Host,
            "sh qemu" => Kind::Qemu,
            "sh guest" => Kind::Guest,
            "text" => {
                let Some(block) = blocks.last_mut().filter(|block| block.shows.is_none()) else {
                    bail!("line {line}: nothing before it could have printed this");
                };
                block.shows = Some(text);
                continue;
            }
            _ => bail!("line {line}: {info:?} says neither where to type it nor what printed it"),
        };
        blocks.push(Block { kind, line, text, shows: None });
    }
    Ok(blocks)
}

/// Returns the blocks of a section that are set off by four spaces or, in a list, by more.
pub fn indented(page: &str, section: &str) -> Vec<String> {
    let heading = format!("## {section}");
    let lines = page.lines().skip_while(|line| *line != heading).skip(1);
    let mut blocks = vec![Vec::new()];
    let mut was_blank = true;
    for line in lines.take_while(|line| !line.starts_with("## ")) {
        let indent = line.len() - line.trim_start().len();
        let goes_on = blocks.last().is_some_and(|block: &Vec<&str>| !block.is_empty());
        if indent >= 4 && (was_blank || goes_on) {
            if let Some(block) = blocks.last_mut() {
                block.push(line);
            }
        } else if goes_on {
            blocks.push(Vec::new());
        }
        was_blank = line.is_empty();
    }
    blocks.retain(|block| !block.is_empty());
    let undented = |block: Vec<&str>| {
        let indent = block.iter().map(|line| line.len() - line.trim_start().len()).min();
        let lines: Vec<&str> =
            block.iter().map(|line| &line[indent.unwrap_or_default()..]).collect();
        lines.join("\n")
    };
    blocks.into_iter().map(undented).collect()
}

/// Says whether `said` is what is shown. `…` stands for any part of a line; alone on a line, for any
/// lines, or none.
pub fn matches(shown: &str, said: &str) -> bool {
    let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
    let said: Vec<&str> = said.lines().map(str::trim_end).collect();
    lines_match(&shown, &said)
}

fn lines_match(shown: &[&str], said: &[&str]) -> bool {
    match shown {
        [] => said.is_empty(),
        [first, rest @ ..] if first.trim_start() == "…" => {
            (0..=said.len()).any(|count| lines_match(rest, &said[count..]))
        }
        [first, rest @ ..] => match said {
            [line, others @ ..] => line_matches(first, line) && lines_match(rest, others),
            [] => false,
        },
    }
}

fn line_matches(shown: &str, said: &str) -> bool {
    match shown.split_once('…') {
        None => shown == said,
        Some((start, rest)) => said.strip_prefix(start).is_some_and(|said| {
            said.char_indices()
                .map(|(index, _)| index)
                .chain([said.len()])
                .any(|index| line_matches(rest, &said[index..]))
        }),
    }
}

/// Splits a command as a shell does, as far as the pages go: double quotes, and lines that go on.
pub fn words(command: &str) -> Result<Vec<String>> {
    let command = command.replace("\\\n", " ");
    let mut words = Vec::new();
    for (number, part) in command.split('"').enumerate() {
        ensure!(!part.contains(['\'', '\\', '$', ';', '\n']), "too difficult a command: {part:?}");
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_blocks_with_what_they_print() {
        let page = "# Page\n```sh\nls\n```\ntext\n```text\nfile\n```\n```sh guest\na\nb\n```\n";
        let block = |kind, line, text: &str, shows: Option<&str>| Block {
            kind,
            line,
            text: text.to_owned(),
            shows: shows.map(str::to_owned),
        };
        assert_eq!(
            blocks(page).unwrap(),
            [block(Kind::Host, 2, "ls", Some("file")), block(Kind::Guest, 9, "a\nb", None)]
        );
        assert!(blocks("```\nls\n```\n").is_err(), "a block that nobody would run");
        assert!(blocks("```text\nls\n```\n").is_err(), "output of nothing");
    }

    #[test]
    fn a_section_has_blocks_that_are_set_off() {
        let page = "## A\n\n    no\n\n## B\n\n    a \\\n        b\n    c\n\ntext\n\n1. Item:\n\n\
                    \x20      d\n           e\n\n   text\n    goes on\n## C\n\n    no\n";
        assert_eq!(indented(page, "B"), ["a \\\n    b\nc", "d\n    e"]);
    }

    #[test]
    fn an_ellipsis_stands_for_a_part_or_for_lines() {
        for (shown, said, same) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a\nb", false),
            ("a …", "a 1", true),
            ("a … c … e", "a b c d e", true),
            ("a … c", "a b d", false),
            ("…", "", true),
            ("  …\nz", "a\nb\nz", true),
            ("a\n…\nz", "a\nz", true),
            ("a\n…\nz", "a\nb", false),
        ] {
            assert_eq!(matches(shown, said), same, "{shown:?} and {said:?}");
        }
    }

    #[test]
    fn quotes_and_lines_that_go_on() {
        let command = "qemu -m 1 \\\n    -append \"a b=c\"";
        assert_eq!(words(command).unwrap(), ["qemu", "-m", "1", "-append", "a b=c"]);
        assert!(words("a $(b)").is_err());
    }
}
