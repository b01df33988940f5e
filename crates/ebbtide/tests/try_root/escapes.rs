//! Ways out, each tried: the test program runs inside and reports what it could do.

use std::fs;
use std::io::Write as _;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use crate::harness::{Scratch, Try, needs_root};

/// Tells the program that it runs inside, and what is outside.
const INSIDE: &str = "EBBTIDE_TEST_INSIDE";

/// Capabilities that nobody inside has: modules, clock, raw I/O, reboot, nodes, networks, log.
const GONE: [(&str, u32); 8] = [
    ("CAP_SYS_MODULE", 16),
    ("CAP_SYS_TIME", 25),
    ("CAP_SYS_RAWIO", 17),
    ("CAP_SYS_BOOT", 22),
    ("CAP_MKNOD", 27),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYSLOG", 34),
    ("CAP_BPF", 39),
];

fn report(inside: bool, what: &str) {
    if inside {
        println!("ESCAPED: {what}");
    }
}

fn shell(script: &str) -> bool {
    let ran = Command::new("sh").args(["-c", script]).output().unwrap();
    ran.status.success()
}

/// Not a test by itself: runs inside, and prints a line for each way out that is open.
#[test]
fn inside() {
    let Some(outside) = std::env::var_os(INSIDE) else { return };
    let outside = Path::new(&outside);
    let status = fs::read_to_string("/proc/self/status").unwrap();
    for set in ["CapPrm:", "CapEff:", "CapInh:", "CapBnd:", "CapAmb:"] {
        let value = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        let value = u64::from_str_radix(value.trim(), 16).unwrap();
        for (name, bit) in GONE {
            report(value & (1 << bit) != 0, &format!("{set} {name}"));
        }
    }
    for (what, script) in [
        ("block device node", "mknod /tmp/b b 7 0"),
        ("character device node", "mknod /tmp/c c 1 1"),
        ("clock", "date -s \"$(date)\""),
        ("sysctl", "echo 0 > /proc/sys/kernel/panic"),
        ("hostname of the machine by sysctl", "echo evil > /proc/sys/kernel/hostname"),
        ("sysrq", "echo h > /proc/sysrq-trigger"),
        ("sysfs", "cd /sys/kernel/mm/transparent_hugepage && cat enabled && echo never > enabled"),
        ("sysfs, anything", "find /sys -type f -writable 2>/dev/null | grep -q . && touch /sys/x"),
        ("kernel log", "dmesg --clear"),
        ("swap", "swapoff /etc/passwd 2>&1 | grep -v 'superuser\\|permitted'"),
        ("network", "ip link add ebbtide0 type dummy"),
        ("loop device", "losetup --find"),
        ("disk", "find /dev -type b | grep ."),
        ("initctl", "test -e /run/initctl || test -e /dev/initctl"),
        ("bus", "test -e /run/dbus/system_bus_socket"),
        ("systemd", "test -e /run/systemd/private || test -e /run/systemd/system"),
        ("kernel messages", "test -e /dev/kmsg"),
        ("memory", "test -e /dev/mem || test -e /dev/port || head -c 1 /proc/kcore"),
        ("modules", "modprobe loop"),
    ] {
        report(shell(script), what);
    }
    let reboot = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    report(reboot.is_ok(), "reboot(2)");
    let module = rustix::system::init_module(b"no module", c"");
    // A kernel without modules says so instead.
    let refused = [rustix::io::Errno::PERM, rustix::io::Errno::NOSYS];
    report(!module.is_err_and(|errno| refused.contains(&errno)), "init_module(2)");
    // Nothing inside holds a way to a directory outside.
    for process in ["1", "self"] {
        for fd in fs::read_dir(format!("/proc/{process}/fd")).unwrap().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let is_ours = target.starts_with("/proc") || target.starts_with("/dev");
            report(
                target.is_absolute() && !is_ours,
                &format!("descriptor of {}", target.display()),
            );
        }
    }
    let pid = fs::read_to_string(outside.join("pid")).unwrap();
    report(Path::new("/proc").join(pid.trim()).exists() && pid.len() > 3, "process outside");
    for name in ["socket", "pipe"] {
        report(!outside.join(name).exists(), &format!("test is broken: no {name} to try"));
    }
    report(UnixStream::connect(outside.join("socket")).is_ok(), "socket");
    if let Ok(mut pipe) =
        fs::OpenOptions::new().write(true).custom_flags_nonblock().open(outside.join("pipe"))
    {
        report(pipe.write_all(b"x").is_ok(), "named pipe");
    }
    for name in ["run", "tmp"] {
        let place = fs::read_to_string(outside.join(name)).unwrap();
        report(UnixStream::connect(place.trim()).is_ok(), &format!("socket in /{name}"));
    }
    let name = fs::read(outside.join("abstract")).unwrap();
    let abstract_socket = SocketAddr::from_abstract_name(name).unwrap();
    println!("abstract: {}", UnixStream::connect_addr(&abstract_socket).is_ok());
    for kind in ["mnt", "pid", "uts", "ipc", "cgroup", "net"] {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let theirs = fs::read_to_string(outside.join(kind)).unwrap();
        println!(
            "namespace {kind}: {}",
            if own.to_str() == Some(&theirs) { "same" } else { "own" }
        );
    }
    println!("state: {:?}", fs::read_dir(outside.join("state")).unwrap().count());
    println!("all tried");
}

/// Opening a pipe that nobody reads must not wait.
trait Nonblocking {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl Nonblocking for fs::OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        use std::os::unix::fs::OpenOptionsExt;
        self.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
    }
}

fn try_all(network: bool) -> String {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path(name);
    let unique = format!("ebbtide-try-{}-{network}", std::process::id());
    let _socket = UnixListener::bind(at("socket")).unwrap();
    let abstract_name = SocketAddr::from_abstract_name(&unique).unwrap();
    let _abstract = UnixListener::bind_addr(&abstract_name).unwrap();
    let elsewhere = ["run", "tmp"].map(|place| Path::new("/").join(place).join(&unique));
    let _elsewhere = elsewhere.clone().map(|path| UnixListener::bind(path).unwrap());
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let _reader = fs::OpenOptions::new().read(true).write(true).open(at("pipe")).unwrap();
    fs::write(at("abstract"), &unique).unwrap();
    for path in &elsewhere {
        let name = path.parent().unwrap().file_name().unwrap();
        fs::write(at(name.to_str().unwrap()), path.to_str().unwrap()).unwrap();
    }
    fs::write(at("pid"), std::process::id().to_string()).unwrap();
    for kind in ["mnt", "pid", "uts", "ipc", "cgroup", "net"] {
        let own = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        fs::write(at(kind), own.to_str().unwrap()).unwrap();
    }
    let mut it = Try::new(&scratch.path("state"));
    if !network {
        it = it.with(&["--no-network"]);
    }
    let program = std::env::current_exe().unwrap();
    let ran = it
        .command(&[program.to_str().unwrap(), "--exact", "escapes::inside", "--nocapture"])
        .env(INSIDE, scratch.directory.path())
        .output()
        .unwrap();
    for path in &elsewhere {
        fs::remove_file(path).unwrap();
    }
    let out = String::from_utf8(ran.stdout).unwrap();
    assert!(out.contains("all tried"), "{out}\n{}", String::from_utf8_lossy(&ran.stderr));
    let told = |line: &&str| {
        ["ESCAPED", "abstract", "namespace", "state"].iter().any(|it| line.starts_with(it))
    };
    out.lines().filter(told).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_way_out_is_closed() {
    needs_root!();
    insta::assert_snapshot!(try_all(true), @r"
    abstract: true
    namespace mnt: own
    namespace pid: own
    namespace uts: own
    namespace ipc: own
    namespace cgroup: own
    namespace net: same
    state: 0
    ");
}

#[test]
fn without_a_network_abstract_sockets_are_out_of_reach_too() {
    needs_root!();
    insta::assert_snapshot!(try_all(false), @r"
    abstract: false
    namespace mnt: own
    namespace pid: own
    namespace uts: own
    namespace ipc: own
    namespace cgroup: own
    namespace net: own
    state: 0
    ");
}

#[test]
fn one_in_another_leaves_nothing_in_either() {
    needs_root!();
    let scratch = Scratch::new();
    let it = scratch.over_machine();
    let ebbtide = env!("CARGO_BIN_EXE_ebbtide");
    let ran = it.sh(&format!(
        "echo outer > /etc/outer; {ebbtide} try --no-network -- sh -c \
         'cat /etc/outer; echo x > /etc/inner; rm /etc/outer; exit 5'; echo $?; cat /etc/outer; \
         ls /etc/inner; {ebbtide} try -- ls /etc/inner /etc/outer"
    ));
    assert_eq!(ran.out(), "outer\n5\nouter\n/etc/outer\n", "{}", ran.err());
}
