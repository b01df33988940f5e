//! What stores have and no entry keeps, on loop images.

#![allow(clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod machine;

use std::path::{Path, PathBuf};

use ebbtide_core::boot::Boot;
use ebbtide_core::failure::Level;
use ebbtide_core::gc::{Gc, Plan, Step};
use machine::{Kind, Machine, read, write};

on_each_disk!(what_was_forgotten_is_found_and_moved, what_is_declared_again_stays,);

const BEFORE: &str = "[keep]\ndirectories = [\"/var/log\", \"/srv/app\", \"/srv/two\"]\n\
                      files = [\"/etc/motd\", { path = \"/etc/issue\", method = \"sync\" }]\n";
const AFTER: &str = "[keep]\ndirectories = [\"/var/log\", \"/srv/app/kept\"]\n";

fn gc(boot: &Boot, root: &Path) -> Gc {
    Gc::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()))
}

/// The paths, whether they are known, and since which boot they are not declared.
fn found(plan: &Plan) -> Vec<(&str, bool, Option<u64>)> {
    let all = plan.undeclared.iter();
    all.map(|it| (it.path.to_str().unwrap(), it.known, it.since.map(|it| it.boot.0))).collect()
}

fn moves(plan: &Plan) -> Vec<PathBuf> {
    let path = |step: &Step| match step {
        Step::Undeclared { path, .. } => Some(path.clone()),
        _ => None,
    };
    plan.steps.iter().filter_map(path).collect()
}

/// A machine that kept more once, at the beginning of boot 3.
fn machine(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    machine.set_up(BEFORE);
    machine.boot("", |root| {
        for path in ["srv/app/data/deep", "srv/app/kept/file", "srv/two/file", "etc/motd"] {
            write(root, path, "data\n");
        }
        write(root, "etc/issue", "synced\n");
    });
    machine.live("", |root, boot| {
        assert_eq!(read(root, "etc/motd").as_deref(), Some("data\n"), "it was imported");
        assert_eq!(found(&gc(boot, root).preview().unwrap()), []);
        machine.publish(AFTER);
        // It is mounted still, or on the list of what is taken back.
        let plan = gc(boot, root).with_undeclared(true).preview().unwrap();
        assert_eq!((found(&plan), moves(&plan)), (vec![], vec![]));
    });
    machine.look(|top| {
        let store = top.join("state");
        write(&store, "opt/mine/file", "of somebody\n");
        write(&store, "srv/other", "of somebody\n");
        std::fs::create_dir_all(store.join("srv/empty/er")).unwrap();
    });
    machine
}

fn what_was_forgotten_is_found_and_moved(kind: Kind) {
    let machine = machine(kind);
    machine.live("", |root, boot| {
        let all = [
            ("/etc/issue", true, Some(2)),
            ("/etc/motd", true, Some(2)),
            ("/opt", false, None),
            ("/srv/app/data", true, Some(2)),
            ("/srv/other", false, None),
            ("/srv/two", true, Some(2)),
        ];
        let plan = gc(boot, root).preview().unwrap();
        assert_eq!(found(&plan), all);
        assert!(plan.undeclared.iter().all(|it| it.bytes > 0), "{plan:?}");
        let status = Machine::status(boot, root);
        assert!(status.ok, "{:?}", status.problems);
        let told = status.problems.iter().find(|it| it.level == Level::Info).unwrap();
        assert_eq!(
            told.message,
            "store state has data of /etc/issue and of 3 more paths, which no entry keeps any more"
        );
        // Never of itself.
        let done = gc(boot, root).apply(&mut |_, _| ()).unwrap();
        assert_eq!((found(&done.plan), moves(&done.plan)), (all.to_vec(), vec![]));
        assert_eq!(found(&gc(boot, root).preview().unwrap()), all);
        let done = gc(boot, root).with_undeclared(true).apply(&mut |_, _| ()).unwrap();
        assert!(done.problems.is_empty(), "{:?}", done.problems);
        let known: Vec<_> = all.iter().filter(|it| it.1).map(|it| PathBuf::from(it.0)).collect();
        assert_eq!(moves(&done.plan), known);
        assert_eq!(done.done.len(), known.len());
        let left = gc(boot, root).preview().unwrap();
        assert_eq!(found(&left), [("/opt", false, None), ("/srv/other", false, None)]);
        assert_eq!(read(root, "srv/app/kept/file").as_deref(), Some("data\n"));
    });
    machine.look(|top| {
        let store = top.join("state");
        let has = |path: &str| read(&store, path);
        assert_eq!(has(".ebbtide/trash/3/srv/app/data/deep").as_deref(), Some("data\n"));
        assert_eq!(has(".ebbtide/trash/3/etc/issue").as_deref(), Some("synced\n"));
        assert_eq!(has("srv/app/kept/file").as_deref(), Some("data\n"));
        assert_eq!(has("srv/two/file"), None);
        assert_eq!(has("opt/mine/file").as_deref(), Some("of somebody\n"));
        // Those of what left are gone; that of /srv/app is about what else may be in it.
        let notes = std::fs::read_dir(store.join(".ebbtide/forgotten")).unwrap().count();
        assert_eq!(notes, 1);
    });
    // No note of what left is in the way of first content.
    machine.boot("", |root| write(root, "srv/two/file", "anew\n"));
    machine.publish(BEFORE);
    machine.boot("", |root| {
        assert_eq!(read(root, "srv/two/file").as_deref(), Some("anew\n"));
    });
}

fn what_is_declared_again_stays(kind: Kind) {
    let machine = machine(kind);
    machine.live("", |root, boot| {
        let gc = gc(boot, root).with_undeclared(true);
        assert_eq!(moves(&gc.preview().unwrap()).len(), 4);
        let mut declared = false;
        let mut log = |_: Level, text: &str| {
            // In the moment before the first of them.
            if !declared && text.contains("which no entry keeps") {
                declared = true;
                machine.publish(BEFORE);
            }
        };
        let done = gc.apply(&mut log).unwrap();
        assert!(declared && done.done.is_empty(), "{:?}", done.done);
        assert!(done.problems.iter().all(|it| it.message.contains("it is kept, or gone, by now")));
        assert_eq!(done.problems.len(), 4);
        let plan = Gc::open(boot, root).unwrap().preview().unwrap();
        assert_eq!(found(&plan), [("/opt", false, None), ("/srv/other", false, None)]);
    });
    machine.boot("", |root| {
        assert_eq!(read(root, "srv/two/file").as_deref(), Some("data\n"));
    });
}
