//! `ebbtide boots`: past roots, what they hold, and how their boots ended.

mod mount;
pub mod show;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use ebbtide_core::past::{self, PastBoot};
use ebbtide_core::record::{Ending, Outcome, Switch};
use schemars::JsonSchema;
use serde::Serialize;

use super::machine;
use crate::boot_name::BootName;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::size;
use crate::user::wire::{Answer, Ask};
use crate::user::{self, ask};
use ebbtide_sys::escape;

/// Lists past roots: number, age, own size, how each ended
#[derive(Debug, ClapArgs)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
SIZE is what that boot itself wrote to its root and did not delete; what it shares with the base
is not counted. Without root, sizes are not told.

Examples:
  sudo ebbtide boots
  sudo ebbtide boots --json | jq '.boots[].number'

  All about one of them:
    sudo ebbtide boots show last

  Look into the root of boot 7:
    sudo ebbtide boots mount 7 /mnt

Exit status: 0 done; 1 failed; 2 wrong command line or declaration."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, ClapArgs)]
struct Common {
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows all that is known about one boot: what was reset, what failed, what left the stores
    #[command(after_help = "\
Examples:
  sudo ebbtide boots show last
  sudo ebbtide boots show 7 --json | jq .record.problems

Exit status: 0 done; 1 failed, or there is no such boot; 2 wrong command line or declaration.")]
    Show {
        /// The number of the boot; `last`: that of the newest past root
        #[arg(value_name = "BOOT")]
        boot: BootName,
        #[command(flatten)]
        common: Common,
    },
    Mount(mount::Args),
}

/// What `ebbtide boots --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    /// All boots that left a root or a record, newest first.
    boots: &'a [PastBoot],
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let (common, only) = match &args.command {
        Some(Command::Mount(args)) => return mount::run(args, context),
        Some(Command::Show { boot, common }) => (common, Some(*boot)),
        None => (&args.common, None),
    };
    if ask::is_possible(common.config.as_deref()) {
        return run_for_user(common.json, only.is_some(), context);
    }
    let boot = machine::running(common.config.as_deref(), context).map_err(ask::or_turn_it_on)?;
    let container = boot.open_container()?;
    let kernel_boot_id = ebbtide_sys::kernel::boot_id().map_err(|error| {
        CommandError::new(Kind::Failed, "cannot read the kernel's boot id").cause(error.to_string())
    })?;
    if let Some(only) = only {
        let number = only.find(&container)?;
        return show::run(&boot, &container, &kernel_boot_id, number, common.json, context);
    }
    let boots = past::boots(&container, &boot.locator.container.path, &kernel_boot_id)?;
    print(&boots, common.json, context)
}

fn print(boots: &[PastBoot], json: bool, context: &Context) -> Result<Status, CommandError> {
    if json {
        context.print_json(&Json { version: 1, boots })?;
    } else {
        context.print(&render(boots, now()))?;
    }
    Ok(Status::DONE)
}

/// Without root: all boots, and no sizes.
fn run_for_user(json: bool, is_one: bool, context: &Context) -> Result<Status, CommandError> {
    if is_one {
        return Err(user::needs_root("show all about a boot"));
    }
    match ask::ask(Ask::Boots {})?.next()? {
        Answer::Boots { boots } => print(&boots, json, context),
        _ => Err(ask::unexpected()),
    }
}

fn now() -> i64 {
    let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    elapsed.ok().and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok()).unwrap_or(0)
}

fn render(boots: &[PastBoot], now: i64) -> String {
    let mut rows =
        vec![["BOOT", "AGE", "SIZE", "ROOT", "ENDED", "PROBLEMS", "WHERE"].map(str::to_owned)];
    rows.extend(boots.iter().map(|boot| row(boot, now)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                0..=2 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(boot: &PastBoot, now: i64) -> [String; 7] {
    let outcome = match &boot.outcome {
        Some(Outcome::Reset) => "new",
        Some(Outcome::Kept(Switch::Off)) => "kept (off)",
        Some(Outcome::Kept(Switch::Keep)) => "kept (keep)",
        Some(Outcome::Postponed) => "kept (once)",
        Some(Outcome::Refused) => "not reset",
        None => "unknown",
    };
    let ended = match (boot.ended, boot.current) {
        (_, true) => "running",
        (Some(Ending::Clean), _) => "cleanly",
        (Some(Ending::Unclean), _) => "uncleanly",
        (None, _) => "unknown",
    };
    let place = boot.root.as_ref().map(|path| escape(path.as_os_str().as_encoded_bytes()));
    let place = place.or_else(|| boot.continued_as.map(|later| format!("went on as {later}")));
    [
        boot.number.to_string(),
        boot.clock.map_or_else(|| "?".to_owned(), |clock| age(now - clock)),
        boot.own_bytes.map_or_else(|| "-".to_owned(), size),
        outcome.to_owned(),
        ended.to_owned(),
        boot.problems.to_string(),
        place.unwrap_or_else(|| if boot.current { "in RAM" } else { "gone" }.to_owned()),
    ]
}

/// An age in its largest whole unit. Clocks are wrong at boot: one from the future has no age.
fn age(seconds: i64) -> String {
    match seconds {
        i64::MIN..0 => "?".to_owned(),
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}min", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [-1, 0, 59, 60, 3599, 3600, 86_399, 86_400, 864_000].map(age);
        assert_eq!(ages, ["?", "0s", "59s", "1min", "59min", "1h", "23h", "1d", "10d"]);
    }
}
