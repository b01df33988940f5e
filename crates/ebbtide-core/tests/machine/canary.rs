//! A tree that nobody may touch: what it is, to be compared with what it is later.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Everything about a tree but when it was read: a line for each entry.
pub fn snapshot(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    describe(top, top, &mut lines);
    lines.sort();
    lines
}

fn describe(top: &Path, path: &Path, lines: &mut Vec<String>) {
    let found = fs::symlink_metadata(path).unwrap();
    let kind = found.file_type();
    let content = if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_encoded_bytes().escape_ascii().to_string()
    } else if kind.is_file() && found.len() < 1 << 20 {
        format!("{:?}", String::from_utf8_lossy(&fs::read(path).unwrap()))
    } else {
        format!("fifo {}, device {}", kind.is_fifo(), found.rdev())
    };
    lines.push(format!(
        "{}: {:o} {}:{} {} bytes, {} names, modified {}.{:09}, changed {}.{:09}: {content}",
        path.strip_prefix(top).unwrap().as_os_str().as_encoded_bytes().escape_ascii(),
        found.mode(),
        found.uid(),
        found.gid(),
        found.len(),
        found.nlink(),
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ));
    if kind.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            describe(top, &entry.unwrap().path(), lines);
        }
    }
}
