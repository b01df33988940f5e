//! What nobody in a throw-away root may do, root included.
//!
//! `CAP_SYS_ADMIN` stays: it is what mounting takes, and so what a throw-away root in a throw-away root
//! takes. With it, someone who means to break out can. The rest keeps programs that mean no harm from
//! reaching the machine, and what `CAP_SYS_ADMIN` would allow them all the same is refused by a filter.

use ebbtide_sys::capability::{self, CapabilitySet};
use ebbtide_sys::filter::{self, Refused, call};

use crate::failure::{Context, Result};

const GIVEN_UP: [CapabilitySet; 18] = [
    CapabilitySet::SYS_MODULE,
    CapabilitySet::SYS_TIME,
    CapabilitySet::SYS_RAWIO,
    CapabilitySet::SYS_BOOT,
    CapabilitySet::MKNOD,
    CapabilitySet::NET_ADMIN,
    // The log of the kernel, the audit system (writing to it is what sshd and others insist on), and
    // the rules of security modules.
    CapabilitySet::SYSLOG,
    CapabilitySet::AUDIT_CONTROL,
    CapabilitySet::AUDIT_READ,
    CapabilitySet::MAC_ADMIN,
    CapabilitySet::MAC_OVERRIDE,
    // When the machine sleeps and wakes.
    CapabilitySet::WAKE_ALARM,
    CapabilitySet::BLOCK_SUSPEND,
    // Programs in the kernel, which see and change all of it.
    CapabilitySet::BPF,
    CapabilitySet::PERFMON,
    CapabilitySet::SYS_PACCT,
    CapabilitySet::SYS_TTY_CONFIG,
    // Files by number instead of by path: below any mount, all of a filesystem. DAC_OVERRIDE reads
    // and searches just as well.
    CapabilitySet::DAC_READ_SEARCH,
];

/// `FIFREEZE` and `FITHAW` of linux/fs.h: stop all writing to a filesystem.
const FREEZE: [u32; 2] = [0xC004_5877, 0xC004_5878];

/// `SYSLOG_ACTION_*` of syslog(2) that change the log or what goes to the console.
const LOG_CHANGES: [u32; 5] = [4, 5, 6, 7, 8];

/// Gives all of that up, for the calling process and all it starts.
pub(super) fn apply() -> Result<()> {
    let all = GIVEN_UP.iter().fold(CapabilitySet::empty(), |all, one| all | *one);
    capability::drop(all).context(|| "cannot give up capabilities")?;
    let mut refused = vec![
        Refused::call(call::SYS_swapon),
        Refused::call(call::SYS_swapoff),
        Refused::call(call::SYS_kexec_load),
        Refused::call(call::SYS_kexec_file_load),
        Refused::call(call::SYS_open_by_handle_at),
        Refused::call(call::SYS_quotactl),
        Refused::call(call::SYS_quotactl_fd),
        Refused::call(call::SYS_bpf),
        Refused::call(call::SYS_perf_event_open),
    ];
    refused.extend(FREEZE.map(|request| Refused::with(call::SYS_ioctl, 1, request)));
    refused.extend(LOG_CHANGES.map(|action| Refused::with(call::SYS_syslog, 0, action)));
    match filter::install(&refused) {
        // A kernel without filters: what is left are the capabilities.
        Err(error) if error.errno() == rustix::io::Errno::INVAL => Ok(()),
        installed => installed.context(|| "cannot install the filter of system calls"),
    }
}
