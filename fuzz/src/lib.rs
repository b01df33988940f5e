//! What Ebbtide parses, as functions of any bytes. Each panics where a promise does not hold: that
//! nothing else panics, that an error has its place, that what Ebbtide writes it reads again, and that
//! what is shown to people has nothing in it that a terminal would interpret.
//!
//! They are run on made-up inputs by `cargo xtask fuzz`, and on the seeds and what was made of them by
//! the tests.
#![allow(clippy::missing_panics_doc, clippy::panic, clippy::expect_used)]

mod declarations;
mod files;
mod lines;

/// One thing that is parsed.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its directory of seeds.
    pub name: &'static str,
    /// Parses, and checks what came of it.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target { name: "accounts", run: lines::accounts },
    Target { name: "command-line", run: lines::command_line },
    Target { name: "compiled", run: files::compiled },
    Target { name: "declaration", run: declarations::declaration },
    Target { name: "fstab", run: lines::fstab },
    Target { name: "manifest", run: files::manifest },
    Target { name: "mountinfo", run: lines::mountinfo },
    Target { name: "pattern", run: lines::pattern },
    Target { name: "preset", run: declarations::preset },
    Target { name: "records", run: files::records },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Whether a terminal shows it as it is: no control characters but newlines.
fn assert_printable(text: &str) {
    let bad = text.chars().find(|c| c.is_control() && *c != '\n');
    assert!(bad.is_none(), "{bad:?} is shown to people: {text:?}");
}
