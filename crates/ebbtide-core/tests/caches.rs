//! Caches with a limit and an age, on loop images: how they are mounted, what gc deletes of them, and what
//! the status says.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use ebbtide_core::boot::Boot;
use ebbtide_core::compiled::{Compiled, StoreName};
use ebbtide_core::gc::{Done, Gc, LastRun, Step, Why};
use ebbtide_core::retention::KeepCache;
use ebbtide_core::status::StoreUsage;
use ebbtide_sys::mountinfo;
use machine::{Kind, Machine, write};

on_each_disk!(
    the_least_recently_used_go_until_a_cache_is_below_its_limit,
    a_cache_gets_a_limit_while_it_is_in_use,
);

const CACHE: &str = "var/cache/app";

fn rest(machine: &Machine, rules: &str) -> String {
    format!(
        "[store.cache]\n{} = \"cache\"\nclass = \"cache\"\n{rules}\n[keep]\ndirectories = [\"/var/log\", \
         {{ path = \"/{CACHE}\", store = \"cache\", mode = \"0750\" }}]\n",
        machine.place_of_stores()
    )
}

fn fill(root: &Path, name: &str) {
    let path = root.join(CACHE).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![7; 600 << 10]).unwrap();
    // Times are as fine as the ticks of the kernel.
    std::thread::sleep(Duration::from_millis(30));
}

fn names(root: &Path, path: &str) -> Vec<String> {
    let entries = fs::read_dir(root.join(path)).unwrap().flatten();
    let mut names: Vec<_> = entries.map(|it| it.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn open(boot: &Boot, root: &Path) -> Gc {
    Gc::open(boot, root).unwrap_or_else(|it| panic!("{}", it.chain()))
}

fn run(boot: &Boot, root: &Path) -> Done {
    let done = open(boot, root).apply(&mut |_, _| ());
    done.unwrap_or_else(|it| panic!("{}", it.chain()))
}

/// The options of what is mounted there.
fn notes_reads(path: &Path) -> bool {
    let mounts = mountinfo::read_self().unwrap();
    let mount = mounts.iter().rev().find(|mount| mount.mount_point == path).unwrap();
    mount.has_option("relatime")
}

fn usage(boot: &Boot, root: &Path) -> StoreUsage {
    let stores = Machine::status(boot, root).stores;
    stores.into_iter().find(|it| it.name.0 == "cache").unwrap()
}

fn steps(steps: &[Step]) -> Vec<(Why, u64)> {
    let cache = |step: &Step| match step {
        Step::Cache { path, why, files, .. } => {
            assert_eq!(path, &Path::new("/").join(CACHE));
            Some((*why, *files))
        }
        _ => None,
    };
    steps.iter().filter_map(cache).collect()
}

fn the_least_recently_used_go_until_a_cache_is_below_its_limit(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(&rest(&machine, "limit = \"1M\"\nmax-age = \"30d\""));
    machine.live("", |root, boot| {
        assert!(notes_reads(&root.join(CACHE)));
        assert!(notes_reads(&boot.run.join("stores/cache")));
        assert!(!notes_reads(&root.join("var/log")), "only where it is of use");
        write(root, "var/log/messages", &"x".repeat(2 << 20));
        for name in ["deep/a", "b", "c", "d"] {
            fill(root, name);
        }
        // Reading is use: a goes last.
        assert_eq!(fs::read(root.join(CACHE).join("deep/a")).unwrap().len(), 600 << 10);
        let held = File::open(root.join(CACHE).join("c")).unwrap();
        let before = usage(boot, root);
        assert_eq!((before.used, before.limit), (None, Some(1 << 20)));
        assert!(before.available.is_some() && before.available < before.total);

        let limit = Why::Limit(1 << 20);
        let plan = open(boot, root).preview().unwrap();
        assert_eq!(
            steps(&plan.steps),
            [(limit, 3)],
            "what is open in this very process is told later"
        );
        assert_eq!(names(root, CACHE).len(), 4, "so far nothing was done");
        let done = run(boot, root);
        assert_eq!(steps(&done.done), [(limit, 2)], "{:?}", done.problems);
        assert_eq!(names(root, CACHE), ["c", "deep"]);
        assert_eq!(names(root, "var/cache/app/deep"), ["a"]);
        drop(held);
        assert_eq!(steps(&run(boot, root).done), [(limit, 1)]);
        assert_eq!(names(root, CACHE), ["deep"]);
        assert!(steps(&run(boot, root).done).is_empty());
        assert_eq!(fs::metadata(root.join("var/log/messages")).unwrap().len(), 2 << 20);

        let after = usage(boot, root);
        assert!((600 << 10..1 << 20).contains(&after.used.unwrap()), "{after:?}");
        assert_eq!(after.counted_in.map(|it| it.0), Some(1));
        let last = LastRun::read(&machine.open()).unwrap().unwrap();
        assert!(last.stores[&StoreName("cache".to_owned())].reads_since.is_some());
        assert!(last.stores[&StoreName("state".to_owned())].bytes > 2 << 20);
        // An entry keeps its directory, and that its owner and mode, when nothing is left in it.
        fs::remove_file(root.join(CACHE).join("deep/a")).unwrap();
        let mode = fs::metadata(root.join(CACHE)).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7777, 0o750);
    });
}

fn a_cache_gets_a_limit_while_it_is_in_use(kind: Kind) {
    let machine = Machine::of(kind);
    machine.set_up(&rest(&machine, ""));
    let name = StoreName("cache".to_owned());
    machine.live("", |root, boot| {
        for name in ["a", "b", "c"] {
            fill(root, name);
        }
        assert!(!notes_reads(&root.join(CACHE)));
        assert!(steps(&run(boot, root).done).is_empty(), "nothing is declared");
        machine.publish(&rest(&machine, "limit = \"1M\"\nmax-age = \"1h\""));
        let plan = open(boot, root).preview().unwrap();
        assert_eq!(steps(&plan.steps), [(Why::Limit(1 << 20), 2)]);
        assert!(plan.notes.iter().any(|it| it.contains("the next boot mounts it")), "{plan:?}");
        run(boot, root);
        let last = LastRun::read(&machine.open()).unwrap().unwrap();
        assert_eq!(last.stores[&name].reads_since, None);
        ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
    });
    machine.live("", |root, boot| {
        assert!(notes_reads(&root.join(CACHE)));
        let done = run(boot, root);
        assert!(!done.plan.notes.iter().any(|it| it.contains("the next boot")), "{:?}", done.plan);
        let first = LastRun::read(&machine.open()).unwrap().unwrap().stores[&name].reads_since;
        std::thread::sleep(Duration::from_millis(1100));
        run(boot, root);
        let second = LastRun::read(&machine.open()).unwrap().unwrap().stores[&name].reads_since;
        assert!(first.is_some() && first == second, "since then, not since the last run");
        assert_eq!(names(root, CACHE), ["c"]);
    });
}

#[test]
fn no_rule_is_compiled_for_a_store_that_is_no_cache() {
    if !machine::is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up(&rest(&machine, "limit = \"1M\""));
    machine.live("", |_, boot| {
        let (_, mut compiled) = ebbtide_core::status::declaration(boot, &machine.open()).unwrap();
        let policy = |it: &Compiled| ebbtide_core::gc::policy(it).caches;
        let keep = KeepCache { limit: Some(1 << 20), max_age: None };
        assert_eq!(policy(&compiled), [(StoreName("cache".to_owned()), keep)].into());
        // Even if a file said so.
        for store in compiled.stores.values_mut() {
            store.class = ebbtide_core::compiled::Class::State;
            store.expiry = Some(keep);
        }
        assert!(policy(&compiled).is_empty());
    });
}
