//! What must not be the same in every root that a base makes, nor in every machine that is made
//! from it: identities, seeds, leases, logs.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::FileKind;
use ebbtide_sys::{file, metadata, resolve};

use crate::failure::{Context, Result};

/// One thing that leaves the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Absolute path in the base.
    pub path: PathBuf,
    /// What it is.
    pub what: &'static str,
    /// How it leaves.
    pub how: How,
}

/// How a thing leaves the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Removed.
    Remove,
    /// Left as an empty file, because its presence matters (machine-id(5)).
    Empty,
}

struct Rule {
    directory: &'static str,
    matches: fn(&str) -> bool,
    what: &'static str,
    how: How,
}

const RULES: [Rule; 8] = [
    Rule {
        directory: "etc",
        matches: |name| name == "machine-id",
        what: "machine id",
        how: How::Empty,
    },
    Rule {
        directory: "var/lib/dbus",
        matches: |name| name == "machine-id",
        what: "machine id of D-Bus",
        how: How::Remove,
    },
    Rule {
        directory: "etc/ssh",
        matches: |name| name.starts_with("ssh_host_"),
        what: "ssh host key",
        how: How::Remove,
    },
    Rule {
        directory: "var/lib/systemd",
        matches: |name| name == "random-seed",
        what: "random seed",
        how: How::Remove,
    },
    Rule {
        directory: "var/lib/systemd",
        matches: |name| name == "credential.secret",
        what: "key of systemd-creds",
        how: How::Remove,
    },
    Rule {
        directory: "var/lib/dhcp",
        matches: |name| has_extension(name, "leases"),
        what: "DHCP lease",
        how: How::Remove,
    },
    Rule {
        directory: "var/lib/dhcpcd",
        matches: |name| has_extension(name, "lease"),
        what: "DHCP lease",
        how: How::Remove,
    },
    Rule {
        directory: "var/lib/NetworkManager",
        matches: |name| has_extension(name, "lease") || name == "secret_key",
        what: "DHCP lease or key of NetworkManager",
        how: How::Remove,
    },
];

fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == extension)
}

/// Finds all that must leave a base.
pub fn find(base: BorrowedFd<'_>) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for rule in &RULES {
        for (name, kind) in list(base, Path::new(rule.directory))? {
            if kind == FileKind::Regular && name.to_str().is_some_and(rule.matches) {
                let path = Path::new("/").join(rule.directory).join(&name);
                findings.push(Finding { path, what: rule.what, how: rule.how });
            }
        }
    }
    find_logs(base, Path::new("var/log"), 0, &mut findings)?;
    Ok(findings)
}

/// Every file below `/var/log`; the directories stay, because services need theirs.
fn find_logs(
    base: BorrowedFd<'_>,
    directory: &Path,
    depth: usize,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    for (name, kind) in list(base, directory)? {
        let path = directory.join(name);
        match kind {
            FileKind::Directory if depth < 32 => find_logs(base, &path, depth + 1, findings)?,
            FileKind::Regular => findings.push(Finding {
                path: Path::new("/").join(path),
                what: "log",
                how: How::Remove,
            }),
            _ => {}
        }
    }
    Ok(())
}

fn list(base: BorrowedFd<'_>, directory: &Path) -> Result<Vec<(PathBuf, FileKind)>> {
    let what = || format!("cannot list /{} of the base", directory.display());
    let opened = match resolve::open_directory(base, directory) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        Err(error) => return Err(error).context(what),
    };
    let mut entries = Vec::new();
    for entry in file::read_directory(opened.as_fd()).context(what)? {
        let name = PathBuf::from(entry.name);
        if let Some(found) = metadata::metadata_beneath(opened.as_fd(), &name).context(what)? {
            entries.push((name, found.kind));
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

/// Takes one thing out of the base.
pub fn remove(base: BorrowedFd<'_>, finding: &Finding) -> Result<()> {
    let what = || format!("cannot take {} out of the base", finding.path.display());
    let (parent, name) =
        resolve::split_parent(&finding.path).ok_or_else(|| crate::failure::Failure::new(what()))?;
    let parent = resolve::open_directory(base, parent).context(what)?;
    match finding.how {
        How::Remove => {
            rustix::fs::unlinkat(&parent, name, rustix::fs::AtFlags::empty()).context(what)
        }
        How::Empty => file::replace_file(parent.as_fd(), name, b"", 0o444).context(what),
    }
}
