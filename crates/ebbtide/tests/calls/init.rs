//! A set-up is killed, too; what it leaves is whole or can be set up again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ebbtide_core::boot;
use testkit::mount::{Filesystem, Volume};

use crate::cut::{self, Attached, clone, said};
use crate::machine::{KINDS, Kind, Machine, is_root, read, run, write};
use crate::story::KEPT;

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
