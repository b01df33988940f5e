//! Ebbtide in the initramfs: reset, attach, verify, nothing more.
//!
//! Messages go to stderr as `<N>text`, one write each, so that `/dev/kmsg` and systemd read their
//! level (sd-daemon(3)). A failure is said and recorded, and never stops the boot.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ebbtide_core::boot::{self, Boot};
use ebbtide_core::failure::{Level, Result};
use ebbtide_core::locator;
use ebbtide_core::record::Record;

const USAGE: &str = "\
Usage: ebbtide-boot VERB [OPTION]…

Run by the initramfs; people want the command `ebbtide`.

  reset                  make a new root; print its mount options. Where roots are overlays, that
                         is left to attach
  attach --sysroot DIR   put the declared entries in place on the root mounted at DIR; where roots
                         are overlays, make one on what is mounted there first
  up --sysroot DIR       reset, mount the root at DIR, attach

  --wait SECONDS         before the reset, wait so long for the devices listed beside the locator
  --mount-unit FILE      with reset: write the mount options into this drop-in of sysroot.mount,
                         instead of printing them
  --config FILE          the locator, instead of /etc/ebbtide/locator.json
  --run DIR              instead of /run/ebbtide
  --cmdline FILE         instead of /proc/cmdline

Exit status: 0 done, 1 something went wrong, 2 usage.
";

#[derive(Debug, Clone, Copy)]
enum Verb {
    Reset,
    Attach,
    Up,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Attach => "attach",
            Self::Up => "up",
        }
    }
}

struct Arguments {
    verb: Verb,
    sysroot: Option<PathBuf>,
    locator: PathBuf,
    run: PathBuf,
    command_line: Option<PathBuf>,
    wait: Duration,
    mount_unit: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            let _ = std::io::stdout().write_all(USAGE.as_bytes());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            say(Level::Error, &format!("{error}; see ebbtide-boot --help"));
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(Some(record)) if record.gravest() == Some(Level::Error) => ExitCode::FAILURE,
        Ok(_) => ExitCode::SUCCESS,
        Err(failure) => {
            say(Level::Error, &failure.chain());
            ExitCode::FAILURE
        }
    }
}

/// `None`: there was nothing to do yet.
fn run(arguments: &Arguments) -> Result<Option<Record>> {
    let boot =
        Boot::read(&arguments.locator, arguments.run.clone(), arguments.command_line.as_deref())?;
    let debug = boot.switches.debug;
    let mut log = |level: Level, message: &str| {
        if level < Level::Debug || debug {
            say(level, message);
        }
        if debug {
            show(message);
        }
    };
    if !arguments.wait.is_zero() {
        let devices = arguments.locator.with_file_name("devices");
        boot::wait_for_devices(&devices, arguments.wait, &mut log);
    }
    // Devices take their own time.
    let started = Instant::now();
    let sysroot = arguments.sysroot.as_deref();
    let record = match (arguments.verb, sysroot) {
        (Verb::Attach, Some(sysroot)) if boot.resets_before_mount() => {
            boot::attach(&boot, sysroot, &mut log)
        }
        (Verb::Attach, Some(sysroot)) => boot::take_over(&boot, sysroot, &mut log)?,
        (Verb::Up, Some(sysroot)) => boot::up(&boot, sysroot, &mut log)?,
        (_, _) if !boot.resets_before_mount() => return Ok(None),
        (_, _) => {
            let record = boot::reset(&boot, &mut log);
            match (boot.root_mount_options(&record), &arguments.mount_unit) {
                (Some(options), Some(unit)) => boot::write_mount_unit(unit, &options)?,
                (Some(options), None) => drop(writeln!(std::io::stdout(), "{options}")),
                (None, _) => {}
            }
            record
        }
    };
    let verb = arguments.verb.name();
    log(Level::Info, &format!("{verb} took {:.1} ms", started.elapsed().as_secs_f64() * 1e3));
    Ok(Some(record))
}

/// Says one line, with its level, in one write.
fn say(level: Level, message: &str) {
    let line = format!("<{}>ebbtide: {}\n", level as u8, message.replace('\n', " "));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Shows one line on the console, which a quiet kernel keeps all but errors from.
fn show(message: &str) {
    if let Ok(mut console) = std::fs::OpenOptions::new().write(true).open("/dev/console") {
        let _ =
            console.write_all(format!("ebbtide: {}\r\n", message.replace('\n', " ")).as_bytes());
    }
}

fn parse() -> std::result::Result<Option<Arguments>, lexopt::Error> {
    use lexopt::prelude::*;
    let mut verb = None;
    let mut arguments = Arguments {
        verb: Verb::Reset,
        sysroot: None,
        locator: PathBuf::from(locator::PATH),
        run: PathBuf::from(boot::RUN),
        command_line: None,
        wait: Duration::ZERO,
        mount_unit: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(None),
            Long("sysroot") => arguments.sysroot = Some(parser.value()?.into()),
            Long("config") => arguments.locator = parser.value()?.into(),
            Long("run") => arguments.run = parser.value()?.into(),
            Long("wait") => arguments.wait = Duration::from_secs(parser.value()?.parse()?),
            Long("mount-unit") => arguments.mount_unit = Some(parser.value()?.into()),
            Long("cmdline") => arguments.command_line = Some(parser.value()?.into()),
            Value(word) if verb.is_none() => verb = Some(verb_of(&word)?),
            other => return Err(other.unexpected()),
        }
    }
    arguments.verb = verb.ok_or("a verb is missing: reset, attach or up")?;
    match (arguments.verb, &arguments.sysroot) {
        (Verb::Reset, _) | (_, Some(_)) => Ok(Some(arguments)),
        (Verb::Attach | Verb::Up, None) => Err("--sysroot is missing".into()),
    }
}

fn verb_of(word: &OsString) -> std::result::Result<Verb, lexopt::Error> {
    match word.to_str() {
        Some("reset") => Ok(Verb::Reset),
        Some("attach") => Ok(Verb::Attach),
        Some("up") => Ok(Verb::Up),
        _ => Err(format!("unknown verb {}", word.to_string_lossy().escape_debug()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual page is made from that page of the book.
    #[test]
    fn the_book_has_the_usage() {
        let page = include_str!("../../../docs/reference/ebbtide-boot.md");
        assert!(
            page.contains(&format!("```text\n{USAGE}```\n")),
            "it has another one than\n{USAGE}"
        );
    }
}
