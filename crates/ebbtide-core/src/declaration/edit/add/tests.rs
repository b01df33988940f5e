use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::compiled::{Kind, StoreName};

fn directory(path: &str) -> Addition {
    Addition {
        absolute: path.into(),
        section: Section::Keep,
        kind: Kind::Directory,
        path: path.to_owned(),
        store: None,
        method: None,
    }
}

fn file(path: &str) -> Addition {
    Addition { kind: Kind::File, ..directory(path) }
}

fn of_user(name: &str, path: &str) -> Addition {
    Addition { section: Section::User(name.to_owned()), ..directory(path) }
}

fn long(path: &str) -> Addition {
    let store = Some(StoreName("big".to_owned()));
    Addition { store, method: Some("bind".to_owned()), ..directory(path) }
}

/// What becomes of a text, with all that is not plain made visible.
fn edited(text: &str, additions: &[Addition]) -> String {
    match add(text, additions) {
        Ok(text) => text.replace('\r', "␍").replace(" \n", "␠\n"),
        Err(error) => format!("error: {error}\n"),
    }
}

/// All of them, one after the other.
fn all(texts: &[&str], additions: &[Addition]) -> String {
    let mut shown = String::new();
    for text in texts {
        let _ = writeln!(shown, "{}----", edited(text, additions));
    }
    shown
}

#[test]
fn arrays_on_one_line() {
    let texts = [
        "[keep]\ndirectories = []\n",
        "[keep]\ndirectories = [ ] # none yet\n",
        "[keep]\ndirectories = [\"/a\"] # first\nfiles = []\n",
        "[keep]\ndirectories = [ \"/a\", ]\n",
        "[keep]\ndirectories = [ \"/a\",\"/b\" ]\n",
        "[keep]\ndirectories = [\"/var/lib/one\", \"/var/lib/two\", \"/var/lib/three\", \"/var/lib/fourteen\"]\n",
    ];
    insta::assert_snapshot!(all(&texts, &[directory("/var/lib/new")]), @r#"
    [keep]
    directories = ["/var/lib/new"]
    ----
    [keep]
    directories = [ "/var/lib/new" ] # none yet
    ----
    [keep]
    directories = ["/a", "/var/lib/new"] # first
    files = []
    ----
    [keep]
    directories = [ "/a", "/var/lib/new", ]
    ----
    [keep]
    directories = [ "/a","/b", "/var/lib/new" ]
    ----
    [keep]
    directories = [
      "/var/lib/one",
      "/var/lib/two",
      "/var/lib/three",
      "/var/lib/fourteen",
      "/var/lib/new",
    ]
    ----
    "#);
}

#[test]
fn arrays_on_several_lines() {
    let texts = [
        "[keep]\ndirectories = [\n]\n",
        "[keep]\ndirectories = [\n    # \"/var/log\",\n]\n",
        "[keep]\ndirectories = [\n    \"/a\", # one\n    \"/b\", # two\n    # the end\n]\n[x]\n",
        "[keep]\ndirectories = [\n\t\"/a\" # one\n\t, \"/b\" # two\n\t]\n",
        "[keep]\ndirectories = [\n  \"/a\",\n  { path = \"/b\", mode = \"0700\" }\n]\n",
        "[keep]\ndirectories = [ \"/a\",\n                \"/b\" ]\n",
    ];
    insta::assert_snapshot!(all(&texts, &[directory("/new")]), @r#"
    [keep]
    directories = [
      "/new",
    ]
    ----
    [keep]
    directories = [
        # "/var/log",
        "/new",
    ]
    ----
    [keep]
    directories = [
        "/a", # one
        "/b", # two
        # the end
        "/new",
    ]
    [x]
    ----
    [keep]
    directories = [
    	"/a" # one
    	, "/b", # two
    	"/new"
    	]
    ----
    [keep]
    directories = [
      "/a",
      { path = "/b", mode = "0700" },
      "/new"
    ]
    ----
    [keep]
    directories = [ "/a",
                    "/b",
                    "/new"
    ]
    ----
    "#);
}

#[test]
fn tables_that_are_missing() {
    let texts = [
        "",
        "version = 1\n",
        "version = 1",
        "version = 1\n\n[store.state]\nsubvolume = \"state\" # here\n\n# That was all.\n",
        "version = 1\n[keep] # what\n# for now\n[root]\nbackend = \"btrfs\"\n",
    ];
    let additions = [directory("/a"), file("/b"), of_user("alice", "c")];
    insta::assert_snapshot!(all(&texts, &additions), @r#"
    [keep]
    directories = ["/a"]
    files = ["/b"]

    [users.alice]
    directories = ["c"]
    ----
    version = 1

    [keep]
    directories = ["/a"]
    files = ["/b"]

    [users.alice]
    directories = ["c"]
    ----
    version = 1

    [keep]
    directories = ["/a"]
    files = ["/b"]

    [users.alice]
    directories = ["c"]
    ----
    version = 1

    [store.state]
    subvolume = "state" # here

    # That was all.

    [keep]
    directories = ["/a"]
    files = ["/b"]

    [users.alice]
    directories = ["c"]
    ----
    version = 1
    [keep] # what
    directories = ["/a"]
    files = ["/b"]
    # for now
    [root]
    backend = "btrfs"

    [users.alice]
    directories = ["c"]
    ----
    "#);
}

#[test]
fn tables_in_other_forms() {
    let texts = [
        "keep = { directories = [\"/a\"] }\nusers = { bob = { files = [\"x\"] } }\n",
        "keep.directories = [\"/a\"]\nusers.bob.files = [\"x\"]\n[root]\n",
        "[[keep.directories]]\npath = \"/a\" # first\n\n[users.bob]\nfiles = [\"x\"]\n\n[root]\n",
    ];
    let additions = [long("/b"), file("/c"), of_user("alice", "d"), of_user("bob", "e")];
    insta::assert_snapshot!(all(&texts, &additions), @r#"
    keep = { directories = ["/a", { path = "/b", store = "big", method = "bind" }], files = ["/c"] }
    users = { bob = { files = ["x"], directories = ["e"] }, alice = { directories = ["d"] } }
    ----
    keep.directories = ["/a", { path = "/b", store = "big", method = "bind" }]
    keep.files = ["/c"]
    users.bob.files = ["x"]
    users.bob.directories = ["e"]

    [users.alice]
    directories = ["d"]
    [root]
    ----
    [keep]
    files = ["/c"]
    [[keep.directories]]
    path = "/a" # first

    [[keep.directories]]
    path = "/b"
    store = "big"
    method = "bind"

    [users.bob]
    files = ["x"]
    directories = ["e"]

    [users.alice]
    directories = ["d"]

    [root]
    ----
    "#);
}

#[test]
fn what_can_not_be_added_to() {
    let texts = ["[keep\n", "keep = 1\n", "[keep]\ndirectories = \"/a\"\n", "[keep.directories]\n"];
    insta::assert_snapshot!(all(&texts, &[directory("/b")]), @r"
    error: it is not TOML: TOML parse error at line 1, column 6
      |
    1 | [keep
      |      ^
    unclosed table, expected `]`

    ----
    error: `[keep]` is not a table
    ----
    error: `directories` is not an array
    ----
    error: `directories` is not an array
    ----
    ");
    let texts = ["users = []\n", "[users]\nalice = 1\n"];
    insta::assert_snapshot!(all(&texts, &[of_user("alice", "b")]), @r"
    error: `[users]` is not a table
    ----
    error: `[users.alice]` is not a table
    ----
    ");
}

#[test]
fn line_ends_and_hostile_names() {
    let text = "version = 1\r\n[keep]\r\ndirectories = [\r\n  \"/a\", # one\r\n]\r\n";
    let additions = [directory("/q\"uo\\te"), directory("/new\nline \u{1b}[31m ä")];
    insta::assert_snapshot!(edited(text, &additions), @r#"
    version = 1␍
    [keep]␍
    directories = [␍
      "/a", # one␍
      "/q\"uo\\te",␍
      "/new\U0000000Aline \U0000001B[31m ä",␍
    ]␍
    "#);
}

/// Comments and space, as people write them in arrays.
fn gap() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec!["", " ", "\n", "\n  ", " # c, \"x\"]\n", "\n\t# d\n"]),
        0..3,
    )
    .prop_map(|parts| parts.concat())
}

fn array() -> impl Strategy<Value = String> {
    let value = prop::sample::select(vec!["\"/a\"", "'/b,'", "{ path = \"/c\" }"]);
    (prop::collection::vec((gap(), value, gap()), 0..4), any::<bool>(), gap()).prop_map(
        |(values, comma, end)| {
            let comma = if comma && !values.is_empty() { "," } else { "" };
            let values = values.into_iter().map(|(before, value, after)| before + value + &after);
            format!("[{}{comma}{end}]", values.collect::<Vec<_>>().join(","))
        },
    )
}

proptest! {
    #[test]
    fn nothing_but_the_entry_is_added(array in array(), more in prop::option::of(array())) {
        let files = more.map(|more| format!("files = {more} # f\n")).unwrap_or_default();
        let text = format!("# top\n[keep]\ndirectories = {array} # d\n{files}# end\n");
        let before: toml::Table = text.parse().unwrap();
        let new = add(&text, &[directory("/new"), long("/newer")]).unwrap();
        let after: toml::Table = new.parse().unwrap();
        let list = |table: &toml::Table| {
            table["keep"]["directories"].as_array().unwrap().clone()
        };
        let (was, is) = (list(&before), list(&after));
        prop_assert_eq!(&is[..was.len()], &was[..], "{}", new);
        prop_assert_eq!(is[was.len()].as_str(), Some("/new"), "{}", new);
        prop_assert_eq!(is[was.len() + 1]["path"].as_str(), Some("/newer"), "{}", new);
        prop_assert_eq!(is.len(), was.len() + 2);
        prop_assert_eq!(after["keep"].get("files"), before["keep"].get("files"));
        let comments = |text: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.split_once("# ")).map(|(_, it)| it.to_owned()).collect()
        };
        prop_assert_eq!(comments(&new), comments(&text), "{}", new);
    }
}
