//! The machine as the next boot is going to find it, opened for reading only: its base, its root of
//! today, and what its boots wrote down.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ebbtide_sys::mount::MountAttributes;
use uuid::Uuid;

use super::work::{Work, make};
use crate::attach;
use crate::backend;
use crate::boot::Boot;
use crate::compiled::Backend;
use crate::container::{self, Container, name};
use crate::failure::{Failure, Result};
use crate::harvest::Manifest;
use crate::record::{BootNumber, Record};
use crate::volume;

/// The container, and its volume where only this process sees it.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) container: Container,
    top: PathBuf,
}

/// A root that a system ran on, for first content and for what is taken back from it.
#[derive(Debug)]
pub(super) struct OldRoot {
    /// The last boot that ran on it.
    pub(super) number: BootNumber,
    /// Where its tree can be seen.
    pub(super) tree: PathBuf,
    /// What was copied into it.
    pub(super) manifest: Option<Manifest>,
    /// All boots on it.
    pub(super) records: Vec<Record>,
}

impl Machine {
    /// Opens it.
    pub(super) fn open(boot: &Boot, work: &Work) -> Result<Self> {
        let (backend, device) = (boot.locator.backend, &boot.locator.device);
        let volume = container::open_volume_for_reading(backend, device, &boot.switches.flags)?;
        let container = Container::open(volume, backend, &boot.locator.container)?;
        let top = make(&work.below("volume"))?;
        volume::attach(container.volume().again()?.as_fd(), None, &top)?;
        Ok(Self { container, top })
    }

    /// The base that the next boot makes its root from, and where its tree can be seen.
    pub(super) fn base(&self, work: &Work) -> Result<(u64, PathBuf)> {
        let number = self.container.base()?;
        if self.container.backend() == Backend::Btrfs {
            // As everywhere, what is no base is refused.
            backend::open_base(&self.container, number)?;
            return Ok((number, self.place(&Path::new(name::BASES).join(number.to_string()))));
        }
        let at = make(&work.below("base"))?;
        let tree = backend::overlay::mount_base(&self.container, &work.run())?;
        volume::attach(tree.as_fd(), None, &at)?;
        Ok((number, at))
    }

    /// The root that the next reset puts away, and older ones as long as something of their entries was
    /// left unfinished: newest first, none before the first boot. `sysroot`: where the system sees its
    /// root. What is true of the root in place is said of one that nothing runs on, too.
    pub(super) fn old_roots(&self, sysroot: &Path, work: &Work) -> Result<Vec<OldRoot>> {
        let Some((uuid, tree)) = self.todays(sysroot, work)? else { return Ok(Vec::new()) };
        let records = self.records_of(uuid)?;
        let Some(last) = records.last() else { return Ok(Vec::new()) };
        let (number, mut complete) = (last.number, is_complete(last));
        let manifest = Manifest::read(&self.container, uuid)?;
        let mut found = vec![OldRoot { number, tree, manifest, records }];
        for (number, place) in attach::places_of_old_roots(&self.container)? {
            if complete {
                break;
            }
            let Some(record) = self.container.record(number)? else { continue };
            complete = is_complete(&record);
            let tree = self.old(&place, work)?;
            found.push(OldRoot { number, tree, manifest: None, records: vec![record] });
        }
        Ok(found)
    }

    /// The root of today: as the system sees it if it runs, else as it lies in the container.
    fn todays(&self, sysroot: &Path, work: &Work) -> Result<Option<(Uuid, PathBuf)>> {
        let place = Path::new(name::ROOT);
        let backend = self.container.backend();
        let stored = match backend {
            Backend::Tmpfs => None,
            _ => Some(backend::identity(&self.container, place)?.uuid()),
        };
        let running = backend::mounted(backend, sysroot).ok().map(|root| root.uuid());
        let running = match (running, stored) {
            (Some(running), Some(stored)) => Some(running).filter(|it| *it == stored),
            // In RAM: one that a boot of this container wrote down.
            (Some(running), None) => {
                backend::last_boot_on(&self.container, running)?.map(|_| running)
            }
            (None, _) => None,
        };
        let at = work.below("today");
        if let Some(uuid) = running {
            let only = MountAttributes::READ_ONLY | MountAttributes::NOATIME;
            let tree = volume::clone_directory(sysroot, only)?;
            volume::attach(tree.as_fd(), None, &make(&at)?)?;
            return Ok(Some((uuid, at)));
        }
        let Some(uuid) = stored else { return Ok(None) };
        if backend == Backend::Btrfs {
            return Ok(Some((uuid, self.place(place))));
        }
        let tree = backend::tree(&self.container, place, &work.run())?;
        volume::attach(tree.as_fd(), None, &make(&at)?)?;
        Ok(Some((uuid, at)))
    }

    fn old(&self, place: &Path, work: &Work) -> Result<PathBuf> {
        if self.container.backend() == Backend::Btrfs {
            return Ok(self.place(place));
        }
        let at = make(&work.below(&place.display().to_string().replace('/', "-")))?;
        let tree = backend::tree(&self.container, place, &work.run())?;
        volume::attach(tree.as_fd(), None, &at)?;
        Ok(at)
    }

    /// The records of all boots on a root, oldest first.
    fn records_of(&self, root: Uuid) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for number in self.container.numbers(name::BOOTS)? {
            let record = self.container.record(number)?;
            records
                .extend(record.filter(|it| it.root.as_ref().is_some_and(|it| it.uuid() == root)));
        }
        Ok(records)
    }

    /// Something in the container, where it is attached.
    fn place(&self, inside: &Path) -> PathBuf {
        self.top.join(self.container.path()).join(inside)
    }

    /// The hashes that the next boot goes by.
    pub(super) fn pins(&self) -> Result<container::Pins> {
        self.container.pins()?.ok_or_else(|| {
            Failure::new("no declaration was ever compiled for this container")
                .hint("run `ebbtide apply`")
        })
    }
}

fn is_complete(record: &Record) -> bool {
    record
        .attached
        .as_ref()
        .is_some_and(|attached| attached.missing.is_empty() && !attached.partial)
}
