//! What all presets have in common, without looking at any package.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;

use ebbtide_core::compiled::Kind;
use ebbtide_core::declaration::{
    Preset, SourceFile, Surroundings, built_in_presets, check_in, read_preset,
};

fn presets() -> BTreeMap<String, Preset> {
    let read = |file: ebbtide_core::declaration::PresetFile| {
        let mut problems = Vec::new();
        let preset = read_preset(0, &file.source, &mut problems);
        let shown: Vec<_> = problems
            .iter()
            .map(|it| it.render(std::slice::from_ref(&file.source), false))
            .collect();
        assert!(problems.is_empty(), "{}", shown.join("\n"));
        (file.name, preset.unwrap())
    };
    built_in_presets().into_iter().map(read).collect()
}

#[test]
fn there_are_presets_for_what_people_run_most() {
    let presets = presets();
    assert!(presets.len() >= 60, "{}", presets.len());
    for name in [
        "machine-id",
        "ssh-host-keys",
        "accounts",
        "systemd",
        "logs",
        "network-manager",
        "wpa-supplicant",
        "bluetooth",
        "docker",
        "podman",
        "libvirt",
        "postgresql",
        "mariadb",
        "nginx",
        "certbot",
        "wireguard",
        "etcd",
        "redis",
    ] {
        assert!(presets.contains_key(name), "{name}");
    }
}

#[test]
fn every_path_has_a_reason_and_is_in_one_preset() {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (name, preset) in presets() {
        assert!(!preset.description.is_empty() && !preset.packages.is_empty(), "{name}");
        assert!(
            !preset.entries.is_empty() || !preset.user_entries.is_empty(),
            "{name} has no path"
        );
        for entry in &preset.entries {
            let path = entry.path().display().to_string();
            let reason = &entry.reason;
            assert!(!reason.is_empty() && !reason.ends_with('.'), "{name}: {path}: {reason:?}");
            let identity = path == "/etc/machine-id";
            let (user, group, mode) = entry.attributes();
            assert!(identity || mode.is_some(), "{name}: {path} has no mode");
            assert!(identity || (user.is_some() && group.is_some()), "{name}: {path} has no owner");
            if let Some(other) = seen.insert(path.clone(), name.clone()) {
                panic!("{path} is in {other} and in {name}");
            }
        }
        for entry in &preset.user_entries {
            assert!(entry.path().is_relative() && !entry.reason.is_empty(), "{name}");
        }
    }
}

#[test]
fn all_of_them_can_be_declared_at_once() {
    let presets = presets();
    let named = |user: bool| {
        let some = presets.iter().filter(|(_, preset)| {
            if user { !preset.user_entries.is_empty() } else { !preset.entries.is_empty() }
        });
        some.map(|(name, _)| format!("{name:?}")).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "version = 1\n[keep]\npresets = [{}]\n[users.alice]\npresets = [{}]\n",
        named(false),
        named(true)
    );
    let source = SourceFile { name: "all.toml".to_owned(), text };
    let mut surroundings = Surroundings::default();
    surroundings.homes.insert("alice".to_owned(), "/home/alice".into());
    let outcome = check_in(&[source], &surroundings);
    let shown: Vec<_> =
        outcome.problems.iter().map(|it| it.render(&outcome.sources, false)).collect();
    assert!(shown.is_empty(), "{}", shown.join("\n"));
    let entries = outcome.declaration.unwrap().entries;
    assert!(
        entries.iter().any(|it| it.path.starts_with("/home/alice") && it.kind == Kind::Directory)
    );
}
