//! What the kernel command line asks of Ebbtide: `ebbtide=off|keep|debug`, separable by commas.

use crate::record::Switch;

/// The switches of this boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Switches {
    /// `off` or `keep`; `off` wins, because it changes less.
    pub root: Option<Switch>,
    /// `debug`: say each step.
    pub debug: bool,
    /// Words that mean nothing.
    pub unknown: Vec<String>,
    /// What else is in `rootflags=`, such as `degraded`: a person's way to a damaged volume.
    pub flags: Vec<String>,
    /// A `subvol=` that the administrator put in `rootflags=`.
    pub subvolume: Option<Vec<u8>>,
    /// `root=`, the device that the initramfs is going to mount.
    pub device: Option<Vec<u8>>,
    /// `resume=`, the device with the image of a hibernated system.
    pub resume: Option<Vec<u8>>,
    /// `resume_offset=`, where on it the swap space begins, in pages.
    pub resume_offset: u64,
    /// `noresume`: a hibernated system is given up.
    pub gives_up: bool,
}

impl Switches {
    /// Reads a kernel command line: words separated by white space, double quotes protect it
    /// (Documentation/admin-guide/kernel-parameters.rst).
    pub fn parse(command_line: &[u8]) -> Self {
        let mut switches = Self::default();
        for word in words(command_line) {
            if let Some(values) = word.strip_prefix(b"ebbtide=") {
                for value in values.split(|&byte| byte == b',') {
                    match value {
                        b"off" => switches.root = Some(Switch::Off),
                        b"keep" => switches.root = switches.root.or(Some(Switch::Keep)),
                        b"debug" => switches.debug = true,
                        b"" => {}
                        other => switches.unknown.push(ebbtide_sys::text::escape(other)),
                    }
                }
            } else if let Some(device) = word.strip_prefix(b"resume=") {
                switches.resume = Some(device.to_vec());
            } else if let Some(offset) = word.strip_prefix(b"resume_offset=") {
                let offset = std::str::from_utf8(offset).ok().and_then(|it| it.parse().ok());
                switches.resume_offset = offset.unwrap_or_default();
            } else if [&b"noresume"[..], b"hibernate=noresume", b"hibernate=no"].contains(&&*word) {
                switches.gives_up = true;
            } else if let Some(device) = word.strip_prefix(b"root=") {
                switches.device = Some(device.to_vec());
            } else if let Some(flags) = word.strip_prefix(b"rootflags=") {
                for flag in flags.split(|&byte| byte == b',') {
                    if let Some(subvolume) = flag.strip_prefix(b"subvol=") {
                        switches.subvolume = Some(subvolume.to_vec());
                    } else if let Some(flag) = passed_on(flag) {
                        switches.flags.push(flag.to_owned());
                    }
                }
            }
        }
        switches
    }
}

/// A mount option that Ebbtide does not decide itself.
fn passed_on(flag: &[u8]) -> Option<&str> {
    const DECIDED: [&str; 6] = ["", "ro", "rw", "noatime", "relatime", "strictatime"];
    let flag = std::str::from_utf8(flag).ok()?;
    (!DECIDED.contains(&flag) && !flag.starts_with("subvolid=")).then_some(flag)
}

fn words(line: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut quoted = false;
    let mut words = vec![Vec::new()];
    for &byte in line {
        match byte {
            b'"' => quoted = !quoted,
            _ if byte.is_ascii_whitespace() && !quoted => words.push(Vec::new()),
            _ => {
                if let Some(word) = words.last_mut() {
                    word.push(byte);
                }
            }
        }
    }
    words.into_iter().filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read_as_the_kernel_splits_its_command_line() {
        let parse = |line: &str| Switches::parse(line.as_bytes());
        assert_eq!(parse("quiet ro"), Switches::default());
        assert_eq!(parse("ro ebbtide=keep quiet\n").root, Some(Switch::Keep));
        assert_eq!(parse("ebbtide=off,debug").root, Some(Switch::Off));
        assert!(parse("ebbtide=off,debug").debug);
        assert_eq!(parse("ebbtide=off ebbtide=keep").root, Some(Switch::Off));
        assert_eq!(parse("ebbtide=keep ebbtide=off").root, Some(Switch::Off));
        assert_eq!(parse("ebbtide=\"keep\"").root, Some(Switch::Keep));
        assert_eq!(parse("x=\"a ebbtide=off b\"").root, None);
        assert_eq!(parse("notebbtide=off").root, None);
        assert_eq!(parse("ebbtide=Off").unknown, ["Off"]);
        assert_eq!(parse("ebbtide=\x1b[2J").unknown, ["\\x1b[2J"]);
    }

    #[test]
    fn the_root_device_is_read() {
        let switches = Switches::parse(b"root=LABEL=system ro rootwait");
        assert_eq!(switches.device.as_deref(), Some(&b"LABEL=system"[..]));
    }

    #[test]
    fn what_is_said_of_a_hibernated_system_is_read() {
        let switches = Switches::parse(b"resume=/dev/vdb resume_offset=38912");
        assert_eq!(switches.resume.as_deref(), Some(&b"/dev/vdb"[..]));
        assert_eq!((switches.resume_offset, switches.gives_up), (38912, false));
        assert!(Switches::parse(b"noresume").gives_up);
        assert!(Switches::parse(b"hibernate=noresume resume=/dev/vdb").gives_up);
        assert!(!Switches::parse(b"hibernate=nocompress resume_offset=-1").gives_up);
    }

    #[test]
    fn the_last_subvolume_of_rootflags_counts() {
        let line = b"rootflags=subvol=a,noatime rootflags=compress=zstd,subvol=b";
        assert_eq!(Switches::parse(line).subvolume.as_deref(), Some(&b"b"[..]));
        assert_eq!(Switches::parse(line).flags, ["compress=zstd"]);
    }

    #[test]
    fn what_a_person_needs_for_a_damaged_volume_is_passed_on() {
        let line = b"rootflags=ro,subvolid=256,degraded,rescue=usebackuproot,noatime";
        assert_eq!(Switches::parse(line).flags, ["degraded", "rescue=usebackuproot"]);
    }
}
