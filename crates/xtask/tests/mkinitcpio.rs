//! The hooks for mkinitcpio, run by a shell with functions that write down what they are asked for in the
//! place of mkinitcpio's and busybox'. Where they name a path of the system, it is one of a directory here.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What mkinitcpio brings, as far as the hooks call it.
const BUILDER: &str = r#"
for name in add_module add_binary add_file add_symlink add_runscript; do
	eval "$name() { echo \"$name \$*\"; [[ \$BROKEN != $name ]]; }"
done
warning() { echo "warning: $1"; }
error() { printf "error: $1\n" "${@:2}"; return 1; }
. "$1"
build
echo "went on"
"#;

/// The part of busybox' init around the hooks: variables that its mount handler reads.
const INIT: &str = r#"
rwopt=ro
. "$1"
run_hook
echo "$? mount -t ${rootfstype:-auto} -o $rwopt${rootflags:+,$rootflags}"
run_latehook
echo "$?"
"#;

/// A system with a declaration, and an initramfs to be.
struct System(tempfile::TempDir);

impl System {
    fn new() -> Self {
        let system = Self(tempfile::tempdir().unwrap());
        for directory in
            ["etc/ebbtide", "usr/bin", "usr/lib/ebbtide", "dev", "proc/sys/kernel", "image"]
        {
            fs::create_dir_all(system.path(directory)).unwrap();
        }
        fs::write(system.path("etc/ebbtide/ebbtide.toml"), "").unwrap();
        system.program(
            "usr/bin/ebbtide",
            "case \"$*\" in locator) echo LOCATOR;; *--modules) printf 'btrfs\\next4\\n';; *) echo LABEL=x;; esac",
        );
        system
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn program(&self, path: &str, script: &str) {
        let path = self.path(path);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs a hook of the repository between the lines of `around`.
    fn run(&self, shell: &str, around: &str, hook: &str, environment: &[(&str, &str)]) -> Output {
        let mut text = fs::read_to_string(hooks().join(hook)).unwrap();
        for path in ["/usr/bin/ebbtide", "/usr/lib/ebbtide/ebbtide-boot", "/dev/kmsg", "/proc/sys"]
        {
            text = text.replace(path, self.path(&path[1..]).to_str().unwrap());
        }
        let etc = self.path("etc/ebbtide");
        for file in ["ebbtide.toml", "locator.json"] {
            text = text.replace(
                &format!("-e /etc/ebbtide/{file}"),
                &format!("-e {}/{file}", etc.display()),
            );
        }
        let script = self.path("hook");
        fs::write(&script, text).unwrap();
        Command::new(shell)
            .args(["-c", around, shell])
            .arg(&script)
            .env("BUILDROOT", self.path("image"))
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    /// Builds with these `HOOKS`, in which `broken` fails.
    fn build(&self, hook: &str, line: &str, broken: &str) -> (bool, String) {
        let around = format!("HOOKS=({line}){BUILDER}");
        let output = self.run("bash", &around, hook, &[("BROKEN", broken)]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{hook} in HOOKS=({line})");
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn boot(&self, ebbtide_boot: &str) -> String {
        fs::write(self.path("etc/ebbtide/locator.json"), "{}").unwrap();
        self.program("usr/lib/ebbtide/ebbtide-boot", ebbtide_boot);
        let output = self.run("dash", INIT, "hooks/ebbtide", &[]);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        String::from_utf8(output.stdout).unwrap()
    }
}

fn hooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../initramfs/mkinitcpio")
}

const BUSYBOX: &str = "base udev modconf block resume encrypt lvm2 ebbtide filesystems usr";
const SYSTEMD: &str = "base systemd modconf block sd-ebbtide filesystems";

#[test]
fn what_the_boot_needs_is_put_in() {
    for (hook, line, last) in [
        ("install/ebbtide", BUSYBOX, "add_runscript "),
        (
            "install/sd-ebbtide",
            SYSTEMD,
            "add_symlink /usr/lib/systemd/system/initrd-root-fs.target.wants/ebbtide-attach.service \
             ../ebbtide-attach.service",
        ),
    ] {
        let system = System::new();
        let (done, said) = system.build(hook, line, "");
        assert!(done && said.ends_with(&format!("{last}\nwent on\n")), "{hook}: {said}");
        for call in ["add_module btrfs\nadd_module ext4\n", "usr/lib/ebbtide/ebbtide-boot\n"] {
            assert!(said.contains(call), "{hook}: {said}");
        }
        let file =
            |name: &str| fs::read_to_string(system.path("image/etc/ebbtide").join(name)).unwrap();
        assert_eq!(
            (file("locator.json"), file("devices")),
            ("LOCATOR\n".into(), "LABEL=x\n".into())
        );
    }
}

#[test]
fn whatever_is_missing_stops_the_build() {
    for (hook, line) in [("install/ebbtide", BUSYBOX), ("install/sd-ebbtide", SYSTEMD)] {
        let stops = |system: &System, broken: &str| {
            let (done, said) = system.build(hook, line, broken);
            assert!(!done && !said.contains("went on"), "{hook}, {broken}: {said}");
            assert!(said.contains("error: ebbtide: hint: run 'ebbtide check'"), "{hook}: {said}");
        };
        let last = if hook.contains("sd-") { "add_symlink" } else { "add_runscript" };
        for broken in ["add_binary", last] {
            stops(&System::new(), broken);
        }
        for command in ["locator", "*--modules", "*--devices"] {
            let system = System::new();
            let script = format!("case \"$*\" in {command}) exit 1;; esac; echo btrfs");
            system.program("usr/bin/ebbtide", &script);
            stops(&system, "");
        }
        let system = System::new();
        system.program("usr/bin/ebbtide", "exit 0");
        stops(&system, "");
    }
}

#[test]
fn a_machine_without_a_declaration_gets_its_image() {
    for (hook, line) in [("install/ebbtide", BUSYBOX), ("install/sd-ebbtide", SYSTEMD)] {
        let system = System::new();
        fs::remove_file(system.path("etc/ebbtide/ebbtide.toml")).unwrap();
        let (done, said) = system.build(hook, line, "");
        assert!(done && said.starts_with("warning: ebbtide: there is no declaration"), "{said}");
        assert!(said.lines().count() == 2 && !system.path("image/etc").exists(), "{said}");
    }
}

#[test]
fn an_order_that_does_not_work_stops_the_build() {
    for (hook, line, hint) in [
        ("install/ebbtide", "base udev ebbtide resume", "put ebbtide after resume"),
        ("install/ebbtide", "base ebbtide udev", "put ebbtide after udev"),
        ("install/ebbtide", "base udev ebbtide encrypt lvm2", "put ebbtide after encrypt"),
        ("install/ebbtide", "base udev usr ebbtide", "put ebbtide before usr"),
        ("install/ebbtide", "base systemd ebbtide", "HOOKS needs sd-ebbtide instead of ebbtide"),
        ("install/sd-ebbtide", "base udev sd-ebbtide", "HOOKS needs ebbtide instead of sd-ebbtide"),
    ] {
        let (done, said) = System::new().build(hook, line, "");
        assert!(!done && said.contains(hint), "{line}: {said}");
    }
}

#[test]
fn the_root_is_mounted_as_the_boot_binary_says() {
    let system = System::new();
    let calls = system.path("calls");
    let script = format!(
        "echo \"$*\" >>{}; echo '<6>told' >&2; [ $1 = attach ] || echo subvol=ebbtide/root,noatime",
        calls.display()
    );
    let said = system.boot(&script);
    assert_eq!(said, "0 mount -t btrfs -o rw,subvol=ebbtide/root,noatime\n0\n");
    let calls = fs::read_to_string(calls).unwrap();
    assert_eq!(calls, "reset --wait 30\nattach --sysroot /new_root\n");
    assert_eq!(fs::read_to_string(system.path("proc/sys/kernel/printk_devkmsg")).unwrap(), "on\n");
}

#[test]
fn a_boot_binary_that_fails_does_not_stop_the_boot() {
    let system = System::new();
    assert_eq!(system.boot("exit 1"), "0 mount -t auto -o ro\n0\n");
    let kmsg = fs::read_to_string(system.path("dev/kmsg")).unwrap();
    assert!(kmsg.starts_with("<3>ebbtide: attach ended with status 1"), "{kmsg}");
}

#[test]
fn shellcheck_finds_nothing() {
    if Command::new("shellcheck").arg("--version").output().is_err() {
        let line = "\n*** SKIPPED, NOT TESTED: shellcheck is not installed\n";
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    let initramfs = hooks().join("..");
    for (dialect, scripts) in [
        ("dash", &["initramfs-tools/hook", "initramfs-tools/local-premount"][..]),
        ("dash", &["initramfs-tools/local-bottom", "mkinitcpio/hooks/ebbtide"]),
        ("bash", &["mkinitcpio/install/ebbtide", "mkinitcpio/install/sd-ebbtide"]),
        ("bash", &["dracut/module-setup.sh"]),
        ("dash", &["dracut/ebbtide-devices.sh"]),
    ] {
        let mut check = Command::new("shellcheck");
        check.current_dir(&initramfs).args(["--shell", dialect]).args(scripts);
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
