//! What is wrong with a declaration and can only be seen on the machine that runs it: paths at which
//! nothing ever was, secrets that others can read, mounted files that programs try to replace.

mod near;
mod never;
mod replaced;
mod secrets;
mod signs;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use ebbtide_sys::escape;

use crate::boot::{Boot, open_directory};
use crate::compiled::{Compiled, Entry, Method, Store, StoreName};
use crate::declaration::{Outcome, Problem, Severity, Surroundings};
use crate::failure::{Context, Result};
use crate::past::sources;
use crate::{status, store};

/// What was found, and where nobody looked any further.
#[derive(Debug, Default)]
pub struct Inspection {
    /// What is wrong, with file and line: never an error.
    pub problems: Vec<Problem>,
    /// Directories that had more in them than is looked at.
    pub stopped: Vec<PathBuf>,
}

/// What was found about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    severity: Severity,
    message: String,
    hint: String,
}

impl Finding {
    fn new(severity: Severity, message: String, hint: impl Into<String>) -> Self {
        Self { severity, message, hint: hint.into() }
    }
}

/// The machine that is looked at.
struct Machine<'a> {
    boot: &'a Boot,
    container: &'a crate::container::Container,
    sysroot: &'a Path,
    /// The running root, with all that is mounted.
    root: OwnedFd,
    /// The declaration that the next boot goes by.
    compiled: Compiled,
    /// Its stores, as far as they can be opened.
    stores: BTreeMap<StoreName, OwnedFd>,
}

/// Looks at the running system, for what is wrong with the entries of a declaration that was checked.
/// Needs root. Changes nothing, and looks at a bounded part of what there is.
///
/// `None` if the root at `sysroot` is none of this machine's container.
///
/// # Errors
///
/// If the container or the compiled declaration can't be read. What can't be looked at of a single
/// entry is passed over.
pub fn inspect(
    boot: &Boot,
    sysroot: &Path,
    outcome: &Outcome,
    surroundings: &Surroundings,
) -> Result<Option<Inspection>> {
    let Some(declaration) = &outcome.declaration else { return Ok(Some(Inspection::default())) };
    let container = boot.open_container().context(|| "cannot look at the running system")?;
    if !sources::runs(boot, &container, sysroot) {
        return Ok(None);
    }
    let (_, compiled) = status::declaration(boot, &container)?;
    let open = |store: &Store| store::open(store.place(), store.uuid).ok();
    let stores = compiled
        .stores
        .iter()
        .filter_map(|(name, store)| Some((name.clone(), open(store)?)))
        .collect();
    let root = open_directory(sysroot)?;
    let machine = Machine { boot, container: &container, sysroot, root, compiled, stores };
    let compiled: BTreeSet<&Path> =
        machine.compiled.entries.iter().map(|entry| entry.path.as_path()).collect();
    // What is new in the files has no history yet, and what is built in is nobody's mistake.
    let entries: Vec<&Entry> = declaration
        .entries
        .iter()
        .filter(|entry| entry.origin.line > 0 && entry.method != Method::Copy)
        .filter(|entry| compiled.contains(entry.path.as_path()))
        .collect();
    let mut inspection = Inspection::default();
    let mut add = |entry: &Entry, finding: Finding| {
        let Finding { severity, message, hint } = finding;
        let problem = Problem::at(severity, message, &entry.path, &entry.origin, &outcome.sources);
        inspection.problems.push(Problem { hint: Some(hint), ..problem });
    };
    never::look(&machine, &entries, surroundings, &mut add)?;
    replaced::look(&machine, &entries, &mut add);
    inspection.stopped = secrets::look(&machine, &entries, surroundings, &mut add);
    Ok(Some(inspection))
}

/// Declared paths, to tell what is kept already.
fn paths<'e>(entries: &[&'e Entry]) -> BTreeSet<&'e Path> {
    entries.iter().map(|entry| entry.path.as_path()).collect()
}

fn shown(path: &Path) -> String {
    format!("`{}`", escape(path.as_os_str().as_encoded_bytes()))
}

/// A path for a command that a person copies.
fn word(path: &Path) -> String {
    let text = escape(path.as_os_str().as_encoded_bytes());
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%=,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

impl Machine<'_> {
    fn store_of(&self, entry: &Entry) -> Option<BorrowedFd<'_>> {
        self.stores.get(&entry.store).map(AsFd::as_fd)
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}
