//! Asking the kernel to note failed system calls (linux/audit.h, auditctl(8)), without an audit daemon.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::error::{Error, Result};

const AUDIT_GET: u16 = 1000;
const AUDIT_SET: u16 = 1001;
const AUDIT_ADD_RULE: u16 = 1011;
const AUDIT_FILTER_EXIT: u32 = 4;
const AUDIT_ALWAYS: u32 = 2;
const AUDIT_ARCH: u32 = 11;
const AUDIT_EXIT: u32 = 103;
const AUDIT_FILTERKEY: u32 = 210;
const AUDIT_EQUAL: u32 = 0x4000_0000;
const AUDIT_STATUS_ENABLED: u32 = 1;
/// `AUDIT_MAX_FIELDS`, and `AUDIT_BITMASK_SIZE` too.
const WORDS: usize = 64;
/// Bytes of `struct audit_status`.
const STATUS: usize = 44;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const HEADER: usize = 16;

/// The `AUDIT_ARCH_*` of this machine's system calls: its own, and those of its 32-bit programs.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[u32] = &[0xc000_003e, 0x4000_0003];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[u32] = &[0xc000_00b7, 0x4000_0028];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[u32] = &[];

/// Has the kernel note every system call that fails with an errno, under a key, and enables auditing
/// if it is not. Rules that are there already stay.
///
/// # Errors
///
/// `EPERM` without `CAP_AUDIT_CONTROL` or when the rules are locked, `EPROTONOSUPPORT` from a kernel
/// without auditing, `ECONNREFUSED` in a container.
pub fn note_failures(errno: Errno, key: &str) -> Result<()> {
    let mut socket = Socket::open()?;
    for architecture in ARCHITECTURES {
        match socket.ask(AUDIT_ADD_RULE, &rule(*architecture, errno, key), "AUDIT_ADD_RULE") {
            Err(error) if error.errno() == Errno::EXIST => {}
            done => {
                done?;
            }
        }
    }
    if !socket.is_enabled()? {
        let mut wanted = [0; STATUS];
        wanted[..4].copy_from_slice(&AUDIT_STATUS_ENABLED.to_ne_bytes());
        wanted[4..8].copy_from_slice(&1_u32.to_ne_bytes());
        socket.ask(AUDIT_SET, &wanted, "AUDIT_SET")?;
    }
    Ok(())
}

/// A `struct audit_rule_data`: always, at exit, all system calls of an architecture.
fn rule(architecture: u32, errno: Errno, key: &str) -> Vec<u8> {
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let exit = errno.raw_os_error().wrapping_neg().cast_unsigned();
    let fields = [(AUDIT_ARCH, architecture), (AUDIT_EXIT, exit), (AUDIT_FILTERKEY, length)];
    let mut words = vec![AUDIT_FILTER_EXIT, AUDIT_ALWAYS, 3];
    // The last word stands for classes of system calls, and not for any by number.
    words.extend((0..WORDS).map(|word| if word + 1 < WORDS { u32::MAX } else { 0 }));
    let mut column = |value: fn((u32, u32)) -> u32| {
        let values = fields.iter().map(|field| value(*field));
        words.extend(values.chain(std::iter::repeat(0)).take(WORDS));
    };
    column(|(field, _)| field);
    column(|(_, value)| value);
    column(|_| AUDIT_EQUAL);
    // Past the fields there is nothing to compare.
    let flags = words.len() - WORDS;
    words[flags + fields.len()..].fill(0);
    words.push(length);
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u32::to_ne_bytes).collect();
    bytes.extend_from_slice(key.as_bytes());
    bytes
}

struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    fn open() -> Result<Self> {
        let protocol = Some(netlink::AUDIT);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol);
        let socket = socket.map_err(|errno| {
            Error::new("socket", errno).arg("AF_NETLINK, SOCK_RAW, NETLINK_AUDIT")
        })?;
        Ok(Self { socket, sequence: 0 })
    }

    fn is_enabled(&mut self) -> Result<bool> {
        let status = self.ask(AUDIT_GET, &[], "AUDIT_GET")?;
        Ok(status.get(4..8).is_some_and(|enabled| enabled != [0; 4]))
    }

    /// Sends a request, and waits until the kernel says what came of it. Returns what it answered
    /// besides.
    fn ask(&mut self, kind: u16, payload: &[u8], name: &'static str) -> Result<Vec<u8>> {
        let failed = |call: &'static str, errno| Error::new(call, errno).arg(name);
        self.sequence += 1;
        let message = message(kind, self.sequence, payload);
        send(&self.socket, &message, SendFlags::empty()).map_err(|it| failed("sendto", it))?;
        // The kernel acknowledges a request for its status before it answers it.
        let answers = kind == AUDIT_GET;
        let mut answer = Vec::new();
        let mut acknowledged = false;
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = match recv(self.socket.as_fd(), &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(failed("recvfrom", errno)),
            };
            let Some((found, sequence, payload)) = parse(&buffer[..length]) else {
                return Err(failed("recvfrom", Errno::PROTO));
            };
            if sequence != self.sequence {
                continue;
            }
            if found != NLMSG_ERROR {
                answer = payload.to_vec();
                if acknowledged {
                    return Ok(answer);
                }
                continue;
            }
            let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
            if code != 0 {
                return Err(failed("sendto", Errno::from_raw_os_error(-code)));
            }
            if !answers || !answer.is_empty() {
                return Ok(answer);
            }
            acknowledged = true;
        }
    }
}

/// A netlink(7) message that asks for an acknowledgement.
fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    message.extend_from_slice(&sequence.to_ne_bytes());
    message.extend_from_slice(&0_u32.to_ne_bytes());
    message.extend_from_slice(payload);
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// The type, sequence number and payload of a message.
fn parse(message: &[u8]) -> Option<(u16, u32, &[u8])> {
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(message.get(8..12)?.try_into().ok()?);
    Some((kind, sequence, message.get(HEADER..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the offsets of `struct audit_rule_data` in linux/audit.h.
    #[test]
    fn a_rule_has_the_layout_of_the_kernel() {
        let rule = rule(0xc000_003e, Errno::ROFS, "ebbtide-erofs");
        let word = |at: usize| u32::from_ne_bytes(rule[at..at + 4].try_into().unwrap());
        assert_eq!(rule.len(), 1040 + "ebbtide-erofs".len());
        assert_eq!([word(0), word(4), word(8)], [4, 2, 3], "flags, action, field_count");
        let (mask, fields, values, flags, buflen) = (12, 268, 524, 780, 1036);
        assert_eq!([word(mask), word(mask + 62 * 4), word(mask + 63 * 4)], [!0, !0, 0]);
        assert_eq!([0, 1, 2, 3].map(|it| word(fields + it * 4)), [11, 103, 210, 0]);
        let exit = (-30_i32).cast_unsigned();
        assert_eq!([0, 1, 2, 3].map(|it| word(values + it * 4)), [0xc000_003e, exit, 13, 0]);
        let equal = 0x4000_0000;
        assert_eq!([0, 1, 2, 3].map(|it| word(flags + it * 4)), [equal, equal, equal, 0]);
        assert_eq!(word(buflen), 13);
        assert_eq!(&rule[1040..], b"ebbtide-erofs");
    }

    /// A rule about an errno that nothing ever returns is added and taken away again.
    #[test]
    fn the_kernel_understands_it() {
        const AUDIT_DEL_RULE: u16 = 1012;
        let mut socket = match Socket::open() {
            Ok(socket) => socket,
            Err(error) => return eprintln!("SKIPPED: no auditing here: {error}"),
        };
        let rule = rule(ARCHITECTURES[0], Errno::L2HLT, "ebbtide-test");
        match socket.ask(AUDIT_ADD_RULE, &rule, "AUDIT_ADD_RULE") {
            Err(error) if matches!(error.errno(), Errno::PERM | Errno::CONNREFUSED) => {
                return eprintln!("SKIPPED: no right to add rules here: {error}");
            }
            done => done.unwrap(),
        };
        let again = socket.ask(AUDIT_ADD_RULE, &rule, "AUDIT_ADD_RULE").map(|_| ());
        let enabled = socket.is_enabled();
        socket.ask(AUDIT_DEL_RULE, &rule, "AUDIT_DEL_RULE").unwrap();
        assert_eq!(again.unwrap_err().errno(), Errno::EXIST, "it is the same rule");
        enabled.unwrap();
    }

    #[test]
    fn messages_are_padded_and_read_back() {
        let message = message(AUDIT_SET, 7, b"abcde");
        assert_eq!((message.len(), message[0]), (24, 21));
        assert_eq!(parse(&message), Some((AUDIT_SET, 7, &b"abcde\0\0\0"[..])));
        assert_eq!(parse(b"short"), None);
    }
}
