//! Taking entries out of lists.
//!
//! What stands behind an entry on its line was said about it and goes with it. Lines of comments above it
//! stay: they may be about more than one.

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use super::{EditError, edited, last_mut, last_suffix, list, table, trailing_of};
use crate::compiled::Kind;
use crate::declaration::keep::Section;

/// Where an entry stands in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The table.
    pub section: Section,
    /// Which of its lists.
    pub kind: Kind,
    /// Which element of that, counted from 0.
    pub index: usize,
}

/// Returns the text without these entries. A list that is empty then stays, empty.
pub fn remove(text: &str, positions: &[Position]) -> Result<String, EditError> {
    // From the back, so that the others keep their numbers.
    let mut positions = positions.to_vec();
    positions.sort();
    positions.dedup();
    edited(text, |document| positions.iter().rev().try_for_each(|it| take_out(document, it)))
}

fn take_out(document: &mut DocumentMut, position: &Position) -> Result<(), EditError> {
    let key = list(position.kind);
    let top = document.as_table_mut();
    let within: &mut dyn TableLike = match &position.section {
        Section::Keep => table(top, "keep", "[keep]")?,
        Section::User(name) => {
            table(table(top, "users", "[users]")?, name, &format!("[users.{name}]"))?
        }
    };
    match within.get_mut(key) {
        Some(Item::Value(Value::Array(array))) if position.index < array.len() => {
            take_element(array, position.index);
            Ok(())
        }
        Some(Item::ArrayOfTables(tables)) if position.index < tables.len() => {
            tables.remove(position.index);
            Ok(())
        }
        _ => Err(EditError::Shape { key: key.to_owned(), expected: "as long as it was" }),
    }
}

pub(super) fn take_element(array: &mut Array, index: usize) {
    let comma = array.trailing_comma();
    let is_last = index + 1 == array.len();
    let taken = array.remove(index);
    let text = |raw: Option<&toml_edit::RawString>| {
        raw.and_then(toml_edit::RawString::as_str).unwrap_or_default().to_owned()
    };
    let (before, after) = (text(taken.decor().prefix()), text(taken.decor().suffix()));
    if !is_last {
        if let Some(next) = array.get_mut(index) {
            let own = text(next.decor().prefix());
            next.decor_mut().set_prefix(joined(&before, &own));
        }
    } else if comma {
        let end = trailing_of(array).to_owned();
        array.set_trailing(joined(&before, &end));
        array.set_trailing_comma(!array.is_empty());
    } else if array.is_empty() {
        array.set_trailing(joined(&before, &after));
    } else {
        let previous = last_suffix(array).to_owned();
        if let Some(last) = last_mut(array) {
            last.decor_mut().set_suffix(previous + &joined(&before, &after));
        }
    }
}

/// What stands between two neighbours when what was between them is gone. `before` stood before that,
/// with the end of the line above and whole lines of comments; `after` stood behind it.
fn joined(before: &str, after: &str) -> String {
    match (before.rfind('\n'), after.find('\n')) {
        // On lines: the rest of the taken one's own line goes.
        (Some(end), Some(start)) => {
            let (kept, rest) = (before.get(..end), after.get(start..));
            format!("{}{}", kept.unwrap_or_default(), rest.unwrap_or_default())
        }
        (Some(_), None) => before.to_owned(),
        // The first on its line, with others behind it on the lines below.
        (None, Some(_)) => after.to_owned(),
        (None, None) if after.trim().is_empty() && before.trim().is_empty() => {
            // Of one line: the space of the first, or of the end.
            if before.is_empty() { String::new() } else { after.to_owned() }
        }
        (None, None) => format!("{before}{after}"),
    }
}

#[cfg(test)]
mod tests;
