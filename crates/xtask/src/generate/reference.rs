//! The reference of the command line, as a page of the book.

use std::fmt::Write as _;

use super::help::{Block, Help};

const INTRODUCTION: &str = "\
# The command line

<!-- Made by `cargo xtask generate` from the definition of the command line. -->

The same text is in `ebbtide --help`, `ebbtide COMMAND --help` and the manual pages, `man ebbtide`
and `man ebbtide-COMMAND`.

";

/// Writes the page.
pub fn page(command: &mut clap::Command) -> String {
    let mut text = INTRODUCTION.to_owned();
    let commands: Vec<clap::Command> = super::visible(command).into_iter().cloned().collect();
    for mut command in commands {
        write_command(&mut command, &mut text);
    }
    while text.ends_with("\n\n") {
        text.pop();
    }
    text
}

fn write_command(command: &mut clap::Command, text: &mut String) {
    let usage = command.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    let words = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = Help::of(command);
    let _ = writeln!(text, "## `{words}`\n");
    let is_first = !words.contains(' ');
    let mut description = help.description.iter();
    write_blocks(description.by_ref().take(1), text);
    let usage: Vec<_> = usage.lines().map(str::trim).collect();
    let _ = writeln!(text, "```text\n{}\n```\n", usage.join("\n"));
    write_blocks(description, text);
    let arguments: Vec<&clap::Arg> = command
        .get_arguments()
        .filter(|it| !it.is_hide_set() && !["help", "version"].contains(&it.get_id().as_str()))
        // What every command has is said once.
        .filter(|it| is_first || !it.is_global_set())
        .collect();
    if !arguments.is_empty() {
        text.push_str("| | |\n|---|---|\n");
        for argument in arguments {
            let _ = writeln!(text, "| {} | {} |", cell(&form(argument)), cell(&meaning(argument)));
        }
        text.push('\n');
    }
    if command.get_subcommands().any(|it| !it.is_hide_set()) {
        text.push_str("| command | |\n|---|---|\n");
        for below in command.get_subcommands().filter(|it| !it.is_hide_set()) {
            let name = below.get_bin_name().unwrap_or_else(|| below.get_name());
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            let anchor = name.replace(' ', "-");
            let _ = writeln!(text, "| [`{name}`](#{anchor}) | {} |", cell(&about));
        }
        text.push('\n');
    }
    for (heading, blocks) in [
        ("Examples", &help.examples),
        ("Exit status", &help.exit_status),
        ("Environment", &help.environment),
        ("Files", &help.files),
    ] {
        if !blocks.is_empty() {
            let _ = writeln!(text, "**{heading}**\n");
            write_blocks(blocks.iter(), text);
        }
    }
}

fn write_blocks<'a>(blocks: impl Iterator<Item = &'a Block>, text: &mut String) {
    for block in blocks {
        let _ = match block {
            Block::Paragraph(paragraph) => writeln!(text, "{}\n", prose(paragraph)),
            Block::Verbatim(lines) => writeln!(text, "```text\n{}\n```\n", lines.join("\n")),
            Block::Terms(terms) => {
                text.push_str("| | |\n|---|---|\n");
                for (term, meaning) in terms {
                    let _ = writeln!(text, "| `{}` | {} |", term.trim_matches('`'), cell(meaning));
                }
                writeln!(text)
            }
        };
    }
}

/// How an argument is written.
fn form(argument: &clap::Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let names: Vec<_> = names.iter().map(clap::builder::Str::as_str).collect();
    let value = names.join(" ");
    let takes_value = argument.get_action().takes_values();
    match (argument.get_short(), argument.get_long()) {
        (None, None) => format!("`{value}`"),
        (short, long) => {
            let short = short.map(|short| format!("-{short}"));
            let long = long.map(|long| format!("--{long}"));
            let names: Vec<_> = short.into_iter().chain(long).collect();
            let value = if takes_value { format!(" {value}") } else { String::new() };
            format!("`{}{value}`", names.join("`, `"))
        }
    }
}

/// What an argument means, with its values and what it is without being said.
fn meaning(argument: &clap::Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let mut text = help.map(|help| help.to_string().replace('\n', " ")).unwrap_or_default();
    let is_listed = argument.get_action().takes_values() && !argument.is_hide_possible_values_set();
    let values: Vec<String> = argument
        .get_possible_values()
        .iter()
        .filter(|value| is_listed && !value.is_hide_set())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}` ({help})", value.get_name()),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if !values.is_empty() {
        let _ = write!(text, "{} One of {}", stop(&text), values.join(", "));
    }
    let defaults: Vec<_> =
        argument.get_default_values().iter().map(|it| it.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(text, "{} Without it: `{}`", stop(&text), defaults.join(" "));
    }
    text
}

/// What ends a sentence that goes on in another one.
fn stop(text: &str) -> &'static str {
    if text.ends_with(['?', '.', '!']) { "" } else { "." }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    prose(text).replace('|', "\\|")
}

/// Text that is no Markdown: what looks like HTML, or is stressed, outside of code.
fn prose(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(index, part)| {
        if index % 2 == 1 {
            return part.to_owned();
        }
        part.replace('<', "&lt;").replace('*', "\\*")
    });
    parts.collect::<Vec<_>>().join("`")
}
