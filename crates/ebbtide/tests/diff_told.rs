//! How `ebbtide diff` tells changes: on terminals, of what is hidden, and of past roots.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;
mod program;
mod session;

use std::fs;
use std::path::Path;
use std::process::Command;

use machine::{KINDS, Machine, is_root, write};
use program::ebbtide_running as ebbtide;
use session::Session;

const KEPT: &str = "[keep]\ndirectories = [\"/var/log\"]\n[ignore]\npaths = [\"*.o\"]\n";

fn on_each(on: fn(&Machine)) {
    for kind in KINDS.into_iter().take(2).filter(|_| is_root()) {
        on(&Machine::of(kind));
    }
}

fn paths(root: &Path, run: &Path, arguments: &[&str]) -> Vec<String> {
    let json = ebbtide(run, root, arguments).json();
    let paths = json["paths"].as_array().unwrap().iter();
    paths.map(|it| it["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn lines_are_cut_on_terminals_only() {
    on_each(|machine| {
        machine.set_up(KEPT);
        machine.live("", |root, boot| {
            let path =
                "/srv/a/way/that/is/longer/than/most/terminals/are/wide/日本語/is/two/wide.txt";
            write(root, path, "x");
            let piped = ebbtide(&boot.run, root, &["diff"]).text();
            assert!(piped.contains(path), "{piped}");
            let forced = ebbtide(&boot.run, root, &["diff", "--color", "always"]).text();
            assert!(forced.contains(path), "{forced}");
            for arguments in [&["diff"][..], &["diff", "--tree"]] {
                let mut program = Command::new(env!("CARGO_BIN_EXE_ebbtide"));
                program.arg("--sysroot").arg(root).args(arguments).env_clear();
                let mut session = Session::start(program, 24, 60);
                session.shows("to keep some of it");
                let shown = session.shown();
                assert_eq!(session.status(), Some(3));
                let line = shown.lines().find(|line| line.contains("/srv/")).unwrap();
                assert!(line.contains("…") && line.contains("wide.txt  "), "{line:?}");
                assert!(line.contains("new"), "{line:?}");
            }
        });
    });
}

#[test]
fn a_new_directory_of_ignored_files_is_not_told() {
    on_each(|machine| {
        machine.set_up(KEPT);
        machine.live("", |root, boot| {
            write(root, "/etc/ebbtide/ebbtide.toml", &machine.toml(KEPT));
            write(root, "/srv/build/deep/a.o", "x");
            write(root, "/srv/some/b.o", "x");
            write(root, "/srv/some/c", "x");
            fs::create_dir(root.join("srv/empty")).unwrap();
            let told = paths(root, &boot.run, &["diff", "--json"]);
            assert_eq!(told, ["/srv/empty", "/srv/some", "/srv/some/c"]);
            let all = paths(root, &boot.run, &["diff", "--json", "--all"]);
            assert_eq!(all.len(), 7, "{all:?}");
            let text = ebbtide(&boot.run, root, &["diff"]).text();
            assert!(!text.contains("build") && text.contains("/srv/empty/"), "{text}");
            assert!(text.contains("besides, 2 that are ignored, of 2 B"), "{text}");
        });
    });
}

#[test]
fn a_past_root_has_its_own_packages() {
    on_each(|machine| {
        let list = "/.\n/var\n/var/lib\n/var/lib/app\n";
        write(&machine.source(), "/var/lib/dpkg/info/app.list", list);
        machine.set_up(KEPT);
        machine.boot("", |root| {
            fs::remove_file(root.join("var/lib/dpkg/info/app.list")).unwrap();
            write(root, "/var/lib/dpkg/info/other.list", "/.\n/var\n/var/lib\n/var/lib/other\n");
            write(root, "/var/lib/other/x", "x");
            write(root, "/var/lib/app/x", "x");
        });
        machine.boot("", |root| {
            fs::remove_dir_all(root.join("var/lib/dpkg")).unwrap();
            write(root, "/var/lib/app/y", "x");
        });
        machine.live("", |root, boot| {
            write(root, "/var/lib/other/x", "x");
            write(root, "/var/lib/app/x", "x");
            let applications = |arguments: &[&str]| {
                let json = ebbtide(&boot.run, root, arguments).json();
                let all = json["applications"].as_array().unwrap().iter();
                all.map(|it| it["application"]["package"].to_string()).collect::<Vec<_>>()
            };
            assert_eq!(applications(&["diff", "--json"]), ["\"app\""]);
            assert_eq!(applications(&["diff", "--json", "--boot", "1"]), ["\"other\""]);
            // Without a database, that of the running root is asked.
            assert_eq!(applications(&["diff", "--json", "--boot", "last"]), ["\"app\""]);
        });
    });
}
