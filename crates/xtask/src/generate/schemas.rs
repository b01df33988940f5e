//! The schemas of what commands print with `--json`, and what the book says of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where they are checked in.
pub const FOLDER: &str = "docs/schema/output";

const BOOK: &str = "docs/reference/json.md";

/// That of the declaration.
const DECLARATION: &str = "docs/schema/ebbtide-1.json";

/// Writes them all.
pub fn schemas(add: &mut impl FnMut(PathBuf, String)) -> Result<()> {
    let declaration = serde_json::to_string_pretty(&ebbtide::declaration_schema())? + "\n";
    add(PathBuf::from(DECLARATION), declaration);
    for shape in ebbtide::shapes() {
        let name = format!("{}-{}.json", shape.name, shape.version);
        add(Path::new(FOLDER).join(name), serde_json::to_string_pretty(&shape.schema())? + "\n");
    }
    Ok(())
}

/// The book has a section for each shape, which names all of its keys, and no other one in the first
/// column of a table.
pub fn check_book(workspace: &Path) -> Result<()> {
    let book = workspace.join(BOOK);
    let book = fs::read_to_string(&book).with_context(|| format!("cannot read {BOOK}"))?;
    let mut wrong = Vec::new();
    for shape in ebbtide::shapes() {
        wrong.extend(compare(&book, shape.name, shape.version, &shape.schema()));
    }
    if !wrong.is_empty() {
        bail!("{BOOK} is not current:\n  {}", wrong.join("\n  "));
    }
    Ok(())
}

fn compare(book: &str, name: &str, version: u32, schema: &Value) -> Vec<String> {
    let link = format!("](../schema/output/{name}-{version}.json)");
    let sections: Vec<&str> = book.split("\n## ").collect();
    let Some(section) = sections.iter().find(|section| section.contains(&link)) else {
        return vec![format!("no section has a link {link}")];
    };
    let mut keys = BTreeSet::new();
    collect(schema, &mut keys);
    // What another section explains, and this one links to, is explained.
    let linked = sections.iter().filter(|it| section.contains(&format!("](#{})", anchor(it))));
    let explained = linked.chain([section]);
    let code: BTreeSet<&str> = explained
        .flat_map(|section| section.split('`').skip(1).step_by(2))
        .flat_map(names)
        .collect();
    let missing = keys.iter().filter(|key| !code.contains(key.as_str()));
    let mut wrong: Vec<_> =
        missing.map(|key| format!("{name}: it does not say what `{key}` is")).collect();
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    for key in cells.flat_map(|cell| cell.split('`').step_by(2)).flat_map(names) {
        if !keys.contains(key) {
            wrong.push(format!("{name}: nothing prints `{key}`"));
        }
    }
    wrong
}

/// The anchor of a section, as GitHub makes it of a heading's text.
fn anchor(section: &str) -> String {
    let heading = section.lines().next().unwrap_or_default();
    let (text, rest) = heading.split_once("](").unwrap_or((heading, ""));
    let rest = rest.split_once(')').map_or("", |(_, rest)| rest);
    let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
    let text: String = text.chars().chain(rest.chars()).filter(kept).collect();
    text.trim().to_lowercase().replace(' ', "-")
}

/// The names in a piece of code such as `problems[].file`.
fn names(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && !"_-".contains(c)).filter(|name| !name.is_empty())
}

/// All keys of all objects, and all words that a string may be.
fn collect(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect(value, keys));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_book_that_says_something_else_is_found_out() {
        let schema = serde_json::json!({
            "properties": { "version": {}, "boots": { "items": { "$ref": "#/$defs/Boot" } } },
            "$defs": { "Boot": { "properties": { "number": {} } } },
        });
        let section =
            |text: &str| format!("# JSON\n\n## [x](../schema/output/x-1.json)\n\n{text}\n");
        let full = "| `version` | `1` |\n| `boots[].number` | |\n";
        assert!(compare(&section(full), "x", 1, &schema).is_empty());
        let found = compare(&section("| `version`, `odd` | |\n`boots`"), "x", 1, &schema);
        assert_eq!(found, ["x: it does not say what `number` is", "x: nothing prints `odd`"]);
        let linked =
            section("`version` and [more](#a-b-c-version-1)") + "\n## [`a b --c`](d), version 1\n";
        assert_eq!(compare(&linked, "x", 1, &schema).len(), 2);
        let linked = linked.replace("#a-b-c-", "#a-b---c-") + "`number` of `boots`\n";
        assert!(compare(&linked, "x", 1, &schema).is_empty());
        assert_eq!(compare(&section(full), "x", 2, &schema).len(), 1);
    }
}
