//! A machine on which alice has a home, and places outside of it that she would like to reach.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ebbtide_core::boot::{self, Boot};
use ebbtide_core::compiled::Backend;
use ebbtide_core::setup::BaseSource;
use ebbtide_sys::filter::{self, Refused, call};

use crate::attacker::{ALICE, as_alice};
use crate::canary::snapshot;
use crate::machine::{Kind, Machine, run, write};

/// What nobody but root may read.
pub const SECRET: &str = "the secret of root";

pub const KEPT: &str = "[keep]\ndirectories = [\"/etc/ebbtide\"]\n\
    [users.alice]\ndirectories = [\"conf/app/data\"]\n\
    files = [{ path = \"sync/state\", method = \"sync\" }]\n";

/// Two past roots, so that one of them can go.
pub const RETENTION: &str = "keep-boots = { min = 1, count = 3, days = 100, free = \"0%\" }\n";

/// What there is of alice's in a directory that commands work on, and outside under the same names.
const FILES: [&str; 3] = ["dir/file", "dir/deep/file", "dir/deep/more/file"];

/// A running root, and who wants what on it.
pub struct Stage<'m> {
    pub machine: &'m Machine,
    pub root: PathBuf,
    /// The top level of the volume.
    pub top: PathBuf,
    /// Alice's home.
    pub home: OwnedFd,
    /// The part of the store that is hers.
    pub stored: OwnedFd,
    /// Her home in the oldest past root.
    pub past: OwnedFd,
    /// What she would like to reach.
    outside: Vec<Canary>,
    /// Whether there is no openat2(2).
    pub filtered: bool,
}

/// A directory of root's, as it has to stay.
pub struct Canary {
    pub path: PathBuf,
    lines: Vec<String>,
}

impl Canary {
    pub fn new(path: PathBuf) -> Self {
        for file in FILES {
            write(&path, file, SECRET);
            fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o600)).unwrap();
        }
        chown(path.join("dir/deep"), Some(4), Some(4)).unwrap();
        fs::create_dir(path.join("dir/empty")).unwrap();
        let lines = snapshot(&path);
        Self { path, lines }
    }

    pub fn assert_untouched(&self, who: &str) {
        let now = snapshot(&self.path);
        let changed: Vec<_> = now.iter().filter(|line| !self.lines.contains(line)).collect();
        assert!(now == self.lines, "{who} reached {}: {changed:#?}", self.path.display());
    }
}

/// Sets up a machine that had two boots.
pub fn set_up(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    let source = machine.source();
    fs::remove_dir_all(source.join("home/alice")).unwrap();
    fs::create_dir_all(source.join("home/alice")).unwrap();
    chown(source.join("home/alice"), Some(ALICE), Some(ALICE)).unwrap();
    machine.set_up_all(BaseSource::Directory(source), RETENTION, KEPT);
    let declared = machine.toml_with(RETENTION, KEPT);
    for number in 1..=2 {
        machine.boot("", |root| {
            write(root, "etc/ebbtide/ebbtide.toml", &declared);
            let home = open(&root.join("home/alice"));
            as_alice(home.as_fd(), |home| {
                tree(home, "old/x", Path::new("/outside"));
                fs::write(home.join("old/x/dir/of-boot"), number.to_string()).unwrap();
            });
        });
    }
    machine
}

/// Makes alice's files below one of her directories, and beside each of them a link that leads outside.
pub fn tree(home: &Path, place: &str, outside: &Path) {
    let top = home.join(place);
    let _ = fs::remove_dir_all(&top);
    for file in FILES {
        write(&top, file, "alice's\n");
    }
    for name in ["dir", "dir/deep", "dir/deep/more", "dir/file", "dir/deep/file"] {
        link(&outside.join(name), &beside(&top.join(name)));
    }
    link(outside, &beside(&top));
}

/// Makes a link, in the place of what is there.
pub fn link(to: &Path, at: &Path) {
    let _ = fs::remove_dir_all(at);
    let _ = fs::remove_file(at);
    std::os::unix::fs::symlink(to, at).unwrap();
}

/// The link beside a name.
pub fn beside(path: &Path) -> PathBuf {
    path.with_extension("out")
}

pub fn open(directory: &Path) -> OwnedFd {
    fs::File::open(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display())).into()
}

/// What came of a run.
pub struct Ran {
    pub status: Option<i32>,
    pub said: String,
}

impl<'m> Stage<'m> {
    /// Boots, in a namespace of the caller's own.
    pub fn new(machine: &'m Machine, work: &Path, filtered: bool) -> (Self, Boot) {
        let [root, top] = ["root", "top"].map(|name| work.join(name));
        for directory in [&root, &top] {
            fs::create_dir_all(directory).unwrap();
        }
        let boot = machine.boot_with(&work.join("run"), "");
        boot::up(&boot, &root, &mut |_, _| ()).unwrap_or_else(|it| panic!("{}", it.chain()));
        let options = if machine.kind.filesystem == "btrfs" { "subvolid=5" } else { "rw" };
        run("mount", &["-o", options, &machine.device.0, top.to_str().unwrap()]);
        run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]);
        fs::create_dir("/run/ebbtide").unwrap();
        run("mount", &["--rbind", boot.run.to_str().unwrap(), "/run/ebbtide"]);
        let outside = [root.join("outside"), top.join("outside"), PathBuf::from("/run/outside")];
        let upper = if machine.kind.backend == Backend::Btrfs { "" } else { "upper" };
        if filtered {
            prepare_chroot(&root);
        }
        let stage = Self {
            machine,
            home: open(&root.join("home/alice")),
            stored: open(&top.join("state/home/alice")),
            past: open(&top.join("ebbtide/past/1").join(upper).join("home/alice")),
            root,
            top,
            outside: outside.map(Canary::new).into(),
            filtered,
        };
        (stage, boot)
    }

    /// One of the places outside, as the program finds it.
    pub fn outside(&self, number: usize) -> &Path {
        if self.filtered {
            return Path::new(["/outside", "/run/outside"][number % 2]);
        }
        &self.outside[number % self.outside.len()].path
    }

    /// Runs the program, for at most 20 seconds.
    pub fn ebbtide(&self, arguments: &[&str]) -> Ran {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "20"]);
        if self.filtered {
            command.arg("chroot").arg(&self.root).arg(PROGRAM);
        } else {
            command.args([env!("CARGO_BIN_EXE_ebbtide"), "--sysroot"]).arg(&self.root);
        }
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        let output = std::thread::scope(|scope| {
            // A filter is for good, so it gets a thread of its own, which the program comes from.
            let output = || {
                if self.filtered {
                    filter::install(&[Refused::missing(call::SYS_openat2)]).unwrap();
                }
                command.output().unwrap()
            };
            scope.spawn(output).join().unwrap()
        });
        let said = [&*output.stdout, &*output.stderr].concat();
        Ran { status: output.status.code(), said: String::from_utf8(said).unwrap() }
    }

    /// Runs it where nobody disturbs it.
    pub fn undisturbed(&self, arguments: &[&str]) {
        let ran = self.ebbtide(arguments);
        assert!(matches!(ran.status, Some(0 | 3)), "{arguments:?}: {}", ran.said);
    }

    /// Nothing that is outside was touched, and nothing of it is anywhere else.
    pub fn assert_contained(&self, who: &str) {
        for canary in &self.outside {
            canary.assert_untouched(who);
        }
        let leaks = self.leaks();
        assert!(leaks.is_empty(), "{who} copied what is outside to {leaks:?}");
    }

    /// Where on the volume the content of what is outside is.
    pub fn leaks(&self) -> Vec<PathBuf> {
        let mut leaks = Vec::new();
        search(&self.top, &mut leaks);
        leaks
    }

    /// The part of the home that a step is about.
    pub fn home(&self) -> BorrowedFd<'_> {
        self.home.as_fd()
    }
}

const PROGRAM: &str = "/run/ebbtide-program";

/// Without openat2(2), the program takes the declaration of its own root only.
fn prepare_chroot(root: &Path) {
    run("cp", &[env!("CARGO_BIN_EXE_ebbtide"), PROGRAM]);
    for directory in ["run", "proc", "dev", "usr"] {
        run(
            "mount",
            &["--rbind", &format!("/{directory}"), root.join(directory).to_str().unwrap()],
        );
    }
    for library in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{library}"), root.join(library)).unwrap();
    }
}

/// Files with the secret that do not lie outside.
pub fn search(directory: &Path, leaks: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && entry.file_name() != "outside" {
            search(&path, leaks);
        } else if kind.is_file() && fs::metadata(&path).unwrap().len() < 1 << 20 {
            let content = fs::read(&path).unwrap();
            if content.windows(SECRET.len()).any(|it| it == SECRET.as_bytes()) {
                leaks.push(path);
            }
        }
    }
}
