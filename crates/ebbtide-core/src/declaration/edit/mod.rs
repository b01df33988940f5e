//! Changing the text of a declaration, with everything else left as it is written.

mod add;
mod ignore;
mod remove;

use toml_edit::{Array, DocumentMut, Item, TableLike, Value};

use crate::compiled::Kind;

pub use add::add;
pub use ignore::{List, RulePosition, add_rules, remove_rules};
pub use remove::{Position, remove};

/// Why a text can't be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// It is not TOML.
    #[error("it is not TOML: {0}")]
    Syntax(String),
    /// A key is there, and is something else.
    #[error("`{key}` is not {expected}")]
    Shape {
        /// Which.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// The text as it is after a change of what it says. The library writes line feeds; where all lines end
/// as on Windows, they still do.
fn edited(
    text: &str,
    change: impl FnOnce(&mut DocumentMut) -> Result<(), EditError>,
) -> Result<String, EditError> {
    let windows = text.contains("\r\n") && text.split("\r\n").all(|line| !line.contains('\n'));
    let mut plain = if windows { text.replace("\r\n", "\n") } else { text.to_owned() };
    if !plain.is_empty() && !plain.ends_with('\n') {
        plain.push('\n');
    }
    let mut document: DocumentMut = plain
        .parse()
        .map_err(|error: toml_edit::TomlError| EditError::Syntax(error.to_string()))?;
    change(&mut document)?;
    let edited = document.to_string();
    Ok(if windows { edited.replace('\n', "\r\n") } else { edited })
}

/// The key of the list that an entry is in.
fn list(kind: Kind) -> &'static str {
    match kind {
        Kind::Directory => "directories",
        Kind::File => "files",
    }
}

fn table<'t>(
    parent: &'t mut dyn TableLike,
    key: &str,
    name: &str,
) -> Result<&'t mut dyn TableLike, EditError> {
    let item = parent.get_mut(key).and_then(Item::as_table_like_mut);
    item.ok_or_else(|| EditError::Shape { key: name.to_owned(), expected: "a table" })
}

fn trailing_of(array: &Array) -> &str {
    array.trailing().as_str().unwrap_or_default()
}

fn last_suffix(array: &Array) -> &str {
    let last = array.iter().last();
    last.and_then(|it| it.decor().suffix()?.as_str()).unwrap_or_default()
}

fn last_mut(array: &mut Array) -> Option<&mut Value> {
    let last = array.len().checked_sub(1)?;
    array.get_mut(last)
}
