//! How results look: a mark in colour where colours are wanted, JSON where that is asked for.

use serde::Serialize;

use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::text::json;

impl Context {
    /// What is as it should be.
    pub fn good(&self, text: &str) -> String {
        self.styled("\u{1b}[32m", text)
    }

    /// What is not.
    pub fn bad(&self, text: &str) -> String {
        self.styled("\u{1b}[1;31m", text)
    }

    /// What matters less.
    pub fn dim(&self, text: &str) -> String {
        self.styled("\u{1b}[2m", text)
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.color_out() { format!("{style}{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Writes a result to standard output as JSON.
    pub fn print_json(&self, value: &impl Serialize) -> Result<(), CommandError> {
        let text = json(value).map_err(|error| {
            CommandError::new(Kind::Bug, "cannot write JSON").cause(error.to_string())
        })?;
        self.print(&text)
    }
}
