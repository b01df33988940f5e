//! Adding entries to lists.

use toml_edit::{Array, DocumentMut, InlineTable, Item, Key, RawString, Table, TableLike, Value};

use super::{EditError, edited, last_mut, last_suffix, list, table, trailing_of};
use crate::declaration::keep::{Addition, Section};
use crate::declaration::problem::toml_string;

/// A line that a person wrote on one line becomes several beyond this many characters.
const WIDTH: usize = 100;

/// What a new line of an array is indented by, where its other lines do not show it.
const INDENT: &str = "  ";

/// Returns the text with entries added, each at the end of its list. Comments, order and layout of
/// what is there stay; lists and tables that are missing are made.
pub fn add(text: &str, additions: &[Addition]) -> Result<String, EditError> {
    edited(text, |document| {
        additions.iter().try_for_each(|addition| {
            let table = section(document, &addition.section)?;
            insert(table, list(addition.kind), &fields(addition))
        })
    })
}

/// The table that an entry goes into.
pub(super) fn section<'d>(
    document: &'d mut DocumentMut,
    section: &Section,
) -> Result<&'d mut dyn TableLike, EditError> {
    match section {
        Section::Keep => {
            new_table_at_the_end(document, "keep", false);
            table(document.as_table_mut(), "keep", "[keep]")
        }
        Section::User(name) => {
            new_table_at_the_end(document, "users", true);
            let users = table(document.as_table_mut(), "users", "[users]")?;
            if !users.contains_key(name) {
                close_up(users);
                let mut user = Table::new();
                user.decor_mut().set_prefix("\n");
                users.insert(name, Item::Table(user));
            }
            table(users, name, &format!("[users.{name}]"))
        }
    }
}

/// Makes a table behind everything else, comments at the end of the file included.
pub(super) fn new_table_at_the_end(document: &mut DocumentMut, key: &str, implicit: bool) {
    if document.contains_key(key) {
        return;
    }
    let trailing = document.trailing().as_str().unwrap_or_default().to_owned();
    let mut new = Table::new();
    new.set_implicit(implicit);
    if implicit {
        // Its first table takes the place behind them.
        document.insert(key, Item::Table(new));
        return;
    }
    let is_first = document.is_empty() && trailing.trim().is_empty();
    new.decor_mut().set_prefix(if is_first { trailing } else { trailing + "\n" });
    document.set_trailing("");
    document.insert(key, Item::Table(new));
}

/// Adds an entry with these fields to a list.
pub(super) fn insert(
    table: &mut dyn TableLike,
    key: &str,
    fields: &[(Key, Value)],
) -> Result<(), EditError> {
    if !table.contains_key(key) {
        close_up(table);
        table.insert(key, Item::Value(Value::Array(Array::new())));
        // Beside the others in an inline table.
        if let Some(mut key) = table.key_mut(key) {
            key.leaf_decor_mut().clear();
        }
    }
    match table.get_mut(key) {
        Some(Item::Value(Value::Array(array))) => {
            push(array, entry(fields), key.len());
            Ok(())
        }
        Some(Item::ArrayOfTables(tables)) => {
            let mut new = Table::new();
            for (key, value) in fields {
                new.insert(key, Item::Value(value.clone()));
            }
            new.decor_mut().set_prefix("\n");
            tables.push(new);
            Ok(())
        }
        _ => Err(EditError::Shape { key: key.to_owned(), expected: "an array" }),
    }
}

/// Takes the space before the closing brace of an inline table away: something follows there.
fn close_up(table: &mut dyn TableLike) {
    let last = table.iter().last().map(|(key, _)| key.to_owned());
    let Some(last) = last else { return };
    // Tables and dotted keys have their values on lines of their own.
    if let Some(Item::Value(value)) = table.get_mut(&last)
        && value.decor().suffix().and_then(RawString::as_str) == Some(" ")
    {
        value.decor_mut().set_suffix("");
    }
}

fn fields(addition: &Addition) -> Vec<(Key, Value)> {
    let mut fields = vec![(Key::new("path"), string(&addition.path))];
    fields.extend(addition.store.as_ref().map(|store| (Key::new("store"), string(&store.0))));
    fields.extend(addition.method.as_ref().map(|it| (Key::new("method"), string(it))));
    fields
}

/// A string on one line, whatever is in it.
pub(super) fn string(text: &str) -> Value {
    toml_string(text).parse().unwrap_or_else(|_| text.into())
}

/// The entry in its short form, if that says all.
fn entry(fields: &[(Key, Value)]) -> Value {
    match fields {
        [(_, path)] => path.clone(),
        _ => Value::InlineTable(fields.iter().cloned().collect::<InlineTable>()),
    }
}

/// Adds a value to an array, on a line of its own if the others have lines.
fn push(array: &mut Array, mut value: Value, key: usize) {
    if is_on_lines(array) {
        push_line(array, value);
        return;
    }
    let before = if array.is_empty() { "" } else { " " };
    value.decor_mut().set_prefix(before);
    let padded = trailing_of(array) == " " || last_suffix(array) == " ";
    let mut line = array.clone();
    if let Some(last) = last_mut(&mut line)
        && padded
    {
        last.decor_mut().set_suffix("");
    }
    if padded && array.is_empty() {
        value.decor_mut().set_prefix(" ");
    }
    let end = if padded { " " } else { "" };
    if line.trailing_comma() {
        value.decor_mut().set_suffix("");
        line.set_trailing(end);
    } else {
        value.decor_mut().set_suffix(end);
        line.set_trailing("");
    }
    line.push_formatted(value.clone());
    if key + " = ".len() + line.to_string().trim().chars().count() <= WIDTH || array.is_empty() {
        *array = line;
        return;
    }
    for item in array.iter_mut() {
        item.decor_mut().set_prefix(format!("\n{INDENT}"));
        item.decor_mut().set_suffix("");
    }
    array.set_trailing("\n");
    array.set_trailing_comma(true);
    push_line(array, value);
}

fn push_line(array: &mut Array, mut value: Value) {
    let indent = indent_of(array);
    let trailing = trailing_of(array).to_owned();
    let comma = array.trailing_comma();
    // A comment behind the last value is in front of the bracket, or of the comma that it has not.
    let (mut between, end) = if comma || array.is_empty() {
        split_last_line(&trailing)
    } else {
        let suffix = last_suffix(array).to_owned();
        let (between, end) = split_last_line(&suffix);
        if let Some(last) = last_mut(array) {
            last.decor_mut().set_suffix("");
        }
        (between, end)
    };
    between.push('\n');
    value.decor_mut().set_prefix(between + &indent);
    if comma || array.is_empty() {
        value.decor_mut().set_suffix("");
        array.set_trailing(format!("\n{end}"));
        array.set_trailing_comma(true);
    } else {
        value.decor_mut().set_suffix(format!("\n{end}"));
    }
    array.push_formatted(value);
}

/// What stands before the last line, and the last line: the indentation of the bracket.
fn split_last_line(text: &str) -> (String, String) {
    match text.rsplit_once('\n') {
        Some((before, last)) => (before.trim_end().to_owned(), last.to_owned()),
        None => (text.trim_end().to_owned(), String::new()),
    }
}

fn is_on_lines(array: &Array) -> bool {
    let has_line = |text: Option<&RawString>| {
        text.and_then(RawString::as_str).is_some_and(|text| text.contains('\n'))
    };
    has_line(Some(array.trailing()))
        || array.iter().any(|it| has_line(it.decor().prefix()) || has_line(it.decor().suffix()))
}

fn indent_of(array: &Array) -> String {
    let prefixes = array.iter().filter_map(|it| it.decor().prefix()?.as_str());
    let lines = prefixes.filter_map(|prefix| prefix.rsplit_once('\n'));
    lines.last().map_or_else(|| comment_indent(array), |(_, indent)| indent.to_owned())
}

/// The indentation of comments, in an array with nothing else.
fn comment_indent(array: &Array) -> String {
    let mut lines = trailing_of(array).lines();
    let line = lines.find(|line| line.trim_start().starts_with('#'));
    line.map_or_else(
        || INDENT.to_owned(),
        |line| line.chars().take_while(|c| c.is_whitespace()).collect(),
    )
}

#[cfg(test)]
mod tests;
