//! Backends: how roots are made and put away.

pub mod btrfs;
