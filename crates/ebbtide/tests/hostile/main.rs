//! Names, kinds of files and trees that somebody made who means harm, in homes, in kept directories and on
//! roots: every command copes with them, or says why not.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../../ebbtide-core/tests/machine/mod.rs"]
#[macro_use]
mod machine;

mod deep;
mod harness;
mod odd;
mod plant;
