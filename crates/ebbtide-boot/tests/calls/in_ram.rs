//! A boot with its root in RAM is killed before each call that could change a disk: what is kept is as of the
//! last flush.

use std::fs;

use ebbtide_core::record::{Outcome, Record};

use crate::cut::{Attached, said};
use crate::machine::{is_root, read, run};
use crate::story::Story;

#[test]
fn every_point() {
    if !is_root() {
        return;
    }
    let story = Story::in_ram();
    let points = story.points();
    for (number, point) in (1..).zip(&points) {
        let left = story.cut(point, number % 2 == 0);
        let point = &format!("before call {number}, {} {}", point.0, point.1);
        let attached = Attached::new(&left);
        story.machine.in_namespace(|work| {
            let output = story.boot(work, None);
            assert!(output.status.success(), "{point}: {}", said(&output));
            let record = fs::read(work.join("run/boot.json")).unwrap();
            let record: Record = serde_json::from_slice(&record).unwrap();
            assert_eq!(record.outcome, Outcome::Reset, "{point}: {}", said(&output));
            assert!(record.number.0 > 1, "{point}: {:?}", record.number);
            let entries = record.attached.as_ref().unwrap();
            assert!(entries.missing.is_empty(), "{point}: {entries:?}");
            story.has_kept(&work.join("root"), point);
            let top = work.join("top");
            fs::create_dir_all(&top).unwrap();
            run("mount", &[&attached.0, top.to_str().unwrap()]);
            assert_eq!(read(&top, "outside/file").as_deref(), Some("not Ebbtide's\n"), "{point}");
            assert_eq!(read(&top, "state/etc/linked.conf").as_deref(), Some("kept\n"), "{point}");
            let past = fs::read_dir(top.join("ebbtide/past")).map_or(0, Iterator::count);
            assert_eq!(past, 0, "{point}: nothing of a root in RAM is on the disk");
        });
    }
    eprintln!("a root in RAM: {} points", points.len());
    assert!(points.len() > 30, "only {} points: the calls are others now", points.len());
}
