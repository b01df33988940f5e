//! What units tell unasked: at login how much the last reset took, at shutdown what the next one is about to.
//! A user who may read neither the container nor the root sees no name, only numbers.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use ebbtide_core::boot::{Boot, RUN};
use ebbtide_core::changes::{Changes, Order, Tally};
use ebbtide_core::declaration;
use ebbtide_core::declaration::reports::Reports;
use ebbtide_core::diff::{Diff, Which};
use ebbtide_core::failure::Failure;
use ebbtide_core::past;
use ebbtide_core::past::taken::by_the_last_reset;
use ebbtide_core::record::RootIdentity;
use ebbtide_sys::file;

use super::machine;
use crate::changes;
use crate::changes::hidden::Hidden;
use crate::context::Context;
use crate::error::{CommandError, Kind};
use crate::text::{count, size};

/// One line for `pam_motd(8)`, in the run directory.
const TAKEN: &str = "taken";
/// How many lines a shutdown tells.
const LINES: usize = 8;

/// Leaves in the run directory how much the last reset took, or takes that away; for a unit.
pub fn leave(context: &Context) -> Result<(), CommandError> {
    let boot = machine::running(None, context)?;
    let line = if reports(context).login { line(&boot, context)? } else { None };
    let run = run_directory()?;
    let done = match line {
        Some(line) => file::replace_file(run.as_fd(), OsStr::new(TAKEN), line.as_bytes(), 0o644),
        None => file::remove_file_durably(run.as_fd(), OsStr::new(TAKEN)).map(drop),
    };
    done.map_err(|error| failed(&error))
}

/// Takes the line away once gc has deleted the root that it is about.
pub fn forget_if_gone(boot: &Boot) -> Result<(), CommandError> {
    if !Path::new(RUN).join(TAKEN).exists() || taken_by(boot)?.is_some() {
        return Ok(());
    }
    let gone = file::remove_file_durably(run_directory()?.as_fd(), OsStr::new(TAKEN));
    gone.map(drop).map_err(|error| failed(&error))
}

fn run_directory() -> Result<std::fs::File, CommandError> {
    std::fs::File::open(RUN).map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> CommandError {
    CommandError::new(Kind::Failed, "cannot leave how much the last reset took")
        .cause(error.to_string())
}

/// What is declared of it. Without a declaration that can be read, it is as if nothing were.
fn reports(context: &Context) -> Reports {
    let sources = declaration::read_layers(&context.sysroot).unwrap_or_default();
    Reports::read(&sources)
}

fn taken_by(boot: &Boot) -> Result<Option<ebbtide_core::record::BootNumber>, Failure> {
    let Some(record) = boot.read_record() else { return Ok(None) };
    by_the_last_reset(&boot.open_container()?, &record)
}

/// The line; `None` if the last reset took nothing that anybody would miss.
fn line(boot: &Boot, context: &Context) -> Result<Option<String>, Failure> {
    let Some(number) = taken_by(boot)? else { return Ok(None) };
    let diff = Diff::open(boot, &context.sysroot, Which::Past(number))?;
    let total = add_up(&diff, context)?.total();
    if total.count() == 0 {
        return Ok(None);
    }
    let newest = past::newest_root(&boot.open_container()?)?;
    let name = if newest == number { "last".to_owned() } else { number.to_string() };
    Ok(Some(format!(
        "ebbtide: the last reset took away {}: `sudo ebbtide diff --boot {name}` lists it, \
         `sudo ebbtide restore PATH` brings it back\n",
        amount(&total)
    )))
}

/// All that is neither noise, nor ignored, nor carried over.
fn add_up(diff: &Diff, context: &Context) -> Result<Changes, Failure> {
    let mut hidden = Hidden::as_declared(None, context);
    let mut changes = Changes::default();
    let mut add = |change| changes.add(&change);
    diff.each(&mut |change| {
        if !diff.about.is_carried(&change) {
            hidden.sift(change, &mut add);
        }
    })?;
    hidden.finish(&mut add);
    Ok(changes)
}

fn amount(total: &Tally) -> String {
    let changes = count(usize::try_from(total.count()).unwrap_or(usize::MAX), "change");
    format!("{changes}, {}", size(total.bytes))
}

/// What a shutdown tells, within a time after which it has to go on; lines with nothing in them that a
/// terminal would interpret. Empty if nothing is to be told.
pub fn about_to_go(within: Duration, context: &Context) -> Result<String, CommandError> {
    if !reports(context).shutdown {
        return Ok(String::new());
    }
    let boot = machine::running(None, context)?;
    let other = context.for_sysroot(&context.sysroot);
    let (sender, receiver) = mpsc::channel();
    // It ends with the process, wherever it is then.
    std::thread::spawn(move || {
        let _ = sender.send(told(&boot, &other));
    });
    match receiver.recv_timeout(within) {
        Ok(told) => Ok(told?),
        Err(_) => Ok("what the next reset takes away could not be added up in time\n".to_owned()),
    }
}

fn told(boot: &Boot, context: &Context) -> Result<String, Failure> {
    let diff = Diff::of_running(boot, &context.sysroot)?;
    let changes = add_up(&diff, context)?;
    if changes.is_empty() {
        return Ok(String::new());
    }
    let root = boot.read_record().and_then(|record| record.root);
    let in_ram = root.as_ref().is_some_and(RootIdentity::is_in_ram);
    let archived = boot.in_force()?.is_some_and(|compiled| compiled.root.archive.is_some());
    let after = if in_ram && !archived {
        "the root is in RAM: it is gone for good then"
    } else {
        "after that, `ebbtide restore PATH` brings it back from the past root"
    };
    let groups = changes::render(&changes.summary(LINES, Order::Biggest), context);
    Ok(format!("the next reset takes away:\n{groups}{after}\n"))
}
