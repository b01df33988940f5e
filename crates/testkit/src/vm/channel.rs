//! The way into a running guest: commands go in, results come out, both framed by their length.
//! The other end is `guest/agent.pl`.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What a command in the guest came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status; 128 and the signal's number if a signal ended it.
    pub status: i32,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Says whether the exit status is 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Returns standard output as text, without space at its ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

#[derive(Debug)]
enum Message {
    /// An agent started, in the boot with this id.
    Ready(String),
    Result(u64, Output),
}

/// How waiting for an agent ended.
#[derive(Debug)]
pub(super) enum Announced {
    /// It is there, in the boot with this id.
    Ready(String),
    TimedOut,
    /// QEMU has closed the connection.
    Ended,
}

/// How waiting for a result ended.
#[derive(Debug)]
pub(super) enum Reply {
    Result(Output),
    /// Another agent answered instead: the guest has booted again, or the agent was ended.
    Restarted,
    TimedOut,
    /// QEMU has closed the connection.
    Ended,
}

#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    messages: Receiver<Message>,
    number: u64,
    /// The boot id of an agent that announced itself while something else was waited for.
    ready: Option<String>,
}

impl Channel {
    /// Waits for QEMU to connect; `still_alive` fails when it never will.
    pub(super) fn accept(
        listener: &UnixListener,
        timeout: Duration,
        mut still_alive: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        listener.set_nonblocking(true).context("cannot prepare the socket of the agent")?;
        let deadline = Instant::now() + timeout;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("cannot accept QEMU's connection"),
            }
            still_alive()?;
            if Instant::now() >= deadline {
                bail!("QEMU did not connect within {timeout:?}");
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_write_timeout(Some(timeout)))
            .context("cannot prepare the socket of the agent")?;
        let reader = BufReader::new(stream.try_clone().context("cannot share the socket")?);
        let (sender, messages) = channel();
        // The reader ends with the connection, which ends with QEMU: nothing to be told then.
        thread::spawn(move || read_messages(reader, &sender).ok());
        Ok(Self { stream, messages, number: 0, ready: None })
    }

    /// Waits for an agent to announce itself, in a boot with another id than `last`.
    pub(super) fn wait_until_ready(&mut self, last: &str, timeout: Duration) -> Announced {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(boot_id) = self.ready.take_if(|boot_id| boot_id != last) {
                return Announced::Ready(boot_id);
            }
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Ready(boot_id)) => self.ready = Some(boot_id),
                Ok(Message::Result(..)) => {}
                Err(RecvTimeoutError::Timeout) => return Announced::TimedOut,
                Err(RecvTimeoutError::Disconnected) => return Announced::Ended,
            }
        }
    }

    /// Has `command` run by bash with `input`, and waits for its end.
    pub(super) fn run(&mut self, command: &str, input: &[u8], timeout: Duration) -> Result<Reply> {
        let deadline = Instant::now() + timeout;
        self.number += 1;
        let number = self.number;
        let header = format!("run {number} {} {}\n", command.len(), input.len());
        self.stream
            .write_all(&[header.as_bytes(), command.as_bytes(), input].concat())
            .context("cannot write to the agent")?;
        loop {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Message::Result(id, output)) if id == number => {
                    return Ok(Reply::Result(output));
                }
                // Of a command that was given up waiting for.
                Ok(Message::Result(..)) => {}
                Ok(Message::Ready(boot_id)) => {
                    self.ready = Some(boot_id);
                    return Ok(Reply::Restarted);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(Reply::TimedOut),
                Err(RecvTimeoutError::Disconnected) => return Ok(Reply::Ended),
            }
        }
    }
}

fn read_messages(mut source: impl BufRead, messages: &Sender<Message>) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if source.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let words: Vec<&str> = text.split_whitespace().collect();
        let message = match *words.as_slice() {
            ["ready", boot_id] => Message::Ready(boot_id.to_owned()),
            ["result", id, status, stdout, stderr] => {
                let (Ok(id), Ok(status), Ok(stdout), Ok(stderr)) =
                    (id.parse(), status.parse(), stdout.parse(), stderr.parse())
                else {
                    continue;
                };
                let stdout = read_exactly(&mut source, stdout)?;
                let stderr = read_exactly(&mut source, stderr)?;
                Message::Result(id, Output { status, stdout, stderr })
            }
            // What is left of a message that was cut off.
            _ => continue,
        };
        if messages.send(message).is_err() {
            return Ok(());
        }
    }
}

fn read_exactly(source: &mut impl Read, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(bytes: &[u8]) -> Vec<Message> {
        let (sender, receiver) = channel();
        read_messages(bytes, &sender).unwrap();
        drop(sender);
        receiver.iter().collect()
    }

    #[test]
    fn results_are_binary_safe() {
        let found = messages(b"ready abc\nresult 1 7 5 3\n\nrun\0\xff\x1b\nresult 2 0 0 0\n");
        let [Message::Ready(boot_id), Message::Result(1, first), Message::Result(2, second)] =
            found.as_slice()
        else {
            panic!("{found:?}");
        };
        assert_eq!(boot_id, "abc");
        assert_eq!(first.status, 7);
        assert_eq!(first.stdout, b"\nrun\0");
        assert_eq!(first.stderr, b"\xff\x1b\n");
        assert!(second.success() && second.stdout.is_empty());
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        let found = messages(b"of a result\n\nresult x 0 0 0\nready b\nresult 1 0 4 0\nha");
        assert!(
            matches!(found.as_slice(), [Message::Ready(boot_id), Message::Result(1, _)] if boot_id == "b"),
            "{found:?}",
        );
    }
}
