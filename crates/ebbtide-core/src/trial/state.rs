//! The directory that a throw-away root's past lies in: one user at a time, and a declaration that
//! teaches.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::failure::{Context, Failure, Result};

/// Where it is unless another one is named.
pub const DEFAULT: &str = "/var/lib/ebbtide/try";

/// The declaration in it.
pub const DECLARATION: &str = "ebbtide.toml";

/// Where the root and the stores are mounted while it runs: for its own processes only.
const WORK: &str = "run";
const LOCK: &str = "lock";
/// How often the lock is tried.
const TRIES: u32 = 12;

const TEACHING: &str = "\
# What a throw-away root keeps: `ebbtide try` reads this file each time it starts.
#
# Everything else starts anew each time. What an earlier one had is not deleted at once: it is put
# away, and `ebbtide keep` and `ebbtide restore` find it there.
#
# The same lines work in /etc/ebbtide/ebbtide.toml, for a whole machine at every boot.
version = 1

[keep]
# Named lists for one application each, such as \"accounts\" or \"ssh-host-keys\".
# `ebbtide check --presets` shows all.
presets = []

# A directory with all that lies below it. Owner and mode can be said, and need not be.
directories = [
  # \"/var/log\",
  # { path = \"/srv/app\", user = \"app\", group = \"app\", mode = \"0750\" },
]

# Single files. If programs replace a file by renaming, it takes the method \"sync\".
files = [
  # \"/etc/motd\",
  # { path = \"/etc/hosts\", method = \"sync\" },
]

# What belongs to a user: paths are below their home, and what is made there is theirs.
# [users.alice]
# directories = [\"projects\", { path = \".ssh\", mode = \"0700\" }]
# files = [\".bash_history\"]
";

/// The state directory, for this process alone until it is dropped.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    _lock: OwnedFd,
}

impl State {
    /// Opens the directory, which is made where it is missing, and takes its lock.
    ///
    /// # Errors
    ///
    /// Refuses a directory that others than root can write to, and one that another throw-away root
    /// is running on.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("cannot make the state directory {}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(path).context(what)?;
        // The overlay's layers are named by this path, so that it must not change its meaning.
        let path = path.canonicalize().context(|| format!("cannot find {}", path.display()))?;
        let found = path.metadata().context(|| format!("cannot look at {}", path.display()))?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(Failure::new(format!(
                "cannot use {} as state directory: others than root can change what is in it",
                path.display()
            ))
            .hint(
                "make it root's own: chown root and chmod 0700; or name another one with --state",
            ));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(path.join(LOCK))
            .context(|| format!("cannot lock {}", path.display()))?;
        let mut tries = 0..TRIES;
        let locked = loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                // One that was just killed takes a moment to go.
                Err(Errno::AGAIN | Errno::INTR) if tries.next().is_some() => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                result => break result,
            }
        };
        match locked {
            Ok(()) => {}
            Err(Errno::AGAIN) => {
                return Err(Failure::new(format!(
                    "cannot start: another throw-away root is running on {}",
                    path.display()
                ))
                .hint(
                    "leave that one first, or give this one a directory of its own with --state",
                ));
            }
            Err(errno) => {
                return Err(errno).context(|| format!("cannot lock {}", path.display()));
            }
        }
        let state = Self { path, _lock: lock.into() };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state.work())
            .context(|| format!("cannot make {}", state.work().display()))?;
        Ok(state)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its own declaration, which is written first if there is none.
    pub fn declaration(&self) -> Result<PathBuf> {
        let path = self.path.join(DECLARATION);
        let what = || format!("cannot write {}", path.display());
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path) {
            Ok(file) => fill(file).context(what)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context(what),
        }
        Ok(path)
    }

    /// The directory for mounts.
    pub(super) fn work(&self) -> PathBuf {
        self.path.join(WORK)
    }
}

fn fill(mut file: File) -> std::io::Result<()> {
    file.write_all(TEACHING.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::declaration::{self, SourceFile};

    #[test]
    fn only_one_at_a_time_and_only_where_nobody_else_writes() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("a/state");
        let first = State::open(&path).unwrap();
        let second = State::open(&path).unwrap_err();
        assert!(second.chain().contains("another throw-away root is running on"), "{second}");
        drop(first);
        State::open(&path).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o777)).unwrap();
        let shared = State::open(&path).unwrap_err();
        assert!(shared.chain().contains("others than root"), "{shared}");
    }

    #[test]
    fn its_declaration_teaches_and_is_written_once() {
        let scratch = tempfile::tempdir().unwrap();
        let state = State::open(&scratch.path().join("state")).unwrap();
        let path = state.declaration().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let with_examples: String = text
            .lines()
            .map(|line| line.strip_prefix("# [users").map_or(line.to_owned(), |it| format!("[users{it}")))
            .map(|line| line.replace("  # ", "  "))
            .map(|line| if line.starts_with("# directories") || line.starts_with("# files") {
                line[2..].to_owned()
            } else {
                line
            } + "\n")
            .collect();
        for (text, entries) in [(text.as_str(), 0), (&with_examples, 7)] {
            let source = SourceFile { name: "ebbtide.toml".to_owned(), text: text.to_owned() };
            let outcome = declaration::check(std::slice::from_ref(&source));
            let declaration = outcome.declaration.unwrap_or_else(|| {
                panic!("{}", outcome.problems[0].render(&[source], false));
            });
            let mut declared = declaration.entries;
            declared.retain(|entry| entry.origin.file == "ebbtide.toml");
            assert_eq!(declared.len(), entries, "{declared:?}");
        }
        std::fs::write(&path, "mine").unwrap();
        state.declaration().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    }
}
