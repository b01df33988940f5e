//! Asking the service.

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::Path;

use ebbtide_core::boot::{RECORD, RUN};

use super::wire::{self, Answer, Ask, Frame, Request};
use crate::error::{CommandError, Kind};

/// The socket, in the run directory.
const SOCKET: &str = "user.sock";
/// Turns the service on.
const TURN_ON: &str = "sudo systemctl enable --now ebbtide-user.socket";

/// Whether a command that has no rights of its own should ask: if it has none, if no other declaration than
/// the machine's is meant, and if there is anybody to ask.
pub fn is_possible(config: Option<&Path>) -> bool {
    config.is_none()
        && !rustix::process::geteuid().is_root()
        && Path::new(RUN).join(SOCKET).exists()
}

/// Adds what turns the service on to what a command fails with that has no rights of its own, where that
/// would help.
pub fn or_turn_it_on(error: CommandError) -> CommandError {
    let run = Path::new(RUN);
    let would_help = !rustix::process::geteuid().is_root()
        && run.join(RECORD).exists()
        && !run.join(SOCKET).exists();
    if would_help {
        error.hint(format!("`{TURN_ON}` lets users see what is theirs"))
    } else {
        error
    }
}

/// An answer, part by part.
#[derive(Debug)]
pub struct Answers(BufReader<UnixStream>);

/// Asks.
pub fn ask(ask: Ask) -> Result<Answers, CommandError> {
    let path = Path::new(RUN).join(SOCKET);
    let mut socket = UnixStream::connect(&path).map_err(|error| {
        CommandError::new(Kind::Failed, format!("cannot connect to {}", path.display()))
            .cause(error.to_string())
            .hint(format!("`{TURN_ON}` turns on what shows users what is theirs"))
    })?;
    // If it has answered already, that says more.
    let _ = wire::write_json(&mut socket, &Request { version: wire::VERSION, ask });
    Ok(Answers(BufReader::with_capacity(wire::PIECE * 2, socket)))
}

impl Answers {
    /// The next frame.
    pub fn frame(&mut self) -> Result<Frame, CommandError> {
        wire::read(&mut self.0, wire::ANSWER).map_err(|error| {
            let failed =
                CommandError::new(Kind::Failed, "cannot read the answer of ebbtide-user.socket");
            match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => failed
                    .cause("it ended the connection")
                    .hint("too many may have asked at once, or it took too long: try again"),
                _ => failed.cause(error.to_string()),
            }
        })
    }

    /// The next part, which is no piece of a file.
    ///
    /// # Errors
    ///
    /// Among others what the service failed with.
    pub fn next(&mut self) -> Result<Answer, CommandError> {
        match self.frame()? {
            Frame::Json(text) => parse(&text),
            Frame::Data { .. } => Err(unexpected()),
        }
    }
}

/// Understands a part of an answer.
pub fn parse(text: &[u8]) -> Result<Answer, CommandError> {
    match serde_json::from_slice(text) {
        Ok(Answer::Failed { message, causes, hints }) => {
            let error = CommandError::new(Kind::Failed, message);
            let error = causes.into_iter().fold(error, CommandError::cause);
            Err(hints.into_iter().fold(error, CommandError::hint))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(unexpected().cause(error.to_string())),
    }
}

/// What is not the answer to what was asked.
pub fn unexpected() -> CommandError {
    CommandError::new(Kind::Failed, "cannot understand the answer of ebbtide-user.socket")
        .hint("it may be of another version: `sudo systemctl daemon-reload`, and try again")
}
