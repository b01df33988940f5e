//! The program, run as its users run it, with nothing of this environment.

#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// What a run of the program left.
pub struct Ran {
    pub status: i32,
    pub out: Vec<u8>,
    pub err: String,
}

impl Ran {
    /// What it printed, if it complained of nothing.
    pub fn text(&self) -> String {
        assert!(self.err.is_empty(), "{}", self.err);
        String::from_utf8(self.out.clone()).unwrap()
    }

    /// The same, as JSON.
    pub fn json(&self) -> Value {
        let said = &self.err;
        serde_json::from_slice(&self.out).unwrap_or_else(|_| unreachable!("no JSON: {said}"))
    }
}

/// Runs it on the system in this directory.
pub fn ebbtide(root: &Path, arguments: &[&str]) -> Ran {
    let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
        .arg("--sysroot")
        .arg(root)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs it on a running root, from outside, as on the machine itself. `run`: what `/run/ebbtide` is there;
/// the mount namespace is the caller's own.
pub fn ebbtide_running(run: &Path, root: &Path, arguments: &[&str]) -> Ran {
    let here = Path::new("/run/ebbtide");
    if !here.join("locator.json").exists() {
        let mount = |arguments: &[&OsStr]| {
            assert!(Command::new("mount").args(arguments).status().unwrap().success());
        };
        mount(&["-t", "tmpfs", "none", "/run"].map(OsStr::new));
        fs::create_dir(here).unwrap();
        mount(&[OsStr::new("--rbind"), run.as_os_str(), here.as_os_str()]);
    }
    ebbtide(root, arguments)
}

/// What is wrong with a value that has the shape of this name.
pub fn unlike_its_schema(name: &str, value: &Value) -> Vec<String> {
    let schema = ebbtide(Path::new("/"), &["schema", name]).json();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    schema.iter_errors(value).map(|error| error.to_string()).collect()
}
