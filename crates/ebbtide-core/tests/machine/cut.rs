//! A program is killed before each system call that could change a disk, and the disk as it is at that
//! moment is kept.
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
    let mut strace = Command::new("strace");
    strace.args(["--quiet=all", &format!("--trace={CALLS}"), "--output"]).arg(trace);
    strace
}

/// The calls in such a file.
pub fn points(trace: &Path) -> Vec<Point> {
    let mut counts = BTreeMap::new();
    let trace = fs::read_to_string(trace).unwrap();
    let names = trace.lines().filter_map(|line| line.split_once('(').map(|(name, _)| name));
    names
        .map(|name| {
            let count = counts.entry(name).or_insert(0);
            *count += 1;
            (name.to_owned(), *count)
        })
        .collect()
}

/// A call of strace(1) that kills a program before this call; the program comes next.
pub fn killed((call, count): &Point) -> Command {
    let mut strace = Command::new("strace");
    let inject = format!("--inject={call}:signal=SIGKILL:when={count}");
    strace.args(["--quiet=all", "--output=/dev/null", &inject]);
    strace
}

/// Whether it was.
pub fn assert_killed(output: &Output) {
    assert_eq!(output.status.signal(), Some(9), "{}", said(output));
}

/// How a program ended, for a message.
pub fn said(output: &Output) -> String {
    format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
}
