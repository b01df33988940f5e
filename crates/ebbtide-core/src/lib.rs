//! Ebbtide's domain: what is declared, what a boot will do about it, and what it did.
//!
//! This crate decides and acts, but never prints and knows no terminal. TOML and its diagnostics
//! are behind the feature `declaration`, so that the boot binary carries neither.
#![forbid(unsafe_code)]

pub mod attach;
pub mod backend;
pub mod boot;
pub mod compiled;
pub mod container;
#[cfg(feature = "declaration")]
pub mod declaration;
pub mod failure;
pub mod flush;
pub(crate) mod format;
pub mod fstab;
pub mod harvest;
pub mod held;
#[cfg(feature = "declaration")]
pub mod live;
pub mod locator;
pub mod past;
#[cfg(feature = "declaration")]
pub mod publish;
pub mod record;
#[cfg(feature = "declaration")]
pub mod setup;
pub mod shutdown;
pub(crate) mod staging;
pub mod status;
pub mod store;
pub mod switches;
pub mod volume;
