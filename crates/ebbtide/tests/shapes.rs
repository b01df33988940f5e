//! What the program prints as JSON is what `ebbtide schema` says of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

const DECLARED: &str = "\
version = 1

[store.state]
subvolume = \"state\"

[store.logs]
device = \"LABEL=data\"
class = \"log\"

[keep]
presets = [\"logs\"]
directories = [{ path = \"/var/lib/app\", mode = \"0700\", user = \"root\" }]
files = [\"/etc/a/\"]
";

/// Runs the program on this system, and returns what it printed.
fn ebbtide(root: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
        .arg("--sysroot")
        .arg(root)
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| unreachable!("{arguments:?}: {said}"))
}

#[test]
fn what_is_printed_is_as_its_schema_says() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("etc/ebbtide/ebbtide.d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(root.path().join("etc/ebbtide/ebbtide.toml"), DECLARED).unwrap();
    let later = "version = 1\n[keep]\ndirectories = [\"/var/lib/app\", \"/var/lib/app/below\"]\n";
    fs::write(folder.join("a.toml"), later).unwrap();
    for (name, arguments, must_have) in [
        ("check", &["check", "--json"][..], "/problems/0/hint"),
        ("check-presets", &["check", "--presets", "--json"], "/presets/0/packages"),
        ("check-explain", &["check", "--json", "--explain", "/var/lib/app"], "/kept/overridden/0"),
        ("check-explain", &["check", "--json", "--explain", "/srv"], "/path"),
    ] {
        let printed = ebbtide(root.path(), arguments);
        assert!(printed.pointer(must_have).is_some(), "{printed:#}");
        let schema = ebbtide(root.path(), &["schema", name]);
        let schema = jsonschema::draft202012::new(&schema).unwrap();
        let wrong: Vec<_> = schema.iter_errors(&printed).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?} in {printed:#}");
        let mut odd = printed;
        odd["version"] = 2.into();
        assert!(!schema.is_valid(&odd), "{name} accepts another version");
    }
}
