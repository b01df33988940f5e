//! The JSON schema of the file format, for editors.
//!
//! Draft 7, without what draft 4 does not know where possible: taplo reads draft 4.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::Value;

use super::file::{Attachment, Entry, File, RamMount, Store, User};
use super::retention;
use crate::compiled::MountOption;

/// The JSON schema of a file of the declaration.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft07()
        .with_transform(RecursiveTransform(without_null))
        .with_transform(RecursiveTransform(in_old_words));
    let mut schema = settings.into_generator().into_root_schema_for::<File>();
    schema.insert("title".to_owned(), "Ebbtide declaration".into());
    schema.to_value()
}

/// Takes `null` out of what may be absent: TOML has none.
fn without_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.retain(|form| form.get("type").is_none_or(|name| name != "null"));
        if let [only] = forms.as_slice() {
            let only = only.clone();
            schema.remove("anyOf");
            match only {
                Value::Object(only) if !only.contains_key("$ref") => {
                    for (key, value) in only {
                        schema.insert(key, value);
                    }
                }
                // Draft 7 ignores what stands beside a reference.
                only => {
                    schema.insert("allOf".to_owned(), Value::Array(vec![only]));
                }
            }
        }
    }
}

/// Writes what newer drafts say in words of draft 4.
fn in_old_words(schema: &mut Schema) {
    if let Some(value) = schema.remove("const") {
        schema.insert("enum".to_owned(), Value::Array(vec![value]));
    }
    // "uint32" is no format of JSON schema; the range is given anyway.
    schema.remove("format");
}

/// Declares types that exist only in the schema.
macro_rules! shapes {
    ($($(#[$meta:meta])* $name:ident = $generate:expr;)*) => {$(
        $(#[$meta])*
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let generate: fn(&mut SchemaGenerator) -> Schema = $generate;
                generate(generator)
            }
        }
    )*};
}

/// One component of a path: anything but nothing, `.` and `..`.
macro_rules! component {
    () => {
        r"([^/.]|\.[^/.]|\.\.[^/])[^/]*"
    };
}

shapes! {
    /// An absolute path in its normal spelling.
    AbsolutePath = |_| json_schema!({
        "type": "string",
        "pattern": concat!("^(/", component!(), ")+$"),
    });
    /// An absolute pattern in its normal spelling, one for any depth, or a name.
    IgnoredPath = |_| json_schema!({
        "type": "string",
        "pattern": concat!("^(((\\*\\*)?(/", component!(), ")+)|", component!(), ")$"),
    });
    /// A relative path in its normal spelling.
    RelativePath = |_| json_schema!({
        "type": "string",
        "pattern": concat!("^", component!(), "(/", component!(), ")*$"),
    });
    /// A device as in fstab.
    Device = |_| json_schema!({
        "type": "string",
        "pattern": "^((PART)?(UUID=[0-9A-Fa-f-]+|LABEL=[^\"'].*)|/dev/.+)$",
    });
    /// A UUID.
    UuidText = |_| json_schema!({
        "type": "string",
        "pattern": "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$",
    });
    /// A tree that asks for a decision.
    Decision = |_| json_schema!({ "type": "string", "enum": super::DECISIONS });
    /// A share of the RAM, or a size.
    RamSizeText = |_| json_schema!({
        "type": "string",
        "pattern": "^([1-9][0-9]?%|100%|[0-9]+[KkMmGgTt]?)$",
    });
    /// A size.
    SizeText = |_| json_schema!({ "type": "string", "pattern": "^[0-9]+[KkMmGgTt]?$" });
    /// Hours, days or weeks.
    AgeText = |_| json_schema!({ "type": "string", "pattern": "^[1-9][0-9]{0,5}[hdw]$" });
    /// A share of a volume, or a size.
    ShareText = |_| json_schema!({
        "type": "string",
        "pattern": "^([1-8]?[0-9]%|90%|[0-9]+[KkMmGgTt]?)$",
    });
    /// How many past roots.
    Count = |_| json_schema!({ "type": "integer", "minimum": 0, "maximum": retention::MOST });
    /// How many days.
    Days = |_| json_schema!({ "type": "integer", "minimum": 1, "maximum": retention::MOST });
    /// A filesystem in RAM in its short form or its long one.
    RamMountForm = |generator| json_schema!({
        "anyOf": [
            generator.subschema_for::<AbsolutePath>(),
            generator.subschema_for::<RamMount>(),
        ],
    });
    /// The name of a store.
    StoreNameText = |_| json_schema!({ "type": "string", "pattern": STORE_NAME });
    /// A user or a group.
    Owner = |_| json_schema!({
        "anyOf": [
            { "type": "string", "maxLength": 32, "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*\\$?$" },
            { "type": "integer", "minimum": 0, "maximum": u32::MAX - 1 },
        ],
    });
    /// Permission bits.
    ModeText = |_| json_schema!({ "type": "string", "pattern": "^[0-7]{3,4}$" });
    /// Owner and mode of parents.
    ParentTable = |generator| {
        let owner = generator.subschema_for::<Owner>();
        json_schema!({
            "type": "object",
            "properties": {
                "user": owner,
                "group": owner,
                "mode": generator.subschema_for::<ModeText>(),
            },
            "additionalProperties": false,
        })
    };
    /// An entry in its short form or its long one.
    EntryForm = |generator| json_schema!({
        "anyOf": [
            generator.subschema_for::<AbsolutePath>(),
            generator.subschema_for::<Entry>(),
        ],
    });
    /// An entry of a user, in its short form or its long one.
    UserEntryForm = |generator| json_schema!({
        "anyOf": [
            generator.subschema_for::<RelativePath>(),
            {
                "type": "object",
                "properties": {
                    "path": generator.subschema_for::<RelativePath>(),
                    "store": generator.subschema_for::<StoreNameText>(),
                    "method": generator.subschema_for::<Attachment>(),
                    "mode": generator.subschema_for::<ModeText>(),
                    "options": { "type": "array", "items": generator.subschema_for::<MountOption>() },
                    "optional": { "type": "boolean" },
                },
                "required": ["path"],
                "additionalProperties": false,
            },
        ],
    });
    /// Users by name.
    Users = |generator| json_schema!({
        "type": "object",
        "patternProperties": { USER_NAME: generator.subschema_for::<User>() },
        "additionalProperties": false,
    });
    /// Stores by name.
    Stores = |generator| json_schema!({
        "type": "object",
        "patternProperties": { STORE_NAME: generator.subschema_for::<Store>() },
        "additionalProperties": false,
    });
}

const USER_NAME: &str = "^[A-Za-z_][A-Za-z0-9_.-]{0,31}$";
const STORE_NAME: &str = "^[a-z0-9][a-z0-9-]{0,31}$";

#[cfg(test)]
mod tests {
    use super::super::read;
    use super::*;

    /// The reader is written by hand: it and the schema must know the same keys.
    #[test]
    fn reader_and_schema_know_the_same_keys() {
        let schema = schema();
        let keys = |pointer: &str| -> Vec<String> {
            let properties = schema.pointer(pointer).and_then(Value::as_object);
            let mut keys: Vec<_> = properties.expect(pointer).keys().cloned().collect();
            keys.sort();
            keys
        };
        let parent = schema.pointer("/definitions/Entry/properties/parent/properties");
        assert!(parent.is_some(), "{schema:#}");
        for (pointer, known) in [
            ("/properties", &read::FILE_KEYS[..]),
            ("/definitions/Root/properties", &read::ROOT_KEYS),
            ("/definitions/Store/properties", &read::STORE_KEYS),
            ("/definitions/KeepBoots/properties", &retention::KEEP_BOOTS_KEYS),
            ("/definitions/KeepTrash/properties", &retention::KEEP_TRASH_KEYS),
            ("/definitions/Keep/properties", &read::KEEP_KEYS),
            ("/definitions/Ignore/properties", &read::IGNORE_KEYS),
            ("/definitions/User/properties", &read::USER_KEYS),
            ("/definitions/Entry/properties", &read::ENTRY_KEYS),
            ("/definitions/Entry/properties/parent/properties", &read::PARENT_KEYS),
        ] {
            let mut known = known.to_vec();
            known.sort_unstable();
            assert_eq!(keys(pointer), known, "{pointer}");
        }
    }
}
