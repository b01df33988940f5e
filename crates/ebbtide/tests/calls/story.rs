//! A machine, a command in its life, and the boot after that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ebbtide_core::boot;
use ebbtide_core::compiled::Backend;
use ebbtide_core::record::{BootNumber, Outcome};
use testkit::mount::{Filesystem, Volume};

use crate::cut::{self, Attached, HOSTILE, Point, clone, said};
use crate::machine::{Kind, Machine, read, run, write};

pub const KEPT: &str = "[keep]\ndirectories = [\n  \"/var/lib/app\",\n  \"/etc/ebbtide\",\n]\n\
    files = [{ path = \"/etc/issue\", method = \"sync\" }, \"/etc/bound.conf\"]\n";

/// Of two past roots the older one may go.
pub const RETENTION: &str = "keep-boots = { min = 1, count = 1, days = 100, free = \"0%\" }\n";

/// A command in the life of a machine.
#[derive(Clone, Copy)]
pub struct Scene {
    /// Done to the running root before the command.
    pub before: fn(&Machine, &Path),
    pub command: &'static [&'static str],
    /// Looks at the root of the boot after the one in which the command was killed.
    pub after: fn(&After<'_>),
}

/// What a boot after that finds.
pub struct After<'a> {
    pub root: &'a Path,
    /// The tree of the root that the command ran on.
    pub last: &'a Path,
    /// The top level of the volume.
    pub top: &'a Path,
    pub point: &'a str,
}

impl After<'_> {
    /// The same file in the new root and in the last one.
    pub fn now_and_then(&self, path: &str) -> (Option<String>, Option<String>) {
        (read(self.root, path), read(self.last, path))
    }
}

/// A machine that was used twice, as every trial finds it.
pub struct Story {
    machine: Machine,
    pub farm: Volume,
    pub scene: Scene,
}

impl Story {
    pub fn new(kind: Kind, scene: Scene) -> Self {
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
    pub fn live<T: Send>(
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

    pub fn image(&self) -> PathBuf {
        let image = self.farm.path().join("image");
        clone(&self.machine.image(), &image);
        image
    }

    /// The calls of a command that nobody ends.
    pub fn points(&self) -> Vec<Point> {
        let trace = self.farm.path().join("trace");
        self.traced(&trace, cut::traced(&trace))
    }

    /// The calls of a command that a tracer writes to this file.
    pub fn traced(&self, trace: &Path, tracer: Command) -> Vec<Point> {
        let output = self.live(&self.image(), tracer, |output| output);
        assert!(output.status.success(), "{}", said(&output));
        cut::points(trace)
    }

    /// The next boot is as good as any.
    pub fn recovers(&self, image: &Path, point: &str) {
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
