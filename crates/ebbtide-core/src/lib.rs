//! Ebbtide's domain: what is declared, what a boot will do about it, and what it did.
//!
//! This crate decides and acts, but never prints and knows no terminal. TOML and its diagnostics
//! are behind the feature `declaration`, so that the boot binary carries neither.
#![forbid(unsafe_code)]

#[cfg(feature = "declaration")]
pub mod applications;
pub mod archive;
pub mod attach;
pub mod backend;
pub mod boot;
#[cfg(feature = "declaration")]
pub(crate) mod bounded;
pub mod changes;
pub mod compiled;
pub mod container;
#[cfg(feature = "declaration")]
pub mod declaration;
pub mod diff;
#[cfg(feature = "declaration")]
pub mod enclosure;
pub mod failure;
pub mod flush;
pub mod format;
pub mod fstab;
pub mod gc;
pub mod harvest;
pub mod held;
#[cfg(feature = "declaration")]
pub mod inspection;
#[cfg(feature = "declaration")]
pub mod labels;
#[cfg(feature = "declaration")]
pub mod live;
pub mod locator;
pub(crate) mod login;
pub(crate) mod moment;
pub mod once;
pub mod past;
pub mod pattern;
#[cfg(feature = "declaration")]
pub mod publish;
pub mod ram;
pub mod record;
pub mod refused;
#[cfg(feature = "declaration")]
pub mod rehearsal;
pub mod retention;
#[cfg(feature = "declaration")]
pub mod setup;
pub mod shutdown;
pub(crate) mod staging;
pub mod status;
pub mod store;
pub mod switches;
#[cfg(feature = "declaration")]
pub mod trial;
pub mod undeclared;
pub mod volume;
