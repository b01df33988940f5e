//! Running other programs and saying what went wrong.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` without standard input and returns what it printed.
///
/// # Errors
///
/// Fails when it cannot be started or does not exit with 0; the message has its arguments and the
/// end of what it wrote to both streams.
pub fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, said(&output));
    }
    Ok(output.stdout)
}

/// Runs `command` with this process's own standard streams.
///
/// # Errors
///
/// Fails when it cannot be started or does not exit with 0.
pub fn stream(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

/// Returns the place for what tests build and leave behind: the workspace's target directory.
pub fn target_directory() -> PathBuf {
    let beside_the_packages = || {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        package.ancestors().nth(2).unwrap_or(package).join("target")
    };
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside_the_packages, PathBuf::from)
}

/// Returns the last `count` lines of `text`.
pub fn tail(text: &str, count: usize) -> &str {
    let text = text.trim_end();
    match text.rmatch_indices('\n').nth(count.saturating_sub(1)) {
        Some((newline, _)) => &text[newline + 1..],
        None => text,
    }
}

/// The right to use a directory alone, until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Makes `directory` if it does not exist, and waits until nobody else has its lock.
    ///
    /// # Errors
    ///
    /// Fails when the directory cannot be made or locked.
    pub fn wait_for(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let path = directory.join("lock");
        let file =
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}

fn said(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    tail(&text, 40).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_the_arguments_the_status_and_both_streams() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 7"]))
            .unwrap_err()
            .to_string();
        for part in ["exit 7", "exit status: 7", "out\n", "err"] {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a\nb", 5), "a\nb");
        assert_eq!(tail("", 3), "");
    }
}
