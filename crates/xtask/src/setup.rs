//! `cargo xtask setup`: the programs that packaging and tests call.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::process::{run, stream};

/// Debian packages; what they depend on comes with them, what they recommend does not.
const PACKAGES: &[&str] = &[
    "acl",
    "attr",
    "btrfs-progs",
    "debian-archive-keyring",
    "dosfstools",
    "dpkg-dev",
    "e2fsprogs",
    "fdisk",
    "g++",
    "gcc",
    "gzip",
    "libc6-dev",
    "libcap2-bin",
    "lintian",
    "mmdebstrap",
    "mount",
    "qemu-system-x86",
    "shellcheck",
    "sqlite3",
    "strace",
    "systemd",
    "systemd-container",
    "util-linux",
    "xfsprogs",
    "zstd",
];

/// Installs what is missing; asks no mirror when nothing is.
pub fn install() -> Result<()> {
    let missing: Vec<&str> =
        PACKAGES.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        println!("all {} packages are installed", PACKAGES.len());
        return Ok(());
    }
    println!("installing {}", missing.join(" "));
    let root = run(Command::new("id").arg("--user"))? == b"0\n";
    ensure!(root, "installing needs root: apt-get install {}", missing.join(" "));
    stream(apt_get().arg("update"))?;
    stream(apt_get().args(["install", "--yes", "--no-install-recommends"]).args(missing))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn is_installed(package: &str) -> bool {
    run(Command::new("dpkg-query")
        .args(["--show", "--showformat=${db:Status-Status}"])
        .arg(package))
    .is_ok_and(|status| status == b"installed")
}
