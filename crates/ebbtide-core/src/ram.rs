//! How full the RAM of a root is, and what fills it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::text::size;
use ebbtide_sys::tree;
use serde::Serialize;

use crate::backend::overlay;
use crate::failure::{Context, Level, Problem, Result};

/// From that many percent on, it should be looked at.
pub const WARNING: u64 = 75;
/// From that many on, programs are about to fail.
pub const ERROR: u64 = 90;

/// How many directories are named.
const NAMED: usize = 3;

/// The RAM of a root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Usage {
    /// How much it may take, in bytes.
    pub size: u64,
    /// How much it takes.
    pub used: u64,
    /// How full it is, in percent; of its inodes, if there are fewer left of those.
    pub percent: u64,
    /// From [`WARNING`] on: what fills it, largest first.
    pub largest: Vec<Directory>,
}

/// A directory, with all that was written below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct Directory {
    /// Its path on the root.
    pub path: PathBuf,
    /// What was written there, in bytes.
    pub bytes: u64,
}

/// Looks at the RAM of the running root.
pub fn usage(run: &Path) -> Result<Usage> {
    let ram = run.join(overlay::RAM);
    let what = || format!("cannot look how full {} is", ram.display());
    let opened = std::fs::File::open(&ram).context(what)?;
    let found = rustix::fs::fstatvfs(&opened).context(what)?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    let inodes = found.f_files.saturating_sub(found.f_ffree);
    let percent = |used: u64, all: u64| (used.saturating_mul(100)).checked_div(all).unwrap_or(0);
    let mut usage = Usage {
        size: found.f_blocks.saturating_mul(found.f_frsize),
        used: used.saturating_mul(found.f_frsize),
        percent: percent(used, found.f_blocks).max(percent(inodes, found.f_files)),
        largest: Vec::new(),
    };
    if usage.percent >= WARNING {
        let sizes = tree::directory_sizes(opened.as_fd(), Path::new(overlay::UPPER));
        usage.largest = largest(&sizes.context(what)?);
    }
    Ok(usage)
}

/// Of the directories below the top, the largest ones; instead of a directory that a single one in it
/// makes large, that one.
fn largest(sizes: &[(PathBuf, u64)]) -> Vec<Directory> {
    let mut inside: BTreeMap<&Path, Vec<(&Path, u64)>> = BTreeMap::new();
    for (path, bytes) in sizes {
        if let Some(parent) = path.parent() {
            inside.entry(parent).or_default().push((path, *bytes));
        }
    }
    let mut tops = inside.get(Path::new("")).cloned().unwrap_or_default();
    tops.sort_unstable_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
    let descend = |(mut path, mut bytes): (&Path, u64)| {
        while let Some((child, most)) =
            inside.get(path).and_then(|all| all.iter().max_by_key(|(_, bytes)| *bytes))
            && most.saturating_mul(2) > bytes
        {
            (path, bytes) = (child, *most);
        }
        Directory { path: Path::new("/").join(path), bytes }
    };
    tops.into_iter().filter(|(_, bytes)| *bytes > 0).take(NAMED).map(descend).collect()
}

impl Usage {
    /// What should be known about it.
    pub fn problem(&self) -> Option<Problem> {
        let level = match self.percent {
            ERROR.. => Level::Error,
            WARNING.. => Level::Warning,
            _ => return None,
        };
        let named = self.largest.iter().map(|directory| {
            let path = ebbtide_sys::escape(directory.path.as_os_str().as_encoded_bytes());
            format!("{path} ({})", size(directory.bytes))
        });
        let named: Vec<_> = named.collect();
        Some(Problem {
            level,
            message: format!(
                "the root in RAM is {}% full, with {} of {}; most is in {}",
                self.percent,
                size(self.used),
                size(self.size),
                named.join(", ")
            ),
            hint: Some(
                "delete what is not needed, keep what is large, or set `size` under [root]"
                    .to_owned(),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_directories_are_named_where_they_are_large() {
        let sizes = |all: &[(&str, u64)]| -> Vec<(PathBuf, u64)> {
            all.iter().map(|(path, bytes)| (PathBuf::from(path), *bytes)).collect()
        };
        let found = largest(&sizes(&[
            ("var/log/app", 60),
            ("var/log", 70),
            ("var/lib", 20),
            ("var", 95),
            ("home/alice", 30),
            ("home/bob", 30),
            ("home", 60),
            ("tmp", 1),
            ("etc", 2),
            ("srv", 0),
            ("", 160),
        ]));
        let found: Vec<_> = found.iter().map(|it| (it.path.to_str().unwrap(), it.bytes)).collect();
        assert_eq!(found, [("/var/log/app", 60), ("/home", 60), ("/etc", 2)]);
        assert_eq!(largest(&sizes(&[("", 5)])), []);
    }

    #[test]
    fn it_is_told_from_the_thresholds_on() {
        let level = |percent| Usage { percent, ..Usage::default() }.problem().map(|it| it.level);
        assert_eq!(level(WARNING - 1), None);
        assert_eq!(level(WARNING), Some(Level::Warning));
        assert_eq!(level(ERROR - 1), Some(Level::Warning));
        assert_eq!(level(ERROR), Some(Level::Error));
    }
}
