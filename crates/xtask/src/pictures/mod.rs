//! `cargo xtask pictures`: what the program shows, recorded from the program itself on a machine in a
//! loop image, as SVG files that the documents show.
//!
//! Like everything that is generated, they are checked in, and a check fails as long as they differ.

mod story;

use std::fs;

use anstyle::RgbColor;
use anstyle_svg::{Palette, Term, VGA};
use anyhow::{Context, Result, bail};
use testkit::process::{stream, target_directory};

use crate::bench::machine::Programs;
use crate::{cargo, workspace};

/// Where they are.
const FOLDER: &str = "docs/pictures";

/// How wide a terminal is, in columns.
const COLUMNS: usize = 88;
/// How wide a column is drawn, in tenths of a pixel.
const COLUMN: usize = 84;

/// How to record.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Options {
    /// Write nothing, and fail where a picture is not what the program shows now
    #[arg(long)]
    pub check: bool,
}

/// One picture.
struct Picture {
    /// The file, without its ending.
    name: &'static str,
    /// What a terminal shows, with its colours.
    shown: String,
}

/// Records all pictures, and writes or compares them.
pub fn run(options: Options) -> Result<()> {
    testkit::privileged::enter_private_mounts()?;
    let pictures = story::record(&build()?)?;
    let folder = workspace().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut different = Vec::new();
    for picture in &pictures {
        fits(picture)?;
        let path = folder.join(picture.name).with_extension("svg");
        let drawn = draw(&picture.shown);
        if fs::read_to_string(&path).is_ok_and(|found| found == drawn) {
            continue;
        }
        if options.check {
            different.push(format!("{FOLDER}/{}.svg", picture.name));
            continue;
        }
        fs::write(&path, drawn).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {FOLDER}/{}.svg", picture.name);
    }
    if !different.is_empty() {
        bail!(
            "not what the program shows now: {}; `cargo xtask pictures` records it",
            different.join(", ")
        );
    }
    println!("{} pictures", pictures.len());
    Ok(())
}

/// Builds both programs.
fn build() -> Result<Programs> {
    stream(cargo().args([
        "build",
        "--quiet",
        "--package",
        "ebbtide",
        "--package",
        "ebbtide-boot",
    ]))?;
    let built = target_directory().join("debug");
    Ok(Programs { boot: built.join("ebbtide-boot"), command_line: built.join("ebbtide") })
}

/// Fails if a line is wider than the terminal: it would be drawn over its edge.
fn fits(picture: &Picture) -> Result<()> {
    let plain = plain(&picture.shown);
    match plain.lines().find(|line| line.chars().count() > COLUMNS) {
        Some(line) => bail!("picture {}: more than {COLUMNS} columns: {line}", picture.name),
        None => Ok(()),
    }
}

/// The text without its colours.
fn plain(shown: &str) -> String {
    let mut parts = shown.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or(part, |(_, rest)| rest))
}

/// Draws a terminal.
fn draw(shown: &str) -> String {
    let mut colors = VGA.0;
    // Black and white are what is drawn on and with: soft, on a page that may be light or dark.
    let soft = [
        (0, RgbColor(0x1d, 0x22, 0x2b)),
        (1, RgbColor(0xf0, 0x71, 0x78)),
        (2, RgbColor(0x8b, 0xd4, 0x9c)),
        (3, RgbColor(0xeb, 0xcb, 0x8b)),
        (4, RgbColor(0x70, 0xa5, 0xeb)),
        (5, RgbColor(0xc6, 0x8a, 0xee)),
        (6, RgbColor(0x74, 0xbe, 0xe9)),
        (7, RgbColor(0xd8, 0xde, 0xe9)),
    ];
    for (index, color) in soft {
        // The bright ones are the same: bold is bold.
        for place in [index, index + 8] {
            if let Some(place) = colors.get_mut(place) {
                *place = color;
            }
        }
    }
    let term = Term::new().palette(Palette(colors)).min_width_px(COLUMNS * COLUMN / 10);
    // What matters less is still to be read.
    let drawn = term.render_svg(shown.trim_end()).replace("opacity: 0.4", "opacity: 0.65");
    // As editors and git want it.
    let lines: Vec<&str> = drawn.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_drawn_with_its_colours() {
        let drawn = draw("\u{1b}[32m+\u{1b}[0m a < b\n\u{1b}[2mless\u{1b}[0m\n");
        assert!(drawn.contains("a &lt; b") && drawn.contains("fill: #8BD49C"), "{drawn}");
        assert!(drawn.contains("opacity: 0.65"), "{drawn}");
        assert!(drawn.ends_with("</svg>\n") && !drawn.contains('\u{1b}'), "{drawn}");
    }

    #[test]
    fn a_line_that_is_too_wide_is_refused() {
        let picture = |shown: String| Picture { name: "x", shown };
        let edge = format!("\u{1b}[1m{}\u{1b}[0m", "x".repeat(COLUMNS));
        fits(&picture(edge.clone())).unwrap();
        fits(&picture(format!("ok\n{edge}y\n"))).unwrap_err();
    }
}
