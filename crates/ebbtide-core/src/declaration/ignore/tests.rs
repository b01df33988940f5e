use super::*;

fn sources(texts: &[(&str, &str)]) -> Vec<SourceFile> {
    let source = |(name, text): &(&str, &str)| SourceFile {
        name: (*name).to_owned(),
        text: format!("version = 1\n{text}"),
    };
    texts.iter().map(source).collect()
}

fn surroundings() -> Surroundings {
    let homes = [("alice", "/home/alice"), ("odd", "/srv/[odd]")];
    let homes = homes.map(|(name, home)| (name.to_owned(), PathBuf::from(home)));
    Surroundings { homes: homes.into(), ..Surroundings::default() }
}

fn layers() -> Vec<SourceFile> {
    sources(&[
        ("/usr/lib/ebbtide/app.toml", "[ignore]\npaths = [\"/var/lib/app\"]\n"),
        (
            "/etc/ebbtide/ebbtide.toml",
            "[keep]\ndirectories = [\"/srv/kept\"]\n[ignore]\npaths = [\n\"*.pyc\",\n\"**/tmp/*.o\",\n]\n\
             [users.alice]\nignore = [\".local/state\", \"**/target\"]\n[users.odd]\nignore = [\"x\"]\n",
        ),
        ("/etc/ebbtide/ebbtide.d/a.toml", "[users.alice]\nignore = [\"b\"]\n"),
    ])
}

#[test]
fn rules_of_all_layers_hold() {
    let rules = Rules::read(&layers(), &surroundings());
    let origin = |path: &str| {
        let rule = rules.covering(Path::new(path))?;
        Some(rule.origin.rsplit('/').next().unwrap_or_default().to_owned())
    };
    for (path, expected) in [
        ("/var/lib/app/db", Some("app.toml:3")),
        ("/var/lib/app", Some("app.toml:3")),
        ("/var/lib/application", None),
        ("/opt/x/y.pyc", Some("ebbtide.toml:6")),
        ("/y.pyc/below", Some("ebbtide.toml:6")),
        ("/srv/tmp/a.o", Some("ebbtide.toml:7")),
        ("/srv/tmp/a/b.o", None),
        ("/home/alice/.local/state/x", Some("ebbtide.toml:10")),
        ("/home/alice/p/q/target", Some("ebbtide.toml:10")),
        ("/home/bob/p/target", None),
        ("/home/alice/b", Some("a.toml:3")),
        ("/srv/[odd]/x", Some("ebbtide.toml:12")),
        ("/srv/o/x", None),
        ("/home/alice", None),
        ("/", None),
    ] {
        assert_eq!(origin(path).as_deref(), expected, "{path}");
    }
    assert!(rules.unread.is_empty());
}

#[test]
fn a_mistake_elsewhere_takes_no_rule_away() {
    let mut sources = layers();
    sources[1].text += "[keep]\n";
    let rules = Rules::read(&sources, &surroundings());
    assert_eq!(rules.unread, ["/etc/ebbtide/ebbtide.toml"]);
    assert!(rules.covering(Path::new("/var/lib/app")).is_some());
    assert!(rules.covering(Path::new("/x.pyc")).is_none());
    sources[1].text = "version = 1\nodd = 1\n[ignore]\npaths = [\"a/b\", \"*.pyc\"]\n".to_owned();
    let rules = Rules::read(&sources, &surroundings());
    assert!(rules.unread.is_empty());
    assert!(rules.covering(Path::new("/x.pyc")).is_some());
}

#[test]
fn what_is_no_pattern_is_refused_with_its_place() {
    let text = "[ignore]\npaths = [\n  \"var/lib/app\",\n  \"/var/../lib\",\n  \"..\",\n  \"/a/\",\n  \"/\",\n  \
                \"**\",\n  \"/**/*\",\n  \"\",\n  \"~/x\",\n  7,\n  \"**/../x\",\n]\nfiles = []\n[users.alice]\n\
                ignore = [\"/x\", \"../x\", \"**\", \"a//b\"]\n";
    let outcome = super::super::check_in(&sources(&[("f", text)]), &surroundings());
    let shown: Vec<String> = super::super::report(&outcome.problems, &outcome.sources)
        .into_iter()
        .filter(|report| report.severity == super::super::Severity::Error)
        .map(|it| {
            format!("{}:{} {} ({})", it.line, it.column, it.message, it.hint.unwrap_or_default())
        })
        .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn a_pattern_is_declared_where_it_belongs_unless_nothing_comes_of_it() {
    let plan = |patterns: &[&str]| {
        let patterns: Vec<PathBuf> = patterns.iter().map(|it| pattern(it).unwrap()).collect();
        plan(&layers(), &surroundings(), &patterns).unwrap()
    };
    let planned = plan(&[
        "/opt/new",
        "/opt/new/below",
        "/opt/new/*.o",
        "*.tmp",
        "**/node_modules",
        "/home/alice/x/*",
        "/home/bob/x",
        "/srv/[[]odd]/y",
        "/home/alice/**",
    ]);
    let added: Vec<_> =
        planned.additions.iter().map(|it| format!("{} {}", it.list.table(), it.pattern)).collect();
    assert_eq!(
        added,
        [
            "ignore /opt/new",
            "ignore *.tmp",
            "ignore node_modules",
            "users.alice x/*",
            "ignore /home/bob/x",
            "users.odd y",
            "ignore /home/alice/**",
        ]
    );
    let nothing = plan(&[
        "/var/lib/app/db",
        "*.pyc",
        "/var/lib/app/*/x",
        "/tmp/x",
        "/srv/kept/a",
        "/etc/ebbtide/*.toml",
    ]);
    assert_eq!(nothing.additions, []);
    let by: Vec<_> = nothing
        .ignored
        .iter()
        .map(|(_, rule)| rule.as_ref().map(|it| it.origin.as_str()))
        .collect();
    let main = Some("/etc/ebbtide/ebbtide.toml:6");
    let app = Some("/usr/lib/ebbtide/app.toml:3");
    assert_eq!(by, [app, main, app, None]);
    let kept: Vec<_> = nothing.kept.iter().map(|(_, kept)| kept.entry.to_str().unwrap()).collect();
    assert_eq!(kept, ["/srv/kept", "/etc/ebbtide"]);
    // What it adds is what it finds again.
    let mut sources = layers();
    let rules = planned.additions.iter().map(|it| (&it.list, it.pattern.as_str()));
    sources[1].text = add_rules(&sources[1].text, rules).unwrap();
    let patterns: Vec<PathBuf> = planned.additions.iter().map(|it| it.absolute.clone()).collect();
    let undone = undo(&sources, &surroundings(), &patterns).unwrap();
    assert_eq!(undone.unknown, Vec::<PathBuf>::new());
    let text = remove_rules(&sources[1].text, &undone.files[&1]).unwrap();
    assert_eq!(
        Rules::read(&[SourceFile { name: "f".into(), text }], &surroundings()).rules.len(),
        5
    );
}

#[test]
fn what_others_declare_is_not_taken_out() {
    let refused = |text: &str| {
        let refusal = undo(&layers(), &surroundings(), &[pattern(text).unwrap()]).unwrap_err();
        (refusal.message, refusal.hint.unwrap())
    };
    let (message, _) = refused("/var/lib/app");
    assert_eq!(message, "/var/lib/app is ignored by a package: /usr/lib/ebbtide/app.toml:3");
    let (message, hint) = refused("/var/lib/app/db");
    assert!(message.contains("is ignored by /var/lib/app"), "{message}");
    assert_eq!(hint, "name that one");
    let nothing = undo(&layers(), &surroundings(), &[pattern("/srv/other").unwrap()]).unwrap();
    assert_eq!((nothing.unknown.len(), nothing.files.len()), (1, 0));
}

#[test]
fn no_boot_knows_of_it() {
    let declared = |more: &str| {
        let text = format!(
            "[root]\nbackend = \"btrfs\"\ndevice = \"LABEL=x\"\nephemeral = [\"/home\", \"/root\", \"/srv\"]\n\
             [store.state]\nsubvolume = \"state\"\n[keep]\ndirectories = [\"/var/log\"]\n{more}"
        );
        super::super::check(&sources(&[("f", &text)])).declaration.unwrap()
    };
    assert_eq!(declared(""), declared("[ignore]\npaths = [\"/var/log/x\", \"*.pyc\"]\n"));
}
