//! Mounted files that programs try to replace by rename(2), which fails on a mount with EBUSY.
//!
//! No one place tells of it. What is believed is a message in the journal that names the file and the
//! error, a new version that was written beside the file in this boot and is there still, and, on a root
//! that is not for writing, what the kernel noted.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ebbtide_sys::metadata::{FileKind, metadata_beneath, metadata_of_entry};
use ebbtide_sys::{file, resolve};

use super::signs::{is_new_version, says_busy};
use super::{Finding, Machine, shown};
use crate::bounded;
use crate::compiled::{Entry, Kind, Method};
use crate::declaration::Severity;
use crate::refused;

/// How long the journal may take.
const TIME: Duration = Duration::from_secs(3);
/// How many bytes of messages are read: there are few.
const BYTES: usize = 4 << 20;
/// How many messages are read, the newest ones.
const MESSAGES: &str = "1000";
/// What programs say when the kernel says EBUSY; in lower case, journalctl(1) ignores case.
const PATTERN: &str = "device or resource busy|ebusy|errno 16|os error 16";

pub(super) fn look(
    machine: &Machine<'_>,
    entries: &[&Entry],
    add: &mut dyn FnMut(&Entry, Finding),
) {
    let is_mounted = |entry: &Entry| {
        let found = metadata_beneath(machine.root(), entry.relative());
        found.is_ok_and(|found| found.is_some_and(|it| it.mount_root))
    };
    let bound = |entry: &&Entry| entry.kind == Kind::File && entry.method == Method::Bind;
    let bound = entries.iter().copied().filter(bound);
    let mounted: Vec<&Entry> = bound.filter(|entry| is_mounted(entry)).collect();
    if mounted.is_empty() {
        return;
    }
    let journal = journal(machine.sysroot);
    let refused = noted(machine);
    for entry in mounted {
        let sign = beside(machine, entry)
            .or_else(|| message(&journal, &entry.path))
            .or_else(|| refused.get(&entry.path).cloned());
        if let Some(sign) = sign {
            let message = format!(
                "{} is mounted, and something tried to replace it, which fails on a mount: {sign}",
                shown(&entry.path)
            );
            let hint =
                "use `method = \"sync\"`: it is copied into the root, and back into its store";
            add(entry, Finding::new(Severity::Warning, message, hint));
        }
    }
}

/// A new version that was written beside it in this boot.
fn beside(machine: &Machine<'_>, entry: &Entry) -> Option<String> {
    let started = machine.boot.read_record()?.clock;
    let (parent, name) = (entry.relative().parent()?, entry.path.file_name()?);
    let directory = resolve::open_directory(machine.root(), parent).ok()?;
    let listed = file::read_directory(directory.as_fd()).ok()?;
    let mut found = listed.into_iter().filter(|it| is_new_version(&it.name, name)).filter(|it| {
        let seen = metadata_of_entry(directory.as_fd(), &it.name).ok().flatten();
        seen.is_some_and(|it| it.kind == FileKind::Regular && it.changed.0 >= started)
    });
    let left = found.next()?;
    let left = entry.path.with_file_name(left.name);
    Some(format!("{} was left beside it in this boot", shown(&left)))
}

/// What the journal of this boot has of EBUSY. If it can't be asked, or takes too long, that is nothing.
fn journal(sysroot: &Path) -> Vec<String> {
    let mut command = Command::new("journalctl");
    if sysroot != Path::new("/") {
        command.arg("--root").arg(sysroot);
    }
    command.args(["--boot", "--output=cat", "--no-pager", "--quiet", "--lines", MESSAGES]);
    command.args(["--grep", PATTERN]);
    let said = bounded::output(&mut command, BYTES, TIME).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().map(str::to_owned).collect()
}

/// A message that names the file.
fn message(journal: &[String], path: &Path) -> Option<String> {
    let path = path.to_str()?;
    let said = journal.iter().find(|message| says_busy(message, path))?;
    Some(format!("the journal has `{}`", ebbtide_sys::escape(said.as_bytes())))
}

/// On a root that is not for writing, what was to be written beside files, by the path of the file.
fn noted(machine: &Machine<'_>) -> BTreeMap<std::path::PathBuf, String> {
    let audits = machine.compiled.root.audit;
    let Some(record) = machine.boot.read_record().filter(|_| audits) else {
        return BTreeMap::new();
    };
    let started = u64::try_from(record.clock).unwrap_or_default();
    let mut noted = BTreeMap::new();
    for it in refused::refused(machine.sysroot, started) {
        let (Some(name), Some(directory)) = (it.path.file_name(), it.path.parent()) else {
            continue;
        };
        for entry in &machine.compiled.entries {
            let same = entry.path.parent() == Some(directory);
            if same && entry.path.file_name().is_some_and(|file| is_new_version(name, file)) {
                let sign = format!("{} could not write {}", shown(&it.program), shown(&it.path));
                noted.insert(entry.path.clone(), sign);
            }
        }
    }
    noted
}
