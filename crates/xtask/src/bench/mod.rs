//! `cargo xtask bench`: how fast it is, against what people use instead.

mod attach;
mod bare;
mod boots;
mod containers;
mod forest;
mod keeping;
mod layers;
pub mod machine;
mod measure;
mod rivals;
mod seeing;
mod versions;
mod vm;

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::process::{run, target_directory};

use crate::{cargo, workspace};
use machine::Programs;
use measure::Row;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these groups: weight, calls, attach, rotation, overlay, harvest, status, diff, diff-overlay, diff-ram,
    /// diff-memory, log, keep, containers, vm
    #[arg(value_name = "GROUP")]
    names: Vec<String>,
    /// Write the table to docs/benchmarks.md
    #[arg(long)]
    write: bool,
    /// How often each contender runs
    #[arg(long, default_value_t = 5)]
    runs: usize,
}

/// A group of measurements.
type Bench = fn(&Programs, usize) -> Result<Vec<Row>>;

const BENCHES: &[(&str, Bench)] = &[
    // First: what a program takes is not told apart from what this one takes, where this one takes more.
    ("weight", boots::weight),
    ("calls", attach::calls),
    ("attach", attach::attach),
    ("rotation", boots::rotation),
    ("overlay", boots::overlay),
    ("harvest", boots::harvest),
    ("status", boots::status),
    ("diff", seeing::diff),
    ("diff-overlay", layers::overlay),
    ("diff-ram", layers::in_ram),
    ("diff-memory", seeing::memory),
    ("log", versions::log),
    ("keep", keeping::keep),
    ("containers", containers::containers),
    ("vm", vm::vm),
];

const HEAD: &str = "\
# Benchmarks

Written by `cargo xtask bench --write`; what is measured, and how, is in `crates/xtask/src/bench`. All
contenders of a line run in turn, in one run, and the figures are medians. A ratio says how many times
longer the other one takes. Everything counts whole: the start of the program, the volume that it mounts,
its checks, and its record on the disk. Of five entries, three are directories and two are files; twenty
have the same parent, and the base has neither them nor their parents unless a line says so: all mount
points are made anew at each boot, as on a blank base. The stores have the data of all entries already, so
these are the boots of every day, and not the first one.

";

const NOTES: &str = "
The limit of attaching is a loop in a program that runs already: it makes each mount point on the new root,
clones the store's mount and attaches it, and reads the mount table once at the end. It has no declaration,
compares nothing, and writes no record. That of a rotation exchanges two names and syncs, and has neither a
snapshot nor a number to write: that a boot's number, its new root and its record are durable before the names
change is what most of a rotation's time goes to. The script waits for one of the three, and a cut in it
leaves no root.

A diff of a btrfs root is compared with what looks at two snapshots: `btrfs send` and snapper(8) are given one
of the root for reading before the clock runs. Its limit is one search of the kernel for items that are newer
than the base, in a loop that only counts bytes. Of ten scattered changes four are more content, two new files,
two deletions, one is a mode and one another content of the same length. Cold means that the volume was
mounted anew; what lies below its loop device stays in memory. `log` is the look at a file that every tenth of a
hundred past roots has another version of.

The upper directory of an overlay says which paths were written, and not how they differ from the base: each one
is looked at in both, where `find` looks at directories only, and of files at their names. Of 20,000, even a
`find` that looks at each file takes longer than the goal. `keep` compares what it copied with what it copied
from, and syncs, before the copy takes its place; `cp` does neither, and with a sync alone it takes longer than
the goal. Two copies at once into one btrfs, of half of it each, take longer than one of all. How much a second
thread gains elsewhere differs between processors, and between hours on a shared machine, and so do the ratios
to programs that have one.

A boot in a container begins with `ebbtide-boot up` and ends when the last process has; two seconds between
boot and shutdown are not counted. What entries add is the price of so many mounts in systemd, which has a unit
for each: with as many mounts that Ebbtide knows nothing of it is about the same. Goals that only fewer
mounts could meet stay in the table. Sometimes systemd has not looked at the mount table again when entries are
taken down, because it does so five times in a second at most, and starts umount(8) for what is unmounted
already. The virtual machine has an emulated processor, which is slower than a real one by an order of
magnitude; its figures are what `ebbtide-boot` writes into the kernel's log.
";

/// Measures, prints the table, and writes it if asked.
pub fn run_benches(options: &Options) -> Result<()> {
    ensure!(
        options.names.iter().all(|name| BENCHES.iter().any(|(known, _)| known == name)),
        "there are these: {}",
        BENCHES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    );
    // What is measured in this process is to be as fast as the programs are.
    if cfg!(debug_assertions) {
        let mut optimised = cargo();
        optimised.args(["build", "--quiet", "--release", "--package", "xtask"]);
        testkit::process::stream(&mut optimised)?;
        let mut optimised = Command::new(target_directory().join("release/xtask"));
        // Cargo's own, in which each program that is started would look for its libraries first, in vain.
        optimised.env_remove("LD_LIBRARY_PATH");
        return testkit::process::stream(optimised.args(std::env::args_os().skip(1)));
    }
    testkit::privileged::enter_private_mounts()?;
    let programs = build()?;
    // Nobody else's boot is in there.
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"]))?;
    let mut rows = Vec::new();
    for (name, bench) in BENCHES {
        if options.names.is_empty() || options.names.iter().any(|wanted| wanted == name) {
            eprintln!("measuring {name}");
            rows.extend(bench(&programs, options.runs).with_context(|| format!("bench {name}"))?);
        }
    }
    let table = measure::table(&rows);
    println!("{table}");
    if options.write {
        ensure!(options.names.is_empty(), "only a table with all measurements is written");
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/benchmarks.md");
        let text = format!("{HEAD}{}\n\n{table}{}", measure::machine(options.runs)?, NOTES);
        fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))?;
    }
    Ok(())
}

/// Builds both programs as they are shipped: the boot binary is static.
fn build() -> Result<Programs> {
    let target = target_directory();
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut boot = cargo();
    boot.args(["build", "--quiet", "--profile", "boot", "--package", "ebbtide-boot"])
        .args(["--target", &triple])
        .arg("--target-dir")
        .arg(target.join("static"))
        .env("CARGO_ENCODED_RUSTFLAGS", crate::deb::boot_flags(&workspace()));
    testkit::process::stream(&mut boot)?;
    let mut command_line = cargo();
    command_line.args(["build", "--quiet", "--release", "--package", "ebbtide"]);
    testkit::process::stream(&mut command_line)?;
    Ok(Programs {
        boot: target.join("static").join(triple).join("boot/ebbtide-boot"),
        command_line: target.join("release/ebbtide"),
    })
}
