//! Commands that change a running machine are killed before each system call that could change a disk;
//! the next boot, on the disk as it is at that moment, has lost nothing.
//!
//! Only the first thread counts: the others mount, in namespaces of their own.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../ebbtide-core/tests/machine/mod.rs"]
mod machine;

#[path = "../../ebbtide-core/tests/machine/cut.rs"]
mod cut;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cut::{Attached, HOSTILE, Point, clone, said};
use ebbtide_core::boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::record::{BootNumber, Outcome};
use machine::{KINDS, Kind, Machine, is_root, read, run, write};
use testkit::mount::{Filesystem, Volume};

const KEPT: &str = "[keep]\ndirectories = [\n  \"/var/lib/app\",\n  \"/etc/ebbtide\",\n]\n\
    files = [{ path = \"/etc/issue\", method = \"sync\" }, \"/etc/bound.conf\"]\n";

/// Of two past roots the older one may go.
const RETENTION: &str = "keep-boots = { min = 1, count = 1, days = 100, free = \"0%\" }\n";

/// A command in the life of a machine.
struct Scene {
    /// Done to the running root before the command.
    before: fn(&Machine, &Path),
    command: &'static [&'static str],
    /// Looks at the root of the boot after the one in which the command was killed.
    after: fn(&After<'_>),
}

/// What a boot after that finds.
struct After<'a> {
    root: &'a Path,
    /// The tree of the root that the command ran on.
    last: &'a Path,
    /// The top level of the volume.
    top: &'a Path,
    point: &'a str,
}

impl After<'_> {
    /// The same file in the new root and in the last one.
    fn now_and_then(&self, path: &str) -> (Option<String>, Option<String>) {
        (read(self.root, path), read(self.last, path))
    }
}

/// A machine that was used twice, as every trial finds it.
struct Story {
    machine: Machine,
    farm: Volume,
    scene: Scene,
}

impl Story {
    fn new(kind: Kind, scene: Scene) -> Self {
        let farm = Volume::in_memory(Filesystem::Xfs, 3 << 30).unwrap();
        let mut machine = Machine::within(farm.path(), kind);
        machine.name_device_by_uuid();
        machine.set_up_with(RETENTION, KEPT);
        let declared = machine.toml_with(RETENTION, KEPT);
        machine.boot("", |root| {
            write(root, "etc/ebbtide/ebbtide.toml", &declared);
            write(root, "var/lib/app/data", "kept\n");
            write(root, &format!("var/lib/app/{HOSTILE}"), "kept\n");
            write(root, "etc/bound.conf", "kept\n");
            write(root, "srv/doc", "of boot 1\n");
        });
        machine.boot("", |root| write(root, "srv/doc", "of boot 2\n"));
        machine.detach_all();
        Self { machine, farm, scene }
    }

    /// Boots the image, and runs the command as an argument of another program.
    fn live<T: Send>(
        &self,
        image: &Path,
        tracer: Command,
        end: impl FnOnce(Output) -> T + Send,
    ) -> T {
        let attached = Attached::new(image);
        let ended = self.machine.in_namespace(|work| {
            let (root, boot) = self.boot(work);
            (self.scene.before)(&self.machine, &root);
            rustix::fs::sync();
            run("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
            fs::create_dir("/run/ebbtide").unwrap();
            run("mount", &["--rbind", boot.run.to_str().unwrap(), "/run/ebbtide"]);
            let mut command = tracer;
            let ended = command
                .arg(env!("CARGO_BIN_EXE_ebbtide"))
                .arg("--sysroot")
                .arg(&root)
                .args(self.scene.command)
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .stdin(Stdio::null())
                .output();
            end(ended.unwrap())
        });
        drop(attached);
        ended
    }

    fn boot(&self, work: &Path) -> (PathBuf, boot::Boot) {
        let root = work.join("root");
        fs::create_dir_all(&root).unwrap();
        let boot = self.machine.boot_with(&work.join("run"), "");
        let mut said = Vec::new();
        let record = boot::up(&boot, &root, &mut |_, text| said.push(text.to_owned()))
            .unwrap_or_else(|failure| panic!("{}", failure.chain()));
        assert_eq!(record.outcome, Outcome::Reset, "{said:?}");
        (root, boot)
    }

    fn image(&self) -> PathBuf {
        let image = self.farm.path().join("image");
        clone(&self.machine.image(), &image);
        image
    }

    /// The calls of a command that nobody ends.
    fn points(&self) -> Vec<Point> {
        let trace = self.farm.path().join("trace");
        let output = self.live(&self.image(), cut::traced(&trace), |output| output);
        assert!(output.status.success(), "{}", said(&output));
        cut::points(&trace)
    }

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

    /// The next boot is as good as any.
    fn recovers(&self, image: &Path, point: &str) {
        let attached = Attached::new(image);
        self.machine.in_namespace(|work| {
            let (root, boot) = self.boot(work);
            let record = boot.read_record().unwrap();
            assert_eq!(record.number, BootNumber(4), "{point}");
            let entries = record.attached.as_ref().unwrap();
            assert!(entries.missing.is_empty(), "{point}: {entries:?}");
            assert_eq!(read(&root, "etc/bound.conf").as_deref(), Some("kept\n"), "{point}");
            let top = work.join("top");
            fs::create_dir_all(&top).unwrap();
            let options = if self.machine.kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
            run("mount", &["-o", options, &attached.0, top.to_str().unwrap()]);
            // Of a past root in a directory, the upper one has what was written.
            let within = if self.machine.kind.backend == Backend::Btrfs { "" } else { "upper" };
            let last = top.join("ebbtide/past/3").join(within);
            assert!(last.is_dir(), "{point}: the last root is not there");
            (self.scene.after)(&After { root: &root, last: &last, top: &top, point });
        });
        // What was there before, and nobody wanted to be deleted, can be read.
        let doc = self.machine.past(BootNumber(2), |root| read(root, "srv/doc"));
        assert_eq!(doc.as_deref(), Some("of boot 2\n"), "{point}");
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
    assert!(killed > 20 && killed > 2 * missed, "{killed} of {} points", points.len());
}

fn is_app_whole(after: &After<'_>) {
    for path in ["var/lib/app/data", &format!("var/lib/app/{HOSTILE}")] {
        assert_eq!(read(after.root, path).as_deref(), Some("kept\n"), "{}", after.point);
    }
}

const NEW: [(&str, &str); 3] = [
    ("srv/new/file", "new\n"),
    ("srv/new/new\nline\u{1b}[31m", "odd\n"),
    ("etc/app.conf", "blue\n"),
];

fn write_new(_: &Machine, root: &Path) {
    for (path, content) in NEW {
        write(root, path, content);
    }
}

/// What was to be kept is there now, or still in the root that it was in; never a part of it.
fn is_new_somewhere(after: &After<'_>) {
    is_app_whole(after);
    for (path, content) in NEW {
        let (now, then) = after.now_and_then(path);
        let copies = [&now, &then, &read(after.top, &format!("state/{path}"))];
        assert!(copies.iter().any(|copy| copy.is_some()), "{}: {path} is lost", after.point);
        for copy in copies.into_iter().flatten() {
            assert_eq!(copy, content, "{}: {path}", after.point);
        }
    }
    let names = fs::read_dir(after.root.join("srv/new")).into_iter().flatten().count();
    assert!(names == 0 || names == 2, "{}: {names} of 2 in a directory", after.point);
}

fn keep() -> Scene {
    Scene {
        before: write_new,
        command: &["keep", "/srv/new", "/etc/app.conf"],
        after: is_new_somewhere,
    }
}

#[test]
fn keep_on_btrfs() {
    every_point(KINDS[0], keep());
}

#[test]
fn keep_on_an_overlay() {
    every_point(KINDS[1], keep());
}

#[test]
fn apply() {
    let before = |machine: &Machine, root: &Path| {
        write_new(machine, root);
        let more = KEPT
            .replace("[keep]\n", "[keep]\n# more\n")
            .replace("directories = [\n", "directories = [\n  \"/srv/new\",\n");
        let more = more.replace("files = [", "files = [\"/etc/app.conf\", ");
        write(root, "etc/ebbtide/ebbtide.toml", &machine.toml_with(RETENTION, &more));
    };
    every_point(KINDS[1], Scene { before, command: &["apply"], after: is_new_somewhere });
}

#[test]
fn forget() {
    let after = |after: &After<'_>| {
        for path in ["var/lib/app/data", &format!("var/lib/app/{HOSTILE}")] {
            let stored = read(after.top, &format!("state/{path}"));
            assert_eq!(stored.as_deref(), Some("kept\n"), "{}: {path}", after.point);
            let now = read(after.root, path);
            assert!(now.is_none_or(|it| it == "kept\n"), "{}: {path}", after.point);
        }
    };
    every_point(KINDS[1], Scene { before: |_, _| (), command: &["forget", "/var/lib/app"], after });
}

/// How many files below a directory have this content.
fn with_content(below: &Path, content: &str) -> usize {
    let entries = fs::read_dir(below).into_iter().flatten().map(|entry| entry.unwrap());
    let count = |entry: fs::DirEntry| match entry.file_type().unwrap() {
        kind if kind.is_dir() => with_content(&entry.path(), content),
        kind if kind.is_file() => {
            usize::from(fs::read(entry.path()).unwrap() == content.as_bytes())
        }
        _ => 0,
    };
    entries.map(count).sum()
}

fn restore() -> Scene {
    let after = |after: &After<'_>| {
        is_app_whole(after);
        let now = read(after.last, "srv/doc");
        let is_one = ["of boot 1\n", "of boot 3\n"].iter().any(|it| now.as_deref() == Some(it));
        assert!(is_one, "{}: {now:?}", after.point);
        let replaced = with_content(after.last, "of boot 3\n");
        assert_eq!(replaced, 1, "{}: what was replaced is there {replaced} times", after.point);
    };
    Scene {
        before: |_, root| write(root, "srv/doc", "of boot 3\n"),
        command: &["restore", "--force", "--boot", "1", "/srv/doc"],
        after,
    }
}

#[test]
fn restore_on_btrfs() {
    every_point(KINDS[0], restore());
}

#[test]
fn restore_on_an_overlay() {
    every_point(KINDS[1], restore());
}

fn gc() -> Scene {
    Scene { before: |_, _| (), command: &["gc"], after: is_app_whole }
}

#[test]
fn gc_on_btrfs() {
    every_point(KINDS[0], gc());
}

#[test]
fn gc_on_an_overlay() {
    every_point(KINDS[1], gc());
}

#[test]
fn flush() {
    let before = |_: &Machine, root: &Path| {
        fs::write(root.join("etc/.new"), "replaced\n").unwrap();
        fs::rename(root.join("etc/.new"), root.join("etc/issue")).unwrap();
    };
    let after = |after: &After<'_>| {
        is_app_whole(after);
        let now = read(after.root, "etc/issue");
        assert_eq!(now.as_deref(), Some("replaced\n"), "{}", after.point);
    };
    every_point(KINDS[1], Scene { before, command: &["flush"], after });
}

/// Sets up an empty volume on which something lies already.
struct SetUp {
    machine: Machine,
    farm: Volume,
}

impl SetUp {
    fn new(kind: Kind) -> Self {
        let farm = Volume::in_memory(Filesystem::Xfs, 3 << 30).unwrap();
        let mut machine = Machine::within(farm.path(), kind);
        machine.name_device_by_uuid();
        machine.look(|top| write(top, "outside/file", "not Ebbtide's\n"));
        machine.source();
        let config = machine.toml_with("ephemeral = [\"/home\", \"/root\", \"/srv\"]\n", KEPT);
        fs::write(farm.path().join("config.toml"), config).unwrap();
        machine.detach_all();
        Self { machine, farm }
    }

    fn init(&self, mut tracer: Command) -> Output {
        tracer
            .arg(env!("CARGO_BIN_EXE_ebbtide"))
            .args(["init", "--yes", "--updaters", "keep", "--base-directory"])
            .arg(self.machine.source())
            .args(["--device", &self.machine.device.0, "--config"])
            .arg(self.farm.path().join("config.toml"))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs it on a copy of the volume, which is returned.
    fn on_a_copy(&self, tracer: Command) -> (Output, PathBuf) {
        let image = self.farm.path().join("image");
        clone(&self.machine.image(), &image);
        let attached = Attached::new(&image);
        let output = self.machine.in_namespace(|_| self.init(tracer));
        drop(attached);
        (output, image)
    }

    /// What was there is there. Without its marker it is no container, and after what a person is told
    /// to do it can be set up again; with it, all of it is there, and it boots.
    fn recovers(&self, image: &Path, point: &str) {
        let attached = Attached::new(image);
        self.machine.in_namespace(|work| {
            let top = work.join("top");
            fs::create_dir_all(&top).unwrap();
            let is_btrfs = self.machine.kind.filesystem == "btrfs";
            let options = if is_btrfs { "subvolid=5" } else { "rw" };
            run("mount", &["-o", options, &attached.0, top.to_str().unwrap()]);
            let outside = read(&top, "outside/file");
            assert_eq!(outside.as_deref(), Some("not Ebbtide's\n"), "{point}");
            let is_marked = top.join("ebbtide/marker.json").exists();
            let again = self.init(Command::new("env"));
            let text = String::from_utf8_lossy(&again.stderr);
            let remains = top.join("ebbtide").exists() && !again.status.success();
            if is_marked {
                assert!(text.contains("is a container already"), "{point}: {text}");
            } else if remains {
                assert!(text.contains("exists already and is no container"), "{point}: {text}");
                for place in ["ebbtide/root", "ebbtide/root.new", "ebbtide/bases/1", "state"] {
                    let place = top.join(place);
                    if is_btrfs && place.exists() {
                        run("btrfs", &["-q", "subvolume", "delete", place.to_str().unwrap()]);
                    }
                }
                for place in ["ebbtide", "state"].map(|place| top.join(place)) {
                    if place.exists() {
                        fs::remove_dir_all(place).unwrap();
                    }
                }
                let again = self.init(Command::new("env"));
                assert!(again.status.success(), "{point}: {}", said(&again));
            } else {
                assert!(again.status.success(), "{point}: {}", said(&again));
            }
            let root = work.join("root");
            fs::create_dir_all(&root).unwrap();
            let boot = self.machine.boot_with(&work.join("run"), "");
            let record = boot::up(&boot, &root, &mut |_, _| ())
                .unwrap_or_else(|failure| panic!("{point}: {}", failure.chain()));
            let missing = record.attached.map(|attached| attached.missing);
            assert_eq!(missing, Some(Vec::new()), "{point}");
            assert_eq!(read(&root, "etc/issue").as_deref(), Some("from the base\n"), "{point}");
        });
    }
}

/// There are many points, and most are in the copy of the base: one of so many is taken.
const EACH: usize = 10;

fn init_at_points(kind: Kind) {
    if !is_root() {
        return;
    }
    let story = SetUp::new(kind);
    let trace = story.farm.path().join("trace");
    let (output, _) = story.on_a_copy(cut::traced(&trace));
    assert!(output.status.success(), "{}", said(&output));
    let points = cut::points(&trace);
    let chosen: Vec<_> = points.iter().step_by(EACH).chain(points.iter().rev().take(40)).collect();
    for point in &chosen {
        let (output, image) = story.on_a_copy(cut::killed(point));
        cut::assert_killed(&output);
        story.recovers(&image, &format!("killed before {} {}", point.0, point.1));
    }
    eprintln!("init of {}: {} of {} points", kind.backend, chosen.len(), points.len());
    assert!(points.len() > 200, "only {} points: the calls are others now", points.len());
}

#[test]
fn init_on_btrfs() {
    init_at_points(KINDS[0]);
}

#[test]
fn init_on_an_overlay() {
    init_at_points(KINDS[1]);
}
