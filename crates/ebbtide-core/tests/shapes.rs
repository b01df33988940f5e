//! What is printed as JSON, after real boots, is what its published schema says.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use ebbtide_core::past::history::history;
use ebbtide_core::past::sources::Sources;
use ebbtide_core::past::version::Contents;
use ebbtide_core::{past, status};
use machine::{Kind, Machine, write};
use serde_json::{Value, json};

on_each_disk!(status_and_boots_are_as_their_schemas_say, histories_are_as_their_schema_says,);

/// The published schema, with no other keys allowed than it names.
fn schema(name: &str) -> jsonschema::Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema/output").join(name);
    let mut schema: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    close(&mut schema);
    jsonschema::draft202012::new(&schema).unwrap()
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), false.into());
            }
            object.values_mut().for_each(close);
        }
        Value::Array(values) => values.iter_mut().for_each(close),
        _ => {}
    }
}

fn assert_valid(schema: &jsonschema::Validator, document: &Value) {
    let wrong: Vec<_> = schema.iter_errors(document).map(|error| error.to_string()).collect();
    assert!(wrong.is_empty(), "{wrong:#?} in {document:#}");
}

fn status_and_boots_are_as_their_schemas_say(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\", \"/var/lib/later\"]\n");
    let seen = Mutex::new(Vec::new());
    let look = |root: &Path, boot: &ebbtide_core::boot::Boot| {
        write(root, "stray", "x");
        let mut found = serde_json::to_value(status::status(boot, root)).unwrap();
        found["version"] = 1.into();
        seen.lock().unwrap().push(found);
    };
    let _ = machine.live("", look);
    let _ = machine.live("ebbtide=keep", look);
    let _ = machine.live("ebbtide=off", look);
    let _ = machine.live("", look);
    let (status, boots) = (schema("status-1.json"), schema("boots-1.json"));
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().any(|found| found["outcome"] == "reset"), "{seen:#?}");
    assert!(seen.iter().any(|found| found["outcome"] == json!({ "kept": "off" })), "{seen:#?}");
    assert!(seen.iter().any(|found| !found["problems"].as_array().unwrap().is_empty()));
    for document in &seen {
        assert_valid(&status, document);
    }
    let listed = past::boots(&machine.open(), Path::new("ebbtide"), "").unwrap();
    assert_eq!(listed.len(), 4);
    assert_valid(&boots, &json!({ "version": 1, "boots": listed }));

    // A schema that accepts anything would prove nothing.
    for change in ["novelty", "boot", "version"] {
        let mut document = seen[0].clone();
        document[change] = "odd".into();
        assert!(!status.is_valid(&document), "{change}");
    }
}

fn histories_are_as_their_schema_says(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/var/log\"]\n");
    machine.boot("", |root| {
        write(root, "var/log/x", "x");
        write(root, "srv/file", "x");
        std::os::unix::fs::symlink("file", root.join("srv/link")).unwrap();
        std::os::unix::fs::symlink("srv", root.join("link")).unwrap();
    });
    let schema = schema("log-1.json");
    machine.live("", |root, boot| {
        fs::remove_file(root.join("etc/issue")).unwrap();
        let sources = Sources::open(boot, &boot.open_container().unwrap(), root).unwrap();
        let paths = ["/var/log/x", "/srv", "/srv/file", "/srv/link", "/link/file", "/etc/issue"];
        let histories = paths.map(|it| history(&sources, Path::new(it), &mut Contents::default()));
        let document = json!({ "version": 1, "histories": histories, "problems": [] });
        assert_valid(&schema, &document);
        for state in ["present", "kept", "unknown"] {
            assert!(document.to_string().contains(&format!("{{\"{state}\":")), "{document:#}");
        }
        assert!(document.to_string().contains("\"deleted\""), "{document:#}");
        let mut odd = document;
        odd["histories"][0]["runs"][0]["places"][0] = "then".into();
        assert!(!schema.is_valid(&odd));
    });
}
