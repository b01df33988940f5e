//! `ebbtide status`: is this root really new, and is what was declared in place?

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args as ClapArgs;
use ebbtide_core::boot::RUN;
use ebbtide_core::failure::{Level, Problem};
use ebbtide_core::once;
use ebbtide_core::ram::WARNING;
use ebbtide_core::record::{Outcome, Switch};
use ebbtide_core::status::{self, Status as Found, StoreUsage};
use schemars::JsonSchema;
use serde::Serialize;

use super::{machine, taken};
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::status::Status;
use crate::text::{count, size};
use ebbtide_sys::{escape, file};

/// One line for `pam_motd(8)`, in the run directory.
const ATTENTION: &str = "attention";

/// Proves that this root is new, and that what is declared is in place
#[derive(Debug, ClapArgs)]
#[command(after_help = "\
Asks the kernel, and compares with what the boot wrote down: a forged record, a reset that did
nothing, or another root mounted in its place are found out.

Examples:
  sudo ebbtide status
  sudo ebbtide status --json | jq .proved

Exit status: 0 all is as it should be; 3 something is not; 1 it could not be found out; 2 wrong
command line or declaration.")]
pub struct Args {
    /// Read this declaration instead of /etc/ebbtide
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print one line if something should be looked at, and else nothing
    #[arg(long, conflicts_with = "json")]
    brief: bool,
}

/// What `ebbtide status --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json<'a> {
    /// The version of this shape.
    version: u32,
    #[serde(flatten)]
    status: &'a Found,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result<Status, CommandError> {
    let boot = machine::running(args.config.as_deref(), context)?;
    let found = status::status(&boot, &context.sysroot);
    if args.brief {
        let line = found.brief().map(|line| line + "\n");
        context.print(&line.unwrap_or_default())?;
    } else if args.json {
        context.print_json(&Json { version: 1, status: &found })?;
    } else {
        context.print(&render(&found, context))?;
    }
    Ok(if found.ok { Status::DONE } else { Status::FOUND })
}

/// Leaves in the run directory what those who log in should know, or takes it away; for a unit.
pub fn attention(context: &Context) -> Result<(), CommandError> {
    let line = match machine::running(None, context) {
        Ok(boot) => {
            // What is wrong with that is wrong with all the rest as well.
            let _ = taken::forget_if_gone(&boot);
            status::status(&boot, &context.sysroot).brief()
        }
        Err(_) => Some("ebbtide: see `sudo ebbtide status`".to_owned()),
    };
    let what = "cannot leave what those who log in should know";
    let failed = |error: &(dyn std::error::Error + 'static)| {
        CommandError::new(Kind::Failed, what).cause(error.to_string())
    };
    let run = std::fs::File::open(RUN).map_err(|error| failed(&error))?;
    let name = OsStr::new(ATTENTION);
    match line {
        Some(line) => file::replace_file(run.as_fd(), name, (line + "\n").as_bytes(), 0o644),
        None => file::remove_file_durably(run.as_fd(), name).map(|_| ()),
    }
    .map_err(|error| failed(&error))
}

fn render(found: &Found, context: &Context) -> String {
    let mut text = String::new();
    let mut line = |text_of_line: String| {
        text.push_str(&text_of_line);
        text.push('\n');
    };
    let boot = found.boot.map_or_else(|| "unknown boot".to_owned(), |boot| format!("boot {boot}"));
    let base = found.base.map_or_else(String::new, |base| format!(" of base {base}"));
    line(match (&found.outcome, found.proved) {
        (Some(Outcome::Reset), true) => {
            format!("{} {boot}: / is a new root{base}, proved by the kernel", context.good("ok"))
        }
        (Some(Outcome::Kept(switch)), _) => {
            let switch = match switch {
                Switch::Off => "off",
                Switch::Keep => "keep",
            };
            format!(
                "{} {boot}: / is the root of an earlier boot (ebbtide={switch})",
                context.bad("!!")
            )
        }
        (Some(Outcome::Postponed), _) => {
            format!("{} {boot}: / is the root of an earlier boot, kept once", context.bad("!!"))
        }
        (Some(Outcome::Refused), _) => {
            format!("{} {boot}: / was not reset", context.bad("!!"))
        }
        (Some(Outcome::Reset), false) | (None, _) => {
            format!("{} {boot}: it is not proved that / is new", context.bad("!!"))
        }
    });
    let waiting = match found.waiting {
        0 => String::new(),
        count => format!(", {count} without data yet"),
    };
    let all = found.in_place + found.waiting == found.declared;
    let mark = if all { context.good("ok") } else { context.bad("!!") };
    line(format!("{mark} {} of {} entries are in place{waiting}", found.in_place, found.declared));
    for store in &found.stores {
        line(format!("{} {}", context.dim("--"), usage(store)));
    }
    if !found.carried.is_empty() {
        let paths = once::listed(&found.carried);
        line(format!("{} carried over the next reset, once: {paths}", context.dim("--")));
    }
    if let Some(ram) = &found.ram {
        let mark = if ram.percent < WARNING { context.good("ok") } else { context.bad("!!") };
        let (used, all) = (size(ram.used), size(ram.size));
        line(format!("{mark} the root is in RAM, with {used} of {all} ({}%)", ram.percent));
    }
    if !found.refused.is_empty() {
        line(format!(
            "{} the root is read-only, and was tried to be written to:",
            context.dim("--")
        ));
    }
    for refused in &found.refused {
        let [program, path] = [&refused.program, &refused.path]
            .map(|path| escape(path.as_os_str().as_encoded_bytes()));
        line(format!("   {path} by {program}, {}", count(refused.count, "time")));
    }
    for problem in &found.problems {
        line(render_problem(problem, context));
    }
    text
}

/// How full a store is, for people.
fn usage(store: &StoreUsage) -> String {
    let limit =
        store.limit.map_or_else(String::new, |bytes| format!(" of at most {}", size(bytes)));
    let used = match (store.used, store.counted_in) {
        (Some(bytes), Some(boot)) => {
            format!("{}{limit}, as gc counted in boot {boot}", size(bytes))
        }
        _ if store.limit.is_some() => format!("not counted yet{limit}"),
        _ => "not counted yet".to_owned(),
    };
    let free = match (store.available, store.total) {
        (Some(available), Some(total)) => {
            format!("{} of {} are free there", size(available), size(total))
        }
        _ => "not mounted".to_owned(),
    };
    format!("store {}: {used}; {free}", store.name)
}

/// A problem as lines for a person.
pub fn render_problem(problem: &Problem, context: &Context) -> String {
    let (mark, what) = match problem.level {
        Level::Error => (context.bad("!!"), "error"),
        Level::Warning => (context.bad("!!"), "warning"),
        _ => (context.dim("--"), "note"),
    };
    let mut text = format!("{mark} {what}: {}", escape(problem.message.as_bytes()));
    if let Some(hint) = &problem.hint {
        text.push_str("\n   hint: ");
        text.push_str(&escape(hint.as_bytes()));
    }
    text
}
