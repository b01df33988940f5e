//! Ebbtide's system calls: mounts, btrfs, path resolution, metadata.
//!
//! Mechanism, no policy, no output. This is the only crate of the workspace that contains `unsafe`,
//! and all of that is a handful of `ioctl(2)` and raw system calls that rustix does not wrap.
//!
//! Conventions, all over the crate:
//!
//! - functions take a directory descriptor and a path below it; a leading `/` means that directory;
//! - no path is ever followed through a symbolic link, and `..` is refused (see [`resolve`]);
//! - descriptors are `O_CLOEXEC`; directory descriptors may be `O_PATH` wherever one is taken;
//! - paths are bytes: any name that the kernel accepts is handled;
//! - an [`Error`] names the system call, its arguments and the errno.

pub mod accounts;
pub mod audit;
pub mod btrfs;
pub mod capability;
pub mod child;
pub mod device;
pub mod error;
pub mod file;
pub mod filter;
pub mod kernel;
pub mod metadata;
pub mod mount;
pub mod mountinfo;
pub mod namespace;
pub mod peer;
pub mod process;
pub mod random;
pub mod resolve;
pub mod signal;
pub mod terminal;
pub mod text;
pub mod tree;
pub mod watch;
pub mod xattr;

mod descriptor;

#[cfg(test)]
mod testing;

pub use error::{Error, Result};
pub use text::escape;
