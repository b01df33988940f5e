//! Layers on disk, the compiled result, and properties of the whole.
#![cfg(feature = "declaration")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ebbtide_core::compiled::{
    Class, Compiled, DeclarationHash, Entry, Kind, Method, Mode, Principal, StoreName,
    is_normalised,
};
use ebbtide_core::declaration::{
    CompileError, Declaration, Problem, ReadError, SourceFile, Surroundings, check, check_in,
    read_file, read_layers, read_preset, report,
};
use proptest::prelude::*;
use uuid::Uuid;

const CONTAINER: Uuid = Uuid::from_u128(0x6f1f_9c1e_8d2b_4c58_9c57_0a5a_8f2f_7a11);
const STATE: Uuid = Uuid::from_u128(1);

fn source(text: &str) -> SourceFile {
    SourceFile { name: "test.toml".to_owned(), text: text.to_owned() }
}

fn declaration(text: &str) -> Declaration {
    let sources = [source(text)];
    let outcome = check(&sources);
    let shown: Vec<_> = outcome.problems.iter().map(|p| p.render(&sources, false)).collect();
    outcome.declaration.unwrap_or_else(|| panic!("{}", shown.join("\n")))
}

fn uuids() -> BTreeMap<StoreName, Uuid> {
    BTreeMap::from([(StoreName("state".to_owned()), STATE)])
}

const ROOT: &str = r#"version = 1
[root]
backend = "btrfs"
device = "LABEL=system"
uuid = "6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11"
options = ["compress=zstd"]
ephemeral = ["/home", "/root", "/srv"]
[store.state]
subvolume = "state"
"#;

fn entry<'d>(declaration: &'d Declaration, path: &str) -> &'d Entry {
    let found = declaration.entries.iter().find(|entry| entry.path == Path::new(path));
    found.unwrap_or_else(|| panic!("{path} is not kept"))
}

#[test]
fn presets_go_to_the_store_of_their_class_and_give_way_to_entries() {
    let text = format!(
        "{ROOT}[store.keys]\nsubvolume = \"keys\"\nclass = \"secret\"\n[keep]\n\
         presets = [\"ssh-host-keys\", \"accounts\", \"machine-id\", \"logs\"]\n\
         directories = [{{ path = \"/var/log\", options = [\"noexec\"] }}]\n\
         files = [{{ path = \"/etc/ssh/ssh_host_rsa_key\", store = \"state\" }}]\n"
    );
    let declaration = declaration(&text);
    let key = entry(&declaration, "/etc/ssh/ssh_host_ed25519_key");
    assert_eq!(
        (key.store.0.as_str(), key.mode, key.method),
        ("keys", Some(Mode(0o600)), Method::Bind)
    );
    assert_eq!(key.origin.file, "preset ssh-host-keys");
    assert!(key.origin.line > 1 && key.lazy && !key.optional);
    assert_eq!(key.units, ["ssh.service", "sshd.service"]);
    let own = entry(&declaration, "/etc/ssh/ssh_host_rsa_key");
    assert_eq!(
        (own.store.0.as_str(), own.mode),
        ("state", Some(Mode(0o600))),
        "filled from the preset"
    );
    assert!(!own.lazy && own.origin.file == "test.toml");
    let log = entry(&declaration, "/var/log");
    assert_eq!((log.store.0.as_str(), log.mode), ("state", Some(Mode(0o755))));
    assert_eq!(entry(&declaration, "/etc/shadow").method, Method::Sync);
    assert_eq!(entry(&declaration, "/etc/machine-id").method, Method::Copy);
}

#[test]
fn a_preset_within_what_is_kept_adds_nothing() {
    let text = format!(
        "{ROOT}[keep]\npresets = [\"ssh-host-keys\", \"accounts\"]\ndirectories = [\"/etc\"]\n"
    );
    let declaration = declaration(&text);
    let paths: Vec<_> = declaration.entries.iter().map(|entry| entry.path.as_path()).collect();
    assert_eq!(paths, [Path::new("/etc")]);
}

#[test]
fn users_keep_the_same_names_in_their_own_homes() {
    let text = format!(
        "{ROOT}[users.alice]\ndirectories = [\"Documents\", {{ path = \".ssh\", mode = \"0700\" }}]\n\
         [users.bob]\nhome = \"/srv/bob\"\ndirectories = [\"Documents\"]\nfiles = [\".x/y\"]\n"
    );
    let declaration = declaration(&text);
    for (path, user, home) in [
        ("/home/alice/Documents", "alice", "/home/alice"),
        ("/home/alice/.ssh", "alice", "/home/alice"),
        ("/srv/bob/Documents", "bob", "/srv/bob"),
        ("/srv/bob/.x/y", "bob", "/srv/bob"),
    ] {
        let entry = entry(&declaration, path);
        assert_eq!(entry.user, Some(Principal::Name(user.to_owned())));
        assert_eq!(entry.home.as_deref(), Some(Path::new(home)));
        assert!(entry.group.is_none() && entry.path.starts_with(home));
    }
}

#[test]
fn files_that_are_known_to_be_replaced_are_synced_unless_something_else_is_declared() {
    let text = format!(
        "{ROOT}[keep]\nfiles = [\"/etc/passwd\", {{ path = \"/etc/group\", method = \"bind\" }}, \
         {{ path = \"/etc/subuid\", method = \"auto\" }}, \"/etc/other\", \"/etc/machine-id\"]\n"
    );
    let declaration = declaration(&text);
    assert_eq!(entry(&declaration, "/etc/passwd").method, Method::Sync);
    assert_eq!(entry(&declaration, "/etc/group").method, Method::Bind);
    assert_eq!(entry(&declaration, "/etc/subuid").method, Method::Sync);
    assert_eq!(entry(&declaration, "/etc/other").method, Method::Bind);
    assert_eq!(declaration.auto.iter().collect::<Vec<_>>(), [Path::new("/etc/other")]);
}

#[test]
fn a_system_brings_presets_and_homes() {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let preset = |path: &str| {
        format!("version = 1\n[[directories]]\npath = \"{path}\"\nreason = \"a test\"\n")
    };
    write("etc/passwd", "alice:x:1000:1000::/srv/people//alice/:/bin/sh\n");
    write("usr/lib/ebbtide/presets.d/app.toml", &preset("/var/lib/app"));
    write("usr/lib/ebbtide/presets.d/both.toml", &preset("/var/lib/of-the-package"));
    write("etc/ebbtide/presets.d/both.toml", &preset("/var/lib/of-the-administrator"));
    write("etc/ebbtide/presets.d/logs.toml", &preset("/var/log/mine"));
    let surroundings = Surroundings::read(directory.path()).unwrap();
    let text = format!(
        "{ROOT}[keep]\npresets = [\"app\", \"both\", \"logs\"]\n[users.alice]\nfiles = [\"a\"]\n"
    );
    let declaration = check_in(&[source(&text)], &surroundings).declaration.unwrap();
    for path in
        ["/var/lib/app", "/var/lib/of-the-administrator", "/var/log/mine", "/srv/people/alice/a"]
    {
        entry(&declaration, path);
    }
    assert!(!declaration.entries.iter().any(|it| it.path.ends_with("of-the-package")));
}

#[test]
fn compiles_to_what_a_boot_reads() {
    let text = format!(
        "{ROOT}\n[keep]\ndirectories = [\"/var/log\", {{ path = \"/var/lib/colord\", user = \"colord\", \
         group = 110, mode = \"0700\", parent = {{ user = \"root\", mode = \"0755\" }}, options = [\"noexec\"], \
         optional = true }}]\nfiles = [{{ path = \"/etc/a\", method = \"symlink\" }}]\n"
    );
    let compiled = declaration(&text).compile(CONTAINER, &uuids()).unwrap();
    insta::assert_snapshot!(String::from_utf8(compiled.to_bytes()).unwrap());
    let bytes = compiled.to_bytes();
    assert_eq!(Compiled::from_bytes(&bytes, &DeclarationHash::of(&bytes)).unwrap(), compiled);
}

#[test]
fn built_in_entries_are_always_there() {
    let paths = |text: &str| -> Vec<(PathBuf, Kind, Method)> {
        let entries = declaration(text).entries;
        entries.into_iter().map(|entry| (entry.path, entry.kind, entry.method)).collect()
    };
    let built_in = [
        ("/etc/ebbtide".into(), Kind::Directory, Method::Bind),
        ("/etc/machine-id".into(), Kind::File, Method::Copy),
    ];
    assert_eq!(paths("version = 1"), built_in);
    assert_eq!(paths("version = 1\n[keep]\nfiles = [\"/etc/machine-id\"]"), built_in);
    assert_eq!(paths("version = 1\n[keep]\ndirectories = [\"/etc/ebbtide\"]"), built_in);
    // What keeps all of /etc keeps them too.
    let all = [("/etc".into(), Kind::Directory, Method::Bind)];
    assert_eq!(paths("version = 1\n[keep]\ndirectories = [\"/etc\"]"), all);

    let declared = declaration("version = 1\n[keep]\nfiles = [\"/etc/machine-id\"]");
    assert_eq!(declared.entries[1].mode, Some(Mode(0o444)));
    assert_eq!(declared.entries[1].origin.to_string(), "test.toml:3");
    assert_eq!(declared.entries[0].origin.to_string(), "built-in");
}

#[test]
fn later_layers_win_by_whole_tables_and_whole_entries() {
    let layers = [
        source(ROOT),
        source("version = 1\n[keep]\ndirectories = [{ path = \"/opt\", mode = \"0700\" }, \"/a\"]"),
        source(
            "version = 1\n[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=other\"\n\
             [store.state]\nsubvolume = \"kept\"\nclass = \"secret\"\n\
             [keep]\ndirectories = [\"/opt\"]",
        ),
    ];
    let declaration = check(&layers).declaration.unwrap();
    let root = declaration.root.unwrap();
    assert_eq!(root.device.0, "LABEL=other");
    assert_eq!((root.uuid, root.options.len(), root.ephemeral.len()), (None, 0, 0));
    let state = &declaration.stores[&StoreName("state".to_owned())];
    assert_eq!(state.subvolume.as_deref(), Some(Path::new("kept")));
    assert_eq!((state.class, state.device.0.as_str()), (Class::Secret, "LABEL=other"));
    let opt = declaration.entries.iter().find(|entry| entry.path == Path::new("/opt")).unwrap();
    assert_eq!(opt.mode, None);
    assert!(declaration.entries.iter().any(|entry| entry.path == Path::new("/a")));
}

#[test]
fn refuses_to_compile_what_a_boot_could_not_use() {
    let fragment = declaration("version = 1\n[keep]\nfiles = [\"/etc/a\"]");
    let whole = declaration(ROOT);
    let unpinned = declaration(&ROOT.replace("uuid", "#"));
    let errors = [
        fragment.compile(CONTAINER, &uuids()),
        unpinned.compile(CONTAINER, &uuids()),
        whole.compile(STATE, &uuids()),
        whole.compile(CONTAINER, &BTreeMap::new()),
    ]
    .map(|result| {
        let error: CompileError = result.unwrap_err();
        format!("{error}\n  hint: {}", error.hint())
    });
    insta::assert_snapshot!(errors.join("\n"));
}

fn write(root: &Path, path: &str, content: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

#[test]
fn layers_are_read_in_their_order() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(read_layers(root.path()).unwrap(), []);
    for path in [
        "etc/ebbtide/ebbtide.d/20-b.toml",
        "etc/ebbtide/ebbtide.d/10-a.toml",
        "etc/ebbtide/ebbtide.d/.hidden.toml",
        "etc/ebbtide/ebbtide.d/10-a.toml~",
        "etc/ebbtide/other.toml",
        "etc/ebbtide/ebbtide.toml",
        "usr/lib/ebbtide/b.toml",
        "usr/lib/ebbtide/a.toml",
        "usr/lib/ebbtide/ebbtide-boot",
    ] {
        write(root.path(), path, path);
    }
    // As on systems where all of /etc is links, absolute ones included.
    write(root.path(), "store/30-c.toml", "linked");
    let link = root.path().join("etc/ebbtide/ebbtide.d/30-c.toml");
    std::os::unix::fs::symlink("/store/30-c.toml", link).unwrap();

    let sources = read_layers(root.path()).unwrap();
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "/usr/lib/ebbtide/a.toml",
            "/usr/lib/ebbtide/b.toml",
            "/etc/ebbtide/ebbtide.toml",
            "/etc/ebbtide/ebbtide.d/10-a.toml",
            "/etc/ebbtide/ebbtide.d/20-b.toml",
            "/etc/ebbtide/ebbtide.d/30-c.toml",
        ]
    );
    assert_eq!(sources[5].text, "linked");
}

#[test]
fn root_uses_no_file_that_others_can_change() {
    use std::os::unix::fs::{PermissionsExt, chown};
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "etc/ebbtide/ebbtide.d/10-a.toml", "version = 1\n");
    let at = |path: &str| root.path().join("etc/ebbtide").join(path);
    let mode = |path: &str, mode| {
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("ebbtide.d", 0o755);
    mode("ebbtide.d/10-a.toml", 0o644);
    assert_eq!(read_layers(root.path()).unwrap().len(), 1);
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root has something to lose");
        return;
    }
    for (path, open, private) in
        [("ebbtide.d/10-a.toml", 0o664, 0o644), ("ebbtide.d", 0o777, 0o755)]
    {
        mode(path, open);
        let error = chain(&read_layers(root.path()).unwrap_err());
        assert!(error.contains(path) && error.contains("chmod go-w"), "{error}");
        mode(path, private);
        chown(at(path), Some(1000), None).unwrap();
        let error = chain(&read_layers(root.path()).unwrap_err());
        assert!(error.contains("user 1000"), "{error}");
        chown(at(path), Some(0), None).unwrap();
    }
    assert_eq!(read_layers(root.path()).unwrap().len(), 1);
}

fn chain(error: &ReadError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[test]
fn unreadable_files_say_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    write(directory.path(), "latin1.toml", b"version = 1\n# \xe4\n");
    write(directory.path(), "large.toml", vec![b'#'; (1 << 20) + 1]);
    fs::create_dir(path("directory.toml")).unwrap();
    let messages = ["latin1.toml", "large.toml", "directory.toml", "missing\u{1b}.toml"]
        .map(|name| chain(&read_file(&path(name)).unwrap_err()));
    let prefix = directory.path().to_str().unwrap();
    insta::assert_snapshot!(messages.join("\n").replace(prefix, "/tmp/test"));

    // A link out of a system's root is resolved inside it, so nothing is there.
    let root = path("root");
    fs::create_dir_all(root.join("etc/ebbtide")).unwrap();
    let link = root.join("etc/ebbtide/ebbtide.toml");
    std::os::unix::fs::symlink(path("latin1.toml"), link).unwrap();
    assert_eq!(read_layers(&root).unwrap(), []);
}

/// Text that is likely to get past the first checks.
fn plausible() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("version = 1\n".to_owned()),
        Just("[root]\n".to_owned()),
        Just("[store.state]\n".to_owned()),
        Just("[keep]\n".to_owned()),
        Just("backend = ".to_owned()),
        Just("device = ".to_owned()),
        Just("\"btrfs\"\n".to_owned()),
        Just("\"LABEL=a\"\n".to_owned()),
        Just("subvolume = \"state\"\n".to_owned()),
        Just("directories = [".to_owned()),
        Just("files = [".to_owned()),
        Just("{ path = ".to_owned()),
        Just("mode = ".to_owned()),
        Just("}".to_owned()),
        Just("]\n".to_owned()),
        Just(", ".to_owned()),
        "\"(/[a-c.]{0,2}){0,4}\"",
        "\\PC{0,3}",
    ];
    proptest::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

/// Entries over a small tree, so that many of them shadow each other.
fn entries() -> impl Strategy<Value = Vec<(String, bool, &'static str, &'static str)>> {
    let path =
        proptest::collection::vec("[ab]", 1..4).prop_map(|parts| format!("/{}", parts.join("/")));
    let entry = (
        path,
        any::<bool>(),
        prop_oneof![Just("state"), Just("cache")],
        prop_oneof![4 => Just("bind"), 1 => Just("symlink")],
    );
    proptest::collection::vec(entry, 0..6)
}

proptest! {
    #[test]
    fn any_text_is_checked_without_panic(text in any::<String>(), more in plausible()) {
        let sources = [source(&text), source(&more), source(&format!("version = 1\n{more}"))];
        let outcome = check(&sources);
        let sources = outcome.sources.clone();
        let errors = outcome.problems.iter().any(Problem::is_error);
        prop_assert_eq!(outcome.declaration.is_some(), !errors);
        for problem in &outcome.problems {
            let _ = problem.render(&sources, true);
        }
        for report in report(&outcome.problems, &sources) {
            prop_assert!(report.line >= 1 && report.column >= 1);
            prop_assert!(!report.message.contains(char::is_control));
        }
        for entry in outcome.declaration.iter().flat_map(|declaration| &declaration.entries) {
            prop_assert!(is_normalised(&entry.path));
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in any::<Vec<u8>>()) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("any.toml");
        fs::write(&path, &bytes).unwrap();
        match read_file(&path) {
            Ok(source) => prop_assert_eq!(source.text.as_bytes(), bytes),
            Err(ReadError::NotUtf8 { offset, line, .. }) => {
                prop_assert!(std::str::from_utf8(&bytes[..offset]).is_ok());
                prop_assert_eq!(line, bytes[..offset].split(|b| *b == b'\n').count());
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// The rules on entries inside entries, written down once more as plainly as possible.
    #[test]
    fn shadowing_agrees_with_the_definition(entries in entries()) {
        let line = |(path, file, store, method): &(String, bool, &str, &str)| {
            let kind = if *file { "files" } else { "directories" };
            (kind, format!("{{ path = \"{path}\", store = \"{store}\", method = \"{method}\" }}"))
        };
        let list = |wanted: &str| -> String {
            let lines = entries.iter().map(line).filter(|(kind, _)| *kind == wanted);
            lines.map(|(_, entry)| entry).collect::<Vec<_>>().join(", ")
        };
        let text = format!(
            "version = 1\n[keep]\ndirectories = [{}]\nfiles = [{}]\n",
            list("directories"),
            list("files"),
        );
        let fine = entries.iter().enumerate().all(|(index, entry)| {
            let (path, _, store, method) = entry;
            let twice = entries[..index].iter().any(|other| other.0 == *path);
            let above = entries
                .iter()
                .filter(|other| other.0 != *path && path.starts_with(&format!("{}/", other.0)))
                .max_by_key(|other| other.0.len());
            let shadowed = above.is_some_and(|(_, file, outer_store, outer_method)| {
                *file || *outer_method == "symlink" || *method == "symlink" || store == outer_store
            });
            !twice && !shadowed
        });
        prop_assert_eq!(check(&[source(&text)]).declaration.is_some(), fine, "{}", text);
    }

    #[test]
    fn compiling_is_deterministic_and_sorted(mut names in proptest::collection::hash_set("[a-e.-]{1,3}", 0..8)) {
        names.retain(|name| !matches!(name.as_str(), "." | ".."));
        let text = |names: Vec<&String>| {
            let paths: Vec<_> = names.iter().map(|name| format!("\"/data/{name}\"")).collect();
            format!("{ROOT}[keep]\ndirectories = [{}]\n", paths.join(", "))
        };
        let mut sorted: Vec<_> = names.iter().collect();
        let shuffled = declaration(&text(sorted.clone())).compile(CONTAINER, &uuids()).unwrap();
        sorted.sort();
        let ordered = declaration(&text(sorted)).compile(CONTAINER, &uuids()).unwrap();
        prop_assert_eq!(shuffled.to_bytes(), ordered.to_bytes());
        prop_assert!(ordered.entries.is_sorted_by(|a, b| a.path < b.path));
    }
}

/// Everything that the documents show as a declaration is one.
#[test]
fn documented_examples_are_sound() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let pages = ["reference/declaration.md", "how-to/install-debian.md", "../README.md"];
    for page in pages {
        // A UUID that is cut short for readers.
        let text = fs::read_to_string(docs.join(page)).unwrap();
        let text = text.replace("5a1c4d0e-…", &CONTAINER.to_string());
        let examples: Vec<_> = text.split("```toml\n").skip(1).collect();
        assert!(!examples.is_empty(), "{page}");
        for example in examples {
            let example = example.split("```").next().unwrap();
            if example.contains("\npackages = ") {
                let mut problems = Vec::new();
                let source = source(example);
                read_preset(0, &source, &mut problems).unwrap();
                assert!(problems.is_empty(), "{}", problems[0].render(&[source], false));
            } else {
                declaration(example);
            }
        }
    }
}

#[test]
fn a_path_is_explained_by_file_and_line() {
    let vendor = SourceFile {
        name: "/usr/lib/ebbtide/10-vendor.toml".to_owned(),
        text: "version = 1\n[keep]\ndirectories = [\"/srv/site\"]\n".to_owned(),
    };
    let admin = SourceFile {
        name: "/etc/ebbtide/ebbtide.toml".to_owned(),
        text: format!(
            "{ROOT}[store.logs]\nsubvolume = \"logs\"\nclass = \"log\"\n[keep]\npresets = [\"accounts\", \"logs\"]\n\
             directories = [\n  {{ path = \"/srv/site\", mode = \"0750\", options = [\"noexec\"] }},\n]\n\
             files = [{{ path = \"/etc/passwd\", store = \"state\" }}]\n"
        ),
    };
    let explain = |path: &str| {
        let sources = [vendor.clone(), admin.clone()];
        let explanation =
            ebbtide_core::declaration::explain(&sources, &Surroundings::default(), Path::new(path));
        serde_json::to_string_pretty(&explanation).unwrap()
    };
    let paths = ["/srv/site/deep", "/etc/passwd", "/var/log", "/etc/ebbtide/x", "/var", "/nothing"];
    insta::assert_snapshot!(paths.map(explain).join("\n"));
}

#[test]
fn the_machines_own_layer_comes_last() {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("etc/ebbtide/ebbtide.toml", ROOT);
    write("etc/ebbtide/ebbtide.d/z.toml", "version = 1\n");
    write(
        "run/ebbtide/stores/state/.ebbtide/keep.toml",
        "version = 1\n[keep]\nfiles = [\"/etc/a\"]\n",
    );
    let sources = read_layers(root.path()).unwrap();
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names[2], "/run/ebbtide/stores/state/.ebbtide/keep.toml");
    entry(&check(&sources).declaration.unwrap(), "/etc/a");
}

#[test]
fn state_of_dynamic_users_is_kept_where_it_lies() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("var/lib/private/app")).unwrap();
    std::os::unix::fs::symlink("private/app", root.path().join("var/lib/app")).unwrap();
    std::os::unix::fs::symlink("/etc", root.path().join("var/lib/other")).unwrap();
    // Nothing outside the system that is asked about is looked at.
    std::os::unix::fs::symlink("/etc", root.path().join("var/lib/docker")).unwrap();
    let surroundings = Surroundings::read(root.path()).unwrap();
    assert!(surroundings.storage.is_empty());
    let text = format!("{ROOT}[keep]\ndirectories = [\"/var/lib/app\", \"/var/lib/other\"]\n");
    let outcome = check_in(&[source(&text)], &surroundings);
    let declaration = outcome.declaration.unwrap();
    entry(&declaration, "/var/lib/private/app");
    entry(&declaration, "/var/lib/other");
    assert!(!declaration.entries.iter().any(|it| it.path == Path::new("/var/lib/app")));
    let message = &outcome.problems[0].message;
    assert_eq!(message, "`/var/lib/app` is kept at `/var/lib/private/app`");
}
