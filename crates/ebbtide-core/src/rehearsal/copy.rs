//! The container of a rehearsal: what the next boot would find in the machine's, with roots that lie over
//! the machine's own as overlays do, so that the very code of a boot can reset and attach in it.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::machine::{Machine, OldRoot};
use super::work::{Work, device, make as make_path};
use crate::backend::overlay::{self, Base};
use crate::compiled::{Backend, Compiled, ContainerRef};
use crate::container::{self, Container, name};
use crate::enclosure::mounts::{make_directory, open_directory};
use crate::failure::{Context, Result};
use crate::harvest::Manifest;
use crate::locator::{Locator, StateStore, VERSION};
use crate::once;
use crate::record::{CleanMark, Outcome, RootIdentity};
use crate::store;

/// Makes it. `state`: where the covered state store is. Returns what finds it.
pub(super) fn make(
    machine: &Machine,
    base: (u64, &Path),
    old_roots: &[OldRoot],
    state: (&Path, Uuid),
    mut compiled: Compiled,
    work: &Work,
) -> Result<Locator> {
    let at =
        ContainerRef { path: machine.container.path().to_owned(), uuid: machine.container.uuid() };
    let volume = device(&make_path(&work.volume())?)?;
    let place = make_path(&work.volume().join(&at.path))?;
    let directory = open_directory(&place)?;
    for inside in [name::BASES, name::PAST, name::BOOTS] {
        make_directory(directory.as_fd(), inside)?;
    }
    let (number, tree) = base;
    Base::new(number, Some((device(tree)?, None))).write(directory.as_fd())?;
    Container::set_base(directory.as_fd(), number)?;
    Container::mark(directory.as_fd(), Backend::Overlay, at.uuid)?;

    let opened = container::open_volume(Backend::Overlay, &volume, &[])?;
    let container = Container::open(opened, Backend::Overlay, &at)?;
    container.give_out(machine.container.last_number()?)?;
    for (index, old) in old_roots.iter().enumerate() {
        // Each has a base of its own: its tree.
        let number = number + 1 + u64::try_from(index).unwrap_or(u64::MAX / 2);
        let uuid = put(&container, old, number, index == 0)?;
        let machines = old.records.last().and_then(|record| record.root.as_ref());
        if let Some(root) = machines.filter(|_| index == 0) {
            once::transfer(open_directory(state.0)?.as_fd(), root.uuid(), uuid)?;
        }
    }
    compiled.root.backend = Backend::Overlay;
    compiled.root.device = volume.clone();
    compiled.root.options.clear();
    let opened = open_directory(state.0)?;
    store::publish(opened.as_fd(), &container, &compiled)
        .context(|| "cannot write the declaration of the rehearsal")?;
    Ok(Locator {
        version: VERSION,
        backend: Backend::Overlay,
        device: volume,
        container: at,
        options: Vec::new(),
        state: StateStore {
            device: device(state.0)?,
            subvolume: None,
            directory: None,
            uuid: state.1,
        },
    })
}

/// Puts an old root in its place: the one of today as the one that the reset finds, as after an end in
/// order, since that is what comes before a boot that anybody plans. Returns the UUID that it has here.
fn put(container: &Container, old: &OldRoot, base: u64, today: bool) -> Result<Uuid> {
    let tree = open_directory(&old.tree)?;
    let lower = Base::new(base, Some((device(&old.tree)?, None)));
    lower.write(container.directory())?;
    let uuid = if today {
        overlay::make_as(container.directory(), name::ROOT, tree.as_fd(), lower.uuid)?
    } else {
        let past = container.open_directory(&PathBuf::from(name::PAST))?;
        overlay::make_as(past.as_fd(), &old.number.to_string(), tree.as_fd(), lower.uuid)?
    };
    for record in &old.records {
        let mut record = record.clone();
        record.root = Some(RootIdentity::Overlay { uuid, base: lower.uuid, in_ram: false });
        if record.number == old.number && today {
            record.ended = None;
            let mark = CleanMark {
                version: crate::record::VERSION,
                number: record.number,
                kernel_boot_id: record.kernel_boot_id.clone(),
                root: uuid,
            };
            container.set_clean_mark(&mark)?;
            if record.outcome == Outcome::Postponed {
                // To put it off once more is what can be said of it here: see `super`.
                record.outcome = Outcome::Reset;
            }
        }
        container.set_record(&record)?;
    }
    if let Some(manifest) = &old.manifest {
        Manifest { root: uuid, ..manifest.clone() }.write(container)?;
    }
    Ok(uuid)
}
