//! Each command under attack, on a running root.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::attacker::attacked;
use crate::machine::{KINDS, Kind, is_root};
use crate::scenes::{SCENES, Scene, make_work, steps_on_work};
use crate::stage::{SECRET, Stage, set_up};

/// So long is each command run again and again; and so often at least, and at most.
const TIME: Duration = Duration::from_secs(1);
const RUNS: std::ops::Range<usize> = 4..30;

/// How long alice waits after what she does, at most, in microseconds, by turns.
const PAUSES: [u64; 4] = [0, 100, 3000, 60_000];

fn act(stage: &Stage<'_>, scene: &Scene) {
    let (mut swaps, mut runs, mut good) = (Vec::new(), 0, 0);
    let begin = Instant::now();
    while runs < RUNS.start || (runs < RUNS.end && begin.elapsed() < TIME) {
        (scene.prepare)(stage, runs);
        let steps = (scene.steps)(stage);
        // All at once, or one of them, which then happens all the more often.
        let one = runs / 2 % steps.len();
        let steps = if runs % 2 == 0 { &steps[..] } else { &steps[one..=one] };
        let pause = PAUSES[runs % PAUSES.len()];
        let (ran, swapped) = attacked(steps, pause, || stage.ebbtide(scene.command));
        let said = &ran.said;
        assert!(matches!(ran.status, Some(0..=3)), "{}: {:?}: {said}", scene.name, ran.status);
        assert!(!said.contains(SECRET), "{} tells what is outside: {said}", scene.name);
        good += usize::from(matches!(ran.status, Some(0 | 3)));
        swaps.push(swapped);
        runs += 1;
    }
    stage.assert_contained(scene.name);
    let without = swaps.iter().filter(|it| **it == 0).count();
    let all: u64 = swaps.iter().sum();
    let kind = stage.machine.kind;
    eprintln!(
        "{} on {} of {}: {runs} runs, of which {good} did it, {all} swaps meanwhile",
        scene.name, kind.backend, kind.filesystem
    );
    assert!(
        without * 2 <= runs && all > 0,
        "{}: {without} of {runs} runs were not attacked",
        scene.name
    );
}

fn each_command(kind: Kind, filtered: bool) {
    if !is_root() {
        return;
    }
    let machine = set_up(kind);
    machine.in_namespace(|work| {
        let (stage, _boot) = Stage::new(&machine, work, filtered);
        for scene in SCENES {
            act(&stage, scene);
        }
    });
}

#[test]
fn on_btrfs() {
    each_command(KINDS[0], false);
}

#[test]
fn on_an_overlay() {
    each_command(KINDS[1], false);
}

/// The same with `cp`, which follows links on the way: it is noticed, and soon.
#[test]
fn a_careless_program_is_caught() {
    if !is_root() {
        return;
    }
    let machine = set_up(KINDS[1]);
    machine.in_namespace(|work| {
        let (stage, _boot) = Stage::new(&machine, work, false);
        let is_caught = (0..100).any(|number| {
            make_work(&stage, number);
            let (from, to) = (stage.root.join("home/alice/work/a/dir"), stage.root.join("srv"));
            let copy = || Command::new("cp").arg("-r").arg(&from).arg(&to).output().unwrap();
            let (_, _) = attacked(&steps_on_work(&stage), 100, copy);
            !stage.leaks().is_empty()
        });
        assert!(is_caught, "nothing of what is outside was copied");
    });
}

/// A kernel, or a filter, that has no openat2(2).
#[test]
fn without_openat2() {
    each_command(KINDS[1], true);
}
