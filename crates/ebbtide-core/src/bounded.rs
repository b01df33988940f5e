//! Asking another program, which may say too much or take too long.

use std::io::Read as _;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ebbtide_sys::child;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// It is not there, or it failed.
    Failed,
    /// It was ended, because it took too long or said too much.
    TooMuch,
}

/// Runs a program with nothing to read, and returns what it wrote to standard output: at most `limit`
/// bytes, within `time`.
pub(crate) fn output(
    command: &mut Command,
    limit: usize,
    time: Duration,
) -> Result<Vec<u8>, NoAnswer> {
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|_| NoAnswer::Failed)?;
    let said = read(&mut child, limit, time);
    if said.is_err() {
        let _ = child.kill();
    }
    let ended = child.wait().map_err(|_| NoAnswer::Failed)?;
    said.and_then(|said| if ended.success() { Ok(said) } else { Err(NoAnswer::Failed) })
}

/// All that it says, within the limits.
fn read(child: &mut Child, limit: usize, time: Duration) -> Result<Vec<u8>, NoAnswer> {
    let until = Instant::now() + time;
    let mut out = child.stdout.take().ok_or(NoAnswer::Failed)?;
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let left = until.checked_duration_since(Instant::now()).ok_or(NoAnswer::TooMuch)?;
        let ready = child::wait_for(&[out.as_fd()], Some(left)).map_err(|_| NoAnswer::Failed)?;
        if !ready.contains(&true) {
            return Err(NoAnswer::TooMuch);
        }
        match out.read(&mut buffer).map_err(|_| NoAnswer::Failed)? {
            0 => return Ok(all),
            count => all.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
        if all.len() > limit {
            return Err(NoAnswer::TooMuch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_too_much_takes_too_long_or_fails_has_no_answer() {
        let run = |script: &str, limit: usize, milliseconds: u64| {
            let time = Duration::from_millis(milliseconds);
            output(Command::new("sh").args(["-c", script]), limit, time)
        };
        assert_eq!(run("echo one; echo two", 8, 20_000), Ok(b"one\ntwo\n".to_vec()));
        assert_eq!(run("echo one; echo two", 7, 20_000), Err(NoAnswer::TooMuch));
        assert_eq!(run("sleep 20", 7, 200), Err(NoAnswer::TooMuch));
        assert_eq!(run("echo one; exit 1", 8, 20_000), Err(NoAnswer::Failed));
        let nothing = output(&mut Command::new("/nowhere/x"), 8, Duration::from_secs(9));
        assert_eq!(nothing, Err(NoAnswer::Failed));
    }
}
