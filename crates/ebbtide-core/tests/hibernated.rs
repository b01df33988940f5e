//! A hibernated system that was not resumed.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod machine;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use ebbtide_core::record::Outcome;
use machine::{Kind, Machine, read, run, write};

on_each_disk!(its_root_is_not_reset);

/// Swap space on a loop device, with or without an image in it.
struct Swap {
    device: String,
    directory: tempfile::TempDir,
}

impl Swap {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("swap");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        run("mkswap", &["--quiet", image.to_str().unwrap()]);
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        Self { device: device.trim().to_owned(), directory }
    }

    /// Writes what the kernel does: mkswap(8) ends the same page with `SWAPSPACE2`.
    fn sign(&self, signature: &[u8; 10]) {
        let image = self.directory.path().join("swap");
        let place = rustix::param::page_size() as u64 - 10;
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
