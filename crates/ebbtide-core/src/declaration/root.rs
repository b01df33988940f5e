//! What the root must be by itself, and its filesystems in RAM to the entries.

use std::path::Path;

use super::file::{At, RamMount, Root, VolumeMount};
use super::merge::Merged;
use super::path::reserved;
use super::problem::{Mark, Problem, Severity, quote};
use crate::compiled::{self, Backend, Mode};

/// Checks the table `[root]`.
pub(super) fn check(merged: &Merged, problems: &mut Vec<Problem>) {
    let Some(root) = &merged.root else { return };
    let backend = root.backend.as_ref().map(|at| at.value);
    if let Some(backend) = backend.filter(|backend| *backend != Backend::Tmpfs) {
        let mut only_in_ram = |key: &str, mark: Option<Mark>| {
            if let Some(mark) = mark {
                let message = format!("`{key}` is for roots in RAM, and the backend is {backend}");
                problems.push(error(message, mark, "leave it out, or use `backend = \"tmpfs\"`"));
            }
        };
        only_in_ram("size", root.size.as_ref().map(|at| at.place.mark("")));
        only_in_ram("archive", root.archive.as_ref().map(|at| at.place.mark("")));
    }
    if let Some(option) = root.options.first().filter(|_| backend.is_some_and(is_overlay)) {
        let message = "the options of an overlay are decided by Ebbtide".to_owned();
        let hint = "leave `options` out: a wrong one would make past roots unreadable";
        problems.push(error(message, option.place.mark(""), hint));
    }
    for (index, mount) in root.tmpfs.iter().enumerate() {
        ram_mount(merged, root, index, mount, problems);
    }
    for (index, mount) in root.mounts.iter().enumerate() {
        volume_mount(merged, root, index, mount, problems);
    }
    if let Some(audit) = root.audit.as_ref().filter(|audit| audit.value)
        && root.writable.as_ref().is_none_or(|writable| writable.value)
    {
        let message = "`audit` notes what a read-only root refuses, and this one is writable";
        let hint = "add `writable = false`, or leave `audit` out";
        problems.push(error(message.to_owned(), audit.place.mark(""), hint));
    }
}

fn is_overlay(backend: Backend) -> bool {
    matches!(backend, Backend::Overlay | Backend::Tmpfs)
}

fn ram_mount(
    merged: &Merged,
    root: &Root,
    index: usize,
    mount: &RamMount,
    problems: &mut Vec<Problem>,
) {
    let At { value: path, place } = &mount.path;
    let name = quote(&path.to_string_lossy());
    if let Some(fault) = reserved(path) {
        let message = format!("nothing can be mounted on {name}");
        let mark = place.mark(fault.message);
        problems.push(Problem { hint: fault.hint, ..error(message, mark, "") });
    }
    if path.starts_with("/etc") {
        let message = format!("{name} would be empty at every boot");
        let hint =
            "leave it out: the base's configuration is there, and changes to it are forgotten";
        problems.push(error(message, place.mark(""), hint));
    }
    if let Some(entry) = merged.entries.get(path) {
        let message = format!("{name} is kept, and mounted in RAM");
        let other = Some(entry.path.place.mark("kept here"));
        problems.push(Problem { other, ..error(message, place.mark(""), "decide for one") });
    }
    if let Some(first) = root.tmpfs.iter().take(index).find(|it| it.path.value == *path) {
        let message = format!("{name} is given twice");
        let other = Some(first.path.place.mark("first here"));
        problems.push(Problem { other, ..error(message, place.mark(""), "remove one of them") });
    }
    let above = |one: &Path, other: &Path| one != other && other.starts_with(one);
    let outer = merged.entries.values().find(|it| above(&it.path.value, path));
    let inner = merged.entries.values().find(|it| above(path, &it.path.value));
    if let (Some(outer), Some(inner)) = (outer, inner) {
        let message = format!(
            "{} lies in {name}, which lies in {}",
            quote(&inner.path.value.to_string_lossy()),
            quote(&outer.path.value.to_string_lossy())
        );
        let other = Some(inner.path.place.mark("kept inside"));
        let hint = "a filesystem in RAM lies in what is kept, or has kept parts, but not both";
        problems.push(Problem { other, ..error(message, place.mark(""), hint) });
    }
}

fn volume_mount(
    merged: &Merged,
    root: &Root,
    index: usize,
    mount: &VolumeMount,
    problems: &mut Vec<Problem>,
) {
    let At { value: path, place } = &mount.path;
    let name = quote(&path.to_string_lossy());
    // What the base owns may lie on a volume as a whole: the base has no part in it then.
    let whole = path == Path::new("/usr");
    if let Some(fault) = reserved(path).filter(|_| !whole) {
        let message = format!("no volume can be mounted on {name}");
        let mark = place.mark(fault.message);
        problems.push(Problem { hint: fault.hint, ..error(message, mark, "") });
    }
    if path == Path::new("/etc") {
        let message = "no volume can be mounted on `/etc`".to_owned();
        let mark = place.mark("then nothing in it would be forgotten");
        problems.push(error(message, mark, "keep those paths below it that matter"));
    }
    if let (Some(subvolume), Some(directory)) = (&mount.subvolume, &mount.directory) {
        let message = format!("the volume at {name} has a `subvolume` and a `directory`");
        let other = Some(subvolume.place.mark("its subvolume"));
        let hint = "it is one of the two: keep `subvolume` on btrfs, `directory` elsewhere";
        problems.push(Problem { other, ..error(message, directory.place.mark(""), hint) });
    }
    let twice = root.mounts.iter().take(index).map(|it| &it.path).find(|it| it.value == *path);
    let ram = root.tmpfs.iter().map(|it| &it.path).find(|it| it.value == *path);
    if let Some(first) = twice.or(ram) {
        let message = format!("{name} is given twice");
        let other = Some(first.place.mark("first here"));
        problems.push(Problem { other, ..error(message, place.mark(""), "remove one of them") });
    }
    let covers = |entry: &&super::file::Entry| path.starts_with(&entry.path.value);
    if let Some(entry) = merged.entries.values().find(covers) {
        let message = format!("the volume at {name} would be hidden by what is kept");
        let other = Some(entry.path.place.mark("kept here"));
        let hint = "mount it beside what is kept, or keep less";
        problems.push(Problem { other, ..error(message, place.mark(""), hint) });
    }
}

/// The volumes on the root, outermost first.
pub(super) fn volume_mounts(root: &Root) -> Vec<compiled::VolumeMount> {
    let mounts = root.mounts.iter().map(|mount| compiled::VolumeMount {
        path: mount.path.value.clone(),
        device: mount.device.value.clone(),
        subvolume: mount.subvolume.as_ref().map(|at| at.value.clone()),
        directory: mount.directory.as_ref().map(|at| at.value.clone()),
        options: mount.mount_options(),
    });
    let mut mounts: Vec<_> = mounts.collect();
    mounts.sort_by(|a, b| a.path.cmp(&b.path));
    mounts
}

/// The filesystems in RAM, outermost first.
pub(super) fn ram_mounts(root: &Root) -> Vec<compiled::RamMount> {
    let usual = |path: &Path| {
        let open = ["/tmp", "/var/tmp"].iter().any(|tmp| path == Path::new(tmp));
        Mode(if open { 0o1777 } else { 0o755 })
    };
    let mounts = root.tmpfs.iter().map(|mount| compiled::RamMount {
        path: mount.path.value.clone(),
        size: mount.size,
        mode: mount.mode.unwrap_or_else(|| usual(&mount.path.value)),
    });
    let mut mounts: Vec<_> = mounts.collect();
    mounts.sort_by(|a, b| a.path.cmp(&b.path));
    mounts
}

fn error(message: String, mark: Mark, hint: &str) -> Problem {
    let hint = (!hint.is_empty()).then(|| hint.to_owned());
    Problem { severity: Severity::Error, message, mark, other: None, hint }
}
