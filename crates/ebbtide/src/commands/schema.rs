//! `ebbtide schema`: the JSON schemas of the declaration and of what commands print.

use clap::builder::PossibleValuesParser;
use ebbtide_core::declaration;

use crate::context::Context;
use crate::error::CommandError;
use crate::shapes;
use crate::status::Status;

/// Prints a JSON schema: of the declaration, for editors, or of what a command prints
///
/// Editors that know TOML, such as those with taplo, complete and check a file whose first line is
/// `#:schema` and the path of this schema.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  ebbtide schema > ebbtide.schema.json

  What `ebbtide status --json` prints:
    ebbtide schema status

Exit status: 0 done; 1 failed; 2 wrong command line.")]
pub struct Args {
    /// Of what: the declaration, or the JSON of a command
    #[arg(value_name = "NAME", default_value = shapes::DECLARATION, value_parser = names())]
    name: String,
}

fn names() -> PossibleValuesParser {
    let shapes = shapes::shapes().into_iter().map(|shape| shape.name);
    std::iter::once(shapes::DECLARATION).chain(shapes).collect::<Vec<_>>().into()
}

pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let shape = shapes::shapes().into_iter().find(|shape| shape.name == args.name);
    context.print_json(&shape.map_or_else(declaration::schema, |shape| shape.schema()))?;
    Ok(Status::DONE)
}
