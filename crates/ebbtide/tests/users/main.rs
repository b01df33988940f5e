//! What users see and restore without root, and what they do not, as they run it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../../ebbtide-core/tests/machine/mod.rs"]
#[macro_use]
mod machine;
#[path = "../program/mod.rs"]
mod program;

mod harness;
mod misuse;
mod theirs;
