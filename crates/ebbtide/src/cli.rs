//! The command line: what is said for all commands at once.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ColorChoice, CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::commands::Command;
use crate::context::{Color, Context};
use crate::error::{CommandError, Kind};
use crate::fill;
use crate::generator;
use crate::overview::overview;
use crate::status::Status;
use crate::text::printable;

const ABOUT: &str = "Makes this machine forget at every boot, except for what was declared.

The declaration, /etc/ebbtide/ebbtide.toml and the files beside it, names what is kept: directories \
and files, each in a store outside the root. Everything else starts from a known base at every boot.";

const EXAMPLES: &str = "\
Examples:
  See what a machine forgets, right now and without a trace:
    ebbtide try

  Set a volume up from an installed system, after a look at what would be done:
    ebbtide init --help

  Find mistakes before the next boot does; also in a file that is not in place yet:
    ebbtide check
    ebbtide check --config new.toml

  Make the next boot use the changed declaration:
    ebbtide apply --dry-run
    ebbtide apply

  Keep one more path, with what is in it, from now on:
    ebbtide keep /var/lib/app

  Keep it no longer; its data stay in their store:
    ebbtide forget /var/lib/app

  See what the next boot takes away, and never again what is not worth a look:
    ebbtide diff
    ebbtide ignore '*.pyc'

  Decide about it one by one:
    ebbtide review

  Look around in the next boot before it comes, and see whether all services start:
    ebbtide rehearse
    ebbtide rehearse --boot

  See whether this root is really new, and what became of the old ones:
    ebbtide status
    ebbtide boots

  See all versions of a path, those in past roots among them:
    ebbtide log /etc/hosts

  Bring back what was forgotten, and keep it from now on:
    ebbtide restore --keep /var/lib/app

  See what is kept no longer, and delete it; a timer does so every day:
    ebbtide gc --dry-run

  Acknowledge a restored backup or an exchanged disk, for which no boot resets the root:
    ebbtide accept --dry-run

  Let an editor complete and check the declaration:
    ebbtide schema > ebbtide.schema.json

Exit status:
  0    done
  1    failed
  2    wrong command line or declaration
  3    `status`, `diff` or `rehearse --boot` found something
  125  `try` or `rehearse` failed; they pass on the status of the command that they run
  255  a bug in Ebbtide";

const SURROUNDINGS: &str = "\
Environment:
  NO_COLOR        no colours, unless `--color always` says so
  CLICOLOR_FORCE  colours, even into a file

Files:
  /usr/lib/ebbtide/*.toml        declared by packages and the distribution
  /etc/ebbtide/ebbtide.toml      declared by the administrator
  /etc/ebbtide/ebbtide.d/*.toml  fragments of it
  /run/ebbtide/boot.json         what this boot did
  ebbtide/                       the container, below the top level of its volume
  .ebbtide/                      in each store: Ebbtide's own";

#[derive(Debug, Parser)]
#[command(
    name = "ebbtide",
    version,
    about = "Makes this machine forget at every boot, except for what was declared",
    long_about = ABOUT,
    after_long_help = format!("{EXAMPLES}\n\n{SURROUNDINGS}"),
    max_term_width = fill::WIDEST,
    disable_help_subcommand = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[arg(
        long,
        help = "When to use colours: auto, always or never [env: NO_COLOR, CLICOLOR_FORCE]",
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t = Color::Auto,
        hide_possible_values = true
    )]
    color: Color,

    /// The root of the system to look at
    #[arg(long, global = true, hide = true, value_name = "DIRECTORY", default_value = "/")]
    sysroot: PathBuf,
}

/// The whole command line, for what is made from it.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command that the arguments ask for.
pub fn run() -> Status {
    let arguments: Vec<_> = std::env::args_os().collect();
    if generator::is_called(&arguments) {
        return generator::run(&arguments);
    }
    // Whose own failures have a status of their own.
    let is_try = passes_on(&arguments);
    let parse = |command: clap::Command| {
        let matches = command.color(color_of(&arguments)).try_get_matches_from(&arguments)?;
        Cli::from_arg_matches(&matches)
    };
    // Texts are filled only for who gets to see them.
    let parsed = parse(definition()).or_else(|_| parse(fill::filled(definition(), fill::width())));
    let Cli { command, color, sysroot } = match parsed {
        Ok(cli) => cli,
        Err(answer) => return explain(&answer, is_try),
    };
    let context = Context::new(sysroot, color).fitting();
    command.run(&context).unwrap_or_else(|error| {
        error.print(context.color_err());
        error.status()
    })
}

/// Whether the command passes on the status of another one.
fn passes_on(arguments: &[impl AsRef<OsStr>]) -> bool {
    let mut words = arguments.iter().skip(1).map(AsRef::as_ref).take_while(|word| *word != "--");
    match words.next() {
        Some(word) if word == "try" => true,
        Some(word) if word == "rehearse" => !words.any(|word| word == "--boot"),
        _ => false,
    }
}

/// The colours for clap's own messages, which it has to know before it reads the arguments.
fn color_of(arguments: &[impl AsRef<OsStr>]) -> ColorChoice {
    let words: Vec<_> = arguments.iter().map_while(|word| word.as_ref().to_str()).collect();
    let value = words.iter().enumerate().find_map(|(index, word)| match *word {
        "--color" => words.get(index + 1).copied(),
        word => word.strip_prefix("--color="),
    });
    value.and_then(|value| Color::from_str(value, false).ok()).unwrap_or(Color::Auto).into()
}

const NOTHING_SAID: ErrorKind = ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;

/// Prints help, version or what is wrong with the arguments.
fn explain(answer: &clap::Error, is_try: bool) -> Status {
    if !answer.use_stderr() {
        let _ = answer.print();
        return Status::DONE;
    }
    let status = if is_try { Status::NOT_TRIED } else { Status::USAGE };
    if std::env::args_os().len() <= 1 && answer.kind() == NOTHING_SAID {
        let is_declared = Path::new("/etc/ebbtide/ebbtide.toml").exists();
        eprint!("{}", overview(&definition(), is_declared));
        return status;
    }
    // What was typed is repeated in the message.
    let text = answer.to_string();
    if text.lines().all(|line| printable(line) == line) {
        let _ = answer.print();
        return status;
    }
    CommandError::new(Kind::Usage, "cannot understand the command line")
        .cause("an argument that is not known has special characters in it")
        .hint("see `ebbtide --help`")
        .print(false);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_passes_on_a_status_is_known_before_parsing() {
        assert!(passes_on(&["ebbtide", "try", "--odd"]));
        assert!(passes_on(&["ebbtide", "rehearse", "--odd", "--", "x", "--boot"]));
        assert!(!passes_on(&["ebbtide", "rehearse", "--odd", "--boot"]));
        assert!(!passes_on(&["ebbtide", "check", "try"]));
    }

    #[test]
    fn colours_are_known_before_parsing() {
        assert_eq!(color_of(&["ebbtide", "--color", "never"]), ColorChoice::Never);
        assert_eq!(color_of(&["ebbtide", "check", "--color=always"]), ColorChoice::Always);
        assert_eq!(color_of(&["ebbtide", "--color"]), ColorChoice::Auto);
        assert_eq!(color_of(&["ebbtide", "--color=odd"]), ColorChoice::Auto);
    }
}
