//! The table `[root]`.

use super::super::DECISIONS;
use super::super::file::{At, RamMount, Root, VolumeMount, VolumeOption};
use super::super::path;
use super::super::problem::quote;
use super::super::value::{Reader, Table, Value};
use crate::compiled::{Backend, RamSize, parse_bytes};

pub(in crate::declaration) const ROOT_KEYS: [&str; 14] = [
    "backend",
    "device",
    "container",
    "uuid",
    "options",
    "ephemeral",
    "size",
    "archive",
    "writable",
    "tmpfs",
    "mounts",
    "audit",
    "require-login",
    "keep-boots",
];
const RAM_MOUNT_KEYS: [&str; 3] = ["path", "size", "mode"];
const VOLUME_MOUNT_KEYS: [&str; 5] = ["path", "device", "subvolume", "directory", "options"];
const VOLUME_OPTIONS: [(&str, VolumeOption); 5] = [
    ("ro", VolumeOption::Ro),
    ("suid", VolumeOption::Suid),
    ("nosuid", VolumeOption::Nosuid),
    ("dev", VolumeOption::Dev),
    ("noexec", VolumeOption::Noexec),
];

const BACKENDS: [(&str, Backend); 3] =
    [("btrfs", Backend::Btrfs), ("overlay", Backend::Overlay), ("tmpfs", Backend::Tmpfs)];

impl Reader<'_> {
    pub(super) fn root(&mut self, parent: Table<'_, '_>, value: &Value<'_>) -> Option<Root> {
        let before = self.problems.len();
        let table = self.table(value, "[root]", &ROOT_KEYS)?;
        let place = self.place(parent.key_span("root").unwrap_or_else(|| value.span()));
        self.required(table, &place, "[root]", &[("backend", "btrfs"), ("device", "LABEL=…")]);
        let root = Root {
            place,
            sound: true,
            backend: table
                .get("backend")
                .and_then(|value| self.choice(value, "backend", &BACKENDS, |_| None)),
            device: table.get("device").and_then(|value| self.device(value)),
            container: table.get("container").and_then(|value| self.container(value)),
            uuid: table.get("uuid").and_then(|value| self.uuid(value)),
            options: self.each(table, "options", Self::root_option),
            ephemeral: self.each(table, "ephemeral", Self::ephemeral),
            size: table.get("size").and_then(|value| {
                let size = self.ram_size(value)?;
                Some(self.at(value, size))
            }),
            archive: table.get("archive").and_then(|value| {
                let bytes = self.bytes(value, "archive")?;
                Some(self.at(value, bytes))
            }),
            writable: table.get("writable").and_then(|value| {
                let writable = self.boolean(value, "writable")?;
                Some(self.at(value, writable))
            }),
            tmpfs: self.each(table, "tmpfs", Self::ram_mount),
            mounts: self.each(table, "mounts", Self::volume_mount),
            audit: table.get("audit").and_then(|value| {
                let audit = self.boolean(value, "audit")?;
                Some(self.at(value, audit))
            }),
            require_login: table.get("require-login").and_then(|value| {
                let required = self.boolean(value, "require-login")?;
                Some(self.at(value, required))
            }),
            keep_boots: table.get("keep-boots").and_then(|value| self.keep_boots(value)),
        };
        Some(Root { sound: self.problems.len() == before, ..root })
    }

    fn container(&mut self, value: &Value<'_>) -> Option<At<std::path::PathBuf>> {
        let path = self.path(value, "container", path::relative)?;
        let text = path.value.to_str().unwrap_or_default();
        // The path travels in `subvol=`, through a shell, to mount(8).
        if is_plain(text) {
            return Some(path);
        }
        let hint = "only letters, digits, `/` and `@ . _ + : = -`".to_owned();
        let message = format!("the container path {} would break mount options", quote(text));
        self.error(value.span(), message, "", Some(hint));
        None
    }

    fn root_option(&mut self, value: &Value<'_>) -> Option<At<String>> {
        let text = self.text(value, "option")?;
        let name = text.split('=').next().unwrap_or(text);
        let reason = match name {
            "subvol" | "subvolid" => "Ebbtide itself mounts the subvolume of this boot",
            "ro" | "rw" => "the kernel command line decides that",
            "atime" | "noatime" | "relatime" | "norelatime" | "strictatime" | "nostrictatime"
            | "lazytime" | "nolazytime" => {
                "roots are always `noatime`: access times would unshare every snapshot"
            }
            "defaults" | "auto" | "noauto" | "nofail" | "_netdev" | "user" | "nouser" | "users"
            | "owner" | "group" | "comment" => "it has a meaning in fstab only",
            "bind" | "rbind" | "move" | "remount" => "it is not an option of a new mount",
            _ if name.starts_with("x-") || name.starts_with("X-") => {
                "it has a meaning in fstab only"
            }
            "" => "it is empty",
            _ if text.contains(',') => "it is more than one: write each as a string of its own",
            _ if !is_plain(text) => {
                "of the special characters, only `/ @ . _ + : = -` are possible"
            }
            _ => return Some(self.at(value, text.to_owned())),
        };
        let message = format!("{} cannot be an option of the root", quote(text));
        self.error(value.span(), message, "", Some(reason.to_owned()));
        None
    }

    fn ram_size(&mut self, value: &Value<'_>) -> Option<RamSize> {
        let text = self.text(value, "size")?;
        match text.parse() {
            Ok(size) => Some(size),
            Err(why) => {
                let message = format!("{} is no size of a filesystem in RAM", quote(text));
                self.error(value.span(), message, "", Some(why.to_owned()));
                None
            }
        }
    }

    pub(in crate::declaration) fn bytes(&mut self, value: &Value<'_>, key: &str) -> Option<u64> {
        let text = self.text(value, key)?;
        let bytes = parse_bytes(text);
        if bytes.is_none() {
            let hint = "a number with K, M, G or T behind it, as in \"500M\"".to_owned();
            self.error(value.span(), format!("{} is no size", quote(text)), "", Some(hint));
        }
        bytes
    }

    fn ram_mount(&mut self, value: &Value<'_>) -> Option<RamMount> {
        if !value.get_ref().is_table() {
            let path = self.path(value, "path", path::absolute)?;
            return Some(RamMount { path, size: None, mode: None });
        }
        let table = self.table(value, "tmpfs", &RAM_MOUNT_KEYS)?;
        let place = self.place(value.span());
        self.required(table, &place, "tmpfs", &[("path", "/…")]);
        let path = table.get("path").and_then(|value| self.path(value, "path", path::absolute));
        let size = table.get("size").and_then(|value| self.ram_size(value));
        let mode = table.get("mode").and_then(|value| self.mode(value));
        Some(RamMount { path: path?, size, mode })
    }

    fn ephemeral(&mut self, value: &Value<'_>) -> Option<At<std::path::PathBuf>> {
        let path = self.path(value, "ephemeral", path::absolute)?;
        if DECISIONS.iter().any(|decision| path.value.as_path() == *decision) {
            return Some(path);
        }
        let message = "`ephemeral` is for `/home`, `/root` and `/srv` only";
        let hint = "every other path is forgotten unless it is kept".to_owned();
        self.error(value.span(), message, "", Some(hint));
        None
    }

    fn volume_mount(&mut self, value: &Value<'_>) -> Option<VolumeMount> {
        let table = self.table(value, "mounts", &VOLUME_MOUNT_KEYS)?;
        let place = self.place(value.span());
        self.required(table, &place, "mounts", &[("path", "/…"), ("device", "LABEL=…")]);
        let path = table.get("path").and_then(|value| self.path(value, "path", path::absolute));
        let device = table.get("device").and_then(|value| self.device(value));
        let mut below =
            |key: &str| table.get(key).and_then(|value| self.path(value, key, path::relative));
        let (subvolume, directory) = (below("subvolume"), below("directory"));
        let options = self.each(table, "options", |reader, value| {
            reader.choice(value, "option of a volume", &VOLUME_OPTIONS, |text| match text {
                "nodev" => Some("every volume has it, unless it says `dev`"),
                "noatime" => Some("every volume has it"),
                "rw" => Some("it is mounted for writing, unless it says `ro`"),
                "defaults" | "auto" | "noauto" | "nofail" | "_netdev" => {
                    Some("it has a meaning in fstab only; a volume that is missing stops no boot")
                }
                _ => None,
            })
        });
        self.contradictions("volume", &options, VolumeOption::meaning);
        Some(VolumeMount { path: path?, device: device?, subvolume, directory, options })
    }
}

/// Whether a text passes through a shell and a list of mount options as it is.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/@._+:=-".contains(&b))
}
