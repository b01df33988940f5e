//! What becomes of each filesystem of the machine in a throw-away root: pure.
//!
//! An overlay shows one filesystem, and nothing that is mounted in it. So each of the others gets an
//! overlay of its own; where that can't be, it is there to be read only.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::MountAttributes;
use ebbtide_sys::mountinfo::MountEntry;

/// Places that every throw-away root has for itself: what is mounted there outside is not shown.
pub(super) const OWN: [&str; 4] = ["/dev", "/proc", "/run", "/sys"];

/// The place that is its own only where it is a filesystem of its own outside.
pub(super) const TEMPORARY: &str = "/tmp";

/// Filesystems that hold no files but a way into the kernel, or into a service.
const INTERFACES: [&str; 22] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse.gvfsd-fuse",
    "fuse.portal",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "sysfs",
];

/// Another filesystem of the machine, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Other {
    /// Where it is mounted inside.
    pub path: PathBuf,
    /// Where it is mounted outside.
    pub source: PathBuf,
    /// The type of filesystem.
    pub fstype: String,
    /// What its mount does not allow outside, it does not allow inside.
    pub attributes: MountAttributes,
    /// What becomes of it.
    pub treatment: Treatment,
}

/// What becomes of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// What is written goes into a directory of this boot.
    Overlay,
    /// It is there to be read, as it is outside.
    ReadOnly,
    /// A new and empty one in memory.
    Empty,
    /// A single file: its content is copied, and what is written to the copy is dropped.
    Copy,
}

/// A mount, with what can be seen of it only by looking.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) mount: MountEntry,
    pub(super) kind: Kind,
}

/// What a mount shows at its mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    /// A device, a socket; or it may not be looked at.
    Other,
}

/// The mounts strictly below `base` that have to be looked at, parents first: those that can be
/// reached by path and that show files. Nothing at or below `state`.
pub(super) fn candidates(mounts: &[MountEntry], base: &Path, state: &Path) -> Vec<MountEntry> {
    let children: HashMap<(u32, &Path), u32> =
        mounts.iter().map(|it| ((it.parent, it.mount_point.as_path()), it.id)).collect();
    let by_id: HashMap<u32, &MountEntry> = mounts.iter().map(|it| (it.id, it)).collect();
    let top = mounts.iter().find(|it| !by_id.contains_key(&it.parent) || it.parent == it.id);
    let Some(top) = top else { return Vec::new() };
    // As the kernel walks a path: at each step what is mounted there, and what is mounted on that.
    let reached = |path: &Path| {
        let mut at = top.id;
        let ancestors: Vec<_> = path.ancestors().collect();
        for step in ancestors.into_iter().rev() {
            while let Some(next) = children.get(&(at, step)).filter(|next| **next != at) {
                at = *next;
            }
        }
        at
    };
    let mut found: Vec<_> = mounts
        .iter()
        .filter(|it| it.mount_point != base && it.mount_point.starts_with(base))
        .filter(|it| !it.mount_point.starts_with(state))
        .filter(|it| !INTERFACES.contains(&it.fstype.as_str()))
        .filter(|it| {
            let inside = inside(&it.mount_point, base);
            !OWN.iter().any(|own| inside.starts_with(own))
        })
        .filter(|it| reached(&it.mount_point) == it.id)
        .cloned()
        .collect();
    found.sort_by(|a, b| a.mount_point.cmp(&b.mount_point));
    found
}

/// What becomes of each of them; those that have no place inside are left out.
pub(super) fn plan(seen: &[Seen], base: &Path) -> Vec<Other> {
    let others = seen.iter().filter_map(|Seen { mount, kind }| {
        let path = inside(&mount.mount_point, base);
        let treatment = match kind {
            Kind::Directory if path == Path::new(TEMPORARY) && mount.fstype == "tmpfs" => {
                Treatment::Empty
            }
            Kind::Directory if mount.is_read_only() => Treatment::ReadOnly,
            Kind::Directory => Treatment::Overlay,
            Kind::File => Treatment::Copy,
            Kind::Other => return None,
        };
        let attributes = [
            ("nosuid", MountAttributes::NOSUID),
            ("noexec", MountAttributes::NOEXEC),
            ("noatime", MountAttributes::NOATIME),
        ];
        let attributes = attributes
            .iter()
            .filter(|(name, _)| mount.has_option(name))
            .fold(MountAttributes::NODEV, |all, (_, attribute)| all | *attribute);
        let source = mount.mount_point.clone();
        Some(Other { path, source, fstype: mount.fstype.clone(), attributes, treatment })
    });
    others.collect()
}

/// Where something of the machine is in a root over `base`.
pub(super) fn inside(path: &Path, base: &Path) -> PathBuf {
    Path::new("/").join(path.strip_prefix(base).unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_sys::mountinfo;

    const TABLE: &[u8] = b"\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
21 20 0:5 / /proc rw - proc proc rw\n\
22 20 0:6 / /dev rw - devtmpfs devtmpfs rw\n\
23 22 0:7 / /dev/shm rw - tmpfs tmpfs rw\n\
24 20 0:8 / /run rw - tmpfs tmpfs rw\n\
25 24 8:9 / /run/media/stick rw - ext4 /dev/sdc1 rw\n\
26 20 0:9 / /tmp rw,nosuid - tmpfs tmpfs rw\n\
27 20 8:2 / /home rw,nosuid,noexec,noatime - ext4 /dev/sda2 rw\n\
28 27 8:3 / /home/alice/disk rw - vfat /dev/sdb1 rw\n\
29 20 8:4 / /boot rw - ext4 /dev/sda4 rw\n\
30 29 8:5 / /boot/efi rw - vfat /dev/sda5 rw\n\
31 20 7:0 / /snap/core/1 ro,nodev - squashfs /dev/loop0 ro\n\
32 20 8:1 /x /etc/resolv.conf rw - ext4 /dev/sda1 rw\n\
33 20 0:20 / /mnt rw - tmpfs hidden rw\n\
34 33 0:21 / /mnt rw - tmpfs visible rw\n\
35 33 0:22 / /mnt/below rw - tmpfs hidden-too rw\n\
36 20 0:23 / /proof rw - binfmt_misc binfmt_misc rw\n\
37 20 8:6 / /var/lib/ebbtide/try rw - ext4 /dev/sda6 rw\n\
38 37 8:7 / /var/lib/ebbtide/try/x rw - ext4 /dev/sda7 rw\n\
39 20 8:8 / /device rw - devfs x rw\n";

    fn plan_of(base: &str) -> Vec<String> {
        let mounts = mountinfo::parse(TABLE).unwrap();
        let base = Path::new(base);
        let found = candidates(&mounts, base, Path::new("/var/lib/ebbtide/try"));
        let seen = found.into_iter().map(|mount| {
            let kind = match mount.mount_point.to_str().unwrap() {
                "/etc/resolv.conf" => Kind::File,
                "/device" => Kind::Other,
                _ => Kind::Directory,
            };
            Seen { mount, kind }
        });
        let plan = plan(&seen.collect::<Vec<_>>(), base);
        let line = |other: &Other| {
            format!("{} {:?} {:?}", other.path.display(), other.treatment, other.attributes)
        };
        plan.iter().map(line).collect()
    }

    #[test]
    fn every_filesystem_that_can_be_reached_has_a_place() {
        let nodev = MountAttributes::NODEV;
        let home = nodev | MountAttributes::NOSUID | MountAttributes::NOEXEC;
        let home = home | MountAttributes::NOATIME;
        let temporary = nodev | MountAttributes::NOSUID;
        assert_eq!(
            plan_of("/"),
            [
                format!("/boot Overlay {nodev:?}"),
                format!("/boot/efi Overlay {nodev:?}"),
                format!("/etc/resolv.conf Copy {nodev:?}"),
                format!("/home Overlay {home:?}"),
                format!("/home/alice/disk Overlay {nodev:?}"),
                format!("/mnt Overlay {nodev:?}"),
                format!("/snap/core/1 ReadOnly {nodev:?}"),
                format!("/tmp Empty {temporary:?}"),
            ]
        );
    }

    #[test]
    fn over_a_directory_only_what_is_mounted_below_it() {
        let nodev = MountAttributes::NODEV;
        assert_eq!(plan_of("/home"), [format!("/alice/disk Overlay {nodev:?}")]);
        // What would be at its /run is not shown, whatever it is outside.
        assert_eq!(plan_of("/snap"), [format!("/core/1 ReadOnly {nodev:?}")]);
    }

    #[test]
    fn of_two_mounts_in_one_place_the_upper_one_counts() {
        let mounts = mountinfo::parse(TABLE).unwrap();
        let found = candidates(&mounts, Path::new("/"), Path::new("/nowhere"));
        let at_mnt: Vec<_> = found.iter().filter(|it| it.mount_point.starts_with("/mnt")).collect();
        assert_eq!(at_mnt.len(), 1);
        assert_eq!(at_mnt[0].source, "visible");
        assert!(found.iter().any(|it| it.mount_point.ends_with("try/x")));
    }
}
