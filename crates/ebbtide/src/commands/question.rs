//! Asking the person at the terminal.

use std::io::{BufRead, IsTerminal, Write};

use crate::error::{CommandError, Kind};

/// Asks on the terminal; `None` where nobody can be asked.
pub fn ask(question: &str) -> Result<Option<String>, CommandError> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Ok(None);
    }
    let cannot = |error: std::io::Error| {
        CommandError::new(Kind::Failed, "cannot ask on the terminal").cause(error.to_string())
    };
    let mut stderr = std::io::stderr();
    write!(stderr, "{question} ").and_then(|()| stderr.flush()).map_err(cannot)?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).map_err(cannot)?;
    Ok(Some(answer.trim().to_lowercase()))
}

/// Whether a question is answered with yes; `None` where nobody can be asked.
pub fn confirmed(question: &str) -> Result<Option<bool>, CommandError> {
    let answer = ask(&format!("{question} (yes/no)"))?;
    Ok(answer.map(|answer| matches!(answer.as_str(), "y" | "yes")))
}
