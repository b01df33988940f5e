//! The structures and numbers of linux/btrfs.h, and the calls themselves.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, Setter, Updater, opcode};

use crate::descriptor::{check_name, usable};
use crate::error::{Error, Result};

const MAGIC: u8 = 0x94;

/// The longest name of a subvolume, `BTRFS_VOL_NAME_MAX`.
const NAME_MAX: usize = 255;

/// `BTRFS_SUBVOL_RDONLY`
pub(super) const SUBVOLUME_READ_ONLY: u64 = 1 << 1;

/// `BTRFS_ROOT_SUBVOL_RDONLY`: the same in the item of a root, and in [`SubvolInfo`].
pub(super) const ROOT_READ_ONLY: u64 = 1;

/// `struct btrfs_ioctl_vol_args`
#[repr(C)]
pub(super) struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`
#[repr(C)]
pub(super) struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_timespec`
#[repr(C)]
#[derive(Default)]
pub(super) struct Time {
    pub(super) sec: u64,
    pub(super) nsec: u32,
}

/// `struct btrfs_ioctl_get_subvol_info_args`
#[repr(C)]
pub(super) struct SubvolInfo {
    pub(super) treeid: u64,
    pub(super) name: [u8; 256],
    pub(super) parent_id: u64,
    pub(super) dirid: u64,
    pub(super) generation: u64,
    pub(super) flags: u64,
    pub(super) uuid: [u8; 16],
    pub(super) parent_uuid: [u8; 16],
    pub(super) received_uuid: [u8; 16],
    pub(super) ctransid: u64,
    pub(super) otransid: u64,
    pub(super) stransid: u64,
    pub(super) rtransid: u64,
    pub(super) ctime: Time,
    pub(super) otime: Time,
    pub(super) stime: Time,
    pub(super) rtime: Time,
    reserved: [u64; 8],
}

impl Default for SubvolInfo {
    fn default() -> Self {
        Self {
            treeid: 0,
            name: [0; 256],
            parent_id: 0,
            dirid: 0,
            generation: 0,
            flags: 0,
            uuid: [0; 16],
            parent_uuid: [0; 16],
            received_uuid: [0; 16],
            ctransid: 0,
            otransid: 0,
            stransid: 0,
            rtransid: 0,
            ctime: Time::default(),
            otime: Time::default(),
            stime: Time::default(),
            rtime: Time::default(),
            reserved: [0; 8],
        }
    }
}

/// `struct btrfs_ioctl_ino_lookup_args`
#[repr(C)]
pub(super) struct InoLookup {
    pub(super) treeid: u64,
    pub(super) objectid: u64,
    pub(super) name: [u8; 4080],
}

/// `struct btrfs_ioctl_fs_info_args`; only what is used has a name.
#[repr(C)]
pub(super) struct FsInfo {
    max_id: u64,
    num_devices: u64,
    pub(super) fsid: [u8; 16],
    rest: [u64; 124],
}

impl Default for FsInfo {
    fn default() -> Self {
        Self { max_id: 0, num_devices: 0, fsid: [0; 16], rest: [0; 124] }
    }
}

const _: () = {
    assert!(size_of::<VolArgs>() == 4096);
    assert!(size_of::<VolArgsV2>() == 4096);
    assert!(size_of::<Time>() == 16);
    assert!(size_of::<SubvolInfo>() == 504);
    assert!(size_of::<InoLookup>() == 4096);
    assert!(size_of::<FsInfo>() == 1024);
};

const SYNC: Opcode = opcode::none(MAGIC, 8);
const SUBVOL_CREATE: Opcode = opcode::write::<VolArgs>(MAGIC, 14);
const SNAP_DESTROY: Opcode = opcode::write::<VolArgs>(MAGIC, 15);
const INO_LOOKUP: Opcode = opcode::read_write::<InoLookup>(MAGIC, 18);
const DEFAULT_SUBVOL: Opcode = opcode::write::<u64>(MAGIC, 19);
const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(MAGIC, 23);
const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(MAGIC, 25);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(MAGIC, 26);
const FS_INFO: Opcode = opcode::read::<FsInfo>(MAGIC, 31);
const GET_SUBVOL_INFO: Opcode = opcode::read::<SubvolInfo>(MAGIC, 60);

/// Gives the kernel a value to read.
///
/// # Safety
///
/// For this opcode the kernel must read a `T`, and nothing that is reached through it other than
/// open descriptors.
unsafe fn set<const OPCODE: Opcode, T>(fd: BorrowedFd<'_>, value: T) -> rustix::io::Result<()> {
    // SAFETY: the caller vouches for the pair of opcode and type.
    unsafe { rustix::ioctl::ioctl(fd, Setter::<OPCODE, T>::new(value)) }
}

/// Gives the kernel a value to read and to overwrite.
///
/// # Safety
///
/// For this opcode the kernel must read and write a `T`, of which any bytes are valid.
unsafe fn update<const OPCODE: Opcode, T>(
    fd: BorrowedFd<'_>,
    value: &mut T,
) -> rustix::io::Result<()> {
    // SAFETY: the caller vouches for the pair of opcode and type.
    unsafe { rustix::ioctl::ioctl(fd, Updater::<OPCODE, T>::new(value)) }
}

fn failed(errno: Errno, fd: BorrowedFd<'_>, name: &'static str) -> Error {
    Error::new("ioctl", errno).fd(fd).arg(name)
}

pub(super) fn sync(fd: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: SYNC takes no argument.
    unsafe { rustix::ioctl::ioctl(usable(fd)?.as_fd(), NoArg::<SYNC>::new()) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_SYNC"))
}

pub(super) fn subvol_create(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let args = VolArgs { fd: 0, name: name_field(dir, name)? };
    // SAFETY: SUBVOL_CREATE reads a `btrfs_ioctl_vol_args`.
    unsafe { set::<SUBVOL_CREATE, _>(usable(dir)?.as_fd(), args) }
        .map_err(|e| failed(e, dir, "BTRFS_IOC_SUBVOL_CREATE").path(name))
}

pub(super) fn snap_destroy(dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let args = VolArgs { fd: 0, name: name_field(dir, name)? };
    // SAFETY: SNAP_DESTROY reads a `btrfs_ioctl_vol_args`.
    unsafe { set::<SNAP_DESTROY, _>(usable(dir)?.as_fd(), args) }
        .map_err(|e| failed(e, dir, "BTRFS_IOC_SNAP_DESTROY").path(name))
}

pub(super) fn snap_create(
    source: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: u64,
) -> Result<()> {
    let of = usable(source)?;
    let args = VolArgsV2 {
        fd: of.as_fd().as_raw_fd().into(),
        transid: 0,
        flags,
        unused: [0; 4],
        name: name_field(dir, name)?,
    };
    // SAFETY: SNAP_CREATE_V2 reads a `btrfs_ioctl_vol_args_v2`; the descriptor in it stays open,
    // and the flags ask for nothing that would make the kernel follow a pointer in it.
    unsafe { set::<SNAP_CREATE_V2, _>(usable(dir)?.as_fd(), args) }
        .map_err(|e| failed(e, dir, "BTRFS_IOC_SNAP_CREATE_V2").path(name).fd(source))
}

pub(super) fn default_subvol(fd: BorrowedFd<'_>, id: u64) -> Result<()> {
    // SAFETY: DEFAULT_SUBVOL reads a `__u64`.
    unsafe { set::<DEFAULT_SUBVOL, _>(usable(fd)?.as_fd(), id) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_DEFAULT_SUBVOL").arg(id))
}

pub(super) fn subvol_getflags(fd: BorrowedFd<'_>) -> Result<u64> {
    let mut flags = 0_u64;
    // SAFETY: SUBVOL_GETFLAGS writes a `__u64`.
    unsafe { update::<SUBVOL_GETFLAGS, _>(usable(fd)?.as_fd(), &mut flags) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_SUBVOL_GETFLAGS"))?;
    Ok(flags)
}

pub(super) fn subvol_setflags(fd: BorrowedFd<'_>, flags: u64) -> Result<()> {
    // SAFETY: SUBVOL_SETFLAGS reads a `__u64`.
    unsafe { set::<SUBVOL_SETFLAGS, _>(usable(fd)?.as_fd(), flags) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_SUBVOL_SETFLAGS").arg(format_args!("{flags:#x}")))
}

pub(super) fn get_subvol_info(fd: BorrowedFd<'_>, info: &mut SubvolInfo) -> Result<()> {
    // SAFETY: GET_SUBVOL_INFO writes a `btrfs_ioctl_get_subvol_info_args`: integers and bytes.
    // It may return a positive number, which is no error.
    unsafe { update::<GET_SUBVOL_INFO, _>(usable(fd)?.as_fd(), info) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_GET_SUBVOL_INFO"))
}

pub(super) fn fs_info(fd: BorrowedFd<'_>, info: &mut FsInfo) -> Result<()> {
    // SAFETY: FS_INFO reads and writes a `btrfs_ioctl_fs_info_args`: integers and bytes.
    unsafe { update::<FS_INFO, _>(usable(fd)?.as_fd(), info) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_FS_INFO"))
}

pub(super) fn ino_lookup(fd: BorrowedFd<'_>, treeid: u64, objectid: u64) -> Result<Box<InoLookup>> {
    let mut args = Box::new(InoLookup { treeid, objectid, name: [0; 4080] });
    // SAFETY: INO_LOOKUP reads and writes a `btrfs_ioctl_ino_lookup_args`: integers and bytes.
    unsafe { update::<INO_LOOKUP, _>(usable(fd)?.as_fd(), &mut *args) }
        .map_err(|e| failed(e, fd, "BTRFS_IOC_INO_LOOKUP").arg(treeid).arg(objectid))?;
    Ok(args)
}

/// Returns a name as the kernel wants it: NUL-terminated in a field of fixed size.
fn name_field<const N: usize>(dir: BorrowedFd<'_>, name: &OsStr) -> Result<[u8; N]> {
    check_name("ioctl", dir, name)?;
    let bytes = name.as_bytes();
    let mut field = [0; N];
    match field.get_mut(..bytes.len()) {
        Some(start) if bytes.len() <= NAME_MAX => start.copy_from_slice(bytes),
        _ => return Err(Error::new("ioctl", Errno::NAMETOOLONG).fd(dir).path(name)),
    }
    Ok(field)
}

/// Returns the bytes of a field up to its NUL.
pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}
