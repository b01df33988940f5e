//! They are killed before each call that could change a disk; the next boot, on the disk as it is at that
//! moment, has lost nothing.

use std::fs;
use std::path::PathBuf;

use crate::cut::{self, Point, clone};
use crate::machine::{KINDS, Kind, is_root};
use crate::scenes;
use crate::story::{Scene, Story};

impl Story {
    /// Ends one command before a call, and returns the disk that it left. `None`: it ended by itself,
    /// because it had not to wait as long as when the calls were counted.
    fn cut(&self, point: &Point, cut_off: bool) -> Option<PathBuf> {
        let (image, left) = (self.image(), self.farm.path().join("left"));
        let was_killed = self.live(&image, cut::killed(point), |output| {
            if output.status.success() {
                return false;
            }
            cut::assert_killed(&output);
            if cut_off {
                clone(&image, &left);
            }
            true
        });
        if was_killed && !cut_off {
            fs::rename(&image, &left).unwrap();
        }
        was_killed.then_some(left)
    }
}

fn every_point(kind: Kind, scene: Scene) {
    if !is_root() {
        return;
    }
    let name = scene.command.join(" ");
    let story = Story::new(kind, scene);
    let points = story.points();
    let mut missed = 0;
    for (number, point) in (1..).zip(&points) {
        // By turns.
        let cut_off = number % 2 == 0;
        let Some(left) = story.cut(point, cut_off) else {
            missed += 1;
            continue;
        };
        let how = if cut_off { "cut off" } else { "killed" };
        let point = format!("{how} before call {number}, {} {}", point.0, point.1);
        story.recovers(&left, &point);
    }
    let killed = points.len() - missed;
    eprintln!("{name} on {}: killed at {killed} points, and {missed} times too late", kind.backend);
    assert!(killed > 12 && killed > 2 * missed, "{killed} of {} points", points.len());
}

#[test]
fn keep_on_btrfs() {
    every_point(KINDS[0], scenes::keep());
}

#[test]
fn keep_on_an_overlay() {
    every_point(KINDS[1], scenes::keep());
}

#[test]
fn move_back_on_btrfs() {
    every_point(KINDS[0], scenes::move_back());
}

#[test]
fn move_back_on_an_overlay() {
    every_point(KINDS[1], scenes::move_back());
}

#[test]
fn restore_on_btrfs() {
    every_point(KINDS[0], scenes::restore());
}

#[test]
fn restore_on_an_overlay() {
    every_point(KINDS[1], scenes::restore());
}

#[test]
fn gc_on_btrfs() {
    every_point(KINDS[0], scenes::gc());
}

#[test]
fn gc_on_an_overlay() {
    every_point(KINDS[1], scenes::gc());
}

#[test]
fn gc_undeclared() {
    every_point(KINDS[1], scenes::gc_undeclared());
}

#[test]
fn keep_once() {
    every_point(KINDS[1], scenes::keep_once());
}

#[test]
fn apply() {
    every_point(KINDS[1], scenes::apply());
}

#[test]
fn forget() {
    every_point(KINDS[1], scenes::forget());
}

#[test]
fn flush() {
    every_point(KINDS[1], scenes::flush());
}
