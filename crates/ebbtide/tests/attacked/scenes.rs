//! The commands, what they find, and what alice does meanwhile.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use crate::attacker::{Step, as_alice};
use crate::machine::write;
use crate::stage::{KEPT, RETENTION, Stage, beside, link, tree};

/// A command, and what is done against it.
pub struct Scene {
    pub name: &'static str,
    /// Before each run, undisturbed. It gets the number of the run.
    pub prepare: fn(&Stage<'_>, usize),
    pub command: &'static [&'static str],
    pub steps: for<'s> fn(&'s Stage<'_>) -> Vec<(BorrowedFd<'s>, Step)>,
}

pub fn exchange<'s>(top: BorrowedFd<'s>, paths: &[&str]) -> Vec<(BorrowedFd<'s>, Step)> {
    let exchange = |path: &&str| {
        let path = Path::new(path);
        (top, Step::Exchange(path.to_owned(), beside(path)))
    };
    paths.iter().map(exchange).collect()
}

const WORK: [&str; 6] = [
    "work/a",
    "work/a/dir",
    "work/a/dir/deep",
    "work/a/dir/deep/more",
    "work/a/dir/file",
    "work/a/dir/deep/file",
];

pub fn steps_on_work<'s>(stage: &'s Stage<'_>) -> Vec<(BorrowedFd<'s>, Step)> {
    exchange(stage.home(), &WORK)
}

pub fn make_work(stage: &Stage<'_>, number: usize) {
    as_alice(stage.home(), |home| tree(home, "work/a", stage.outside(number)));
}

/// Nothing of it is kept, mounted or in the store afterwards.
fn forget_work(stage: &Stage<'_>) {
    let ran = stage.ebbtide(&["forget", "--move-back", "/home/alice/work/a/dir"]);
    // It may be declared, and not in place: so the run before may have left it.
    if ran.status != Some(0) {
        stage.undisturbed(&["forget", "/home/alice/work/a/dir"]);
        stage.undisturbed(&["gc", "--undeclared"]);
    }
}

/// What is kept of alice's from the beginning, and what is beside it.
fn declared<'s>(stage: &'s Stage<'_>) -> Vec<(BorrowedFd<'s>, Step)> {
    let inner = ["conf/app/data/in", "conf/app/data/in/dir", "conf/app/data/in/dir/deep"];
    let around = ["conf", "conf/app", "sync"];
    let sync = [
        Step::File("sync/state".into()),
        Step::Link("sync/state".into(), stage.outside(0).join("dir/file")),
        Step::File("sync/state".into()),
        Step::Pipe("sync/state".into()),
    ];
    let mut steps = exchange(stage.home(), &around);
    steps.extend(exchange(stage.home(), &inner));
    steps.extend(exchange(stage.stored.as_fd(), &inner));
    steps.extend(sync.map(|step| (stage.home(), step)));
    steps
}

fn make_declared(stage: &Stage<'_>, number: usize) {
    let outside = stage.outside(number);
    as_alice(stage.home(), |home| {
        tree(home, "conf/app/data/in", outside);
        for (path, to) in [("conf", ""), ("conf/app", ""), ("sync", "dir")] {
            link(&outside.join(to), &beside(&home.join(path)));
        }
        let _ = fs::remove_file(home.join("sync/state"));
        write(home, "sync/state", &format!("of run {number}\n"));
    });
}

pub const SCENES: &[Scene] = &[
    KEEP,
    MOVE_BACK,
    UNDECLARED,
    RESTORE,
    Scene { name: "apply", command: &["apply"], ..APPLY },
    Scene { name: "flush", command: &["flush"], ..DECLARED },
    Scene { name: "status", command: &["status", "--json"], ..DECLARED },
    Scene { name: "diff", command: &["diff", "--all"], ..WORK_DONE },
    Scene { name: "diff --content", command: CONTENT, ..WORK_DONE },
];

const KEEP: Scene = Scene {
    name: "keep",
    prepare: |stage, number| {
        forget_work(stage);
        make_work(stage, number);
    },
    command: &["keep", "/home/alice/work/a/dir"],
    steps: steps_on_work,
};

const MOVE_BACK: Scene = Scene {
    name: "forget --move-back",
    prepare: |stage, number| {
        forget_work(stage);
        make_work(stage, number);
        stage.undisturbed(&["keep", "/home/alice/work/a/dir"]);
    },
    command: &["forget", "--move-back", "/home/alice/work/a/dir"],
    steps: steps_on_work,
};

/// Of what is not declared any more, the store has all, and alice still has it open.
const UNDECLARED: Scene = Scene {
    name: "gc --undeclared",
    prepare: |stage, number| {
        forget_work(stage);
        make_work(stage, number);
        stage.undisturbed(&["keep", "/home/alice/work/a/dir"]);
        stage.undisturbed(&["forget", "/home/alice/work/a/dir"]);
        let outside = stage.outside(number);
        as_alice(stage.stored.as_fd(), |home| {
            for (path, to) in [("work/a", ""), ("work/a/dir", "dir")] {
                link(&outside.join(to), &beside(&home.join(path)));
            }
        });
    },
    command: &["gc", "--undeclared"],
    steps: |stage| exchange(stage.stored.as_fd(), &WORK),
};

const RESTORE: Scene = Scene {
    name: "restore",
    prepare: |stage, number| {
        forget_work(stage);
        as_alice(stage.home(), |home| tree(home, "old/x", stage.outside(number)));
        as_alice(stage.past.as_fd(), |home| tree(home, "old/x", stage.outside(number)));
    },
    command: &["restore", "--force", "--boot", "1", "/home/alice/old/x/dir"],
    steps: |stage| {
        let paths = OLD;
        [exchange(stage.home(), &paths), exchange(stage.past.as_fd(), &paths)].concat()
    },
};

const OLD: [&str; 4] = ["old/x", "old/x/dir", "old/x/dir/deep", "old/x/dir/file"];

const DECLARED: Scene = Scene { name: "", prepare: make_declared, command: &[], steps: declared };

/// Half of the times something is to be attached, and else it is to be taken away.
const APPLY: Scene = Scene {
    prepare: |stage, number| {
        make_declared(stage, number);
        make_work(stage, number);
        let more = if number % 2 == 0 { "\"work/a/dir\", " } else { "" };
        let kept = KEPT.replace("[\"conf", &format!("[{more}\"conf"));
        let declared = stage.machine.toml_with(RETENTION, &kept);
        write(&stage.root, "etc/ebbtide/ebbtide.toml", &declared);
    },
    steps: |stage| [declared(stage), steps_on_work(stage)].concat(),
    ..DECLARED
};

const CONTENT: &[&str] =
    &["diff", "--content", "/home/alice/work/a/dir/file", "/home/alice/work/a/dir/deep/file"];

const WORK_DONE: Scene = Scene {
    prepare: |stage, number| {
        make_declared(stage, number);
        make_work(stage, number);
    },
    ..APPLY
};
