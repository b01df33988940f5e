//! A machine without a kernel of its own: a volume in a loop image, set up for real, and boots that
//! are `reset`, mount and `attach` in a mount namespace of their own.

#![allow(dead_code, unused_macros)]

use std::fs;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use ebbtide_core::backend;
use ebbtide_core::boot::{self, Boot};
use ebbtide_core::compiled::{Backend, ContainerRef, DeviceSpec};
use ebbtide_core::container::{self, Container};
use ebbtide_core::declaration::{self, SourceFile};
use ebbtide_core::failure::Level;
use ebbtide_core::locator::{Locator, StateStore};
use ebbtide_core::record::{BootNumber, Record};
use ebbtide_core::setup::{self, BaseSource, Request, Updaters};
use ebbtide_core::shutdown;
use ebbtide_core::status::{self, Status};
use ebbtide_core::store;
use ebbtide_core::switches::Switches;
use ebbtide_sys::mount;

/// Says loudly that a test did not run.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root for loop devices and mounts");
    }
    root
}

/// How a machine makes its roots, and on which filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub backend: Backend,
    pub filesystem: &'static str,
}

/// All that there are.
pub const KINDS: [Kind; 5] = [
    BTRFS,
    Kind { backend: Backend::Overlay, filesystem: "ext4" },
    Kind { backend: Backend::Overlay, filesystem: "xfs" },
    Kind { backend: Backend::Overlay, filesystem: "btrfs" },
    Kind { backend: Backend::Tmpfs, filesystem: "ext4" },
];

pub const BTRFS: Kind = Kind { backend: Backend::Btrfs, filesystem: "btrfs" };

/// Makes tests of functions that take a [`Kind`]: one for subvolumes, one for an overlay.
macro_rules! on_each_disk {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[test]
            fn btrfs() {
                if $crate::machine::is_root() {
                    super::$name($crate::machine::KINDS[0]);
                }
            }

            #[test]
            fn overlay() {
                if $crate::machine::is_root() {
                    super::$name($crate::machine::KINDS[1]);
                }
            }
        }
    )*};
}

pub struct Machine {
    pub kind: Kind,
    directory: tempfile::TempDir,
    loops: Vec<String>,
    pub device: DeviceSpec,
    pub container: ContainerRef,
    pub import_limit: u64,
}

impl Drop for Machine {
    fn drop(&mut self) {
        for device in &self.loops {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits for a device that was told to give its image up: it does when its last user has gone, a mount
/// namespace that is about to end perhaps. Only then may another one have the same UUID.
pub fn wait_until_free(device: &str) {
    for _ in 0..500 {
        let left = Command::new("losetup").arg(device).output().unwrap();
        if !left.status.success() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Writes a file, with its parents.
pub fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub fn read(root: &Path, path: &str) -> Option<String> {
    fs::read_to_string(root.join(path.trim_start_matches('/'))).ok()
}

/// What a boot leaves for a test to look at.
pub struct Booted {
    pub record: Record,
    pub messages: Vec<(Level, String)>,
}

impl Booted {
    pub fn errors(&self) -> Vec<&str> {
        let grave = self.messages.iter().filter(|(level, _)| *level <= Level::Warning);
        grave.map(|(_, text)| text.as_str()).collect()
    }
}

impl Machine {
    /// An empty volume for roots that are subvolumes.
    pub fn new() -> Self {
        Self::of(BTRFS)
    }

    /// An empty volume.
    pub fn of(kind: Kind) -> Self {
        Self::within(&std::env::temp_dir(), kind)
    }

    /// As [`Self::of`], with its images below this directory.
    pub fn within(above: &Path, kind: Kind) -> Self {
        let directory = tempfile::tempdir_in(above).unwrap();
        let mut machine = Self {
            kind,
            directory,
            loops: Vec::new(),
            device: DeviceSpec(String::new()),
            container: ContainerRef { path: PathBuf::from("ebbtide"), uuid: setup::new_uuid() },
            import_limit: boot::IMPORT_LIMIT,
        };
        machine.device = DeviceSpec(machine.disk("volume", kind.filesystem));
        machine
    }

    /// The image of the volume.
    pub fn image(&self) -> PathBuf {
        self.directory.path().join("volume")
    }

    /// Calls the volume's device by what is on it: a copy in another device is the same then.
    pub fn name_device_by_uuid(&mut self) {
        let uuid = run("blkid", &["--probe", "-s", "UUID", "-o", "value", &self.device.0]);
        self.device = DeviceSpec(format!("UUID={}", uuid.trim()));
    }

    /// Takes all images out of their devices.
    pub fn detach_all(&mut self) {
        for device in self.loops.clone() {
            self.detach_disk(&device);
        }
    }

    /// Adds a disk with a filesystem, and returns its device.
    pub fn disk(&mut self, name: &str, fstype: &str) -> String {
        self.disk_of(name, fstype, 600)
    }

    /// As [`Self::disk`], with a size in MiB.
    pub fn disk_of(&mut self, name: &str, fstype: &str, size: u64) -> String {
        let image = self.directory.path().join(name);
        fs::File::create(&image).unwrap().set_len(size << 20).unwrap();
        let image = image.to_str().unwrap();
        run(&format!("mkfs.{fstype}"), &["-q", image]);
        let device = run("losetup", &["--find", "--show", image]).trim().to_owned();
        self.loops.push(device.clone());
        device
    }

    pub fn detach_disk(&mut self, device: &str) {
        run("losetup", &["-d", device]);
        wait_until_free(device);
        self.loops.retain(|other| other != device);
    }

    /// A small installed system.
    pub fn source(&self) -> PathBuf {
        let root = self.directory.path().join("source");
        for directory in ["dev", "proc", "sys", "run", "tmp", "usr", "home", "root", "srv"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::set_permissions(root.join("root"), fs::Permissions::from_mode(0o700)).unwrap();
        write(
            &root,
            "etc/passwd",
            "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
        );
        write(&root, "etc/group", "root:x:0:\nalice:x:1000:\nadm:x:4:\n");
        write(&root, "etc/fstab", "UUID=old / btrfs subvolid=257 0 1\n");
        write(&root, "etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        write(&root, "etc/ssh/ssh_host_ed25519_key", "PRIVATE\n");
        fs::set_permissions(
            root.join("etc/ssh/ssh_host_ed25519_key"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        write(&root, "etc/issue", "from the base\n");
        write(&root, "var/log/old.log", "before\n");
        write(&root, "home/alice/letter", "dear\n");
        root
    }

    /// `[root]` and a state store on this volume.
    pub fn toml(&self, rest: &str) -> String {
        self.toml_with("", rest)
    }

    /// The same, with more about the root.
    pub fn toml_with(&self, root: &str, rest: &str) -> String {
        format!(
            "version = 1\n[root]\nbackend = \"{}\"\ndevice = \"{}\"\nuuid = \"{}\"\n{root}\
             [store.state]\n{} = \"state\"\n{rest}",
            self.kind.backend,
            self.device,
            self.container.uuid,
            self.place_of_stores()
        )
    }

    fn request(&self, base: BaseSource, rest: &str) -> Request {
        self.request_of(base, self.toml(rest))
    }

    fn request_of(&self, base: BaseSource, text: String) -> Request {
        let source = SourceFile { name: "test.toml".to_owned(), text: text.clone() };
        let outcome = declaration::check(std::slice::from_ref(&source));
        let problems: Vec<_> = outcome
            .problems
            .iter()
            .map(|problem| problem.render(std::slice::from_ref(&source), false))
            .collect();
        Request {
            device: self.device.clone(),
            container: self.container.clone(),
            base,
            declaration: outcome.declaration.unwrap_or_else(|| panic!("{}", problems.join("\n"))),
            text,
            updaters: Some(Updaters::Keep),
            grub: None,
        }
    }

    pub fn plan(&self, base: BaseSource, rest: &str) -> Result<setup::Plan, String> {
        let request = self.request(base, rest);
        let volume = setup::open_volume(&request).unwrap();
        let seen = setup::observe(&request, std::os::fd::AsFd::as_fd(&volume)).unwrap();
        setup::plan(&request, &seen).map_err(|failure| failure.chain())
    }

    /// Makes the container from [`Self::source`], with these entries.
    pub fn set_up(&self, rest: &str) {
        self.set_up_from(BaseSource::Directory(self.source()), rest);
    }

    /// The same from another base. Returns what was said.
    pub fn set_up_from(&self, base: BaseSource, rest: &str) -> Vec<String> {
        carry_out(&self.request(base, rest))
    }

    /// Makes the container with more about the root.
    pub fn set_up_with(&self, root: &str, rest: &str) {
        let text = self.toml_with(root, rest);
        carry_out(&self.request_of(BaseSource::Directory(self.source()), text));
    }

    /// The same from another base.
    pub fn set_up_all(&self, base: BaseSource, root: &str, rest: &str) {
        carry_out(&self.request_of(base, self.toml_with(root, rest)));
    }

    /// Makes the container from [`Self::source`], and returns what is free then.
    pub fn set_up_and_measure(&self, rest: &str) -> u64 {
        self.set_up(rest);
        ebbtide_sys::file::room(self.open().directory()).unwrap().available
    }

    /// Compiles another declaration.
    pub fn apply(&self, rest: &str) {
        self.apply_with("", rest);
    }

    /// The same, with more about the root.
    pub fn apply_with(&self, root: &str, rest: &str) {
        let request = self.request_of(BaseSource::Blank, self.toml_with(root, rest));
        let mut uuids = std::collections::BTreeMap::new();
        for (name, wanted) in &request.declaration.stores {
            let opened = store::open_any(wanted.place()).unwrap();
            let uuid = store::establish(std::os::fd::AsFd::as_fd(&opened)).unwrap();
            uuids.insert(name.clone(), uuid);
        }
        let compiled = request.declaration.compile(self.container.uuid, &uuids).unwrap();
        let state = self.state();
        store::publish(std::os::fd::AsFd::as_fd(&state), &self.open(), &compiled).unwrap();
    }

    /// Compiles another declaration as `ebbtide apply` does.
    pub fn publish(&self, rest: &str) {
        let request = self.request(BaseSource::Blank, rest);
        let publication = ebbtide_core::publish::Publication::open(&request.declaration)
            .unwrap_or_else(|it| panic!("{}", it.chain()));
        publication.preview().unwrap_or_else(|it| panic!("{}", it.chain()));
        publication.publish().unwrap_or_else(|it| panic!("{}", it.chain()));
    }

    /// Lets a test change another disk.
    pub fn on_disk<T: Send>(&self, device: &str, change: impl FnOnce(&Path) -> T + Send) -> T {
        self.in_namespace(|work| {
            let top = work.join("top");
            fs::create_dir_all(&top).unwrap();
            run("mount", &[device, top.to_str().unwrap()]);
            let changed = change(&top);
            // Not with the namespace, some time later: what comes next mounts the device itself.
            run("umount", &[top.to_str().unwrap()]);
            changed
        })
    }

    fn state(&self) -> std::os::fd::OwnedFd {
        store::open_any(self.state_store(uuid::Uuid::nil()).place()).unwrap()
    }

    pub fn open(&self) -> Container {
        let volume = container::open_volume(self.kind.backend, &self.device, &[]).unwrap();
        Container::open(volume, self.kind.backend, &self.container)
            .unwrap_or_else(|it| panic!("{}", it.chain()))
    }

    /// What a store on the volume itself is.
    pub fn place_of_stores(&self) -> &'static str {
        if self.kind.filesystem == "btrfs" { "subvolume" } else { "directory" }
    }

    fn state_store(&self, uuid: uuid::Uuid) -> StateStore {
        let place = Some(PathBuf::from("state"));
        let (subvolume, directory) =
            if self.kind.filesystem == "btrfs" { (place, None) } else { (None, place) };
        StateStore { device: self.device.clone(), subvolume, directory, uuid }
    }

    pub fn boot_with(&self, run: &Path, command_line: &str) -> Boot {
        let uuid = store::identity(std::os::fd::AsFd::as_fd(&self.state())).unwrap().unwrap();
        Boot {
            locator: Locator {
                version: 1,
                backend: self.kind.backend,
                device: self.device.clone(),
                container: self.container.clone(),
                options: Vec::new(),
                state: self.state_store(uuid),
            },
            run: run.to_owned(),
            run_later: run.to_owned(),
            switches: Switches::parse(command_line.as_bytes()),
            import_limit: self.import_limit,
        }
    }

    /// Boots, lets `life` use the root, and shuts down cleanly.
    pub fn boot(&self, command_line: &str, life: impl FnOnce(&Path) + Send) -> Booted {
        self.live(command_line, |root, boot| {
            life(root);
            shutdown::mark_clean(boot, root)
                .unwrap_or_else(|failure| panic!("{}", failure.chain()));
        })
    }

    /// Boots, lets `life` use the root, and ends without a word.
    pub fn live(&self, command_line: &str, life: impl FnOnce(&Path, &Boot) + Send) -> Booted {
        self.in_namespace(|work| {
            let run = work.join("run");
            let root = work.join("root");
            fs::create_dir_all(&root).unwrap();
            let boot = self.boot_with(&run, command_line);
            let mut messages = Vec::new();
            let mut log = |level: Level, text: &str| messages.push((level, text.to_owned()));
            let record = boot::up(&boot, &root, &mut log)
                .unwrap_or_else(|failure| panic!("{}", failure.chain()));
            life(&root, &boot);
            Booted { record, messages }
        })
    }

    /// Begins to boot, and is cut off between the reset and the mount of the root.
    pub fn cut_after_reset(&self) -> Record {
        self.in_namespace(|work| {
            boot::reset(&self.boot_with(&work.join("run"), ""), &mut |_, _| ())
        })
    }

    /// The status of a boot that is looked at from inside.
    pub fn status(boot: &Boot, root: &Path) -> Status {
        status::status(boot, root)
    }

    /// Lets a test look at the top level of the volume.
    pub fn look<T: Send>(&self, look: impl FnOnce(&Path) -> T + Send) -> T {
        self.in_namespace(|work| {
            let top = work.join("top");
            fs::create_dir_all(&top).unwrap();
            let top_level = if self.kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
            // Not by mount(8), which takes a UUID from a cache that a parallel test may just have filled.
            let device = ebbtide_sys::device::find(&self.device.0).unwrap();
            run("mount", &["-o", top_level, device.to_str().unwrap(), top.to_str().unwrap()]);
            look(&top)
        })
    }

    /// Lets a test look at the whole tree of a past root.
    pub fn past<T: Send>(&self, number: BootNumber, look: impl FnOnce(&Path) -> T + Send) -> T {
        self.in_namespace(|work| {
            let tree = backend::past(&self.open(), number, &work.join("run"))
                .unwrap_or_else(|failure| panic!("{}", failure.chain()));
            let at = work.join("past");
            fs::create_dir_all(&at).unwrap();
            // That of a subvolume is none of a mount.
            if self.kind.backend == Backend::Btrfs {
                return look(&Path::new("/proc/self/fd").join(tree.as_raw_fd().to_string()));
            }
            mount::attach(tree.as_fd(), fs::File::open(&at).unwrap().as_fd()).unwrap();
            look(&at)
        })
    }

    /// Runs in a mount namespace of its own, which goes with the thread; no mount is left behind.
    pub fn in_namespace<T: Send>(&self, inside: impl FnOnce(&Path) -> T + Send) -> T {
        let work = tempfile::tempdir_in(self.directory.path()).unwrap();
        let path = work.path().to_owned();
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    mount::enter_private_mount_namespace().unwrap();
                    inside(&path)
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn carry_out(request: &Request) -> Vec<String> {
    let plan = {
        let volume = setup::open_volume(request).unwrap();
        let seen = setup::observe(request, std::os::fd::AsFd::as_fd(&volume)).unwrap();
        setup::plan(request, &seen).unwrap()
    };
    let mut said = Vec::new();
    setup::apply(request, &plan, &mut |_, message| said.push(message.to_owned()))
        .unwrap_or_else(|it| panic!("{}", it.chain()));
    said
}
