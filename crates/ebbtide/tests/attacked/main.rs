//! Commands run while a user exchanges what they work on, as fast as the kernel does it. What lies outside
//! of that stays as it is, and is read by nobody.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../../ebbtide-core/tests/machine/canary.rs"]
mod canary;
#[path = "../../../ebbtide-core/tests/machine/mod.rs"]
mod machine;

mod attacker;
mod boots;
mod commands;
mod scenes;
mod stage;
