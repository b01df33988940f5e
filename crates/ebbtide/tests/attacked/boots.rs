//! Boots while a user has open what is hers in the store and in the root that ends: files are harvested
//! from there, and what was declared has its first content from there. Then `gc` of all those roots.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ebbtide_core::boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::record::Outcome;
use ebbtide_core::shutdown;
use ebbtide_sys::filter::{self, Refused, call};

use crate::attacker::{Step, as_alice, attacked};
use crate::machine::{KINDS, Kind, Machine, is_root, run, write};
use crate::scenes::exchange;
use crate::stage::{
    Canary, KEPT, RETENTION, SECRET, Stage, beside, link, open, search, set_up, tree,
};

const BOOTS: usize = 10;

/// What is declared before a boot, and was not before.
fn kept(number: usize) -> String {
    KEPT.replace("[\"conf", &format!("[\"new/{number}/dir\", \"conf"))
}

/// What alice leaves for the next boot.
fn live(home: &Path, number: usize, outside: &Path) {
    tree(home, &format!("new/{number}"), outside);
    tree(home, "conf/app/data/in", outside);
    tree(home, "old/x", outside);
    link(&outside.join("dir"), &beside(&home.join("sync")));
    let _ = fs::remove_file(home.join("sync/state"));
    write(home, "sync/state", &format!("of boot {number}\n"));
}

/// Where the tree of a root is on the volume, as far as it was written to.
fn within(machine: &Machine) -> &'static str {
    if machine.kind.backend == Backend::Btrfs { "" } else { "upper" }
}

/// Boots once, under attack. Returns the number of swaps, and of entries that are in place.
fn boot_once(
    machine: &Machine,
    work: &Path,
    number: usize,
    canary: &Canary,
    filtered: bool,
) -> (u64, usize) {
    let [root, top] = ["root", "top"].map(|name| work.join(name));
    for directory in [&root, &top] {
        fs::create_dir_all(directory).unwrap();
    }
    let options = if machine.kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
    run("mount", &["-o", options, &machine.device.0, top.to_str().unwrap()]);
    let last = open(&top.join("ebbtide/root").join(within(machine)).join("home/alice"));
    let stored = open(&top.join("state/home/alice"));
    let mut steps = Vec::new();
    if number > 0 {
        let new = format!("new/{}", number - 1);
        let new = ["", "/dir", "/dir/deep", "/dir/file"].map(|path| format!("{new}{path}"));
        let new: Vec<&str> = new.iter().map(String::as_str).collect();
        let data = ["conf/app/data/in", "conf/app/data/in/dir"];
        steps.extend(exchange(last.as_fd(), &[&new[..], &["sync"]].concat()));
        steps.extend(exchange(stored.as_fd(), &data));
        let outside = canary.path.join("dir/file");
        let state = || "sync/state".into();
        for step in [Step::Link(state(), outside), Step::Pipe(state()), Step::File(state())] {
            steps.push((last.as_fd(), step));
        }
    }
    let boot = machine.boot_with(&work.join("run"), "");
    let up = || {
        if filtered {
            filter::install(&[Refused::missing(call::SYS_openat2)]).unwrap();
        }
        let mut said = String::new();
        let record = boot::up(&boot, &root, &mut |_, text| said.push_str(text));
        (record.unwrap_or_else(|it| panic!("{}", it.chain())), said)
    };
    let up = || std::thread::scope(|scope| scope.spawn(up).join().unwrap());
    let ((record, said), swaps) = match number {
        0 => (up(), 1),
        _ => attacked(&steps, [0, 100, 1000][number % 3], up),
    };
    assert_eq!(record.outcome, Outcome::Reset, "{said}");
    assert!(!said.contains(SECRET), "{said}");
    canary.assert_untouched("a boot");
    let home = open(&root.join("home/alice"));
    as_alice(home.as_fd(), |home| live(home, number, &canary.path));
    shutdown::mark_clean(&boot, &root).unwrap_or_else(|failure| panic!("{}", failure.chain()));
    (swaps, record.attached.map_or(0, |attached| attached.mounted.len()))
}

fn each_boot(kind: Kind, filtered: bool) {
    if !is_root() {
        return;
    }
    let machine = set_up(kind);
    let directory = tempfile::tempdir().unwrap();
    let canary = Canary::new(directory.path().join("outside"));
    let (mut swaps, mut mounted) = (Vec::new(), 0);
    for number in 0..BOOTS {
        let one = |work: &Path| boot_once(&machine, work, number, &canary, filtered);
        let (swapped, in_place) = machine.in_namespace(one);
        swaps.push(swapped);
        mounted += in_place;
        machine.apply_with(RETENTION, &kept(number));
    }
    let all: u64 = swaps.iter().sum();
    eprintln!("boots on {} of {}: {all} swaps meanwhile", kind.backend, kind.filesystem);
    assert!(swaps.iter().all(|it| *it > 0), "a boot was not attacked: {swaps:?}");
    assert!(mounted > 2 * BOOTS, "too little was in place: {mounted} entries");
    machine.look(|top| {
        let mut leaks = Vec::new();
        search(top, &mut leaks);
        assert!(leaks.is_empty(), "a boot copied what is outside to {leaks:?}");
    });
    // A subvolume goes in one call, and a directory file by file.
    if kind.backend != Backend::Btrfs {
        machine.in_namespace(|work| collect(&machine, work, filtered));
    }
    canary.assert_untouched("gc");
}

/// Deletes past roots in which alice has something open.
fn collect(machine: &Machine, work: &Path, filtered: bool) {
    let (stage, _boot) = Stage::new(machine, work, filtered);
    let past = stage.top.join("ebbtide/past");
    let home = |entry: fs::DirEntry| open(&entry.path().join(within(machine)).join("home/alice"));
    let homes: Vec<OwnedFd> = fs::read_dir(&past).unwrap().map(|it| home(it.unwrap())).collect();
    let paths = ["old/x", "old/x/dir", "old/x/dir/deep", "old/x/dir/file"];
    let steps: Vec<_> = homes.iter().flat_map(|home| exchange(home.as_fd(), &paths)).collect();
    let (ran, swaps) = attacked(&steps, 0, || stage.ebbtide(&["gc"]));
    assert!(matches!(ran.status, Some(0 | 3)), "{:?}: {}", ran.status, ran.said);
    let left = fs::read_dir(&past).unwrap().count();
    eprintln!(
        "gc on {}: {left} of {} past roots left, {swaps} swaps",
        machine.kind.backend,
        homes.len()
    );
    assert!(left < homes.len() && swaps > 0, "{left} left, {swaps} swaps: {}", ran.said);
    stage.assert_contained("gc");
}

#[test]
fn on_btrfs() {
    each_boot(KINDS[0], false);
}

#[test]
fn on_an_overlay() {
    each_boot(KINDS[1], false);
}

#[test]
fn without_openat2() {
    each_boot(KINDS[1], true);
}
