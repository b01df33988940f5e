//! Manual pages.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap_mangen::Man;

use super::help::Help;
use super::roff::Roff;
use super::{markdown, visible};

/// Where they are checked in.
pub const FOLDER: &str = "docs/man";

/// A page of the book that is a manual page as well.
pub struct Page {
    /// Its place in the book.
    pub source: &'static str,
    name: &'static str,
    section: u8,
    about: &'static str,
    see_also: &'static str,
}

/// All of them.
pub const PAGES: [Page; 2] = [
    Page {
        source: "docs/reference/declaration.md",
        name: "ebbtide.toml",
        section: 5,
        about: "what a machine with Ebbtide keeps",
        see_also: "\\fBebbtide\\fR(1), \\fBebbtide\\-check\\fR(1), \\fBebbtide\\-apply\\fR(1)",
    },
    Page {
        source: "docs/reference/ebbtide-boot.md",
        name: "ebbtide-boot",
        section: 8,
        about: "makes the root of a boot, in the initramfs",
        see_also: "\\fBebbtide\\fR(1), \\fBebbtide.toml\\fR(5), \\fBbootparam\\fR(7)",
    },
];

const MANUAL: &str = "Ebbtide";

/// Writes them all.
pub fn pages(
    workspace: &Path,
    command: &clap::Command,
    add: &mut impl FnMut(PathBuf, String),
) -> Result<()> {
    let all = visible(command);
    let names: Vec<String> = all.iter().map(|it| name(it)).collect();
    for command in &all {
        let page = page(command, &names)?;
        add(Path::new(FOLDER).join(format!("{}.1", name(command))), page);
    }
    for Page { source, name, section, about, see_also } in PAGES {
        let markdown = fs::read_to_string(workspace.join(source))
            .with_context(|| format!("cannot read {source}"))?;
        let mut roff = Roff::default();
        roff.raw(&title(name, section));
        roff.section("NAME");
        roff.raw(&format!("{} \\- {about}\n", name.replace('-', "\\-")));
        roff.section("DESCRIPTION");
        markdown::render(&markdown, &mut roff);
        roff.section("SEE ALSO");
        roff.raw(&format!("{see_also}\n"));
        add(Path::new(FOLDER).join(format!("{name}.{section}")), roff.into_text());
    }
    Ok(())
}

fn name(command: &clap::Command) -> String {
    command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned()
}

/// No date: the same source gives the same page at any time.
fn title(name: &str, section: u8) -> String {
    let name = name.replace('-', "\\-");
    // The apostrophe that clap_mangen writes.
    format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH \"{name}\" {section} \"\" \"Ebbtide {}\" \"{MANUAL}\"\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn page(command: &clap::Command, all: &[String]) -> Result<String> {
    let name = name(command);
    let help = Help::of(command);
    let man = Man::new(command.clone());
    let part = |render: &dyn Fn(&mut Vec<u8>) -> std::io::Result<()>| -> Result<String> {
        let mut bytes = Vec::new();
        render(&mut bytes)?;
        let text = String::from_utf8(bytes)?;
        // Each part begins with a definition that is needed once, if at all.
        let lines =
            text.lines().filter(|line| !line.starts_with(".ie ") && !line.starts_with(".el "));
        Ok(lines.map(str::trim_end).collect::<Vec<_>>().join("\n") + "\n")
    };
    let mut roff = Roff::default();
    roff.raw(&title(&name, 1));
    roff.raw(&part(&|out| man.render_name_section(out))?);
    roff.raw(&part(&|out| man.render_synopsis_section(out))?);
    roff.blocks("DESCRIPTION", &help.description);
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        roff.raw(&part(&|out| man.render_options_section(out))?);
    }
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        roff.section("COMMANDS");
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let about = below.get_about().map(ToString::to_string).unwrap_or_default();
            roff.term(&format!("**{}**(1)", self::name(below)), &about);
        }
    }
    roff.blocks("EXIT STATUS", &help.exit_status);
    roff.blocks("ENVIRONMENT", &help.environment);
    roff.blocks("FILES", &help.files);
    roff.blocks("EXAMPLES", &help.examples);
    roff.section("SEE ALSO");
    let others = all.iter().filter(|other| is_near(&name, other));
    let others = others.map(|other| format!("\\fB{}\\fR(1)", other.replace('-', "\\-")));
    let more = ["\\fBebbtide.toml\\fR(5)".to_owned(), "\\fBebbtide\\-boot\\fR(8)".to_owned()];
    roff.raw(&others.chain(more).collect::<Vec<_>>().join(",\n"));
    roff.raw("\n");
    Ok(roff.into_text())
}

/// Pages above and below a page; for the first one, which is above all, those are all others.
fn is_near(name: &str, other: &str) -> bool {
    let above = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('-'));
    above(name, other) || above(other, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_near() {
        assert!(is_near("ebbtide-boots", "ebbtide"));
        assert!(is_near("ebbtide-boots", "ebbtide-boots-show"));
        assert!(!is_near("ebbtide-boots", "ebbtide-boots"));
        assert!(!is_near("ebbtide-boot", "ebbtide-boots"));
        assert!(!is_near("ebbtide-check", "ebbtide-boots"));
    }
}
