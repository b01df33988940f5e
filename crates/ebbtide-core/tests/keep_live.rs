//! Keeping a path on a running system, from the text of the declaration to the next boot, on loop
//! images.

#![allow(clippy::unwrap_used, clippy::panic)]

mod machine;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use ebbtide_core::boot::Boot;
use ebbtide_core::declaration::keep::{self, Options};
use ebbtide_core::declaration::{self, Surroundings, Target};
use ebbtide_core::failure::Level;
use ebbtide_core::live::{Applied, Live};
use ebbtide_core::publish::Publication;
use ebbtide_core::shutdown;
use ebbtide_sys::mountinfo;
use machine::{Machine, is_root, read, write};

const KEPT: &str = "[keep]\ndirectories = [\n  \"/var/log\", # all of them\n]\n";

/// Keeps paths as `ebbtide keep` does, and returns the file's new text.
fn keep_paths(root: &Path, boot: &Boot, paths: &[&str]) -> (String, Applied) {
    let sources = declaration::read_layers(root).unwrap();
    let surroundings = Surroundings::read(root).unwrap();
    let tree = File::open(root).unwrap();
    let seen: Vec<_> = paths
        .iter()
        .map(|path| keep::observe(&[tree.as_fd()], Path::new(path), false).unwrap())
        .collect();
    let plan = keep::plan(&sources, &surroundings, &seen, &Options::default()).unwrap();
    let target = Target::find(root).unwrap();
    let text = keep::add(&target.source().text, &plan.additions).unwrap();
    let sources = target.with_text(&sources, &text);
    let outcome = declaration::check_in(&sources, &surroundings);
    let declaration = outcome.declaration.unwrap_or_else(|| panic!("{:?}", outcome.problems));
    let publication = Publication::open(&declaration).unwrap_or_else(|it| panic!("{}", it.chain()));
    target.write(&text).unwrap_or_else(|it| panic!("{}", it.chain()));
    let published = publication.publish().unwrap_or_else(|it| panic!("{}", it.chain()));
    let live = Live::open(boot, root, &published.compiled, None).unwrap().unwrap();
    let mut log = |_: Level, _: &str| ();
    (text, live.apply(&published.hash, &mut log).unwrap_or_else(|it| panic!("{}", it.chain())))
}

#[test]
fn a_kept_path_is_declared_imported_attached_and_there_after_the_next_boot() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(KEPT);
    let declared = machine.toml(KEPT);
    machine.live("", |root, boot| {
        write(root, "/etc/ebbtide/ebbtide.toml", &declared);
        write(root, "/srv/site/index", "hello");
        write(root, "/etc/app.conf", "colour = blue");
        write(root, "/home/alice/letters/one", "dear");
        for path in ["home/alice", "home/alice/letters", "home/alice/letters/one"] {
            std::os::unix::fs::chown(root.join(path), Some(1000), Some(1000)).unwrap();
        }
        let paths = ["/srv/site", "/etc/app.conf", "/home/alice/letters", "/var/log/old.log"];
        let (text, applied) = keep_paths(root, boot, &paths);
        assert!(applied.problems.is_empty(), "{:?}", applied.problems);
        let added = "\"/var/log\", # all of them\n  \"/srv/site\",\n]\nfiles = [\"/etc/app.conf\"]\n\
                     \n[users.alice]\ndirectories = [\"letters\"]\n";
        assert!(text.ends_with(added), "{text}");
        assert!(text.starts_with(declared.split("\n]\n").next().unwrap()), "{text}");
        assert_eq!(read(root, "/etc/ebbtide/ebbtide.toml"), Some(text));

        let mounts = mountinfo::read_self().unwrap();
        for path in ["srv/site", "etc/app.conf", "home/alice/letters"] {
            let mounted = mounts.iter().any(|mount| mount.mount_point == root.join(path));
            assert!(mounted, "{path}");
        }
        assert_eq!(read(root, "/srv/site/index").as_deref(), Some("hello"));
        let status = Machine::status(boot, root);
        assert!(status.problems.is_empty(), "{:?}", status.problems);
        shutdown::detach(&boot.run, &mut |_, _| ()).unwrap();
        shutdown::mark_clean(boot, root).unwrap();
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "/srv/site/index").as_deref(), Some("hello"));
        assert_eq!(read(root, "/etc/app.conf").as_deref(), Some("colour = blue"));
        assert_eq!(read(root, "/home/alice/letters/one").as_deref(), Some("dear"));
        let text = read(root, "/etc/ebbtide/ebbtide.toml").unwrap();
        assert!(text.contains("# all of them"), "{text}");
    });
}
