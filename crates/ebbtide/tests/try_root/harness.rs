//! A state directory, a small system to start from, and runs of the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Programs that a small system has.
const PROGRAMS: [&str; 20] = [
    "cat", "chmod", "dd", "echo", "env", "id", "kill", "ln", "ls", "mkdir", "mount", "mv",
    "readlink", "rm", "sh", "sleep", "stat", "stty", "touch", "tty",
];

/// Ends a test that needs root if there is none.
macro_rules! needs_root {
    () => {
        if !testkit::privileged::require_root() {
            return;
        }
    };
}
pub(crate) use needs_root;

/// Where things of one test are.
pub struct Scratch {
    pub directory: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { directory: tempfile::Builder::new().prefix("ebbtide-try-").tempdir().unwrap() }
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// A run over the machine itself, which is never but the lower layer.
    pub fn over_machine(&self) -> Try {
        Try::new(&self.path("state"))
    }
}

/// A run to come.
pub struct Try {
    pub arguments: Vec<String>,
    pub state: PathBuf,
}

impl Try {
    pub fn new(state: &Path) -> Self {
        let arguments = vec!["try".into(), "--state".into(), state.display().to_string()];
        Self { arguments, state: state.to_owned() }
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|it| (*it).to_owned()));
        self
    }

    pub fn base(self, base: &Path) -> Self {
        self.with(&["--base", base.to_str().unwrap()])
    }

    pub fn command(&self, command: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ebbtide"));
        program.args(&self.arguments).arg("--").args(command).stdin(Stdio::null());
        program.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        program
    }

    /// Runs a script inside.
    pub fn sh(&self, script: &str) -> Ran {
        Ran(self.command(&["sh", "-c", script]).output().unwrap())
    }

    pub fn run(&self, command: &[&str]) -> Ran {
        Ran(self.command(command).output().unwrap())
    }

    /// What the next ones keep.
    pub fn keep(&self, lines: &str) {
        fs::create_dir_all(&self.state).unwrap();
        fs::set_permissions(&self.state, fs::Permissions::from_mode(0o700)).unwrap();
        let text = format!("version = 1\n[keep]\n{lines}\n");
        fs::write(self.state.join("ebbtide.toml"), text).unwrap();
    }
}

/// What a run showed.
pub struct Ran(pub Output);

impl Ran {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    pub fn status(&self) -> i32 {
        self.0.status.code().unwrap()
    }

    /// Asserts that it went well, and returns its output.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert_eq!(self.status(), 0, "{}\n{}", self.out(), self.err());
        self.out()
    }
}

/// Makes a system below a directory that can run a shell.
pub fn small_system(root: &Path) {
    for directory in
        ["bin", "dev", "etc", "home", "proc", "root", "run", "srv", "sys", "tmp", "usr", "var/lib"]
    {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    fs::write(root.join("etc/issue"), "from the base\n").unwrap();
    for program in PROGRAMS {
        install(root, &found(program), &Path::new("bin").join(program));
    }
}

/// Copies a program into a system, with the libraries that it wants.
pub fn install(root: &Path, program: &Path, place: &Path) {
    let target = root.join(place);
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(program, &target).unwrap();
    let list = Command::new("ldd").arg(program).output().unwrap().stdout;
    let list = String::from_utf8(list).unwrap();
    for library in list.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = root.join(library.trim_start_matches('/'));
        if !target.exists() {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::copy(library, target).unwrap();
        }
    }
}

pub fn found(program: &str) -> PathBuf {
    let places =
        ["/bin", "/usr/bin", "/sbin", "/usr/sbin"].map(|place| Path::new(place).join(program));
    places.into_iter().find(|it| it.exists()).unwrap_or_else(|| panic!("there is no {program}"))
}

/// The mounts of this process, without numbers that change.
pub fn mounts() -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mounts").unwrap();
    // Other tests mount their own.
    let foreign = ["ebbtide-", "/tmp/.tmp", "/dev/loop"];
    let ours = all.lines().filter(|line| !foreign.iter().any(|it| line.contains(it)));
    ours.map(str::to_owned).collect()
}

/// Mounts below a directory.
pub fn mounts_below(directory: &Path) -> Vec<String> {
    let all = fs::read_to_string("/proc/self/mounts").unwrap();
    let place = format!(" {}", directory.display());
    all.lines().filter(|line| line.contains(&place)).map(str::to_owned).collect()
}

/// The numbers of processes with a variable of this value in their environment.
pub fn processes_with(mark: &str) -> Vec<u32> {
    let numbers = fs::read_dir("/proc").unwrap().flatten().filter_map(|it| {
        let number: u32 = it.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(it.path().join("environ")).ok()?;
        let found = environment.split(|byte| *byte == 0).any(|it| it.ends_with(mark.as_bytes()));
        found.then_some(number)
    });
    numbers.collect()
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = std::time::Instant::now();
    while !so() {
        assert!(begin.elapsed().as_secs() < 20, "waited in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
