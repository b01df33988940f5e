//! The commands, what they are given, and what must be so after them.

use std::fs;
use std::path::Path;

use crate::cut::HOSTILE;
use crate::machine::{Machine, read, write};
use crate::story::{After, KEPT, RETENTION, Scene};

fn is_app_whole(after: &After<'_>) {
    for path in ["var/lib/app/data", &format!("var/lib/app/{HOSTILE}")] {
        assert_eq!(read(after.root, path).as_deref(), Some("kept\n"), "{}", after.point);
    }
}

const NEW: [(&str, &str); 3] = [
    ("srv/new/file", "new\n"),
    ("srv/new/new\nline\u{1b}[31m", "odd\n"),
    ("etc/app.conf", "blue\n"),
];

fn write_new(_: &Machine, root: &Path) {
    for (path, content) in NEW {
        write(root, path, content);
    }
}

/// What was to be kept is there now, or still in the root that it was in; never a part of it.
fn is_new_somewhere(after: &After<'_>) {
    is_app_whole(after);
    for (path, content) in NEW {
        let (now, then) = after.now_and_then(path);
        let copies = [&now, &then, &read(after.top, &format!("state/{path}"))];
        assert!(copies.iter().any(|copy| copy.is_some()), "{}: {path} is lost", after.point);
        for copy in copies.into_iter().flatten() {
            assert_eq!(copy, content, "{}: {path}", after.point);
        }
    }
    let names = fs::read_dir(after.root.join("srv/new")).into_iter().flatten().count();
    assert!(names == 0 || names == 2, "{}: {names} of 2 in a directory", after.point);
}

pub fn keep() -> Scene {
    Scene {
        before: write_new,
        command: &["keep", "/srv/new", "/etc/app.conf"],
        after: is_new_somewhere,
    }
}

/// The wish is written whole or not at all, and fulfilled by the next boot.
pub fn keep_once() -> Scene {
    Scene { before: write_new, command: &["keep", "--once", "/srv/new"], after: is_new_somewhere }
}

pub fn apply() -> Scene {
    let before = |machine: &Machine, root: &Path| {
        write_new(machine, root);
        let more = KEPT
            .replace("[keep]\n", "[keep]\n# more\n")
            .replace("directories = [\n", "directories = [\n  \"/srv/new\",\n");
        let more = more.replace("files = [", "files = [\"/etc/app.conf\", ");
        write(root, "etc/ebbtide/ebbtide.toml", &machine.toml_with(RETENTION, &more));
    };
    Scene { before, command: &["apply"], after: is_new_somewhere }
}

pub fn forget() -> Scene {
    let after = |after: &After<'_>| {
        for path in ["var/lib/app/data", &format!("var/lib/app/{HOSTILE}")] {
            let stored = read(after.top, &format!("state/{path}"));
            assert_eq!(stored.as_deref(), Some("kept\n"), "{}: {path}", after.point);
            let now = read(after.root, path);
            assert!(now.is_none_or(|it| it == "kept\n"), "{}: {path}", after.point);
        }
    };
    Scene { before: |_, _| (), command: &["forget", "/var/lib/app"], after }
}

pub fn move_back() -> Scene {
    let after = |after: &After<'_>| {
        for path in ["var/lib/app/data", &format!("var/lib/app/{HOSTILE}")] {
            let (now, then) = after.now_and_then(path);
            let stored = read(after.top, &format!("state/{path}"));
            let trashed = read(after.top, &format!("state/.ebbtide/trash/3/{path}"));
            // The store or its trash has it, never both, and what is declared still is in place.
            assert_eq!(
                stored.as_ref().xor(trashed.as_ref()).map(String::as_str),
                Some("kept\n"),
                "{}: {path}",
                after.point
            );
            assert!(now.is_none() || now == stored, "{}: {path}: {now:?}", after.point);
            let is_gone = now.is_none() && then.is_none();
            assert!(!is_gone, "{}: {path} is on neither root", after.point);
            assert!(then.is_none_or(|it| it == "kept\n"), "{}: {path} is torn", after.point);
        }
    };
    let command = &["forget", "--move-back", "/var/lib/app"];
    Scene { before: |_, _| (), command, after }
}

/// How many files below a directory have this content.
fn with_content(below: &Path, content: &str) -> usize {
    let entries = fs::read_dir(below).into_iter().flatten().map(|entry| entry.unwrap());
    let count = |entry: fs::DirEntry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => with_content(&entry.path(), content),
        kind if kind.is_file() => {
            usize::from(fs::read(entry.path()).unwrap() == content.as_bytes())
        }
        _ => 0,
    };
    entries.map(count).sum()
}

pub fn restore() -> Scene {
    let after = |after: &After<'_>| {
        is_app_whole(after);
        let now = read(after.last, "srv/doc");
        let is_one = ["of boot 1\n", "of boot 3\n"].iter().any(|it| now.as_deref() == Some(it));
        assert!(is_one, "{}: {now:?}", after.point);
        let replaced = with_content(after.last, "of boot 3\n");
        assert_eq!(replaced, 1, "{}: what was replaced is there {replaced} times", after.point);
    };
    Scene {
        before: |_, root| write(root, "srv/doc", "of boot 3\n"),
        command: &["restore", "--force", "--boot", "1", "/srv/doc"],
        after,
    }
}

pub fn gc() -> Scene {
    Scene { before: |_, _| (), command: &["gc"], after: is_app_whole }
}

const LEFT: [&str; 2] = ["var/lib/left/data", "var/lib/left/deep/data"];

/// What a store has and no entry keeps is in the store or in its trash, and whole.
pub fn gc_undeclared() -> Scene {
    let before = |_: &Machine, root: &Path| {
        let store = root.with_file_name("run").join("stores/state");
        for path in LEFT {
            write(&store, path, "left\n");
        }
    };
    let after = |after: &After<'_>| {
        is_app_whole(after);
        for path in LEFT {
            let stored = read(after.top, &format!("state/{path}"));
            let trashed = read(after.top, &format!("state/.ebbtide/trash/3/{path}"));
            let copies = (stored.as_deref(), trashed.as_deref());
            let is_one = [(Some("left\n"), None), (None, Some("left\n"))].contains(&copies);
            assert!(is_one, "{}: {path}: {copies:?}", after.point);
        }
    };
    Scene { before, command: &["gc", "--undeclared"], after }
}

pub fn flush() -> Scene {
    let before = |_: &Machine, root: &Path| {
        fs::write(root.join("etc/.new"), "replaced\n").unwrap();
        fs::rename(root.join("etc/.new"), root.join("etc/issue")).unwrap();
    };
    let after = |after: &After<'_>| {
        is_app_whole(after);
        let now = read(after.root, "etc/issue");
        assert_eq!(now.as_deref(), Some("replaced\n"), "{}", after.point);
    };
    Scene { before, command: &["flush"], after }
}
