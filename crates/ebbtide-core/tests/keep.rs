//! Which entry a path needs that somebody wants to keep.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::PathBuf;

use ebbtide_core::compiled::{Kind, StoreName};
use ebbtide_core::declaration::keep::{self, Found, Options, Section, Seen};
use ebbtide_core::declaration::{SourceFile, Surroundings};

const DECLARED: &str = r#"version = 1
[keep]
presets = ["ssh-host-keys"]
directories = ["/var/log", { path = "/srv/big", store = "big" }]
files = [{ path = "/etc/hosts", method = "sync" }]
[users.git]
directories = ["repositories"]
"#;

const DIRECTORY: Found = Found::Keepable(Kind::Directory, 0);
const FILE: Found = Found::Keepable(Kind::File, 0);

fn surroundings() -> Surroundings {
    let mut surroundings = Surroundings::default();
    for (name, uid, home) in [
        ("root", 0, "/root"),
        ("alice", 1000, "/home/alice"),
        ("git", 900, "/var/lib/git"),
        ("www", 33, "/var/www"),
        ("nobody", 65534, "/"),
    ] {
        surroundings.homes.insert(name.to_owned(), PathBuf::from(home));
        surroundings.uids.insert(name.to_owned(), uid);
    }
    surroundings
}

fn plan_of(paths: &[(&str, Found)], options: &Options) -> Result<keep::Plan, keep::Refusal> {
    let source = SourceFile { name: "x.toml".to_owned(), text: DECLARED.to_owned() };
    let seen = |(path, found): &(&str, Found)| {
        let trimmed = path.strip_suffix('/').unwrap_or(path);
        Seen { path: trimmed.into(), slash: path.ends_with('/'), found: found.clone() }
    };
    let seen: Vec<_> = paths.iter().map(seen).collect();
    keep::plan(&[source], &surroundings(), &seen, options)
}

/// What is decided, in a few lines.
fn told(paths: &[(&str, Found)], options: &Options) -> String {
    let mut text = String::new();
    match plan_of(paths, options) {
        Ok(plan) => {
            for it in plan.additions {
                let section = match it.section {
                    Section::Keep => "keep".to_owned(),
                    Section::User(name) => format!("users.{name}"),
                };
                writeln!(text, "[{section}] {} {:?}", it.kind, it.path).unwrap();
            }
            for (path, kept) in plan.kept {
                let entry = kept.entry.display();
                writeln!(text, "{} is kept by {entry}: {}", path.display(), kept.origin).unwrap();
            }
        }
        Err(refusal) => {
            let hint = refusal.hint.clone().unwrap_or_default();
            writeln!(text, "refused: {refusal} ({hint})").unwrap();
        }
    }
    text
}

fn each(paths: &[(&str, Found)], options: &Options) -> String {
    paths.iter().map(|path| told(std::slice::from_ref(path), options)).collect()
}

#[test]
fn what_a_path_is_decides_where_it_goes() {
    let of = |kind, uid| Found::Keepable(kind, uid);
    let paths = [
        ("/srv/site", DIRECTORY),
        ("/srv/site/", DIRECTORY),
        ("/etc/motd", FILE),
        ("/opt/later/", Found::Nothing),
        ("/home/alice/letters", of(Kind::Directory, 1000)),
        ("/home/alice/.bashrc", of(Kind::File, 1000)),
        ("/home/alice/later/", Found::Nothing),
        ("/home/alice/of-root", FILE),
        ("/home/alice", of(Kind::Directory, 1000)),
        ("/home/bob/letters", of(Kind::Directory, 1001)),
        ("/root/.vimrc", FILE),
        ("/var/lib/git/hooks", of(Kind::Directory, 900)),
        ("/var/www/html", of(Kind::Directory, 33)),
    ];
    insta::assert_snapshot!(each(&paths, &Options::default()), @r#"
    [keep] directory "/srv/site"
    [keep] directory "/srv/site"
    [keep] file "/etc/motd"
    [keep] directory "/opt/later"
    [users.alice] directory "letters"
    [users.alice] file ".bashrc"
    [users.alice] directory "later"
    [keep] file "/home/alice/of-root"
    [keep] directory "/home/alice"
    [keep] directory "/home/bob/letters"
    [users.root] file ".vimrc"
    [users.git] directory "hooks"
    [keep] directory "/var/www/html"
    "#);
}

#[test]
fn what_is_kept_already_stays_as_it_is() {
    let paths = [
        ("/var/log", DIRECTORY),
        ("/var/log/app/today", FILE),
        ("/etc/hosts", FILE),
        ("/etc/ebbtide/ebbtide.toml", FILE),
        ("/etc/ssh/ssh_host_ed25519_key", FILE),
        ("/var/lib/git/repositories/a", Found::Nothing),
    ];
    insta::assert_snapshot!(each(&paths, &Options::default()), @r"
    /var/log is kept by /var/log: x.toml:4
    /var/log/app/today is kept by /var/log: x.toml:4
    /etc/hosts is kept by /etc/hosts: x.toml:5
    /etc/ebbtide/ebbtide.toml is kept by /etc/ebbtide: built in
    /etc/ssh/ssh_host_ed25519_key is kept by /etc/ssh/ssh_host_ed25519_key: preset ssh-host-keys:23
    /var/lib/git/repositories/a is kept by /var/lib/git/repositories: x.toml:7
    ");
    let options = |store: Option<&str>, method: Option<&str>| Options {
        store: store.map(|name| StoreName(name.to_owned())),
        method: method.map(str::to_owned),
    };
    let mut other = String::new();
    for (path, options) in [
        ("/srv/big", options(Some("big"), None)),
        ("/srv/big", options(Some("state"), None)),
        ("/srv/big/inner", options(Some("state"), None)),
        ("/etc/hosts", options(None, Some("sync"))),
        ("/etc/hosts", options(None, Some("auto"))),
        ("/etc/hosts", options(None, Some("bind"))),
    ] {
        other += &told(&[(path, DIRECTORY)], &options);
    }
    insta::assert_snapshot!(other, @r#"
    /srv/big is kept by /srv/big: x.toml:4
    refused: /srv/big is kept already, with store "big" (change it where it is declared: x.toml:4)
    [keep] directory "/srv/big/inner"
    /etc/hosts is kept by /etc/hosts: x.toml:5
    /etc/hosts is kept by /etc/hosts: x.toml:5
    refused: /etc/hosts is kept already, with method "sync" (change it where it is declared: x.toml:5)
    "#);
}

#[test]
fn paths_named_together_are_one_declaration() {
    let paths = [
        ("/opt/a/b", FILE),
        ("/opt/a", DIRECTORY),
        ("/opt/a/c", FILE),
        ("/opt/ab", FILE),
        ("/opt/ab", FILE),
        ("/var/log/x", FILE),
    ];
    insta::assert_snapshot!(told(&paths, &Options::default()), @r#"
    [keep] directory "/opt/a"
    [keep] file "/opt/ab"
    /var/log/x is kept by /var/log: x.toml:4
    "#);
}

#[test]
fn what_can_not_be_kept_says_the_way_out() {
    use std::os::unix::ffi::OsStrExt;
    let paths = [
        ("/opt/nothing", Found::Nothing),
        ("/opt/file/", FILE),
        ("/opt/link", Found::Link("../srv/\u{1b}real".into())),
        ("/opt/link/below", Found::BelowALink("/opt/link".into())),
        ("/opt/file/below", Found::BelowAFile),
        ("/dev/null", Found::Special),
    ];
    insta::assert_snapshot!(each(&paths, &Options::default()), @r"
    refused: there is nothing at /opt/nothing (with a slash at its end it is taken as a directory that is still to come; a file is declared by hand, in `files`)
    refused: /opt/file is a file, and is written as a directory (leave the slash at its end out)
    refused: /opt/link is a symbolic link (keep what it leads to: /opt/../srv/\x1breal)
    refused: /opt/link/below is reached through the symbolic link /opt/link (name it by where it really is; realpath(1) says that)
    refused: /opt/file/below lies below a file ()
    refused: /dev/null is a device, a pipe or a socket: only directories and regular files are kept (keep the directory that it is in)
    ");
    let bytes = PathBuf::from(std::ffi::OsStr::from_bytes(b"/opt/\xff"));
    let seen = Seen { path: bytes, slash: false, found: FILE };
    let refusal = keep::plan(&[], &surroundings(), &[seen], &Options::default()).unwrap_err();
    assert_eq!(refusal.message, r"/opt/\xff is not UTF-8, as TOML has to be");
}
