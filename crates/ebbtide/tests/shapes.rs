//! What the program prints as JSON is what `ebbtide schema` says of it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod program;

use std::fs;

use program::{ebbtide, unlike_its_schema};

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
        let printed = ebbtide(root.path(), arguments).json();
        assert!(printed.pointer(must_have).is_some(), "{printed:#}");
        let wrong = unlike_its_schema(name, &printed);
        assert!(wrong.is_empty(), "{name}: {wrong:#?} in {printed:#}");
        let mut odd = printed;
        odd["version"] = 2.into();
        assert!(!unlike_its_schema(name, &odd).is_empty(), "{name} accepts another version");
    }
}
