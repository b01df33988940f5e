//! What the program says when it is not told what to do.

use std::fmt::Write as _;

use clap::Command;

/// What a machine without a declaration begins with, and with one. Commands that do not exist are
/// passed over.
const FIRST: [(&str, &str); 3] = [("try", ""), ("init", " --help"), ("check", " --config FILE")];
const DAILY: [(&str, &str); 8] = [
    ("status", ""),
    ("diff", ""),
    ("keep", " PATH"),
    ("check", ""),
    ("apply", ""),
    ("boots", ""),
    ("log", " PATH"),
    ("restore", " PATH"),
];

/// A few lines that say what to do first.
pub fn overview(definition: &Command, is_declared: bool) -> String {
    let (state, commands) = if is_declared {
        ("This machine has a declaration. What can be done with it:", &DAILY[..])
    } else {
        ("This machine has no declaration yet. What can be done first:", &FIRST[..])
    };
    let lines: Vec<(String, String)> = commands
        .iter()
        .filter_map(|(name, more)| {
            let about = definition.find_subcommand(name)?.get_about()?.to_string();
            Some((format!("ebbtide {name}{more}"), about))
        })
        .collect();
    let width = lines.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
    let about = definition.get_about().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{about}.\n\n{state}\n\n");
    for (command, about) in lines {
        let _ = writeln!(text, "  {command:width$}  {about}");
    }
    text.push_str("\nAll commands: `ebbtide --help`. One of them: `ebbtide COMMAND --help`.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do_first() {
        let command = |name: &'static str, about: &'static str| Command::new(name).about(about);
        let definition = Command::new("ebbtide")
            .about("Makes it forget")
            .subcommand(command("init", "Sets up"))
            .subcommand(command("status", "Proves"))
            .subcommand(command("boots", "Lists"));
        insta::assert_snapshot!(overview(&definition, false), @r"
        Makes it forget.

        This machine has no declaration yet. What can be done first:

          ebbtide init --help  Sets up

        All commands: `ebbtide --help`. One of them: `ebbtide COMMAND --help`.
        ");
        insta::assert_snapshot!(overview(&definition, true), @r"
        Makes it forget.

        This machine has a declaration. What can be done with it:

          ebbtide status  Proves
          ebbtide boots   Lists

        All commands: `ebbtide --help`. One of them: `ebbtide COMMAND --help`.
        ");
    }
}
