//! The seeds, and what was found once, hold their promises; and what is large takes no longer than its
//! size warrants.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// The size up to which an input is blown, in bytes.
const LARGE: usize = 1 << 18;

/// How long such an input may take: less than a second of a quiet machine, with what a build without
/// optimisation and other work on the machine add to it.
const PATIENCE: Duration = Duration::from_secs(15);

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let files = fs::read_dir(&folder).unwrap_or_else(|_| panic!("{} is missing", folder.display()));
    let mut seeds: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.display().to_string(), fs::read(path).unwrap())
        })
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    seeds
}

#[test]
fn every_seed_holds() {
    for target in fuzz::TARGETS {
        for (name, seed) in seeds(target.name) {
            println!("{name}");
            (target.run)(&seed);
            // As a power cut may leave it.
            for part in 1..16 {
                (target.run)(&seed[..seed.len() * part / 16]);
            }
        }
    }
}

/// Inputs of [`LARGE`] bytes that are one of the seeds' pieces over and over.
fn blown_up(seeds: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let repeated =
        |piece: &[u8]| -> Vec<u8> { piece.iter().copied().cycle().take(LARGE).collect() };
    let mut large = Vec::new();
    let mut add = |name: String, head: &[u8], piece: &[u8]| {
        let mut input = head.to_vec();
        input.extend(repeated(piece));
        large.push((name, input));
    };
    for (name, seed) in seeds {
        add(format!("{name} over and over"), b"", seed);
        if let Some(line) = seed.split_inclusive(|byte| *byte == b'\n').next_back() {
            add(format!("{name}, its last line over and over"), seed, line);
        }
    }
    for piece in [
        "[", "{", "\"", "[[a.", "a.", "a=", "=[", "{\"a\":", "#", "\\", "*", "*[", ":", ",", " ",
        "\n", "\0", "\u{1b}", "ä",
    ] {
        add(format!("{piece:?} over and over"), b"", piece.as_bytes());
        add(
            format!("{piece:?} over and over behind a version"),
            b"version = 1\n",
            piece.as_bytes(),
        );
    }
    large
}

#[test]
fn what_is_large_takes_no_longer_than_that() {
    // Two at a time: no more than have a processor each.
    std::thread::scope(|scope| {
        for half in fuzz::TARGETS.chunks(fuzz::TARGETS.len().div_ceil(2)) {
            scope.spawn(|| half.iter().for_each(assert_quick));
        }
    });
}

fn assert_quick(target: &fuzz::Target) {
    for (name, input) in blown_up(&seeds(target.name)) {
        let began = Instant::now();
        (target.run)(&input);
        let took = began.elapsed();
        if took > Duration::from_secs(1) {
            println!("{}: {name}: {took:?}", target.name);
        }
        assert!(took < PATIENCE, "{}: {name}: {took:?}", target.name);
    }
}
