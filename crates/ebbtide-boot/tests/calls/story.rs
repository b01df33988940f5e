//! A machine and what it has to lose, and the boot after one that went wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::cut::{self, Attached, HOSTILE, Point, clone, said};
use ebbtide_core::compiled::Backend;
use ebbtide_core::flush::Flush;
use ebbtide_core::once::Once;
use ebbtide_core::record::{Outcome, Record};
use testkit::mount::{Filesystem, Volume};

use crate::machine::{KINDS, Kind, Machine, read, run, write};

const FILES: &str = "files = [\"/etc/bound.conf\", { path = \"/etc/linked.conf\", method = \"symlink\" },\
    { path = \"/etc/issue\", method = \"sync\" }, { path = \"/etc/gone.conf\", method = \"sync\" }]\n";

/// A machine that was used twice, as every trial finds it.
pub struct Story {
    pub machine: Machine,
    pub farm: Volume,
    locator: PathBuf,
    clean: bool,
    /// How the boot exits that nothing happens to.
    pub exit: i32,
}

impl Story {
    pub fn new(kind: Kind, clean: bool) -> Self {
        let farm = Volume::in_memory(Filesystem::Xfs, 3 << 30).unwrap();
        let mut machine = Machine::within(farm.path(), kind);
        machine.name_device_by_uuid();
        let more = format!("[store.more]\n{} = \"more\"\n", machine.place_of_stores());
        let keep = |also: &str| {
            format!(
                "{more}[keep]\ndirectories = [\"/var/lib/app\", {also}{{ path = \"/srv/big\", \
                 store = \"more\" }}]\n{FILES}"
            )
        };
        machine.set_up(&keep(""));
        machine.boot("", |root| {
            for path in ["var/lib/app/data", "srv/big/data", "etc/bound.conf", "etc/linked.conf"] {
                write(root, path, "kept\n");
            }
            write(root, &format!("var/lib/app/{HOSTILE}"), "kept\n");
            write(root, "etc/gone.conf", "old\n");
            write(root, "stray-1", "x\n");
        });
        let life = |root: &Path| {
            fs::write(root.join("etc/.new"), "replaced\n").unwrap();
            fs::rename(root.join("etc/.new"), root.join("etc/issue")).unwrap();
            fs::remove_file(root.join("etc/gone.conf")).unwrap();
            write(root, "stray-2", "x\n");
            write(root, &format!("opt/new/{HOSTILE}"), "first\n");
            if kind.backend == Backend::Btrfs {
                let nested = root.join("nested");
                run("btrfs", &["-q", "subvolume", "create", nested.to_str().unwrap()]);
                write(root, "nested/file", "x\n");
            }
        };
        machine.live("", |root, boot| {
            life(root);
            write(root, &format!("srv/work/{HOSTILE}"), "carried\n");
            write(root, "srv/work/deep/file", "carried\n");
            let once = Once::open(boot, root).unwrap();
            once.apply(&once.plan(&["/srv/work".into()]).unwrap()).unwrap();
            if clean {
                ebbtide_core::shutdown::mark_clean(boot, root).unwrap();
            } else {
                rustix::fs::sync();
            }
        });
        // What is declared now has its first content on the root.
        machine.apply(&keep("\"/opt/new\", "));
        machine.look(|top| write(top, "outside/file", "not Ebbtide's\n"));
        Self::of(farm, machine, clean, 0)
    }

    /// A machine on which a boot came up, three after that did not, and then the base alone did not. Each left
    /// `stray-N` on its root, and changed a file that is copied in.
    pub fn of_failed_boots(kind: Kind) -> Self {
        let farm = Volume::in_memory(Filesystem::Xfs, 3 << 30).unwrap();
        let mut machine = Machine::within(farm.path(), kind);
        machine.name_device_by_uuid();
        machine.set_up(
            "[keep]\ndirectories = [\"/var/lib/app\"]\n\
             files = [{ path = \"/etc/issue\", method = \"sync\" }]\n",
        );
        for boot in 1..=5 {
            machine.live("", |root, life| {
                write(root, "var/lib/app/data", "kept\n");
                write(
                    root,
                    "etc/issue",
                    &format!("of boot {boot}, and longer each time{}\n", "!".repeat(boot)),
                );
                write(root, &format!("stray-{boot}"), "x\n");
                if boot == 1 {
                    assert!(ebbtide_core::shutdown::came_up(life, root).unwrap());
                }
                rustix::fs::sync();
            });
        }
        Self::of(farm, machine, false, 1)
    }

    /// A machine whose roots are in RAM. What was written in a boot was flushed, but for what came after that.
    pub fn in_ram() -> Self {
        let farm = Volume::in_memory(Filesystem::Xfs, 3 << 30).unwrap();
        let mut machine = Machine::within(farm.path(), KINDS[4]);
        machine.name_device_by_uuid();
        let more = format!("[store.more]\n{} = \"more\"\n", machine.place_of_stores());
        machine.set_up(&format!(
            "{more}[keep]\ndirectories = [\"/var/lib/app\", {{ path = \"/srv/big\", store = \"more\" }}]\n{FILES}"
        ));
        machine.live("", |root, boot| {
            for path in ["var/lib/app/data", "srv/big/data", "etc/bound.conf", "etc/linked.conf"] {
                write(root, path, "kept\n");
            }
            write(root, &format!("var/lib/app/{HOSTILE}"), "kept\n");
            fs::write(root.join("etc/.new"), "replaced\n").unwrap();
            fs::rename(root.join("etc/.new"), root.join("etc/issue")).unwrap();
            write(root, "etc/gone.conf", "old\n");
            Flush::open(boot, root).unwrap().apply(&mut |_, _| ()).unwrap();
            write(root, "etc/issue", "after the flush\n");
            write(root, "stray-1", "x\n");
        });
        machine.look(|top| write(top, "outside/file", "not Ebbtide's\n"));
        Self::of(farm, machine, false, 0)
    }

    fn of(farm: Volume, mut machine: Machine, clean: bool, exit: i32) -> Self {
        let locator = farm.path().join("locator.json");
        let boot = machine.boot_with(Path::new("/"), "");
        fs::write(&locator, serde_json::to_vec(&boot.locator).unwrap()).unwrap();
        machine.detach_all();
        Self { machine, farm, locator, clean, exit }
    }

    /// Boots below a directory, in the mount namespace of the caller; as an argument of another program,
    /// if there is one.
    pub fn boot(&self, work: &Path, tracer: Option<Command>) -> Output {
        let command_line = work.join("cmdline");
        fs::write(&command_line, "").unwrap();
        fs::create_dir_all(work.join("root")).unwrap();
        let program = env!("CARGO_BIN_EXE_ebbtide-boot");
        let mut command = match tracer {
            Some(mut tracer) => {
                tracer.arg(program);
                tracer
            }
            None => Command::new(program),
        };
        command.args(["up", "--run"]).arg(work.join("run")).arg("--sysroot").arg(work.join("root"));
        command.arg("--config").arg(&self.locator).arg("--cmdline").arg(&command_line);
        command.output().unwrap()
    }

    /// The calls that could change a disk, of a boot that nobody ends.
    pub fn points(&self) -> Vec<Point> {
        let trace = self.farm.path().join("trace");
        self.traced(&trace, cut::traced(&trace))
    }

    /// The calls of a boot that a tracer writes to this file.
    pub fn traced(&self, trace: &Path, tracer: Command) -> Vec<Point> {
        let image = self.farm.path().join("image");
        clone(&self.machine.image(), &image);
        let attached = Attached::new(&image);
        self.machine.in_namespace(|work| {
            let output = self.boot(work, Some(tracer));
            assert_eq!(output.status.code(), Some(self.exit), "{}", said(&output));
        });
        drop(attached);
        cut::points(trace)
    }

    /// The boot after that is as good as any. `before` is what the boot before it said, if that went on.
    pub fn recovers(&self, image: &Path, before: Option<&str>, point: &str) {
        let attached = Attached::new(image);
        self.machine.in_namespace(|work| {
            let output = self.boot(work, None);
            assert!(output.status.success(), "{point}: {}", said(&output));
            let record = fs::read(work.join("run/boot.json")).unwrap();
            let record: Record = serde_json::from_slice(&record).unwrap();
            assert_eq!(record.outcome, Outcome::Reset, "{point}: {}", said(&output));
            assert!(record.number.0 > 2, "{point}: {:?}", record.number);
            let entries = record.attached.as_ref().unwrap();
            assert!(entries.missing.is_empty(), "{point}: {entries:?}");
            self.is_complete(&work.join("root"), point);
            let top = work.join("top");
            fs::create_dir_all(&top).unwrap();
            let options = if self.machine.kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
            run("mount", &["-o", options, &attached.0, top.to_str().unwrap()]);
            self.has_lost_nothing(&top, point);
            let after = Aftermath { root: &work.join("root"), top: &top, record: &record, point };
            match before {
                None => self.is_carried_once(&after),
                Some(before) => {
                    self.is_carried_or_left(&after, &(before.to_owned() + &said(&output)));
                }
            }
        });
    }

    pub fn is_complete(&self, root: &Path, point: &str) {
        let first = read(root, &format!("opt/new/{HOSTILE}"));
        assert_eq!(first.as_deref(), Some("first\n"), "{point}: first content");
        self.has_kept(root, point);
    }

    /// All but the entry that was declared last.
    pub fn has_kept(&self, root: &Path, point: &str) {
        // The link leads to where stores are in the running system.
        assert!(root.join("etc/linked.conf").is_symlink(), "{point}");
        for path in ["var/lib/app/data", "srv/big/data", "etc/bound.conf"] {
            assert_eq!(read(root, path).as_deref(), Some("kept\n"), "{point}: {path}");
        }
        let hostile = read(root, &format!("var/lib/app/{HOSTILE}"));
        assert_eq!(hostile.as_deref(), Some("kept\n"), "{point}");
        assert_eq!(read(root, "etc/issue").as_deref(), Some("replaced\n"), "{point}");
        // Without the mark of a clean end, nothing is believed to be deleted.
        let gone = read(root, "etc/gone.conf");
        assert!(gone.as_deref() == Some("old\n") || (self.clean && gone.is_none()), "{point}");
        for stray in ["stray-1", "stray-2", "nested"] {
            assert!(!root.join(stray).exists(), "{point}: {stray}");
        }
    }

    /// The boot that was ended has done it if its record says so; else this one has.
    fn is_carried_once(&self, after: &Aftermath<'_>) {
        let Aftermath { root, top, record, point } = *after;
        let number = record.number.0;
        let earlier = (3..number).filter_map(|number| {
            let record = fs::read(top.join(format!("ebbtide/boots/{number}.json"))).ok()?;
            let record: Record = serde_json::from_slice(&record).unwrap();
            record.carried.map(|carried| (number, carried))
        });
        let carried = earlier.chain(record.carried.clone().map(|it| (number, it)));
        let all: Vec<_> = carried.collect();
        let [(by, carried)] = all.as_slice() else { panic!("{point}: {all:?}") };
        assert_eq!((carried.from.0, carried.left.len()), (2, 0), "{point}: {carried:?}");
        assert_eq!(carried.paths, [PathBuf::from("/srv/work")], "{point}");
        assert_eq!(has_carried(root, point), *by == number, "{point}");
        assert!(*by == number || has_carried(&self.past(top, *by), point), "{point}");
        assert!(
            has_carried(&self.past(top, 2), point),
            "{point}: the past root has it all the same"
        );
        assert!(!top.join("state/.ebbtide/once.json").exists(), "{point}");
    }

    /// What a boot could not carry over is where it was, and somebody was told.
    fn is_carried_or_left(&self, after: &Aftermath<'_>, told: &str) {
        let Aftermath { root, top, record, point } = *after;
        let pasts: Vec<PathBuf> =
            (2..record.number.0).map(|number| self.past(top, number)).collect();
        let old = pasts.iter().find(|past| past.join("stray-2").exists()).unwrap();
        assert!(has_carried(old, point), "{point}");
        let others = pasts.iter().filter(|past| *past != old && past.exists());
        let is_carried = others.chain([&root.to_owned()]).any(|root| has_carried(root, point));
        assert!(is_carried || told.contains("not carried over the reset: /srv/work"), "{point}");
    }

    /// What was written to a past root.
    fn past(&self, top: &Path, number: u64) -> PathBuf {
        self.inside(&top.join(format!("ebbtide/past/{number}")))
    }

    /// What was written to a root at this place.
    pub fn inside(&self, root: &Path) -> PathBuf {
        match self.machine.kind.backend {
            Backend::Btrfs => root.to_owned(),
            _ => root.join("upper"),
        }
    }

    fn has_lost_nothing(&self, top: &Path, point: &str) {
        assert_eq!(read(top, "outside/file").as_deref(), Some("not Ebbtide's\n"), "{point}");
        assert_eq!(read(top, "state/etc/linked.conf").as_deref(), Some("kept\n"), "{point}");
        let is_btrfs = self.machine.kind.backend == Backend::Btrfs;
        let roots: Vec<PathBuf> = fs::read_dir(top.join("ebbtide/past"))
            .unwrap()
            .map(|entry| entry.unwrap().path().join(if is_btrfs { "" } else { "upper" }))
            .collect();
        for path in ["stray-1", "stray-2"] {
            let count = roots.iter().filter(|root| root.join(path).exists()).count();
            assert_eq!(count, 1, "{point}: {count} past roots have {path}");
        }
        if is_btrfs {
            assert!(roots.iter().any(|root| root.join("nested/file").exists()), "{point}");
        }
    }
}

/// What there is after a boot.
struct Aftermath<'a> {
    root: &'a Path,
    /// The top level of the volume.
    top: &'a Path,
    record: &'a Record,
    point: &'a str,
}

/// Whether a root has what was to be carried over, whole; or nothing of it.
fn has_carried(root: &Path, point: &str) -> bool {
    let files = [format!("srv/work/{HOSTILE}"), "srv/work/deep/file".to_owned()];
    let found = files.map(|path| read(root, &path));
    assert_eq!(found[0], found[1], "{point}");
    assert!(found[0].as_deref().is_none_or(|text| text == "carried\n"), "{point}: {found:?}");
    assert_eq!(root.join("srv/work").exists(), found[0].is_some(), "{point}");
    found[0].is_some()
}
