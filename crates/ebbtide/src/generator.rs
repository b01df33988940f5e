//! The systemd generator: this same program under another name. It runs at every boot and every
//! reload, before any unit, so in nearly every case it reads one file and is done.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use ebbtide_core::boot::RUN;
use ebbtide_core::failure::Result;
use ebbtide_core::held;

use crate::status::Status;

/// The name that it is called by.
const NAME: &str = "ebbtide-generator";

/// Whether systemd calls it.
pub fn is_called(arguments: &[OsString]) -> bool {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    name == Some(OsStr::new(NAME))
}

/// Writes drop-ins into the first of the three directories that systemd names: they come after what
/// packages ship, and an administrator can override them (systemd.generator(7)).
pub fn run(arguments: &[OsString]) -> Status {
    let Some(directory) = arguments.get(1) else { return Status::USAGE };
    match generate(Path::new(directory)) {
        Ok(()) => Status::DONE,
        Err(failure) => {
            // Standard error of a generator goes to the kernel log.
            let text = crate::text::printable(&failure.chain());
            eprintln!("<3>ebbtide: cannot hold back services: {text}");
            Status::FAILED
        }
    }
}

fn generate(directory: &Path) -> Result<()> {
    let held = held::held(Path::new("/"), Path::new(RUN))?;
    held::generate(&held, directory)
}
