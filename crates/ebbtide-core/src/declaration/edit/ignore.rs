//! Adding what is ignored, and taking it out again.

use toml_edit::{DocumentMut, Item, Key, TableLike, Value};

use super::add::{insert, new_table_at_the_end, section, string};
use super::remove::take_element;
use super::{EditError, edited, table};
use crate::declaration::keep::Section;

/// A list of what is ignored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// `paths` of `[ignore]`
    Machine,
    /// `ignore` of `[users.NAME]`
    User(String),
}

impl List {
    /// The table that it is in.
    pub fn table(&self) -> String {
        match self {
            Self::Machine => "ignore".to_owned(),
            Self::User(name) => format!("users.{name}"),
        }
    }

    fn key(&self) -> &'static str {
        match self {
            Self::Machine => "paths",
            Self::User(_) => "ignore",
        }
    }

    fn open<'d>(&self, document: &'d mut DocumentMut) -> Result<&'d mut dyn TableLike, EditError> {
        match self {
            Self::Machine => {
                new_table_at_the_end(document, "ignore", false);
                table(document.as_table_mut(), "ignore", "[ignore]")
            }
            Self::User(name) => section(document, &Section::User(name.clone())),
        }
    }
}

/// Where a pattern stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RulePosition {
    /// The list.
    pub list: List,
    /// Which element of that, counted from 0.
    pub index: usize,
}

/// Returns the text with patterns added, each at the end of its list.
pub fn add_rules<'r>(
    text: &str,
    rules: impl IntoIterator<Item = (&'r List, &'r str)>,
) -> Result<String, EditError> {
    edited(text, |document| {
        rules.into_iter().try_for_each(|(list, pattern)| {
            let fields = [(Key::new("path"), string(pattern))];
            insert(list.open(document)?, list.key(), &fields)
        })
    })
}

/// Returns the text without these patterns. A list that is empty then stays, empty.
pub fn remove_rules(text: &str, positions: &[RulePosition]) -> Result<String, EditError> {
    // From the back, so that the others keep their numbers.
    let mut positions = positions.to_vec();
    positions.sort();
    positions.dedup();
    edited(text, |document| {
        positions.iter().rev().try_for_each(|position| {
            let key = position.list.key();
            match position.list.open(document)?.get_mut(key) {
                Some(Item::Value(Value::Array(array))) if position.index < array.len() => {
                    take_element(array, position.index);
                    Ok(())
                }
                _ => Err(EditError::Shape { key: key.to_owned(), expected: "as long as it was" }),
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# mine
version = 1

[ignore] # not worth a word
paths = [
  \"/var/lib/app\", # ours
  # made again
  \"*.pyc\",
]

[users.alice]
files = [\".bashrc\"]
";

    fn added(text: &str, rules: &[(List, &str)]) -> String {
        add_rules(text, rules.iter().map(|(list, pattern)| (list, *pattern))).unwrap()
    }

    #[test]
    fn patterns_are_added_where_the_others_are() {
        let alice = || List::User("alice".into());
        let rules = [(List::Machine, "/srv/\"x\"\n"), (alice(), ".cache"), (alice(), "a/*")];
        insta::assert_snapshot!(added(TEXT, &rules), @r#"
        # mine
        version = 1

        [ignore] # not worth a word
        paths = [
          "/var/lib/app", # ours
          # made again
          "*.pyc",
          "/srv/\"x\"\U0000000A",
        ]

        [users.alice]
        files = [".bashrc"]
        ignore = [".cache", "a/*"]
        "#);
    }

    #[test]
    fn a_table_that_is_missing_is_made_at_the_end() {
        insta::assert_snapshot!(added("version = 1\n\n[keep]\n# the end\n", &[(List::Machine, "*.o")]), @r#"
        version = 1

        [keep]
        # the end

        [ignore]
        paths = ["*.o"]
        "#);
    }

    #[test]
    fn patterns_are_taken_out_with_what_is_said_about_them() {
        let at = |index| RulePosition { list: List::Machine, index };
        insta::assert_snapshot!(remove_rules(TEXT, &[at(0)]).unwrap(), @r#"
        # mine
        version = 1

        [ignore] # not worth a word
        paths = [
          # made again
          "*.pyc",
        ]

        [users.alice]
        files = [".bashrc"]
        "#);
        assert!(remove_rules(TEXT, &[at(2)]).is_err());
        let rules = [(List::Machine, "/srv")];
        assert_eq!(remove_rules(&added(TEXT, &rules), &[at(2)]).unwrap(), TEXT);
    }
}
