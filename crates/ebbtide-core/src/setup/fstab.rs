//! The base's fstab: the line for `/` must fit every root that is made from it.

use std::fmt::Write;

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

/// Rewrites the line for `/` (adding one if there is none) and leaves every other byte alone.
///
/// `subvol=` names `root` in the container, which always resolves; `subvolid=` would name one root
/// for ever. systemd-remount-fs(8) applies that line to the running root.
pub fn rewrite(
    text: &str,
    device: &str,
    subvolume: &str,
    options: &[String],
    entries: &[String],
) -> Result<String, FstabError> {
    let mut all = format!("subvol={subvolume},noatime");
    for option in options {
        let _ = write!(all, ",{option}");
    }
    let root = format!("{device} / btrfs {all} 0 0");
    let mut lines = Vec::new();
    let mut seen = false;
    for (index, line) in text.lines().enumerate() {
        let mut fields = line.split_ascii_whitespace();
        let comment = line.trim_start().starts_with('#');
        let place = if comment { None } else { fields.nth(1) };
        match place {
            Some("/") => {
                if !seen {
                    lines.push(root.clone());
                }
                seen = true;
            }
            Some(path) if entries.iter().any(|entry| hides(path, entry)) => {
                return Err(FstabError::Hides { line: index + 1, path: path.to_owned() });
            }
            _ => lines.push(line.to_owned()),
        }
    }
    if !seen {
        lines.push(root);
    }
    Ok(lines.join("\n") + "\n")
}

/// Whether a mount on `path` lies on an entry or above it. In fstab(5) a space is `\040`.
fn hides(path: &str, entry: &str) -> bool {
    let path = path.replace("\\040", " ");
    path.starts_with('/') && std::path::Path::new(entry).starts_with(&path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(text: &str) -> Result<String, FstabError> {
        let options = ["compress=zstd".to_owned()];
        let entries = ["/home".to_owned()];
        rewrite(text, "LABEL=system", "ebbtide/root", &options, &entries)
    }

    const ROOT: &str = "LABEL=system / btrfs subvol=ebbtide/root,noatime,compress=zstd 0 0";

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
    fn a_mount_over_an_entry_is_refused() {
        let entries = ["/var/log".to_owned()];
        for path in ["/var", "/var/", "/var/log/"] {
            let text = format!("UUID=1 {path} ext4 defaults 0 2\n");
            assert!(rewrite(&text, "LABEL=system", "ebbtide/root", &[], &entries).is_err());
        }
        let below = "UUID=1 /var/log/audit ext4 defaults 0 2\nUUID=2 none swap sw 0 0\n";
        assert!(rewrite(below, "LABEL=system", "ebbtide/root", &[], &entries).is_ok());
        let error = rewritten("UUID=1 / btrfs x\nUUID=1 /home btrfs subvol=@home").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2 of /etc/fstab mounts something on /home, which is declared to be kept"
        );
    }
}
