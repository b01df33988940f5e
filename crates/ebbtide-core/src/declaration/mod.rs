//! The declaration: TOML layers, checked and compiled.
