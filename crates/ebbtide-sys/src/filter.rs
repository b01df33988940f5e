//! Refusing system calls, for good. See seccomp(2).

use rustix::io::Errno;

use crate::error::{Error, Result, last_errno};

/// The architecture whose calls are filtered; calls of others (32-bit programs) pass.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_003E);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xC000_00B7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// The numbers of system calls on this architecture.
pub mod call {
    pub use libc::{
        SYS_bpf, SYS_ioctl, SYS_kexec_file_load, SYS_kexec_load, SYS_open_by_handle_at,
        SYS_openat2, SYS_perf_event_open, SYS_quotactl, SYS_quotactl_fd, SYS_swapoff, SYS_swapon,
        SYS_syslog,
    };
}

/// A system call that is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    call: u32,
    error: Errno,
    /// Only with this value as the low half of that argument.
    argument: Option<(u8, u32)>,
}

impl Refused {
    /// The call, whatever its arguments, with `EPERM`.
    pub const fn call(number: libc::c_long) -> Self {
        Self { call: low(number), error: Errno::PERM, argument: None }
    }

    /// The call, if the low 32 bits of an argument (counted from 0) have this value, with `EPERM`.
    pub const fn with(number: libc::c_long, argument: u8, value: u32) -> Self {
        Self { call: low(number), error: Errno::PERM, argument: Some((argument, value)) }
    }

    /// The call, as by a kernel that does not have it: with `ENOSYS`.
    pub const fn missing(number: libc::c_long) -> Self {
        Self { call: low(number), error: Errno::NOSYS, argument: None }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers are small")]
const fn low(number: libc::c_long) -> u32 {
    number as u32
}

/// Refuses system calls to the calling thread and to all it starts.
///
/// # Errors
///
/// `EINVAL` where the kernel has no filters, `EACCES` without `CAP_SYS_ADMIN`.
pub fn install(refused: &[Refused]) -> Result<()> {
    let Some(architecture) = ARCHITECTURE else { return Ok(()) };
    let mut program = program(architecture, refused);
    let length = u16::try_from(program.len()).unwrap_or(0);
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads the program, which lives until the call is over, and nothing else.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    if result == 0 {
        return Ok(());
    }
    Err(Error::new("seccomp", last_errno()).arg("SECCOMP_SET_MODE_FILTER"))
}

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
#[cfg(target_endian = "little")]
const ARGUMENTS: u32 = 16;
#[cfg(target_endian = "big")]
const ARGUMENTS: u32 = 20;

fn program(architecture: u32, refused: &[Refused]) -> Vec<libc::sock_filter> {
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let equal =
        |value, yes, no| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, yes, no);
    let answer = |value| instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    let mut program = vec![load(ARCH), equal(architecture, 1, 0), answer(libc::SECCOMP_RET_ALLOW)];
    for one in refused {
        program.push(load(NUMBER));
        match one.argument {
            None => program.push(equal(one.call, 0, 1)),
            Some((index, value)) => program.extend([
                equal(one.call, 0, 3),
                load(ARGUMENTS + 8 * u32::from(index)),
                equal(value, 0, 1),
            ]),
        }
        let error = one.error.raw_os_error().cast_unsigned();
        program.push(answer(libc::SECCOMP_RET_ERRNO | error));
    }
    program.push(answer(libc::SECCOMP_RET_ALLOW));
    program
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::needs_root;

    #[test]
    fn only_what_is_refused_is_refused() {
        needs_root!();
        std::thread::spawn(|| {
            install(&[
                Refused::call(libc::SYS_swapoff),
                Refused::with(libc::SYS_lseek, 2, libc::SEEK_END.cast_unsigned()),
                Refused::missing(libc::SYS_openat2),
            ])
            .unwrap();
            // SAFETY: a NUL-terminated literal that names nothing.
            let result = unsafe { libc::swapoff(c"/nowhere".as_ptr()) };
            assert_eq!((result, last_errno()), (-1, Errno::PERM));
            let file = std::fs::File::open("/dev/zero").unwrap();
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(1)).unwrap();
            assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)), Err(Errno::PERM));
            let how = rustix::fs::ResolveFlags::empty();
            let (flags, mode) = (rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
            let opened = rustix::fs::openat2(rustix::fs::CWD, "/", flags, mode, how);
            assert_eq!(opened.err(), Some(Errno::NOSYS));
            assert!(std::fs::read("/proc/self/status").is_ok());
        })
        .join()
        .unwrap();
    }
}
