//! What Ebbtide's tests stand on: loop images, private mount namespaces, a Debian guest, and QEMU.
//!
//! - [`privileged`]: may this process mount at all; mounts that nobody else sees; commands in a
//!   chroot.
//! - [`mount`] and [`disk`]: filesystems in files, whole disks with a partition table, GRUB.
//! - [`guest`]: an installed Debian as a directory, cached between runs.
//! - [`container`]: its systemd, booted by systemd-nspawn on a root that is there already.
//! - [`vm`]: a machine that boots it, with a root shell into it and its console under watch.
//! - [`write_log`]: all that such a machine wrote to its disk, to make power cuts of.
//!
//! Whatever is mounted, attached or started here ends with the value that stands for it: dropping
//! cleans up silently, `close` does so and returns the error.

pub mod container;
pub mod disk;
pub mod guest;
pub mod mount;
pub mod privileged;
pub mod process;
pub mod vm;
pub mod write_log;
