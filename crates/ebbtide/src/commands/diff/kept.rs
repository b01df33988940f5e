//! `ebbtide diff --kept`: what the next reset keeps, where it is, and how much.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ebbtide_core::boot::{Boot, STORES};
use ebbtide_core::compiled::{Class, Entry, Store, StoreName};
use ebbtide_core::diff::kept::{Amount, Data, KeptData, LIMIT};
use ebbtide_sys::escape;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use crate::error::CommandError;
use crate::status::Status;
use crate::table::table_of_paths;
use crate::text::{count, printable, size};

/// How long a person waits before being told that something goes on, and until it is told anew.
const PATIENCE: Duration = Duration::from_millis(300);

/// What `ebbtide diff --kept --json` prints.
#[derive(Serialize, JsonSchema)]
pub struct Json {
    /// The version of this shape.
    version: u32,
    /// What is kept, in the order of paths.
    entries: Vec<EntryJson>,
    /// All of it added up.
    total: Amount,
    /// The stores that have it, by name.
    stores: Vec<StoreJson>,
}

/// One entry.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KeptEntry")]
struct EntryJson {
    /// Its path, escaped.
    path: String,
    /// `directory` or `file`.
    kind: String,
    /// The store that has it.
    store: StoreName,
    /// How it is put in place: `bind`, `symlink`, `sync` or `copy`.
    method: String,
    /// Where its data is in the running system, escaped.
    place: String,
    /// What the store has: `{"present": …}`, `"nothing"`, or `{"unknown": WHY}`.
    data: Data,
}

/// One store.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "KeptStore")]
struct StoreJson {
    /// Its name.
    name: StoreName,
    /// What kind of data it is for.
    class: Class,
    /// The device that holds it.
    device: String,
    /// On btrfs, its subvolume below the top level, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    subvolume: Option<String>,
    /// Its directory below the top level, escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
}

/// Runs the command, for all entries or for those that are about these paths.
pub fn run(
    boot: &Boot,
    paths: &[PathBuf],
    json: bool,
    context: &Context,
) -> Result<Status, CommandError> {
    let kept = KeptData::open(boot)?;
    let is_asked_for = |entry: &&Entry| {
        let about = |path: &PathBuf| entry.path.starts_with(path) || path.starts_with(&entry.path);
        paths.is_empty() || paths.iter().any(about)
    };
    let entries: Vec<&Entry> = kept.declaration.entries.iter().filter(is_asked_for).collect();
    let mut progress = Progress::new();
    let mut found = Vec::new();
    for entry in entries {
        let data = kept.data(entry, &mut |seen| progress.tell(&entry.path, seen));
        found.push((entry, data));
    }
    progress.clear();
    let total = total(&found);
    let stores: Vec<_> = kept
        .declaration
        .stores
        .iter()
        .filter(|(name, _)| found.iter().any(|(entry, _)| entry.store == **name))
        .collect();
    if json {
        let entries =
            found.into_iter().map(|(entry, data)| entry_json(boot, entry, data)).collect();
        let stores = stores.into_iter().map(|(name, store)| store_json(name, store)).collect();
        context.print_json(&Json { version: 1, entries, total, stores })?;
    } else {
        context.print(&render(boot, &found, &total, &stores, context))?;
    }
    Ok(Status::DONE)
}

/// Entries of one store never lie in one another.
fn total(found: &[(&Entry, Data)]) -> Amount {
    let mut all = Amount { complete: true, ..Amount::default() };
    for (_, data) in found {
        let Data::Present(amount) = data else { continue };
        all.bytes = all.bytes.saturating_add(amount.bytes);
        all.on_disk = all.on_disk.saturating_add(amount.on_disk);
        all.files = all.files.saturating_add(amount.files);
        all.complete &= amount.complete;
    }
    all
}

fn render(
    boot: &Boot,
    found: &[(&Entry, Data)],
    total: &Amount,
    stores: &[(&StoreName, &Store)],
    context: &Context,
) -> String {
    if found.is_empty() {
        return "the next reset keeps nothing of it\n".to_owned();
    }
    let rows: Vec<Vec<String>> = found
        .iter()
        .map(|(entry, data)| {
            let mut row =
                vec![shown(&entry.path), entry.store.to_string(), entry.method.to_string()];
            match data {
                Data::Present(amount) => row.extend(cells(amount)),
                Data::Nothing => row.push("nothing yet".to_owned()),
                Data::Unknown(why) => row.push(format!("unknown: {}", printable(why))),
            }
            row
        })
        .collect();
    let mut text = "the next reset keeps:\n".to_owned();
    let header = ["PATH", "STORE", "METHOD", "SIZE", "ON DISK", "FILES"];
    text += &table_of_paths(&header, &rows, &[3, 4, 5], context.columns());
    let [bytes, on_disk, files] = cells(total);
    let entries = count(found.len(), "entry");
    let _ = writeln!(text, "{entries}: {bytes}, {on_disk} on the disk, files: {files}");
    for (name, store) in stores {
        let mut place = vec![printable(&store.device.0)];
        place
            .extend([&store.subvolume, &store.directory].into_iter().flatten().map(|it| shown(it)));
        let (mounted, place) = (shown(&store_place(boot, name)), place.join(", "));
        let _ = writeln!(text, "store {name} is at {mounted}: {place}");
    }
    text
}

/// Size, size on the disk and number of files; more than that where not all was looked at.
fn cells(amount: &Amount) -> [String; 3] {
    let more = if amount.complete { "" } else { "> " };
    let cells = [size(amount.bytes), size(amount.on_disk), amount.files.to_string()];
    cells.map(|cell| format!("{more}{cell}"))
}

fn entry_json(boot: &Boot, entry: &Entry, data: Data) -> EntryJson {
    let inside = entry.path.strip_prefix("/").unwrap_or(&entry.path);
    EntryJson {
        path: shown(&entry.path),
        kind: entry.kind.to_string(),
        store: entry.store.clone(),
        method: entry.method.to_string(),
        place: shown(&store_place(boot, &entry.store).join(inside)),
        data,
    }
}

fn store_json(name: &StoreName, store: &Store) -> StoreJson {
    StoreJson {
        name: name.clone(),
        class: store.class,
        device: store.device.0.clone(),
        subvolume: store.subvolume.as_deref().map(shown),
        directory: store.directory.as_deref().map(shown),
    }
}

/// Where the running system has a store.
fn store_place(boot: &Boot, name: &StoreName) -> PathBuf {
    boot.run.join(STORES).join(&name.0)
}

fn shown(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// Says on a terminal how far it is, if that takes long.
struct Progress {
    terminal: bool,
    next: Instant,
    told: bool,
}

impl Progress {
    fn new() -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, next: Instant::now() + PATIENCE, told: false }
    }

    fn tell(&mut self, path: &Path, seen: u64) {
        let now = Instant::now();
        if !self.terminal || now < self.next {
            return;
        }
        (self.next, self.told) = (now + PATIENCE, true);
        // Too long for the line is not to be cleared any more.
        let path: String = shown(path).chars().take(40).collect();
        let _ = write!(io::stderr().lock(), "\r\u{1b}[K{seen} of at most {LIMIT} in {path}");
    }

    fn clear(&mut self) {
        if self.told {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }
}
