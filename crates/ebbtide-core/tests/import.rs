//! First content that is more than a boot copies: the root is kept once, and nobody is locked in.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod machine;

use std::fs;
use std::path::Path;

use ebbtide_core::boot::Boot;
use ebbtide_core::live::Live;
use ebbtide_core::record::Outcome;
use ebbtide_core::{shutdown, status};
use machine::{Machine, is_root, read, write};

const LIMIT: u64 = 1 << 20;

/// A machine on whose root lies more than a boot copies, and a declaration that keeps it on another
/// disk, with something small beside it.
fn machine() -> (Machine, String) {
    let mut machine = Machine::new();
    let disk = machine.disk("big", "ext4");
    machine.import_limit = LIMIT;
    machine.set_up("");
    machine.boot("", |root| {
        write(root, "var/lib/pg/version", "15\n");
        fs::write(root.join("var/lib/pg/data"), vec![7_u8; 2 << 20]).unwrap();
        write(root, "var/lib/small/note", "small\n");
        write(root, "stray", "x");
    });
    let keep = format!(
        "[store.big]\ndevice = \"{disk}\"\n[keep]\ndirectories = [\n\
         {{ path = \"/var/lib/pg\", store = \"big\" }}, {{ path = \"/var/lib/small\", store = \"big\" }}]\n"
    );
    (machine, keep)
}

fn bring(machine: &Machine, root: &Path, boot: &Boot) {
    let (hash, compiled) = status::declaration(boot, &machine.open()).unwrap();
    let live = Live::open(boot, root, &compiled, None).unwrap().unwrap();
    let applied = live.apply(&hash, &mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
    assert!(applied.problems.is_empty(), "{:?}", applied.problems);
}

fn is_whole(root: &Path) {
    assert_eq!(read(root, "var/lib/pg/version").as_deref(), Some("15\n"));
    assert_eq!(fs::metadata(root.join("var/lib/pg/data")).unwrap().len(), 2 << 20);
}

#[test]
fn the_root_is_kept_once_and_apply_copies_while_it_runs() {
    if !is_root() {
        return;
    }
    let (machine, keep) = machine();
    machine.publish(&keep);
    let kept = machine.live("", |root, boot| {
        is_whole(root);
        assert_eq!(read(root, "stray").as_deref(), Some("x"), "the root is the last one");
        let before = Machine::status(boot, root);
        assert!(!before.ok && !before.proved);
        let said: Vec<_> = before.problems.iter().filter(|it| it.message.contains("pg")).collect();
        assert_eq!(said.len(), 1, "{:#?}", before.problems);
        assert!(said[0].hint.as_ref().unwrap().contains("ebbtide apply"));
        bring(&machine, root, boot);
        is_whole(root);
        write(root, "var/lib/pg/version", "16\n");
        shutdown::mark_clean(boot, root).unwrap();
    });
    assert_eq!(kept.record.outcome, Outcome::Postponed);
    let attached = kept.record.attached.unwrap();
    assert_eq!(attached.pending, [Path::new("/var/lib/pg")]);
    assert!(attached.missing.is_empty(), "a service that needs it starts: it has its data");
    assert!(attached.mounted.contains_key(Path::new("/var/lib/small")), "what is small is kept");
    let reset = machine.boot("", |root| {
        assert_eq!(read(root, "var/lib/pg/version").as_deref(), Some("16\n"));
        assert_eq!(read(root, "stray"), None);
    });
    assert_eq!(reset.record.outcome, Outcome::Reset);
    assert_eq!(reset.errors(), Vec::<&str>::new());
}

#[test]
fn without_a_word_the_boot_after_that_copies_it() {
    if !is_root() {
        return;
    }
    let (machine, keep) = machine();
    machine.publish(&keep);
    let kept = machine.boot("", |root| write(root, "var/lib/pg/version", "15\n"));
    assert_eq!(kept.record.outcome, Outcome::Postponed);
    let reset = machine.boot("", |root| {
        is_whole(root);
        assert_eq!(read(root, "stray"), None);
    });
    assert_eq!(reset.record.outcome, Outcome::Reset);
    let told = |it: &&(_, String)| it.1.starts_with("/var/lib/pg: copied");
    assert_eq!(reset.messages.iter().filter(told).count(), 1, "{:?}", reset.messages);
    machine.boot("", is_whole);
}

#[test]
fn a_cut_in_the_boot_that_was_to_copy_loses_nothing() {
    if !is_root() {
        return;
    }
    let (machine, keep) = machine();
    machine.publish(&keep);
    machine.live("", |_, _| ());
    assert_eq!(machine.cut_after_reset().outcome, Outcome::Reset);
    let reset = machine.boot("", is_whole);
    assert_eq!(reset.record.outcome, Outcome::Reset);
}

#[test]
fn content_that_is_shared_is_never_too_much() {
    if !is_root() {
        return;
    }
    let (machine, _) = machine();
    machine.publish("[keep]\ndirectories = [\"/var/lib/pg\"]\n");
    let reset = machine.boot("", is_whole);
    assert_eq!(reset.record.outcome, Outcome::Reset);
    assert_eq!(reset.errors(), Vec::<&str>::new());
}

#[test]
fn a_root_that_is_kept_anyway_says_what_waits() {
    if !is_root() {
        return;
    }
    let (machine, keep) = machine();
    machine.publish(&keep);
    let kept = machine.boot("ebbtide=keep", is_whole);
    assert_eq!(kept.record.attached.unwrap().pending, [Path::new("/var/lib/pg")]);
    assert!(kept.messages.iter().any(|(_, it)| it.contains("more than a boot copies")));
    // Nobody was told that the next boot takes long: so it is this one's turn.
    assert_eq!(machine.boot("", is_whole).record.outcome, Outcome::Postponed);
    assert_eq!(machine.boot("", is_whole).record.outcome, Outcome::Reset);
}

/// The note about the first content of a path: where it came from, of which base, with which hash.
fn note(machine: &Machine, path: &str) -> serde_json::Value {
    machine.look(|top| {
        let notes = fs::read_dir(top.join("state/.ebbtide/seeds")).unwrap().flatten();
        let read =
            |it: fs::DirEntry| serde_json::from_slice(&fs::read(it.path()).unwrap()).unwrap();
        let mut notes = notes.map(read);
        notes.find(|note: &serde_json::Value| note["path"] == path).unwrap_or_default()
    })
}

#[test]
fn first_content_is_noted_with_its_base_and_hash() {
    if !is_root() {
        return;
    }
    let machine = Machine::new();
    machine.set_up("[keep]\nfiles = [\"/etc/issue\"]\n");
    let of_the_base = note(&machine, "/etc/issue");
    assert_eq!((&of_the_base["source"], &of_the_base["base"]), (&"the base".into(), &1.into()));
    let sum = machine::run("sha256sum", &[machine.source().join("etc/issue").to_str().unwrap()]);
    assert_eq!(of_the_base["hash"], sum.split(' ').next().unwrap());

    machine.boot("", |root| write(root, "etc/later", "later\n"));
    machine.publish("[keep]\nfiles = [\"/etc/issue\", \"/etc/later\"]\ndirectories = [\"/srv\"]\n");
    machine.live("", |root, boot| {
        write(root, "opt/now/file", "now\n");
        machine.publish("[keep]\nfiles = [\"/etc/issue\", \"/etc/later\"]\ndirectories = [\"/srv\", \"/opt/now\"]\n");
        bring(&machine, root, boot);
    });
    let of_the_root = note(&machine, "/etc/later");
    assert_eq!(of_the_root["source"], "past root 1");
    assert_eq!(of_the_root["base"], 1);
    let running = note(&machine, "/opt/now");
    assert_eq!((&running["source"], &running["base"]), (&"the running root".into(), &1.into()));
    // Noted once: the base's later content is none of ours.
    assert_eq!(note(&machine, "/etc/issue"), of_the_base);
}
