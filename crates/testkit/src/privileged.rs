//! Mounting: whether this process may, and how to do it where nobody else sees it.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow};

use crate::process::run;

/// Set in a process that [`enter_private_mounts`] has started anew.
const ENTERED: &str = "EBBTIDE_TESTKIT_PRIVATE_MOUNTS";

/// Makes `$1` a root to work in, then runs the rest there. `/run` is empty, so that no package
/// script finds an init system to talk to.
const CHROOT: &str = r#"
root=$1; shift
mount --rbind "$root" "$root"
cd "$root"
mount --rbind /dev dev
mount -t proc proc proc
mount --rbind /sys sys
mount -t tmpfs -o mode=0755 tmpfs run
if [ -e /etc/resolv.conf ] && [ -e etc/resolv.conf ]; then
    mount --bind "$(realpath /etc/resolv.conf)" etc/resolv.conf
fi
exec chroot . "$@"
"#;

/// Says whether this process may mount, and writes a line that cannot be overlooked when it may
/// not: `if !require_root() { return; }` is the first line of a test that needs it.
///
/// The line goes past the capturing of the test harness, which hides what passing tests print.
#[must_use]
pub fn require_root() -> bool {
    let missing = missing();
    if let Some(reason) = missing {
        let name = std::thread::current().name().unwrap_or("this test").to_owned();
        let line = format!("\n*** SKIPPED, NOT TESTED: {name}: {reason}\n");
        // Nothing can be done about a standard error that is closed.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    missing.is_none()
}

/// Returns why this process cannot mount loop images, if it cannot.
pub fn missing() -> Option<&'static str> {
    static MISSING: OnceLock<Option<&'static str>> = OnceLock::new();
    *MISSING.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            Some("it needs root")
        } else if run(Command::new("unshare").args(["--mount", "true"])).is_err() {
            Some("it needs to make a mount namespace (CAP_SYS_ADMIN)")
        } else if !Path::new("/dev/loop-control").exists() {
            Some("it needs loop devices")
        } else {
            None
        }
    })
}

/// Starts this program anew in a mount namespace of its own, unless it is there already.
///
/// Call it first in `main`. Mounts made from then on are seen by no other program, cannot be kept
/// busy by one, and vanish with the process however it ends; so do loop devices that detach
/// themselves.
///
/// # Errors
///
/// Returns only when the namespace cannot be made.
pub fn enter_private_mounts() -> Result<()> {
    if std::env::var_os(ENTERED).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let error = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(ENTERED, "1")
        .exec();
    Err(anyhow!(error).context("cannot start unshare"))
}

/// Prepares a command that runs `program` with `root` as its `/`, with `/dev`, `/proc` and `/sys`,
/// in a mount namespace that ends with it.
pub fn chroot(root: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "--", "sh", "-euc", CHROOT, "chroot"])
        .arg(root)
        .arg(program)
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env_remove("TMPDIR");
    command
}
