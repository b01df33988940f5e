//! A boot that brings the root of an earlier one back is killed before each call that could change a disk.

use std::fs;
use std::path::Path;

use ebbtide_core::record::{Outcome, Record};

use crate::cut::{Attached, said};
use crate::machine::{self, Kind, is_root, read, run};
use crate::story::Story;

/// How many boots there were.
const BOOTS: u64 = 5;

/// All roots that were written to, by what was written: where each of them is.
fn roots(story: &Story, top: &Path, point: &str) -> Vec<String> {
    let mut found = Vec::new();
    let past = fs::read_dir(top.join("ebbtide/past")).unwrap();
    let past = past.map(|it| format!("past/{}", it.unwrap().file_name().to_str().unwrap()));
    let all: Vec<String> = past.chain(["root".to_owned(), "root.new".to_owned()]).collect();
    for boot in 1..=BOOTS {
        let has_it = |place: &&String| {
            let inside = story.inside(&top.join("ebbtide").join(place));
            inside.join(format!("stray-{boot}")).exists()
        };
        let mut places = all.iter().filter(has_it);
        let place = places.next().unwrap_or_else(|| panic!("{point}: the root of boot {boot}"));
        assert_eq!(places.next(), None, "{point}: boot {boot}");
        found.push(place.clone());
    }
    found
}

/// Boots on this disk and looks at what is there then.
fn boot(story: &Story, image: &Path, point: &str) -> Record {
    let attached = Attached::new(image);
    story.machine.in_namespace(|work| {
        let output = story.boot(work, None);
        assert_eq!(output.status.code(), Some(story.exit), "{point}: {}", said(&output));
        let record = fs::read(work.join("run/boot.json")).unwrap();
        let record: Record = serde_json::from_slice(&record).unwrap();
        let (root, top) = (work.join("root"), work.join("top"));
        assert_eq!(read(&root, "var/lib/app/data").as_deref(), Some("kept\n"), "{point}");
        fs::create_dir_all(&top).unwrap();
        let options = if story.machine.kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
        run("mount", &["-o", options, &attached.0, top.to_str().unwrap()]);
        let places = roots(story, &top, point);
        let is_back = places[0] == "root";
        assert_eq!(record.outcome == Outcome::Refused, is_back, "{point}: {}", said(&output));
        assert_eq!(root.join("stray-1").exists(), is_back, "{point}");
        // Never what is older than what the store had.
        let last = format!("of boot {BOOTS},");
        let stored = read(&top, "state/etc/issue").unwrap();
        assert!(stored.starts_with(&last), "{point}: {stored}");
        assert!(is_back || read(&root, "etc/issue").as_ref() == Some(&stored), "{point}");
        record
    })
}

fn every_point(kind: Kind) {
    let story = Story::of_failed_boots(kind);
    let points = story.points();
    let mut back = 0;
    for (number, point) in (1..).zip(&points) {
        let cut_off = number % 2 == 0;
        let left = story.cut(point, cut_off);
        let point = format!("before call {number}, {} {}", point.0, point.1);
        let first = boot(&story, &left, &point);
        let second = boot(&story, &left, &format!("{point}, the boot after that"));
        assert!(second.number > first.number && first.number.0 > BOOTS, "{point}");
        assert!(first.fallback.is_some() && second.fallback.is_some(), "{point}");
        back += usize::from(first.outcome == Outcome::Refused);
    }
    eprintln!("{} on {}: {} points, {back} times", kind.backend, kind.filesystem, points.len());
    assert!(points.len() > 30 && back > 0, "only {} points, {back}", points.len());
}

#[test]
fn on_btrfs() {
    if is_root() {
        every_point(machine::BTRFS);
    }
}

#[test]
fn on_an_overlay() {
    if is_root() {
        every_point(machine::KINDS[1]);
    }
}
