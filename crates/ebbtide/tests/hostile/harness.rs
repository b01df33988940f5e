//! The program on a running root, and what every run of it has to keep to.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use ebbtide_core::boot::Boot;
use serde_json::Value;

use crate::machine::run;

/// No command takes longer, in seconds, whatever it finds: not on a busy machine, and not without optimisation.
const LIMIT: &str = "240";

/// Makes the run directory of a boot that of this mount namespace.
pub fn settle(boot: &Boot) {
    run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    fs::create_dir("/run/ebbtide").unwrap();
    run("mount", &["--rbind", boot.run.to_str().unwrap(), "/run/ebbtide"]);
}

/// A running root.
pub struct Program {
    pub root: PathBuf,
}

/// What a run left, of which a terminal interprets nothing.
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Program {
    /// Runs it.
    pub fn line(&self, line: &str) -> Ran {
        self.answered(line, "")
    }

    /// The same; it has to do what it is for.
    #[track_caller]
    pub fn does(&self, line: &str) -> Ran {
        let ran = self.line(line);
        assert!(matches!(ran.status, 0 | 3), "{line}: {}: {}{}", ran.status, ran.out, ran.err);
        ran
    }

    /// The same, with `--json`.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let ran = self.does(line);
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{line}: {e}: {}", ran.err))
    }

    /// Runs it with lines to read.
    #[track_caller]
    pub fn answered(&self, line: &str, answers: &str) -> Ran {
        let begin = Instant::now();
        let mut child = Command::new("timeout")
            .args(["--signal=KILL", LIMIT, env!("CARGO_BIN_EXE_ebbtide"), "--sysroot"])
            .arg(&self.root)
            .args(line.split(' ').map(OsStr::new))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have ended before it reads all of them.
        let _ = child.stdin.take().unwrap().write_all(answers.as_bytes());
        let output = child.wait_with_output().unwrap();
        let took = begin.elapsed();
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap_or_else(|e| panic!("{line} prints no text: {e}"))
        };
        let (out, err) = (text(output.stdout), text(output.stderr));
        for (at, character) in out.char_indices().chain(err.char_indices()) {
            let harmless = character == '\n' || !is_treacherous(character);
            assert!(harmless, "{line} prints {character:?} at {at}: {out:?} {err:?}");
        }
        let status = output.status.code().unwrap_or(-1);
        assert!((0..=3).contains(&status), "{line}: {status} after {took:?}: {out}{err}");
        if status == 1 || status == 2 {
            assert!(err.contains("error: ") || out.contains("warning: "), "{line}: {out}{err}");
        }
        eprintln!("{line}: {status}, {took:.1?}");
        Ran { status, out, err }
    }
}

/// What a terminal interprets, or shows in another order.
fn is_treacherous(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Files that give who runs or opens them more than they have, in effect at these places: relative paths.
pub fn powerful(root: &Path) -> Vec<String> {
    let at = root.to_str().unwrap();
    let kinds = ["(", "-perm", "/6000", "-type", "f", "-o", "-type", "b", "-o", "-type", "c", ")"];
    let found = run("find", &[&[at, "-xdev"][..], &kinds, &["-printf", "%P\\n"]].concat());
    let mut all: Vec<_> = found.lines().map(str::to_owned).collect();
    let files = ["-type", "f", "-exec", "getcap", "-n", "{}", "+"];
    let capable = run("find", &[&[at, "-xdev"][..], &files].concat());
    let path = |line: &str| Some(line.strip_prefix(at)?[1..].split(' ').next()?.to_owned());
    all.extend(capable.lines().filter_map(path));
    all.sort();
    all.dedup();
    all
}
