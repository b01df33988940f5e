//! Completions for shells.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap_complete::{Shell, generate};

/// Where the shells look for them.
pub const INSTALLED: [(&str, &str); 3] = [
    ("ebbtide.bash", "usr/share/bash-completion/completions/ebbtide"),
    ("_ebbtide", "usr/share/zsh/vendor-completions/_ebbtide"),
    ("ebbtide.fish", "usr/share/fish/vendor_completions.d/ebbtide.fish"),
];

const SHELLS: [(Shell, &str); 3] =
    [(Shell::Bash, "ebbtide.bash"), (Shell::Zsh, "_ebbtide"), (Shell::Fish, "ebbtide.fish")];

/// Writes them all.
pub fn scripts(add: &mut impl FnMut(PathBuf, String)) -> Result<()> {
    for (shell, name) in SHELLS {
        let mut script = Vec::new();
        generate(shell, &mut shown(&ebbtide::definition()), "ebbtide", &mut script);
        let text = String::from_utf8(script)?;
        let lines: Vec<_> = text.lines().map(str::trim_end).collect();
        add(Path::new("completions").join(name), lines.join("\n") + "\n");
    }
    Ok(())
}

/// The same command without what is hidden, which completions would offer.
fn shown(command: &clap::Command) -> clap::Command {
    let mut shown = clap::Command::new(command.get_name().to_owned()).disable_help_subcommand(true);
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown = shown.args(command.get_arguments().filter(|argument| !argument.is_hide_set()));
    shown.subcommands(command.get_subcommands().filter(|it| !it.is_hide_set()).map(self::shown))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_is_hidden_is_not_offered() {
        let mut scripts_of = BTreeMap::new();
        scripts(&mut |path, text| drop(scripts_of.insert(path, text))).unwrap();
        assert_eq!(scripts_of.len(), SHELLS.len());
        for (path, script) in scripts_of {
            assert!(script.contains("dry-run"), "{}", path.display());
            for hidden in ["sysroot", "owns-root", "locator"] {
                assert!(!script.contains(hidden), "{} offers {hidden}", path.display());
            }
        }
    }
}
