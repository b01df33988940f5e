//! A machine with two users, and the service as systemd would start it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use ebbtide_core::boot::Boot;
use ebbtide_core::setup::BaseSource;

use crate::machine::{Kind, Machine, run, write};
use crate::program::Ran;

pub const ALICE: u32 = 1000;
pub const BOB: u32 = 1001;
/// Where the system is to its users.
pub const ROOT: &str = "/run/root";
const PROGRAM: &str = "/run/ebbtide-program";
pub const SOCKET: &str = "/run/ebbtide/user.sock";
/// What the unit leaves to the service.
const CAPABILITIES: &str = "-all,+sys_admin,+dac_read_search,+setuid,+setgid";

pub const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n\
    bob:x:1001:1001::/home/bob:/bin/sh\n";

/// A path of the running system.
pub fn at(path: &str) -> std::path::PathBuf {
    Path::new(ROOT).join(path.trim_start_matches('/'))
}

/// Writes a file that belongs to a user, as does what is missing above it.
pub fn write_as(uid: u32, root: &Path, path: &str, content: &str) {
    let whole = root.join(path);
    let is_new: Vec<_> =
        whole.ancestors().skip(1).take_while(|above| !above.exists()).map(Path::to_owned).collect();
    write(root, path, content);
    own(uid, &whole);
    for above in &is_new {
        own(uid, above);
    }
}

pub fn own(uid: u32, path: &Path) {
    std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
}

pub fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets a machine up on which alice and bob have homes.
pub fn set_up(kind: Kind) -> Machine {
    let machine = Machine::of(kind);
    let source = machine.source();
    write(&source, "etc/passwd", PASSWD);
    fs::remove_file(source.join("home/alice/letter")).unwrap();
    for (uid, home) in [(ALICE, "home/alice"), (BOB, "home/bob")] {
        fs::create_dir_all(source.join(home)).unwrap();
        own(uid, &source.join(home));
    }
    mode(&source.join("home/bob"), 0o755);
    let kept = "[keep]\ndirectories = [\"/var/log\"]\n";
    machine.set_up_from(BaseSource::Directory(source), kept);
    machine
}

/// The service, and what it started.
pub struct Service {
    pub started: Arc<Mutex<Vec<u32>>>,
}

/// Makes a booted root the system of this mount namespace, and listens.
pub fn serve(root: &Path, boot: &Boot) -> Service {
    run("mount", &["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"]);
    fs::create_dir_all(ROOT).unwrap();
    fs::create_dir("/run/ebbtide").unwrap();
    run("mount", &["--rbind", root.to_str().unwrap(), ROOT]);
    run("mount", &["--rbind", boot.run.to_str().unwrap(), "/run/ebbtide"]);
    // By cp(1): a child that another test forks meanwhile would have it open for writing for a moment.
    run("cp", &[env!("CARGO_BIN_EXE_ebbtide"), PROGRAM]);
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).unwrap();
    mode(Path::new(SOCKET), 0o666);
    let started = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&started);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let connection: OwnedFd = connection.unwrap().into();
            let mut child = start(connection);
            list.lock().unwrap().push(child.id());
            std::thread::spawn(move || child.wait());
        }
    });
    Service { started }
}

fn start(connection: OwnedFd) -> Child {
    Command::new("setpriv")
        .args(["--no-new-privs", "--inh-caps=-all", "--bounding-set", CAPABILITIES])
        .args([PROGRAM, "--sysroot", ROOT, "internal", "serve-user"])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::from(connection))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs the program as a user.
pub fn as_user(uid: u32, arguments: &[&str]) -> Ran {
    let number = uid.to_string();
    let output = Command::new("setpriv")
        .args(["--reuid", &number, "--regid", &number, "--clear-groups"])
        .args([PROGRAM, "--sysroot", ROOT])
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ran {
        status: output.status.code().unwrap(),
        out: output.stdout,
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Connects as a user, and does something with the connection.
pub fn connected(uid: u32) -> UnixStream {
    let thread = std::thread::spawn(move || {
        // The kernel notes the ids of the thread that connects, and only this thread's change.
        let (user, group) =
            (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        UnixStream::connect(SOCKET).unwrap()
    });
    thread.join().unwrap()
}
