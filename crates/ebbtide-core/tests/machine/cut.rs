//! A program is killed before each system call that could change a disk, and the disk as it is at that
//! moment is kept; or the call fails, as on a bad disk or a full one, and the program goes on.
//!
//! What was written is on the disk in the order in which it was written; a disk that loses or reorders
//! what was not flushed is another test's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use super::machine::{run, wait_until_free};

/// System calls that change a disk. What is only opened or mounted in between is seen before the next
/// of these.
const CALLS: &str = "mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,link,linkat,symlink,\
    symlinkat,mknod,mknodat,write,pwrite64,writev,fsync,fdatasync,syncfs,sync,ftruncate,fallocate,\
    copy_file_range,sendfile,ioctl,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat,setxattr,\
    fsetxattr,lsetxattr,removexattr,fremovexattr,lremovexattr,mount,fsconfig,umount2";

/// More that fail on a bad disk: what reads it.
const READS: &str = "openat,openat2,read,pread64,getdents64,statx,newfstatat,fstat,readlinkat,getxattr,\
    lgetxattr,fgetxattr,llistxattr,flistxattr,lseek,statfs,fstatfs,open_tree,move_mount,fsopen,fsmount,\
    mount_setattr";

/// So many calls of each test fail, unless `EBBTIDE_EACH_CALL` is set: then all do.
const FAULTS: usize = 24;

/// A name that no terminal likes.
pub const HOSTILE: &str = "new\nline\u{1b}[31m";

/// A call: its name, and how many of the name there were, itself included.
pub type Point = (String, usize);

/// An image in a loop device.
pub struct Attached(pub String);

impl Attached {
    pub fn new(image: &Path) -> Self {
        Self(run("losetup", &["--find", "--show", image.to_str().unwrap()]).trim().to_owned())
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
        wait_until_free(&self.0);
    }
}

/// In one moment; what is in the page cache of the image is in the clone.
pub fn clone(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    rustix::fs::ioctl_ficlone(&to, &from).unwrap();
}

/// A call of strace(1) that writes the calls of a program to a file; the program comes next.
pub fn traced(trace: &Path) -> Command {
    tracer(CALLS, trace)
}

/// As [`traced`], with what only reads.
pub fn traced_widely(trace: &Path) -> Command {
    tracer(&format!("{CALLS},{READS}"), trace)
}

fn tracer(calls: &str, trace: &Path) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["--quiet=all", &format!("--trace={calls}"), "--output"]).arg(trace);
    strace
}

/// The calls in such a file.
pub fn points(trace: &Path) -> Vec<Point> {
    let mut counts = BTreeMap::new();
    let trace = fs::read_to_string(trace).unwrap();
    let calls = trace.lines().filter_map(|line| line.split_once('('));
    let count = |(name, arguments): (&str, &str)| {
        let count = counts.entry(name.to_owned()).or_insert(0);
        *count += 1;
        // No disk has these names.
        let is_disk = !arguments.contains("\"/dev/") || !name.starts_with("statx");
        is_disk.then(|| (name.to_owned(), *count))
    };
    calls.filter_map(count).collect()
}

/// A call of strace(1) that kills a program before this call; the program comes next.
pub fn killed((call, count): &Point) -> Command {
    let mut strace = Command::new("strace");
    let inject = format!("--inject={call}:signal=SIGKILL:when={count}");
    strace.args(["--quiet=all", "--output=/dev/null", &inject]);
    strace
}

/// A call that fails instead of being made.
#[derive(Debug)]
pub struct Fault {
    point: Point,
    error: &'static str,
    /// Whether all later calls of the name do, too.
    for_good: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { point: (call, count), error, for_good } = self;
        write!(formatter, "{error} at {call} {count}{}", if *for_good { " and after" } else { "" })
    }
}

/// Faults at these calls; not at all of them, and each time at the same.
pub fn faults(points: &[Point]) -> Vec<Fault> {
    let step = match std::env::var_os("EBBTIDE_EACH_CALL") {
        Some(_) => 1,
        None => (points.len() / FAULTS).max(1),
    };
    let chosen = points.iter().skip(step / 2).step_by(step);
    let fault = |(number, point): (usize, &Point)| {
        let changes = CALLS.split(',').any(|call| call.trim() == point.0);
        let (error, for_good) = match number % 3 {
            1 if changes => ("ENOSPC", false),
            // What it says is written, too; and statx(2) that always fails is one that the kernel has not.
            2 if !["write", "statx"].contains(&&*point.0) => ("EIO", true),
            _ => ("EIO", false),
        };
        Fault { point: point.clone(), error, for_good }
    };
    chosen.enumerate().map(fault).collect()
}

/// A call of strace(1) that lets a call of a program fail; the program comes next.
pub fn failing(fault: &Fault) -> Command {
    let mut strace = Command::new("strace");
    let Fault { point: (call, count), error, for_good } = fault;
    let inject =
        format!("--inject={call}:error={error}:when={count}{}", if *for_good { "+" } else { "" });
    strace.args(["--quiet=all", "--output=/dev/null", &inject]);
    strace
}

/// Whether it was killed.
pub fn assert_killed(output: &Output) {
    assert_eq!(output.status.signal(), Some(9), "{}", said(output));
}

/// Whether the program was not even loaded: where it is used, it is static.
pub fn is_loader(output: &Output) -> bool {
    output.status.code() == Some(127)
}

/// Whether a program says which error it was.
pub fn names_error(output: &Output) -> bool {
    let text = [&*output.stderr, &*output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    ["EIO", "ENOSPC", "nput/output error", "o space left"].iter().any(|it| text.contains(it))
}

/// How a program ended, for a message.
pub fn said(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
