//! Random lives of a machine with files of the method `sync`, compared with what must hold whatever
//! happened: after clean ends the root is right, after a cut nothing is lost or emptied, files that
//! belong together stay together, and what a store lost is in its trash.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod machine;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use ebbtide_core::flush::Flush;
use ebbtide_core::record::{Outcome, Switch};
use ebbtide_core::shutdown;
use machine::{Machine, is_root, write};
use proptest::prelude::*;

const FILES: [&str; 4] = ["etc/app.conf", "etc/new.conf", "etc/passwd", "etc/group"];
/// Those among them that belong together.
const SET: [usize; 2] = [2, 3];
const KEEP: &str = "[keep]\nfiles = [\n\
    { path = \"/etc/app.conf\", method = \"sync\" },\n\
    { path = \"/etc/new.conf\", method = \"sync\" },\n\
    { path = \"/etc/passwd\", method = \"sync\" },\n\
    { path = \"/etc/group\", method = \"sync\" },\n]\n";

/// Content and mode of a file, if there is one.
type File = Option<(String, u32)>;
/// One of each.
type Files = [File; 4];

#[derive(Debug, Clone)]
enum Act {
    Write(usize, u8),
    Replace(usize, u8),
    Delete(usize),
    Truncate(usize),
    Chmod(usize, u32),
    Flush,
}

/// What a filesystem may show of a file that was changed shortly before the power went.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// All of the change.
    None,
    /// The file as it was when it was last synced.
    Old,
    /// No content: the name was replaced, and the data never written.
    Empty,
    /// No file: its directory entry was never written.
    Absent,
}

#[derive(Debug, Clone)]
enum End {
    Clean,
    Cut([Damage; 4]),
    /// And once more, between the next reset and the mount of its root.
    CutAndCut([Damage; 4]),
}

#[derive(Debug, Clone)]
struct Life {
    command_line: &'static str,
    acts: Vec<Act>,
    end: End,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let file = 0..FILES.len();
    let act = prop_oneof![
        2 => (file.clone(), any::<u8>()).prop_map(|(file, word)| Act::Write(file, word)),
        3 => (file.clone(), any::<u8>()).prop_map(|(file, word)| Act::Replace(file, word)),
        2 => file.clone().prop_map(Act::Delete),
        1 => file.clone().prop_map(Act::Truncate),
        1 => (file, prop_oneof![Just(0o600), Just(0o640), Just(0o644)])
            .prop_map(|(file, mode)| Act::Chmod(file, mode)),
        1 => Just(Act::Flush),
    ];
    let damage = prop_oneof![
        Just(Damage::None),
        Just(Damage::Old),
        Just(Damage::Empty),
        Just(Damage::Absent)
    ];
    let damages = [damage.clone(), damage.clone(), damage.clone(), damage];
    let end = prop_oneof![
        4 => Just(End::Clean),
        4 => damages.clone().prop_map(End::Cut),
        1 => damages.prop_map(End::CutAndCut),
    ];
    let command_line =
        prop_oneof![5 => Just(""), 2 => Just("ebbtide=off"), 2 => Just("ebbtide=keep")];
    let life = (command_line, prop::collection::vec(act, 0..6), end)
        .prop_map(|(command_line, acts, end)| Life { command_line, acts, end });
    prop::collection::vec(life, 3..8)
}

/// What a program writes: never nothing, and for the account files something that they can hold.
fn text(file: usize, word: u8) -> String {
    match file {
        2 => format!("root:x:0:0:{word}:/root:/bin/sh\n"),
        3 => format!("root:x:0:\ng{word}:x:{word}:\n"),
        _ => format!("{word}\n"),
    }
}

fn look(tree: &Path) -> Files {
    FILES.map(|path| {
        let path = tree.join(path);
        let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o7777;
        Some((fs::read_to_string(&path).unwrap(), mode))
    })
}

fn put(path: &Path, file: &File) {
    match file {
        Some((content, mode)) => {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        None => {
            let _ = fs::remove_file(path);
        }
    }
}

fn act(root: &Path, act: &Act) {
    let path = |file: usize| root.join(FILES[file]);
    match act {
        Act::Write(file, word) => fs::write(path(*file), text(*file, *word)).unwrap(),
        Act::Replace(file, word) => {
            fs::write(root.join("etc/.beside"), text(*file, *word)).unwrap();
            fs::rename(root.join("etc/.beside"), path(*file)).unwrap();
        }
        Act::Delete(file) => {
            let _ = fs::remove_file(path(*file));
        }
        Act::Truncate(file) => fs::write(path(*file), "").unwrap(),
        Act::Chmod(file, mode) => {
            if path(*file).exists() {
                fs::set_permissions(path(*file), fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        Act::Flush => {}
    }
}

fn has_content(file: &File) -> bool {
    file.as_ref().is_some_and(|(content, _)| !content.is_empty())
}

/// What must be so after a harvest: `store` is what there was, `root` what was taken back from,
/// `after` what there is now.
fn check_harvest(store: &Files, root: &Files, after: &Files, believed: bool, trash: &Trash) {
    if believed {
        assert_eq!(after, root, "what was there at a clean end is right; before: {store:?}");
    }
    for file in 0..FILES.len() {
        let (was, seen, is) = (&store[file], &root[file], &after[file]);
        let path = FILES[file];
        assert!(is == was || is == seen, "{path} is neither: {was:?}, {seen:?}, {is:?}");
        if !believed {
            assert!(!has_content(was) || has_content(is), "{path} lost {was:?} to {seen:?}");
            let alone = !SET.contains(&file);
            assert!(
                !alone || !has_content(seen) || is == seen,
                "{path} is not taken back: {seen:?}"
            );
        }
        for (what, lost) in [("the store's", was), ("the root's", seen)] {
            if has_content(lost) && lost != is {
                let content = lost.as_ref().unwrap().0.clone();
                assert!(
                    trash.contains(&(path.to_owned(), content)),
                    "{what} {path} is in no trash: {lost:?} became {is:?}"
                );
            }
        }
    }
    let from = |files: &Files| SET.iter().all(|&file| after[file] == files[file]);
    assert!(from(store) || from(root), "torn: {store:?}, {root:?}, {after:?}");
    let whole = SET.iter().all(|&file| has_content(&root[file]));
    assert!(!whole || from(root), "a whole set is not taken back: {root:?}, {after:?}");
}

/// Paths with contents that a store has in its trash, without the numbers behind them.
type Trash = BTreeSet<(String, String)>;

fn trash_of(state: &Path) -> Trash {
    let mut trash = Trash::new();
    for boot in fs::read_dir(state.join(".ebbtide/trash")).into_iter().flatten().flatten() {
        for file in fs::read_dir(boot.path().join("etc")).into_iter().flatten().flatten() {
            let name = file.file_name().into_string().unwrap();
            let stem = name.trim_end_matches(|it: char| it.is_ascii_digit()).trim_end_matches('.');
            trash.insert((format!("etc/{stem}"), fs::read_to_string(file.path()).unwrap()));
        }
    }
    trash
}

fn state(machine: &Machine) -> (Files, Trash) {
    machine.look(|top| (look(&top.join("state")), trash_of(&top.join("state"))))
}

/// Lets the power fail: what was changed since it was last synced is damaged.
fn cut(machine: &Machine, synced: &Files, left: &Files, damages: [Damage; 4]) -> Files {
    machine.look(|top| {
        let root = top.join("ebbtide/root");
        for file in 0..FILES.len() {
            let shown = match damages[file] {
                _ if synced[file] == left[file] => continue,
                Damage::None => continue,
                Damage::Old => synced[file].clone(),
                Damage::Empty => left[file].as_ref().map(|(_, mode)| (String::new(), *mode)),
                Damage::Absent => None,
            };
            put(&root.join(FILES[file]), &shown);
        }
        look(&root)
    })
}

fn story(lives: &[Life]) {
    let machine = Machine::new();
    write(&machine.source(), "etc/app.conf", "one\n");
    machine.set_up(KEEP);
    let (mut store, _) = state(&machine);
    // What the last root shows, if anything was put there.
    let mut root: Option<Files> = None;
    // What a root shows that nothing was put on: files of which a store never had any can be first
    // content.
    let mut bare = Files::default();
    // Whether every boot on this root since it was attached came to a clean end.
    let mut believed = true;
    for (number, life) in lives.iter().enumerate() {
        // There is no last root to keep yet.
        let command_line = if number == 0 { "" } else { life.command_line };
        let is_off = command_line == "ebbtide=off";
        let seen: Mutex<(Files, Files)> = Mutex::default();
        let booted = machine.live(command_line, |tree, boot| {
            let began = look(tree);
            let state = boot.run.join("stores/state");
            let mut synced = began.clone();
            match &root {
                Some(root) if is_off => assert_eq!(&began, root, "off changes nothing"),
                Some(root) => {
                    let after = look(&state);
                    check_harvest(&store, root, &after, believed, &trash_of(&state));
                    assert_eq!(began, after, "the root has what the store has");
                    store = after;
                }
                // A root that no boot attached anything to is the base, and off leaves it so.
                None if is_off => {}
                None => {
                    let after = look(&state);
                    assert_eq!(began, after, "the root has what the store has");
                    for file in 0..FILES.len() {
                        let first = store[file].is_none() && after[file] == bare[file];
                        assert!(after[file] == store[file] || first, "{store:?} became {after:?}");
                    }
                    store = after;
                }
            }
            for step in &life.acts {
                act(tree, step);
                if !matches!(step, Act::Flush) {
                    continue;
                }
                match Flush::open(boot, tree) {
                    Ok(_) if is_off => panic!("flush changes a store in a boot that is off"),
                    Ok(flush) => {
                        flush.apply(&mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
                        let after = look(&state);
                        check_harvest(&store, &look(tree), &after, true, &trash_of(&state));
                        store = after;
                        synced = look(tree);
                    }
                    Err(_) if is_off => {}
                    Err(failure) => panic!("{}", failure.chain()),
                }
            }
            if matches!(life.end, End::Clean) {
                shutdown::mark_clean(boot, tree).unwrap_or_else(|it| panic!("{}", it.chain()));
            }
            *seen.lock().unwrap() = (synced, look(tree));
        });
        let expected = match command_line {
            "" => Outcome::Reset,
            "ebbtide=off" => Outcome::Kept(Switch::Off),
            _ => Outcome::Kept(Switch::Keep),
        };
        assert_eq!(booted.record.outcome, expected);
        believed = (believed || !is_off) && matches!(life.end, End::Clean);
        let (synced, left) = seen.into_inner().unwrap();
        root = match &life.end {
            _ if is_off && root.is_none() => {
                bare = left;
                None
            }
            End::Clean => Some(left),
            End::Cut(damages) => Some(cut(&machine, &synced, &left, *damages)),
            End::CutAndCut(damages) => {
                let shown = cut(&machine, &synced, &left, *damages);
                machine.cut_after_reset();
                let (after, trash) = state(&machine);
                check_harvest(&store, &shown, &after, false, &trash);
                store = after;
                None
            }
        };
    }
}

#[test]
fn nothing_is_lost_and_nothing_is_made_up() {
    if !is_root() {
        return;
    }
    let config = ProptestConfig {
        cases: 12,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    runner
        .run(&lives(), |lives| {
            story(&lives);
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_a_cut_left_is_not_believed_after_a_quiet_boot_either() {
    if !is_root() {
        return;
    }
    let life = |command_line, acts, end| Life { command_line, acts, end };
    let emptied = [Damage::Empty, Damage::None, Damage::Absent, Damage::None];
    story(&[
        life("", vec![Act::Replace(0, 1), Act::Replace(2, 1)], End::Cut(emptied)),
        life("ebbtide=off", vec![Act::Flush], End::Clean),
        life("ebbtide=off", vec![], End::Clean),
        life("", vec![], End::Clean),
    ]);
}
