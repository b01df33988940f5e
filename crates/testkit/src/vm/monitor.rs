//! Orders to QEMU itself, such as plugging a disk in, in its own protocol: a JSON value a line (QMP).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// An emulator on a busy machine takes its time.
const ANSWER: Duration = Duration::from_secs(60);

/// The connection to one QEMU; it is ready for orders once the first was given.
#[derive(Debug)]
pub(super) struct Monitor {
    stream: BufReader<UnixStream>,
    negotiated: bool,
}

impl Monitor {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream), negotiated: false }
    }

    /// Gives an order, one line of JSON, and waits until it is carried out.
    pub(super) fn execute(&mut self, order: &str) -> Result<()> {
        if !self.negotiated {
            self.stream.get_ref().set_read_timeout(Some(ANSWER))?;
            self.send(r#"{"execute":"qmp_capabilities"}"#)?;
            self.negotiated = true;
        }
        self.send(order)
    }

    fn send(&mut self, order: &str) -> Result<()> {
        let what = || format!("cannot give QEMU the order {order}");
        self.stream.get_mut().write_all(format!("{order}\n").as_bytes()).with_context(what)?;
        loop {
            let mut line = String::new();
            let length = self.stream.read_line(&mut line).with_context(what)?;
            ensure!(length > 0, "{}: it has ended", what());
            // All else is the greeting, or an event.
            if line.starts_with(r#"{"return""#) {
                return Ok(());
            }
            if line.starts_with(r#"{"error""#) {
                bail!("{}: {}", what(), line.trim());
            }
        }
    }
}
