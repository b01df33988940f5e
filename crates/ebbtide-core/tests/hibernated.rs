//! A hibernated system that was not resumed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ebbtide_core::record::Outcome;
use ebbtide_sys::mount::enter_private_mount_namespace;
use machine::{Kind, Machine, read, run, write};

on_each_disk!(its_root_is_not_reset, what_systemd_noted_is_a_swap_file_on_a_filesystem);

/// Swap space on a loop device, with or without an image in it.
struct Swap {
    device: String,
    directory: tempfile::TempDir,
}

impl Swap {
    fn new() -> Self {
        Self::made_by("mkswap", &["--quiet"])
    }

    /// A device that this program makes of a file.
    fn made_by(program: &str, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("swap");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        run(program, &[options, &[image.to_str().unwrap()]].concat());
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        Self { device: device.trim().to_owned(), directory }
    }

    /// Writes what the kernel does: mkswap(8) ends the same page with `SWAPSPACE2`.
    fn sign(&self, signature: &[u8; 10]) {
        self.sign_at(0, signature);
    }

    /// The same in a swap file that begins so many pages into the device.
    fn sign_at(&self, offset: u64, signature: &[u8; 10]) {
        let image = self.directory.path().join("swap");
        let place = (offset + 1) * rustix::param::page_size() as u64 - 10;
        let file = fs::OpenOptions::new().write(true).open(image).unwrap();
        file.write_all_at(signature, place).unwrap();
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        run("losetup", &["-d", &self.device]);
    }
}

fn its_root_is_not_reset(kind: Kind) {
    let swap = Swap::new();
    let machine = Machine::of(kind);
    machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
    machine.boot("", |root| write(root, "etc/in-memory", "x\n"));
    let resume = format!("resume={}", swap.device);
    swap.sign(b"S1SUSPEND\0");

    let refused = machine.boot(&resume, |root| {
        assert_eq!(read(root, "etc/in-memory").as_deref(), Some("x\n"));
    });
    assert_eq!(refused.record.outcome, Outcome::Refused);
    let said = &refused.record.problems[0];
    assert!(said.message.contains(&format!("a hibernated system is on {}", swap.device)), "{said}");
    assert!(said.hint.as_ref().is_some_and(|hint| hint.contains("noresume")), "{said}");

    let given_up = machine.boot(&format!("{resume} noresume"), |root| {
        assert_eq!(read(root, "etc/in-memory"), None);
    });
    assert_eq!(given_up.record.outcome, Outcome::Reset);
    assert!(given_up.errors()[0].contains("is given up"), "{:?}", given_up.errors());

    // As swapon(8) leaves it.
    swap.sign(b"SWAPSPACE2");
    let quiet = machine.boot(&resume, |_| {});
    assert_eq!(quiet.record.outcome, Outcome::Reset);
    assert!(quiet.errors().is_empty(), "{:?}", quiet.errors());
}

/// In this namespace, the variable of the firmware in which systemd notes where an image is.
fn note(text: &str) {
    let mut content = vec![7, 0, 0, 0];
    content.extend(text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes));
    let name = "HibernateLocation-8cf2644b-4b0b-428f-9387-6d876050dc67";
    fs::write(Path::new("/sys/firmware/efi/efivars").join(name), content).unwrap();
}

fn what_systemd_noted_is_a_swap_file_on_a_filesystem(kind: Kind) {
    const PAGE: u64 = 200;
    let uuid = ebbtide_sys::random::uuid_v4().to_string();
    let disk = Swap::made_by("mkfs.ext4", &["-q", "-U", &uuid]);
    let in_a_namespace = || {
        enter_private_mount_namespace().unwrap();
        run("mount", &["-t", "tmpfs", "tmpfs", "/sys/firmware"]);
        fs::create_dir_all("/sys/firmware/efi/efivars").unwrap();
        let machine = Machine::of(kind);
        machine.set_up("[keep]\ndirectories = [\"/home\"]\n");
        machine.boot("", |root| write(root, "etc/in-memory", "x\n"));
        disk.sign_at(PAGE, b"S1SUSPEND\0");
        let plain = uuid.replace('-', "");
        note(&format!("{{\"uuid\":\"{plain}\",\"offset\":{PAGE},\"kernelVersion\":\"6.12\"}}"));

        let refused = machine.boot("", |root| {
            assert_eq!(read(root, "etc/in-memory").as_deref(), Some("x\n"));
        });
        assert_eq!(refused.record.outcome, Outcome::Refused);
        let said = &refused.record.problems[0];
        let place = format!("a hibernated system is in a swap file on {}", disk.device);
        assert!(said.message.contains(&place), "{said}");
        // On the device is a filesystem: mkswap(8) would end it.
        let hint = said.hint.as_ref().unwrap();
        assert!(hint.contains("noresume") && !hint.contains("mkswap"), "{said}");

        // Another swap file, and what nobody can read.
        for other in [&format!("{{\"uuid\":\"{uuid}\",\"offset\":{}}}", PAGE + 1), "{", "[]", ""] {
            note(other);
            let reset = machine.boot("", |_| {});
            assert_eq!(reset.record.outcome, Outcome::Reset, "{other}");
            assert!(reset.errors().is_empty(), "{other}: {:?}", reset.errors());
        }
    };
    std::thread::scope(|scope| scope.spawn(in_a_namespace).join()).unwrap();
}
