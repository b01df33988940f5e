//! `ebbtide schema`: the JSON schema of the declaration.

use ebbtide_core::declaration;

use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;

/// Prints the JSON schema of the declaration, for editors
///
/// Editors that know TOML, such as those with taplo, complete and check a file whose first line is
/// `#:schema` and the path of this schema.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  ebbtide schema > ebbtide.schema.json")]
pub struct Args {}

pub fn run(_: &Args, context: &Context) -> Result<Status, CommandError> {
    context.print_json(&declaration::schema())?;
    Ok(Status::DONE)
}
