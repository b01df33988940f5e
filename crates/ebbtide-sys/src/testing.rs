//! What the tests of this crate need from the real kernel: filesystems on loop devices.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mount::{MountAttributes, mount_detached};

/// Returns whether the test can run; if not, says so past the test harness's capture.
pub(crate) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        let line = format!("\n*** SKIPPED, needs root: {test} ***\n");
        let _ = rustix::io::write(std::io::stderr(), line.as_bytes());
    }
    root
}

/// Ends a test that needs root if there is none.
macro_rules! needs_root {
    () => {
        if !$crate::testing::is_root(std::thread::current().name().unwrap_or("a test")) {
            return;
        }
    };
}
pub(crate) use needs_root;

/// Runs a program that must succeed; returns its output.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let (out, err) = (output.stdout, output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&err));
    String::from_utf8(out).unwrap()
}

pub(crate) fn name(name: &str) -> &OsStr {
    OsStr::new(name)
}

pub(crate) fn open(path: impl AsRef<Path>) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// A temporary directory with a descriptor.
pub(crate) struct Scratch {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) fd: OwnedFd,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let fd = open(directory.path());
        Self { directory, fd }
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A loop device on a sparse image; it goes away with its last user, however the test ends.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
    pub(crate) image: PathBuf,
    _open: File,
    _directory: tempfile::TempDir,
}

impl LoopDevice {
    pub(crate) fn new(mebibytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let path = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let path = PathBuf::from(path.trim());
        let open = File::open(&path).unwrap();
        // Detaching a device that is in use takes effect when its last user closes it.
        run("losetup", &["--detach", path.to_str().unwrap()]);
        Self { path, image, _open: open, _directory: directory }
    }

    pub(crate) fn formatted(fstype: &str, options: &[&str]) -> Self {
        let device = Self::new(if fstype == "xfs" { 320 } else { 256 });
        let mut arguments = options.to_vec();
        arguments.extend(["-q", device.path.to_str().unwrap()]);
        run(&format!("mkfs.{fstype}"), &arguments);
        device
    }
}

/// A filesystem that is mounted nowhere but in a descriptor.
pub(crate) struct Filesystem {
    pub(crate) mount: OwnedFd,
    pub(crate) device: LoopDevice,
}

impl Filesystem {
    pub(crate) fn new(fstype: &str) -> Self {
        let device = LoopDevice::formatted(fstype, &[]);
        let mount =
            mount_detached(fstype, Some(&device.path), &[], MountAttributes::NOATIME).unwrap();
        Self { mount, device }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// Returns a path that leads into the mount, for other programs too.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        through(self.fd()).join(relative)
    }

    pub(crate) fn open(&self, relative: &str) -> OwnedFd {
        crate::resolve::open_directory(self.fd(), Path::new(relative)).unwrap()
    }
}

/// Returns the path of a descriptor of this process that other programs can use.
pub(crate) fn through(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd()))
}
