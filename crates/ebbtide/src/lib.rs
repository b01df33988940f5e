//! The command line of Ebbtide: a library, so that what is made from its definition (man pages,
//! completions, the reference) can't differ from it.

mod boot_name;
mod bug;
mod changes;
mod cli;
mod commands;
mod context;
mod declaration;
mod difference;
mod error;
mod fill;
mod generator;
mod overview;
mod relay;
mod shapes;
mod status;
mod style;
mod table;
mod text;
mod unified;
mod user;

pub use cli::definition;
pub use ebbtide_core::declaration::schema as declaration_schema;
pub use shapes::{Shape, shapes};

/// Runs the program, with the arguments and in the environment of this process.
pub fn main() -> std::process::ExitCode {
    bug::caught(cli::run).into()
}
