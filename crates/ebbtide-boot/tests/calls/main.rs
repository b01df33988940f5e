//! `ebbtide-boot` on a disk that goes away or goes bad at any of its system calls.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../ebbtide-core/tests/machine/mod.rs"]
mod machine;

#[path = "../../../ebbtide-core/tests/machine/cut.rs"]
mod cut;

mod brought_back;
mod failing;
mod in_ram;
mod killed;
mod story;
