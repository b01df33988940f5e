//! fstab(5): the line for `/` must fit every root, because systemd-remount-fs(8) applies it to the one
//! that runs.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::compiled::Backend;

/// Why an fstab can't be used in a base.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FstabError {
    /// A mount from fstab would hide an entry.
    #[error("line {line} of /etc/fstab mounts something on {path}, which is declared to be kept")]
    Hides {
        /// Line, counted from 1.
        line: usize,
        /// The mount point.
        path: String,
    },
}

/// The line for `/` where roots are subvolumes.
///
/// `subvol=` names `root` in the container, which always resolves; `subvolid=` would name one root
/// for ever. systemd-remount-fs(8) applies that line to the running root.
pub fn root_line(device: &str, subvolume: &str, options: &[String]) -> String {
    let mut all = format!("subvol={subvolume},noatime");
    for option in options {
        let _ = write!(all, ",{option}");
    }
    format!("{device} / btrfs {all} 0 0")
}

/// Rewrites the line for `/` (adding one if there is none) and leaves every other byte alone. Without
/// a `root`, as for an overlay, there is no such line: systemd-remount-fs(8) would fail on it.
pub fn rewrite(text: &str, root: Option<&str>, entries: &[String]) -> Result<String, FstabError> {
    let mut lines = Vec::new();
    let mut root = root;
    for (index, line) in text.lines().enumerate() {
        let mut fields = line.split_ascii_whitespace();
        let comment = line.trim_start().starts_with('#');
        let place = if comment { None } else { fields.nth(1) };
        match place {
            Some(path) if is_top(path) => lines.extend(root.take().map(ToOwned::to_owned)),
            Some(path) if entries.iter().any(|entry| hides(path, entry)) => {
                return Err(FstabError::Hides { line: index + 1, path: path.to_owned() });
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.extend(root.map(ToOwned::to_owned));
    lines.push(String::new());
    Ok(lines.join("\n"))
}

/// Where the lines of an fstab mount something, `/` included; swap is mounted nowhere.
pub fn mount_points(text: &str) -> Vec<PathBuf> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .filter_map(|line| line.split_ascii_whitespace().nth(1))
        .filter(|place| place.starts_with('/'))
        // Without a slash at its end, as a path from the mount table.
        .map(|place| Path::new(&unescape(place)).components().collect())
        .collect()
}

/// What a root's fstab should be, if it is not: no line for `/` on an overlay, and on a root that is not
/// for writing none that would make it writable.
pub fn fitting(text: &str, backend: Backend, writable: bool) -> Option<String> {
    let mut fitting = String::new();
    for line in text.split_inclusive('\n') {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_root =
            !line.trim_start().starts_with('#') && fields.get(1).is_some_and(|path| is_top(path));
        match (is_root, backend) {
            (true, Backend::Overlay | Backend::Tmpfs) => {}
            (true, Backend::Btrfs) if !writable => {
                let options = fields.get(3).copied().unwrap_or("defaults");
                if options.split(',').any(|option| option == "ro") {
                    fitting.push_str(line);
                    continue;
                }
                let kept = options.split(',').filter(|option| !["rw", ""].contains(option));
                let options = kept.chain(["ro"]).collect::<Vec<_>>().join(",");
                let mut fields = fields;
                // A line may end early; the type of what is mounted already does not matter.
                fields.resize(fields.len().max(4), "auto");
                if let Some(field) = fields.get_mut(3) {
                    *field = &options;
                }
                fitting.push_str(&fields.join(" "));
                fitting.push('\n');
            }
            _ => fitting.push_str(line),
        }
    }
    (fitting != text).then_some(fitting)
}

/// Whether a mount point is `/`, however it is spelled.
fn is_top(path: &str) -> bool {
    path.starts_with('/') && Path::new(&unescape(path)).components().count() == 1
}

/// Whether a mount on `path` lies on an entry or above it.
fn hides(path: &str, entry: &str) -> bool {
    let path = unescape(path);
    path.starts_with('/') && Path::new(entry).starts_with(&path)
}

/// In fstab(5) a space is `\040`.
fn unescape(path: &str) -> String {
    path.replace("\\040", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> Result<String, FstabError> {
        let line = root_line("LABEL=system", "ebbtide/root", &["compress=zstd".to_owned()]);
        rewrite(text, Some(&line), &["/home".to_owned()])
    }

    const ROOT: &str = "LABEL=system / btrfs subvol=ebbtide/root,noatime,compress=zstd 0 0";

    #[test]
    fn a_line_that_ends_early_is_completed_once() {
        for line in
            ["UUID=1 /\n", "UUID=1 / btrfs\n", "UUID=1 / btrfs rw", "UUID=1 / btrfs rw,,x 0 1\n"]
        {
            let fitting = super::fitting(line, Backend::Btrfs, false).unwrap();
            assert!(fitting.split_ascii_whitespace().nth(3).unwrap().ends_with("ro"), "{fitting}");
            assert_eq!(super::fitting(&fitting, Backend::Btrfs, false), None, "{fitting}");
        }
    }

    #[test]
    fn the_line_of_the_root_is_replaced_and_no_other() {
        let before =
            "# my disks\nUUID=1 / btrfs subvolid=257,relatime 0 1\n\nUUID=2 none swap sw 0 0\n";
        let after = format!("# my disks\n{ROOT}\n\nUUID=2 none swap sw 0 0\n");
        assert_eq!(rewritten(before).unwrap(), after);
        assert_eq!(rewritten(&after).unwrap(), after, "twice is once");
    }

    #[test]
    fn a_missing_line_is_added_and_comments_do_not_count() {
        assert_eq!(rewritten("").unwrap(), format!("{ROOT}\n"));
        assert_eq!(rewritten("#x / btrfs\n").unwrap(), format!("#x / btrfs\n{ROOT}\n"));
    }

    #[test]
    fn the_line_of_a_running_root_fits_it() {
        let text = "# x / y\nUUID=1 / btrfs rw,subvol=a 0 1\nUUID=2 none swap sw 0 0\n";
        let fits = |backend, writable| fitting(text, backend, writable);
        assert_eq!(fits(Backend::Btrfs, true), None);
        let without = "# x / y\nUUID=2 none swap sw 0 0\n";
        assert_eq!(fits(Backend::Overlay, true).as_deref(), Some(without));
        assert_eq!(fits(Backend::Tmpfs, false).as_deref(), Some(without));
        let read_only = "# x / y\nUUID=1 / btrfs subvol=a,ro 0 1\nUUID=2 none swap sw 0 0\n";
        assert_eq!(fits(Backend::Btrfs, false).as_deref(), Some(read_only));
        assert_eq!(fitting(read_only, Backend::Btrfs, false), None);
    }

    #[test]
    fn mount_points_are_those_of_lines_that_mount() {
        let text = "# x /comment ext4\nUUID=1 / btrfs x 0 0\nUUID=2 none swap sw 0 0\n\n\
                    UUID=3\t/boot/efi/ vfat\nUUID=4 /with\\040space ext4\n";
        let places = ["/", "/boot/efi", "/with space"].map(PathBuf::from);
        assert_eq!(mount_points(text), places);
    }

    #[test]
    fn an_overlay_has_no_line() {
        let before = "# disks\nUUID=1 / ext4 errors=remount-ro 0 1\nUUID=2 none swap sw 0 0\n";
        let after = "# disks\nUUID=2 none swap sw 0 0\n";
        assert_eq!(rewrite(before, None, &[]).unwrap(), after);
        assert_eq!(rewrite("", None, &[]).unwrap(), "");
    }

    #[test]
    fn a_mount_over_an_entry_is_refused() {
        let entries = ["/var/log".to_owned()];
        for path in ["/var", "/var/", "/var/log/"] {
            let text = format!("UUID=1 {path} ext4 defaults 0 2\n");
            assert!(rewrite(&text, None, &entries).is_err());
        }
        let below = "UUID=1 /var/log/audit ext4 defaults 0 2\nUUID=2 none swap sw 0 0\n";
        assert!(rewrite(below, None, &entries).is_ok());
        let error = rewritten("UUID=1 / btrfs x\nUUID=1 /home btrfs subvol=@home").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2 of /etc/fstab mounts something on /home, which is declared to be kept"
        );
    }
}
