//! Commands that change a running machine, and `init`, killed at any of their system calls.
//!
//! Only the first thread counts: the others mount, in namespaces of their own.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "../../../ebbtide-core/tests/machine/mod.rs"]
mod machine;

#[path = "../../../ebbtide-core/tests/machine/cut.rs"]
#[allow(dead_code)]
mod cut;

mod init;
mod killed;
mod scenes;
mod story;
