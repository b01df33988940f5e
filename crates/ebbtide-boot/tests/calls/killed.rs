//! It is killed before each call that could change a disk; the disk as it is at that moment is what the
//! next boot finds.

use std::fs;
use std::path::PathBuf;

use crate::cut::{self, Attached, Point, clone};
use crate::machine::{self, Kind, is_root};
use crate::story::Story;

impl Story {
    /// Ends one boot before a call, and returns the disk that it left. If the machine is cut off, what
    /// the kernel has yet to write does not come to the disk.
    pub fn cut(&self, point: &Point, cut_off: bool) -> PathBuf {
        let (image, left) = (self.farm.path().join("image"), self.farm.path().join("left"));
        clone(&self.machine.image(), &image);
        let attached = Attached::new(&image);
        self.machine.in_namespace(|work| {
            cut::assert_killed(&self.boot(work, Some(cut::killed(point))));
            if cut_off {
                clone(&image, &left);
            }
        });
        drop(attached);
        if !cut_off {
            fs::rename(&image, &left).unwrap();
        }
        left
    }
}

fn every_point(kind: Kind, clean: bool) {
    let story = Story::new(kind, clean);
    let points = story.points();
    for (number, point) in (1..).zip(&points) {
        // By turns.
        let cut_off = number % 2 == 0;
        let left = story.cut(point, cut_off);
        let how = if cut_off { "cut off" } else { "killed" };
        story.recovers(
            &left,
            None,
            &format!("{how} before call {number}, {} {}", point.0, point.1),
        );
    }
    eprintln!("{} on {}: {} points", kind.backend, kind.filesystem, points.len());
    assert!(points.len() > 50, "only {} points: the calls are others now", points.len());
}

#[test]
fn on_btrfs_after_a_clean_end() {
    if is_root() {
        every_point(machine::BTRFS, true);
    }
}

#[test]
fn on_btrfs_after_a_cut() {
    if is_root() {
        every_point(machine::BTRFS, false);
    }
}

#[test]
fn on_an_overlay_on_ext4() {
    if is_root() {
        every_point(machine::KINDS[1], true);
    }
}

#[test]
fn on_an_overlay_on_xfs() {
    if is_root() {
        every_point(machine::KINDS[2], true);
    }
}
