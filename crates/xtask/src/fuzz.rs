//! `cargo xtask fuzz`: made-up inputs for what Ebbtide parses, guided by the code that they reach.
//!
//! The instrumentation is LLVM's, which a stable compiler passes on; the runtime is libFuzzer's.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use testkit::process::{stream, tail, target_directory};

use crate::{cargo, workspace};

/// What is fuzzed, and for how long.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only this one: a directory of fuzz/seeds
    target: Option<String>,
    /// How long each is fuzzed; two are at a time
    #[arg(long, default_value_t = 60, value_name = "N")]
    seconds: u64,
    /// Make up what a run with this number makes up, as far as it gets; else each run has its own
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Make nothing up: only run this input, which an earlier run has found
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
    /// Only print their names
    #[arg(long)]
    list: bool,
}

/// The share of a run of all tests, in seconds for each target.
const SHARE: u64 = 8;

/// How many targets are fuzzed at a time: as many as CI has processors.
const AT_A_TIME: usize = 2;

impl Options {
    /// What is fuzzed among all tests: much the same each time.
    pub fn share() -> Self {
        Self { target: None, seconds: SHARE, seed: Some(1), input: None, list: false }
    }
}

/// What makes the compiler count which edges are taken, and what is compared with what
/// (<https://clang.llvm.org/docs/SanitizerCoverage.html>).
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// The longest input that is made up, in bytes. How long larger ones take is a test of its own.
const LONGEST: u32 = 8192;

/// Fuzzes all targets, also after one has failed.
pub fn run(options: &Options) -> Result<()> {
    let mut targets = Vec::new();
    let seeds = workspace().join("fuzz/seeds");
    for entry in std::fs::read_dir(&seeds).context("cannot list fuzz/seeds")? {
        targets.push(entry?.file_name().to_string_lossy().into_owned());
    }
    targets.sort();
    if options.list {
        for target in targets {
            println!("{target}");
        }
        return Ok(());
    }
    if let Some(wanted) = &options.target {
        ensure!(targets.contains(wanted), "there is no target {wanted}: see --list");
        targets.retain(|target| target == wanted);
    }
    let program = build()?;
    if let (Some(target), Some(input)) = (targets.first(), &options.input) {
        ensure!(input.is_file(), "there is no file {}", input.display());
        return stream(call(&program, target).arg(input));
    }
    let waiting = Mutex::new(VecDeque::from(targets));
    let failed = Mutex::new(Vec::new());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(target) = next() {
                    match fuzz_one(&program, &target, options) {
                        Ok(tried) => println!("{target}: {tried}"),
                        Err(error) => {
                            println!("{target} FAILED: {error:#}");
                            failed.lock().unwrap_or_else(PoisonError::into_inner).push(target);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(failed.is_empty(), "an input was found that breaks a promise: {}", failed.join(", "));
    Ok(())
}

fn build() -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = target_directory().join("fuzz");
    // With --target, what only runs while compiling is not instrumented.
    let mut build = cargo();
    build
        .args(["build", "--package", "fuzz", "--bin", "fuzz", "--features", "libfuzzer"])
        .args(["--profile", "fuzz", "--target", &triple, "--target-dir"])
        .arg(&directory)
        .env("RUSTFLAGS", INSTRUMENTATION)
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    stream(&mut build).context("cannot build the fuzzer")?;
    Ok(directory.join(triple).join("fuzz/fuzz"))
}

/// A run of the program for one target.
fn call(program: &Path, target: &str) -> Command {
    let mut call = Command::new(program);
    // A backtrace costs seconds, and is not what a failure is understood by.
    call.env("EBBTIDE_FUZZ", target)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .args(["-timeout=20", "-rss_limit_mb=1024"]);
    call
}

/// Fuzzes one target, and returns what to say of it. What reached new code is kept for the next run, outside
/// the source.
fn fuzz_one(program: &Path, target: &str, options: &Options) -> Result<String> {
    let seconds = options.seconds;
    let fuzz = workspace().join("fuzz");
    let corpus = target_directory().join("fuzz/corpus").join(target);
    let found = target_directory().join("fuzz/found").join(target);
    for directory in [&corpus, &found] {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut call = call(program, target);
    call.args([&corpus, &fuzz.join("seeds").join(target)])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={LONGEST}"))
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(format!("-artifact_prefix={}/", found.display()));
    if let Some(seed) = options.seed {
        call.arg(format!("-seed={seed}"));
    }
    let dictionary = fuzz.join("dictionaries").join(target);
    if dictionary.is_file() {
        call.arg(format!("-dict={}", dictionary.display()));
    }
    let output = call.output().with_context(|| format!("cannot start {}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}\n{}\n{}", output.status, tail(&said, 30), again(target, &said));
    }
    let number = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let tried: u64 = number.and_then(|it| it.trim().parse().ok()).unwrap_or_default();
    ensure!(tried > 0, "no input was tried:\n{}", tail(&said, 30));
    let kept = std::fs::read_dir(&corpus).map(Iterator::count).unwrap_or_default();
    Ok(format!("{tried} inputs in {seconds} s, {kept} of all reach something that no other does"))
}

/// How to run what was found once more.
fn again(target: &str, said: &str) -> String {
    let mark = "Test unit written to ";
    let file = said.lines().find_map(|line| Some(line.split_once(mark)?.1.trim()));
    file.map_or_else(
        || "it left no input".to_owned(),
        |file| {
            format!(
                "again: cargo xtask fuzz {target} --input {file}\n\
                 when it is mended: cp {file} fuzz/seeds/{target}/NAME, which is a test from then on"
            )
        },
    )
}
