use proptest::prelude::*;

use super::*;
use crate::compiled::StoreName;
use crate::declaration::keep::Addition;

fn directory(index: usize) -> Position {
    Position { section: Section::Keep, kind: Kind::Directory, index }
}

/// What becomes of one list when each of its elements is taken out, one at a time.
fn each(list: &str, count: usize) -> String {
    let text = format!("[keep]\ndirectories = {list}\nfiles = []\n");
    let mut shown = String::new();
    for index in 0..count {
        let left = remove(&text, &[directory(index)]).unwrap();
        let left = left.strip_prefix("[keep]\ndirectories = ").unwrap();
        shown += left.strip_suffix("files = []\n").unwrap();
    }
    shown
}

#[test]
fn lists_on_one_line() {
    insta::assert_snapshot!(each("[\"/a\", \"/b\", \"/c\"]", 3), @r#"
    ["/b", "/c"]
    ["/a", "/c"]
    ["/a", "/b"]
    "#);
    insta::assert_snapshot!(each("[ \"/a\", \"/b\", ] # both", 2), @r#"
    [ "/b", ] # both
    [ "/a", ] # both
    "#);
    insta::assert_snapshot!(each("[\"/a\"]", 1), @"[]");
    insta::assert_snapshot!(each("[ { path = \"/a\", mode = \"0700\" }, \"/b\" ]", 2), @r#"
    [ "/b" ]
    [ { path = "/a", mode = "0700" } ]
    "#);
}

#[test]
fn a_comment_behind_an_entry_goes_with_it() {
    let list = "[
  # logs and such
  \"/a\", # about a
  # about b, or about all that follows
  \"/b\",  # about b

  \"/c\" # about c
  # at the end
]";
    insta::assert_snapshot!(each(list, 3), @r#"
    [
      # logs and such
      # about b, or about all that follows
      "/b",  # about b

      "/c" # about c
      # at the end
    ]
    [
      # logs and such
      "/a", # about a
      # about b, or about all that follows

      "/c" # about c
      # at the end
    ]
    [
      # logs and such
      "/a", # about a
      # about b, or about all that follows
      "/b"  # about b

      # at the end
    ]
    "#);
}

#[test]
fn lists_on_lines() {
    insta::assert_snapshot!(each("[\n  \"/a\",\n  \"/b\",\n]", 2), @r#"
    [
      "/b",
    ]
    [
      "/a",
    ]
    "#);
    insta::assert_snapshot!(each("[\n  \"/a\", \"/b\",\n  \"/c\"\n]", 3), @r#"
    [
      "/b",
      "/c"
    ]
    [
      "/a",
      "/c"
    ]
    [
      "/a", "/b"
    ]
    "#);
    insta::assert_snapshot!(each("[\n  \"/a\" # alone\n]", 1), @"
    [
    ]
    ");
}

#[test]
fn tables_of_users_and_lists_of_tables() {
    let text = "version = 1\r\n[[keep.files]]\r\npath = \"/a\"\r\n\r\n[[keep.files]]\r\npath = \"/b\"\r\n\r\n\
                [users.alice]\r\ndirectories = [\".ssh\"]\r\n";
    let of_alice = Position { section: Section::User("alice".to_owned()), ..directory(0) };
    let file = Position { kind: Kind::File, ..directory(0) };
    let left = remove(text, &[of_alice, file]).unwrap();
    assert_eq!(
        left,
        "version = 1\r\n\r\n[[keep.files]]\r\npath = \"/b\"\r\n\r\n[users.alice]\r\ndirectories = []\r\n"
    );
}

#[test]
fn what_is_not_there_is_an_error() {
    let text = "[keep]\ndirectories = [\"/a\"]\n";
    for position in [directory(1), Position { kind: Kind::File, ..directory(0) }] {
        assert!(remove(text, &[position]).is_err());
    }
}

proptest! {
    /// What was added is taken out again, wherever it is, and the rest says the same.
    #[test]
    fn what_is_left_says_the_same(
        before in proptest::collection::vec("/[a-z]{1,8}", 0..8),
        style in 0..4_usize,
        taken in any::<prop::sample::Index>(),
    ) {
        let (between, end) = [(", ", ""), (",\n  # x\n  ", ", # y\n"), (", # x\n\t", "\n"), (",", " ,")][style];
        let quoted: Vec<_> = before.iter().map(|path| format!("\"{path}\"")).collect();
        let end = if before.is_empty() { end.trim_start_matches([',', ' ']) } else { end };
        let text = format!("[keep]\ndirectories = [{}{end}]\n", quoted.join(between));
        let added = crate::declaration::edit::add(&text, &[Addition {
            absolute: "/added".into(),
            section: Section::Keep,
            kind: Kind::Directory,
            path: "/added".to_owned(),
            store: Some(StoreName("big".to_owned())),
            method: None,
        }]).unwrap();
        let index = taken.index(before.len() + 1);
        let left = remove(&added, &[directory(index)]).unwrap();
        let document: DocumentMut = left.parse().unwrap();
        let array = document["keep"]["directories"].as_array().unwrap();
        let left: Vec<_> = array.iter().map(|it| it.as_str().unwrap_or("/added").to_owned()).collect();
        let mut expected = before;
        expected.push("/added".to_owned());
        expected.remove(index);
        prop_assert_eq!(left, expected);
    }
}
