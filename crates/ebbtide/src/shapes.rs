//! The shapes of what commands print with `--json`: a JSON schema for each.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::commands::{
    accept, boots, check, diff, forget, gc, ignore, keep, log, rehearse, restore, status, try_root,
};

/// The name of the declaration among the schemas.
pub(crate) const DECLARATION: &str = "declaration";

/// What one command prints with `--json`.
#[derive(Debug)]
pub struct Shape {
    /// The command, with what makes it print another shape: `check-presets` is that of
    /// `check --presets`.
    pub name: &'static str,
    /// Its version: within one, keys are only added.
    pub version: u32,
    schema: fn(&str, u32) -> Value,
}

impl Shape {
    /// Its JSON schema, in draft 2020-12.
    pub fn schema(&self) -> Value {
        (self.schema)(self.name, self.version)
    }
}

/// All shapes. Every command that has `--json` is here; a test asks each of them.
pub fn shapes() -> Vec<Shape> {
    vec![
        shape::<status::Json<'_>>("status", 1),
        shape::<diff::Json>("diff", 1),
        shape::<diff::kept::Json>("diff-kept", 1),
        shape::<boots::Json<'_>>("boots", 1),
        shape::<boots::show::Json<'_>>("boots-show", 1),
        shape::<log::Json<'_>>("log", 1),
        shape::<restore::Json<'_>>("restore", 1),
        shape::<gc::Json<'_>>("gc", 1),
        shape::<accept::Json<'_>>("accept", 1),
        shape::<forget::Json<'_>>("forget", 1),
        shape::<keep::Json<'_>>("keep", 1),
        shape::<keep::once::Json>("keep-once", 1),
        shape::<ignore::Json<'_>>("ignore", 1),
        shape::<try_root::report::Json>("try", 1),
        shape::<rehearse::report::Json<'_>>("rehearse", 1),
        shape::<check::Document>("check", 1),
        shape::<check::Presets>("check-presets", 1),
        shape::<check::Explained>("check-explain", 1),
    ]
}

// Only one that is asked for is made: all of them take longer than many a command.
const fn shape<T: JsonSchema>(name: &'static str, version: u32) -> Shape {
    Shape { name, version, schema: schema::<T> }
}

fn schema<T: JsonSchema>(name: &str, version: u32) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), format!("Output of ebbtide {name}").into());
    if let Some(described) = schema.pointer_mut("/properties/version")
        && let Some(described) = described.as_object_mut()
    {
        described.retain(|key, _| key == "description");
        described.insert("const".to_owned(), version.into());
    }
    schema.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The commands that have `--json`, by all words of their names.
    fn with_json(command: &clap::Command, words: &str, found: &mut Vec<String>) {
        if command.is_hide_set() {
            return;
        }
        if command.get_arguments().any(|argument| argument.get_long() == Some("json")) {
            found.push(words.to_owned());
        }
        for below in command.get_subcommands() {
            let words = [words, below.get_name()].join("-");
            with_json(below, words.trim_start_matches('-'), found);
        }
    }

    #[test]
    fn every_command_with_json_has_a_shape() {
        let mut commands = Vec::new();
        with_json(&crate::definition(), "", &mut commands);
        assert!(commands.contains(&"status".to_owned()), "{commands:?}");
        let names: Vec<_> = shapes().iter().map(|shape| shape.name).collect();
        for command in commands {
            assert!(
                names.contains(&command.as_str()),
                "`{command}` has --json and no shape: derive JsonSchema for what it prints, and add \
                 it to shapes()"
            );
        }
    }

    #[test]
    fn every_shape_has_its_version() {
        for shape in shapes() {
            let schema = shape.schema();
            let version = schema.pointer("/properties/version/const");
            assert_eq!(version, Some(&shape.version.into()), "{}", shape.name);
            let required = schema["required"].as_array().unwrap();
            assert!(required.contains(&"version".into()), "{}", shape.name);
        }
    }
}
