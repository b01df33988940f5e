//! The JSON schema: checked in, and of one mind with the parser.
#![cfg(feature = "declaration")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;

use ebbtide_core::declaration::{SourceFile, check, schema};

/// The copy that is checked in and published.
#[test]
fn checked_in_copy_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema/ebbtide-1.json");
    let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == current,
        "docs/schema/ebbtide-1.json is not current: run `cargo xtask generate`"
    );
}

fn parser_accepts(text: &str) -> bool {
    let source = SourceFile { name: "test.toml".to_owned(), text: text.to_owned() };
    check(&[source]).declaration.is_some()
}

fn schema_accepts(text: &str) -> bool {
    let document: toml::Table = toml::from_str(text).unwrap();
    let instance = serde_json::to_value(document).unwrap();
    jsonschema::draft7::new(&schema()).unwrap().is_valid(&instance)
}

const ROOT: &str = "[store.state]\nsubvolume = \"state\"\n[root]\nbackend = \"btrfs\"\n";

#[test]
fn both_accept() {
    for text in [
        "",
        "[keep]",
        "[keep]\ndirectories = []\nfiles = []",
        "[keep]\ndirectories = [\"/var/log\", \"/.a\", \"/..a\", \"/a.b/...\", \"/with space/ä\"]",
        "[keep]\nfiles = [{ path = \"/etc/a\" }]",
        "[ignore]",
        "[ignore]\npaths = [\"/var/lib/a\", \"*.pyc\", \"**/a/*.o\", \"/srv/**\", \".a\", \"**/a\"]",
        "[report]",
        "[report]\nlogin = false\nshutdown = true",
        "[users.alice]\nignore = [\".cache/*\", \"**/target\", \"a\"]",
        "[keep]\nfiles = [{ path = \"/a\", store = \"s-1\", method = \"bind\", user = \"a-b.c_d\", group = 0, \
         mode = \"4755\", parent = { user = 1, group = \"g$\", mode = \"755\" }, \
         options = [\"ro\", \"nosuid\", \"nodev\", \"noexec\", \"noatime\"], optional = true }]",
        "[keep]\nfiles = [{ path = \"/a\", method = \"symlink\", parent = {} }]",
        "[store.x]\ndevice = \"/dev/disk/by-id/a b\"\nclass = \"secret\"\nsubvolume = \"@/x\"",
        &format!("{ROOT}device = \"LABEL=my system\""),
        &format!(
            "{ROOT}device = \"PARTUUID=0f-01\"\ncontainer = \"@/ebbtide\"\n\
             uuid = \"6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11\"\noptions = [\"compress=zstd:3\"]\n\
             ephemeral = [\"/home\", \"/root\"]"
        ),
        &format!(
            "{ROOT}device = \"LABEL=a\"\nkeep-boots = {{}}\n[store.a]\nsubvolume = \"a\"\ntrash = {{}}"
        ),
        &format!(
            "{ROOT}device = \"LABEL=a\"\nkeep-boots = {{ min = 0, count = 0, days = 1, free = \"90%\" }}\n\
             [store.a]\nsubvolume = \"a\"\ntrash = {{ days = 1, size = \"0\" }}"
        ),
        &format!("{ROOT}device = \"LABEL=a\"\nkeep-boots = {{ free = \"20G\" }}"),
        &format!(
            "{ROOT}device = \"LABEL=a\"\n[store.a]\nsubvolume = \"a\"\nclass = \"cache\"\n\
             limit = \"5G\"\nmax-age = \"30d\""
        ),
    ] {
        let text = format!("version = 1\n{text}\n");
        assert!(parser_accepts(&text), "the parser refuses:\n{text}");
        assert!(schema_accepts(&text), "the schema refuses:\n{text}");
    }
}

#[test]
fn both_refuse() {
    for text in [
        "unknown = 1",
        "root = 1",
        "[keep]\nunknown = []",
        "[keep]\nfiles = \"/a\"",
        "[keep]\nfiles = [1]",
        "[keep]\nfiles = [{}]",
        "[keep]\nfiles = [{ path = \"/a\", unknown = 1 }]",
        "[keep]\nfiles = [\"a\"]",
        "[keep]\nfiles = [\"\"]",
        "ignore = [\"/a\"]",
        "[ignore]\nunknown = []",
        "[report]\nlogin = 1",
        "[report]\nunknown = true",
        "[ignore]\npaths = [\"a/b\"]",
        "[ignore]\npaths = [\"..\"]",
        "[ignore]\npaths = [\"/a/../b\"]",
        "[ignore]\npaths = [\"**/../b\"]",
        "[ignore]\npaths = [\"/a/\"]",
        "[users.alice]\nignore = [\"/a\"]",
        "[users.alice]\nignore = [\"a/../b\"]",
        "[keep]\nfiles = [\"/\"]",
        "[keep]\nfiles = [\"/a/\"]",
        "[keep]\nfiles = [\"//a\"]",
        "[keep]\nfiles = [\"/a/./b\"]",
        "[keep]\nfiles = [\"/a/..\"]",
        "[keep]\nfiles = [{ path = \"/a\", mode = 755 }]",
        "[keep]\nfiles = [{ path = \"/a\", mode = \"0788\" }]",
        "[keep]\nfiles = [{ path = \"/a\", mode = \"00755\" }]",
        "[keep]\nfiles = [{ path = \"/a\", user = \"1000\" }]",
        "[keep]\nfiles = [{ path = \"/a\", user = -1 }]",
        "[keep]\nfiles = [{ path = \"/a\", user = 4294967295 }]",
        "[keep]\nfiles = [{ path = \"/a\", user = true }]",
        "[keep]\nfiles = [{ path = \"/a\", method = \"copy\" }]",
        "[keep]\nfiles = [{ path = \"/a\", method = \"overlay\" }]",
        "[keep]\nfiles = [{ path = \"/a\", options = [\"rw\"] }]",
        "[keep]\nfiles = [{ path = \"/a\", optional = 1 }]",
        "[keep]\nfiles = [{ path = \"/a\", store = \"A\" }]",
        "[keep]\nfiles = [{ path = \"/a\", parent = { path = \"/\" } }]",
        "[store]\ndevice = \"LABEL=a\"",
        "[store.UPPER]\ndevice = \"LABEL=a\"",
        "[store.a]\ndevice = \"LABEL=a\"\nclass = \"other\"",
        "[store.a]\ndevice = \"LABEL=a\"\nsubvolume = \"/a\"",
        "[store.a]\ndevice = \"LABEL=a\"\nsubvolume = \"a/../b\"",
        "[store.a]\ndevice = \"sda1\"",
        "[store.a]\ndevice = \"LABEL=\"",
        "[store.a]\ndevice = \"UUID=x\"",
        ROOT,
        "[store.state]\nsubvolume = \"state\"\n[root]\ndevice = \"LABEL=a\"",
        &format!("{ROOT}device = \"LABEL=a\"\nuuid = \"1\""),
        &format!("{ROOT}device = \"LABEL=a\"\nephemeral = [\"/var\"]"),
        &format!("{ROOT}device = \"LABEL=a\"\noptions = [1]"),
        &format!("{ROOT}device = \"LABEL=a\"\nkeep-boots = 10"),
        &format!("{ROOT}device = \"LABEL=a\"\nkeep-boots = {{ min = -1 }}"),
        &format!("{ROOT}device = \"LABEL=a\"\nkeep-boots = {{ days = 0 }}"),
        &format!("{ROOT}device = \"LABEL=a\"\nkeep-boots = {{ free = \"91%\" }}"),
        &format!("{ROOT}device = \"LABEL=a\"\nkeep-boots = {{ max = 1 }}"),
        "[store.a]\ndevice = \"LABEL=a\"\nclass = \"cache\"\nlimit = 5",
        "[store.a]\ndevice = \"LABEL=a\"\nclass = \"cache\"\nmax-age = 30",
        "[store.a]\ndevice = \"LABEL=a\"\nclass = \"cache\"\nmax-age = \"30\"",
        "[store.a]\ndevice = \"LABEL=a\"\ntrash = { size = 5 }",
    ] {
        let text = format!("version = 1\n{text}\n");
        assert!(!parser_accepts(&text), "the parser accepts:\n{text}");
        assert!(!schema_accepts(&text), "the schema accepts:\n{text}");
    }
    for text in ["", "version = 2\n", "version = \"1\"\n"] {
        assert!(!parser_accepts(text), "the parser accepts:\n{text}");
        assert!(!schema_accepts(text), "the schema accepts:\n{text}");
    }
}
