//! Files that decide what a boot does, tampered with by somebody who is not root: a boot finds it out,
//! says so, and goes by what root wrote, or resets nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;
#[path = "machine/canary.rs"]
mod canary;
#[path = "machine/cut.rs"]
#[allow(dead_code)]
mod cut;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use canary::snapshot;
use cut::Attached;
use ebbtide_core::boot::{self, Boot};
use ebbtide_core::compiled::Backend;
use ebbtide_core::failure::Level;
use ebbtide_core::locator::Locator;
use ebbtide_core::record::Outcome;
use ebbtide_core::switches::Switches;
use machine::{Booted, Kind, Machine, read, run, write};

on_each_disk!(
    a_compiled_declaration,
    a_stores_marker,
    a_note_of_first_content,
    the_directories_of_a_store,
    the_stores_top,
    the_containers_own_files,
    the_way_out_of_all_of_it,
);

/// Whoever tampers.
const MALLORY: u32 = 1000;

/// How long a boot may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the declaration in force keeps; the one before keeps less.
const BEFORE: &str = "[keep]\ndirectories = [\"/home\"]\n\
                      files = [{ path = \"/etc/issue\", method = \"sync\" }]\n";
const NOW: &str = "[keep]\ndirectories = [\"/home\", \"/srv\"]\n\
                   files = [{ path = \"/etc/issue\", method = \"sync\" }]\n";

/// What is done to a file or to a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Given to another user; the content stays.
    Owner,
    /// Writable for its group.
    GroupWrites,
    /// Writable for all.
    AllWrite,
    /// Moved away, with a link to it in its place.
    Link,
    /// A second name of a file of root's in its place.
    SecondName,
    /// A second name of itself, elsewhere.
    NamedElsewhere,
    Fifo,
    /// A directory where a file was, or a file where a directory was.
    OtherKind,
    /// Half of it.
    Truncated,
    Empty,
    /// Larger than memory.
    Huge,
    /// Changed with the same owner and mode.
    Changed,
    Gone,
}

use Way::{
    AllWrite, Changed, Empty, Fifo, Gone, GroupWrites, Huge, Link, NamedElsewhere, OtherKind,
    Owner, SecondName, Truncated,
};

/// What only says that others could have changed it.
const FOREIGN: [Way; 3] = [Owner, GroupWrites, AllWrite];
const ALL: [Way; 13] = [
    Owner,
    GroupWrites,
    AllWrite,
    Link,
    SecondName,
    NamedElsewhere,
    Fifo,
    OtherKind,
    Truncated,
    Empty,
    Huge,
    Changed,
    Gone,
];

/// Does it. `place` is what mallory has on the same filesystem.
fn tamper(way: Way, target: &Path, place: &Path) {
    let mode = |mode| fs::set_permissions(target, fs::Permissions::from_mode(mode)).unwrap();
    let is_directory = target.is_dir();
    let moved = place.join("moved");
    let away = || run("mv", &[target.to_str().unwrap(), moved.to_str().unwrap()]);
    match way {
        Owner => chown(target, Some(MALLORY), None).unwrap(),
        GroupWrites => mode(if is_directory { 0o770 } else { 0o660 }),
        AllWrite => mode(if is_directory { 0o777 } else { 0o666 }),
        Link => {
            away();
            symlink(&moved, target).unwrap();
        }
        SecondName => {
            // A name on the same filesystem as the target; mallory can read what it is a name of.
            away();
            fs::write(place.join("of-root"), "{\"version\":1}\n").unwrap();
            let above = target.parent().unwrap().join("of-root");
            fs::write(&above, "{\"version\":1}\n").unwrap();
            fs::hard_link(&above, target).unwrap();
        }
        NamedElsewhere => fs::hard_link(target, target.with_extension("second")).unwrap(),
        Fifo => {
            away();
            run("mkfifo", &[target.to_str().unwrap()]);
        }
        OtherKind => {
            away();
            if moved.is_dir() {
                fs::write(target, "x").unwrap();
            } else {
                fs::create_dir(target).unwrap();
                fs::write(target.join("inside"), "x").unwrap();
            }
        }
        Truncated => {
            let bytes = fs::read(target).unwrap();
            fs::write(target, &bytes[..bytes.len() / 2]).unwrap();
        }
        Empty => fs::write(target, "").unwrap(),
        Huge => fs::File::options().write(true).open(target).unwrap().set_len(1 << 40).unwrap(),
        Changed => {
            let text = fs::read_to_string(target).unwrap();
            let evil = text.replace("/srv", "/opt").replace("issue", "evil").replace('4', "5");
            assert_ne!(text, evil, "{}", target.display());
            fs::write(target, evil).unwrap();
        }
        Gone => drop(away()),
    }
}

/// A machine that was used once, and is brought back to that for each thing that is done to it.
struct Victim {
    machine: Machine,
    pristine: PathBuf,
    /// As the initramfs has it, whatever becomes of the store.
    locator: Locator,
}

impl Victim {
    fn new(kind: Kind) -> Self {
        // In RAM where it can be: much is synced, and nothing is to survive.
        let ram = Path::new("/dev/shm");
        let above = if ram.is_dir() { ram.to_owned() } else { std::env::temp_dir() };
        let mut machine = Machine::within(&above, kind);
        machine.name_device_by_uuid();
        machine.set_up(BEFORE);
        machine.apply(NOW);
        machine.boot("", |root| {
            write(root, "stray", "x");
            write(root, "srv/data", "served\n");
            write(root, "etc/issue", "changed\n");
        });
        machine.look(|top| {
            write(top, "outside/secret", "root's\n");
            fs::create_dir(top.join("mallory")).unwrap();
            chown(top.join("mallory"), Some(MALLORY), Some(MALLORY)).unwrap();
        });
        let locator = machine.boot_with(Path::new("/nowhere"), "").locator;
        machine.detach_all();
        let pristine = machine.image().with_extension("pristine");
        copy(&machine.image(), &pristine);
        Self { machine, pristine, locator }
    }

    /// Changes what is on the volume, and boots. Nothing outside changes, and no kept data.
    fn boot_after(&self, change: impl FnOnce(&Path) + Send) -> Booted {
        self.boot_or_fail(change).unwrap_or_else(|failure| panic!("{failure}"))
    }

    /// The same where there may be nothing to boot.
    fn boot_or_fail(&self, change: impl FnOnce(&Path) + Send) -> Result<Booted, String> {
        copy(&self.pristine, &self.machine.image());
        let _attached = Attached::new(&self.machine.image());
        let look = |top: &Path| (snapshot(&top.join("outside")), snapshot(&top.join("mallory")));
        let before = self.machine.look(|top| {
            change(top);
            look(top)
        });
        let (sender, receiver) = mpsc::channel();
        let booted = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let booted = self.boot();
                let _ = sender.send(());
                booted
            });
            // One that hangs ends this test's process: nothing else ends such a thread.
            if receiver.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                eprintln!("a boot hangs");
                std::process::abort();
            }
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        assert_eq!(before, self.machine.look(look));
        booted
    }

    fn boot(&self) -> Result<Booted, String> {
        self.machine.in_namespace(|work| {
            let root = work.join("root");
            fs::create_dir_all(&root).unwrap();
            let boot = Boot {
                locator: self.locator.clone(),
                run: work.join("run"),
                run_later: work.join("run"),
                switches: Switches::default(),
                import_limit: boot::IMPORT_LIMIT,
            };
            let mut messages = Vec::new();
            let mut log = |level: Level, text: &str| messages.push((level, text.to_owned()));
            let record = boot::up(&boot, &root, &mut log).map_err(|failure| failure.chain())?;
            assert!(!root.join("opt/data").exists());
            assert!(!root.join("etc/evil").exists());
            if let Some(letter) = read(&root, "home/alice/letter") {
                assert_eq!(letter, "dear\n");
            }
            Ok(Booted { record, messages })
        })
    }

    /// The same with what `way` makes of a path.
    fn boot_with(&self, way: Way, target: &(dyn Fn(&Path) -> PathBuf + Sync)) -> Booted {
        self.boot_after(|top| tamper(way, &target(top), &top.join("mallory")))
    }
}

fn copy(from: &Path, to: &Path) {
    let (from, to) = (from.to_str().unwrap(), to.to_str().unwrap());
    run("cp", &["--sparse=always", "--reflink=auto", from, to]);
}

/// The root was reset, by the declaration before the one that was tampered with.
fn goes_by_the_previous(booted: &Booted, what: &str) {
    let said = booted.errors().join("\n");
    assert_eq!(booted.record.outcome, Outcome::Reset, "{what}: {said}");
    assert!(said.contains("the previous one is used"), "{what}: {said}");
    let attached = booted.record.attached.as_ref().unwrap();
    assert!(!attached.mounted.contains_key(Path::new("/srv")), "{what}");
    assert!(attached.mounted.contains_key(Path::new("/home")), "{what}: {said}");
}

/// The root was not reset, and the message says of what that is.
fn is_refused(booted: &Booted, name: &str, what: &str) {
    let said = booted.errors().join("\n");
    assert_eq!(booted.record.outcome, Outcome::Refused, "{what}: {said}");
    assert!(said.contains(name), "{what}: {said}");
    assert!(said.contains("the root is not reset"), "{what}: {said}");
}

/// A reset, with every entry of the declaration in force.
fn does_not_matter(booted: &Booted, what: &str) {
    let said = booted.errors().join("\n");
    assert_eq!(booted.record.outcome, Outcome::Reset, "{what}: {said}");
    let attached = booted.record.attached.as_ref().unwrap();
    assert!(attached.missing.is_empty(), "{what}: {said}");
    assert!(attached.mounted.contains_key(Path::new("/srv")), "{what}: {said}");
}

const OWN: &str = "state/.ebbtide";

/// The compiled declarations: the one in force, and the one before.
fn declarations(top: &Path) -> (PathBuf, PathBuf) {
    let place = top.join(OWN).join("declarations");
    let mut both: Vec<_> =
        fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    both.sort_by_key(|path| fs::read_to_string(path).unwrap().contains("/srv"));
    assert_eq!(both.len(), 2);
    (both.pop().unwrap(), both.pop().unwrap())
}

fn a_compiled_declaration(kind: Kind) {
    let victim = Victim::new(kind);
    for way in ALL {
        let booted = victim.boot_with(way, &|top| declarations(top).0);
        goes_by_the_previous(&booted, &format!("{way:?}"));
        if FOREIGN.contains(&way) {
            assert!(booted.errors()[0].contains("others than root"), "{:?}", booted.errors());
        }
    }
    // An older one, which was valid once.
    let older = victim.boot_after(|top| {
        let (now, before) = declarations(top);
        fs::copy(before, now).unwrap();
    });
    goes_by_the_previous(&older, "older");
    for way in [Changed, Owner] {
        let both = victim.boot_after(|top| {
            let (now, before) = declarations(top);
            fs::create_dir(top.join("mallory/now")).unwrap();
            tamper(way, &now, &top.join("mallory/now"));
            if way == Changed {
                fs::write(before, "{}").unwrap();
            } else {
                tamper(way, &before, &top.join("mallory"));
            }
        });
        is_refused(&both, "nor the previous one", &format!("both {way:?}"));
    }
}

fn a_stores_marker(kind: Kind) {
    let victim = Victim::new(kind);
    for way in [Owner, AllWrite, Link, SecondName, Fifo, OtherKind, Truncated, Huge, Gone] {
        let booted = victim.boot_with(way, &|top| top.join(OWN).join("store.json"));
        is_refused(&booted, "the state store", &format!("{way:?}"));
    }
}

fn a_note_of_first_content(kind: Kind) {
    let victim = Victim::new(kind);
    let home = |top: &Path| {
        let notes = fs::read_dir(top.join(OWN).join("seeds")).unwrap();
        let mut notes = notes.map(|entry| entry.unwrap().path());
        notes.find(|path| fs::read_to_string(path).unwrap().contains("\"/home\"")).unwrap()
    };
    for way in [Owner, AllWrite, Link, SecondName, Fifo, OtherKind, Truncated, Gone] {
        let booted = victim.boot_with(way, &home);
        // What is in the store is in place, with or without a note of where it came from.
        assert_eq!(booted.record.outcome, Outcome::Reset, "{way:?}: {:?}", booted.errors());
        let attached = booted.record.attached.as_ref().unwrap();
        let in_place = attached.mounted.contains_key(Path::new("/home"));
        assert!(in_place || !booted.errors().is_empty(), "{way:?}");
    }
}

fn the_directories_of_a_store(kind: Kind) {
    let victim = Victim::new(kind);
    for way in [Owner, GroupWrites, Link, Fifo, Gone] {
        let booted = victim.boot_with(way, &|top| top.join(OWN).join("declarations"));
        is_refused(&booted, "cannot use the compiled declaration", &format!("{way:?}"));
        let booted = victim.boot_with(way, &|top| top.join(OWN));
        is_refused(&booted, "store", &format!("{way:?}"));
    }
    for name in ["incoming", "trash", "seeds", "forgotten"] {
        for way in [Owner, AllWrite, Link, Fifo] {
            let target = |top: &Path| {
                let target = top.join(OWN).join(name);
                if !target.exists() {
                    fs::create_dir(&target).unwrap();
                    fs::set_permissions(&target, fs::Permissions::from_mode(0o700)).unwrap();
                }
                target
            };
            let booted = victim.boot_with(way, &target);
            let said = booted.errors().join("\n");
            // Of the boot before, `/etc/issue` has to be taken back, which needs the first two.
            if ["incoming", "trash"].contains(&name) {
                assert_eq!(booted.record.outcome, Outcome::Refused, "{name} {way:?}: {said}");
                assert!(said.contains(name), "{name} {way:?}: {said}");
            } else {
                let kept = booted.record.attached.as_ref().unwrap();
                let missing = !kept.missing.is_empty();
                assert!(!missing || said.contains(name), "{name} {way:?}: {said}");
            }
        }
    }
}

fn the_stores_top(kind: Kind) {
    let victim = Victim::new(kind);
    for way in FOREIGN {
        let booted = victim.boot_with(way, &|top| top.join("state"));
        is_refused(&booted, "others than root can change what it keeps", &format!("{way:?}"));
    }
    if kind.filesystem != "btrfs" {
        for way in [Link, Fifo, OtherKind] {
            let booted = victim.boot_with(way, &|top| top.join("state"));
            is_refused(&booted, "store", &format!("{way:?}"));
        }
    }
}

/// Only root can get at them; but a copy that was restored by hand may be anybody's.
fn the_containers_own_files(kind: Kind) {
    let victim = Victim::new(kind);
    for way in [Owner, Link, Fifo, OtherKind, Truncated, Gone] {
        for name in ["marker.json", "declarations.json", "base"] {
            let booted = victim.boot_with(way, &|top| top.join("ebbtide").join(name));
            is_refused(&booted, "", &format!("{name} {way:?}"));
        }
    }
    let manifest = |top: &Path| {
        let mut all = fs::read_dir(top.join("ebbtide/manifests")).unwrap();
        all.next().unwrap().unwrap().path()
    };
    for way in [Owner, Link, NamedElsewhere, Fifo, Truncated] {
        // Without it, what was changed on the last root could not be taken back.
        is_refused(&victim.boot_with(way, &manifest), "manifests", &format!("manifest {way:?}"));
        for name in ["clean.json", "boots/1.json"] {
            let booted = victim.boot_with(way, &|top| top.join("ebbtide").join(name));
            does_not_matter(&booted, &format!("{name} {way:?}"));
        }
    }
    for way in FOREIGN {
        let tampered = victim.boot_or_fail(|top| tamper(way, &top.join("ebbtide"), top));
        // The base lies there, too.
        match (kind.backend, tampered) {
            (Backend::Btrfs, Ok(booted)) => {
                is_refused(&booted, "the container", &format!("{way:?}"));
            }
            (Backend::Overlay, Err(why)) => assert!(why.contains("others than root"), "{why}"),
            (_, other) => panic!("{way:?}: {:?}", other.map(|it| it.record)),
        }
    }
}

/// What the messages advise: `ebbtide apply` compiles anew, whatever lies in the way.
fn the_way_out_of_all_of_it(kind: Kind) {
    let victim = Victim::new(kind);
    for way in [Owner, Link, Fifo, OtherKind, Changed] {
        let booted = victim.boot_after(|top| {
            let (now, before) = declarations(top);
            fs::create_dir(top.join("mallory/now")).unwrap();
            tamper(way, &now, &top.join("mallory/now"));
            fs::remove_file(before).unwrap();
            fs::create_dir_all(top.join(OWN).join("declarations/odd/inside")).unwrap();
        });
        is_refused(&booted, "", &format!("{way:?}"));
        let _attached = Attached::new(&victim.machine.image());
        victim.machine.publish(NOW);
        does_not_matter(&victim.machine.boot("", |_| ()), &format!("{way:?}"));
    }
}
