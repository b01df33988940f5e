//! `ebbtide try` as its users run it: as root, on the real kernel.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod ends;
mod escapes;
mod filesystems;
mod harness;
#[path = "../session/mod.rs"]
mod session;
mod surroundings;
mod terminal;
mod unchanged;
