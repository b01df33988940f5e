//! Ebbtide's domain: what is declared, what a boot will do about it, and what it did.
//!
//! This crate decides and acts, but never prints and knows no terminal. TOML and its diagnostics
//! are behind the feature `declaration`, so that the boot binary carries neither.
#![forbid(unsafe_code)]

pub mod compiled;
#[cfg(feature = "declaration")]
pub mod declaration;
pub mod locator;
