//! The program as its users run it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Runs the program in an empty environment, without a terminal.
fn ebbtide(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ebbtide"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What a run showed: status, standard output, standard error.
fn shown(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut shown = format!("status: {}\n", output.status.code().unwrap());
    for (name, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
        if !bytes.is_empty() {
            shown.extend(["--- ", name, "\n", &text(bytes)]);
        }
    }
    shown
}

fn run(arguments: &[&str]) -> String {
    shown(&ebbtide(arguments, &[]))
}

/// A system's root with these files.
fn system(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

fn check(root: &Path, more: &[&str]) -> String {
    let root = root.to_str().unwrap();
    let arguments: Vec<_> = ["check", "--sysroot", root].iter().chain(more).copied().collect();
    run(&arguments).replace(root, "/sysroot")
}

const SOUND: &str = r#"version = 1

[root]
backend = "btrfs"
device = "LABEL=system"
uuid = "6f1f9c1e-8d2b-4c58-9c57-0a5a8f2f7a11"
ephemeral = ["/home", "/root", "/srv"]

[store.state]
subvolume = "state"

[keep]
directories = ["/var/log"]
"#;

#[test]
fn help() {
    insta::assert_snapshot!("help", run(&["--help"]));
    insta::assert_snapshot!("help_keep", run(&["keep", "--help"]));
    insta::assert_snapshot!("help_ignore", run(&["ignore", "--help"]));
    insta::assert_snapshot!("help_review", run(&["review", "--help"]));
    insta::assert_snapshot!("help_check", run(&["check", "--help"]));
    insta::assert_snapshot!("help_schema", run(&["schema", "--help"]));
    insta::assert_snapshot!("help_try", run(&["try", "--help"]));
    insta::assert_snapshot!("help_accept", run(&["accept", "--help"]));
    insta::assert_snapshot!("help_gc", run(&["gc", "--help"]));
    insta::assert_snapshot!("help_boots", run(&["boots", "--help"]));
    insta::assert_snapshot!("help_boots_mount", run(&["boots", "mount", "--help"]));
    insta::assert_snapshot!("help_log", run(&["log", "--help"]));
    insta::assert_snapshot!("help_restore", run(&["restore", "--help"]));
}

#[test]
fn help_fits_narrow_and_wide_terminals() {
    for columns in ["60", "100"] {
        let output = ebbtide(&["--help"], &[("COLUMNS", columns)]);
        insta::assert_snapshot!(format!("help_at_{columns}"), shown(&output));
    }
}

/// The commands that the help lists, and the program itself.
fn commands() -> Vec<String> {
    let text = run(&["--help"]);
    let list = text.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let named = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("    "));
    named.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn no_line_of_help_is_longer_than_the_terminal() {
    for command in commands() {
        for columns in [60, 80, 100] {
            let output = ebbtide(&[&command, "--help"], &[("COLUMNS", &columns.to_string())]);
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                // A choice of options is one word, and stays whole.
                let is_usage = line.starts_with("Usage: ");
                let fits = line.chars().count() <= columns || is_usage;
                assert!(fits, "{command} at {columns} columns: {line}");
            }
        }
    }
}

#[test]
fn help_has_colours_where_they_are_wanted() {
    let coloured = |arguments: &[&str], environment: &[(&str, &str)]| {
        let output = ebbtide(arguments, environment);
        output.stdout.contains(&0x1b) || output.stderr.contains(&0x1b)
    };
    for arguments in [&["--help"][..], &["check", "--help"], &["chekc"], &["check", "--odd"]] {
        assert!(!coloured(arguments, &[]), "{arguments:?}");
        assert!(coloured(arguments, &[("CLICOLOR_FORCE", "1")]), "{arguments:?}");
        let both = [("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")];
        assert!(!coloured(arguments, &both), "{arguments:?}");
        let always = [&["--color", "always"], arguments].concat();
        assert!(coloured(&always, &[("NO_COLOR", "1")]), "{arguments:?}");
        let never = [&["--color=never"], arguments].concat();
        assert!(!coloured(&never, &[("CLICOLOR_FORCE", "1")]), "{arguments:?}");
    }
}

#[test]
fn without_a_command_it_says_what_to_do_first() {
    let output = ebbtide(&[], &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(text.contains("ebbtide --help") && text.lines().count() < 16, "{text}");
}

#[test]
fn a_command_that_is_misspelled_is_suggested() {
    let shown = run(&["stauts"]);
    assert!(shown.contains("a similar subcommand exists: 'status'"), "{shown}");
}

#[test]
fn a_wrong_command_line_is_explained() {
    let runs: [&[&str]; 5] = [
        &["chekc"],
        &["check", "--jsn"],
        &["check", "--config"],
        &["check", "--color", "pink"],
        &["check", "odd\u{1b}[2J\u{9b}"],
    ];
    let all: Vec<_> = runs.map(run).into();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn check_finds_nothing() {
    let root = system(&[("etc/ebbtide/ebbtide.toml", SOUND)]);
    insta::assert_snapshot!(check(root.path(), &[]), @r"
    status: 0
    --- stdout
    checked 1 file: 3 entries, no problems
    ");
    insta::assert_snapshot!(check(root.path(), &["--json"]), @r#"
    status: 0
    --- stdout
    {
      "version": 1,
      "ok": true,
      "problems": [],
      "machine": null
    }
    "#);
}

#[test]
fn check_warns() {
    let text = SOUND.replace("ephemeral", "#").replace("uuid", "#");
    let root = system(&[("etc/ebbtide/ebbtide.toml", &text)]);
    insta::assert_snapshot!(check(root.path(), &[]));
}

#[test]
fn check_finds_errors_in_all_layers() {
    let root = system(&[
        ("usr/lib/ebbtide/app.toml", "version = 1\n[keep]\ndirectories = [\"/var/lib/app/\"]\n"),
        ("etc/ebbtide/ebbtide.toml", SOUND),
        (
            "etc/ebbtide/ebbtide.d/10-local.toml",
            "version = 1\n[keep]\ndirectories = [\"/var/log/journal\", \"/srv\"]\nfiles = [\"/etc/\\u001b\\u009b/\"]\n",
        ),
    ]);
    insta::assert_snapshot!("check_errors", check(root.path(), &[]));
    insta::assert_snapshot!("check_errors_json", check(root.path(), &["--json"]));
}

#[test]
fn check_of_one_file() {
    let root = system(&[("new.toml", "version = 1\n[keep]\nfiles = [\"/etc/a\"]\n")]);
    let path = root.path().join("new.toml");
    assert_eq!(
        run(&["check", "--config", path.to_str().unwrap()]),
        "status: 0\n--- stdout\nchecked 1 file: 3 entries, no problems\n"
    );
}

#[test]
fn check_without_a_readable_declaration() {
    let empty = system(&[]);
    let latin1 = system(&[("etc/ebbtide/ebbtide.toml", "")]);
    fs::write(latin1.path().join("etc/ebbtide/ebbtide.toml"), b"version = 1\n# \xe4").unwrap();
    let all = [
        check(empty.path(), &[]),
        check(latin1.path(), &[]),
        check(empty.path(), &["--config", "/nowhere/\u{1b}[2J.toml"]),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn many_problems_are_counted() {
    let files = vec!["\"a\""; 60].join(", ");
    let root = system(&[(
        "etc/ebbtide/ebbtide.toml",
        &format!("version = 1\n[keep]\nfiles = [{files}]\n"),
    )]);
    let shown = check(root.path(), &[]);
    assert_eq!(shown.matches("error: ").count(), 50);
    assert!(shown.ends_with("\n… and 10 more problems\n\nchecked 1 file: 60 errors\n"), "{shown}");
}

#[test]
fn schema_is_the_checked_in_one() {
    let output = ebbtide(&["schema"], &[]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/schema/ebbtide-1.json");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed == fs::read_to_string(path).unwrap(), "run `cargo xtask generate`");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let root = system(&[("etc/ebbtide/ebbtide.toml", "version = 2\n")]);
    let root = root.path().to_str().unwrap();
    let coloured = |color: &[&str], environment: &[(&str, &str)]| {
        let arguments: Vec<_> = ["check", "--sysroot", root].iter().chain(color).copied().collect();
        ebbtide(&arguments, environment).stdout.contains(&0x1b)
    };
    assert!(!coloured(&[], &[]));
    assert!(coloured(&["--color", "always"], &[("NO_COLOR", "1")]));
    assert!(coloured(&[], &[("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    assert!(!coloured(&["--color=never"], &[("CLICOLOR_FORCE", "1")]));
}

#[test]
fn a_reader_that_stops_early_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_ebbtide"))
        .arg("schema")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &[][..]));
}
