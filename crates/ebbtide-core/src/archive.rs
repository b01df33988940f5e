//! Archiving a root in RAM when its boot ends: what was written to it becomes a past root in the
//! container, like that of an overlay on disk.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use ebbtide_sys::tree::{self, CopyOptions};
use ebbtide_sys::{file, metadata};

use crate::backend::{self, overlay};
use crate::boot::Boot;
use crate::container::{Container, name};
use crate::failure::{Context, Failure, Result};
use crate::record::{BootNumber, RootIdentity};
use crate::status;

/// What became of a root in RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archived {
    /// It is none, or nothing asks for it.
    NotWanted,
    /// It is the past root of this number; before, if it was archived already.
    As(BootNumber),
    /// More was written to it than the declaration allows: nothing is archived.
    TooLarge {
        /// Bytes that were written to it.
        size: u64,
        /// How many there may be.
        limit: u64,
    },
}

/// Copies what was written to the running root, if that is in RAM and the declaration asks for it.
/// Nothing should write any more.
///
/// It is complete and durable before it has the name of a past root. What an earlier attempt left is
/// no past root, and is removed.
pub fn archive(boot: &Boot, sysroot: &Path) -> Result<Archived> {
    let Some(record) = boot.read_record() else { return Ok(Archived::NotWanted) };
    let Some(root) = record.root.filter(RootIdentity::is_in_ram) else {
        return Ok(Archived::NotWanted);
    };
    let container = boot.open_container()?;
    let (_, compiled) = status::declaration(boot, &container)?;
    let Some(limit) = compiled.root.archive else { return Ok(Archived::NotWanted) };
    if backend::mounted(boot.locator.backend, sysroot)? != root {
        return Err(Failure::new("/ is not the root of this boot, so it is not archived"));
    }
    let ram = boot.run.join(overlay::RAM);
    let ram: OwnedFd =
        std::fs::File::open(&ram).context(|| format!("cannot open {}", ram.display()))?.into();
    let size = tree::tree_size(ram.as_fd(), Path::new(overlay::UPPER))
        .context(|| "cannot measure what was written to the root")?;
    if size > limit {
        return Ok(Archived::TooLarge { size, limit });
    }
    let _lock = container.lock()?;
    let place = Path::new(name::PAST).join(record.number.to_string());
    let taken = metadata::metadata_beneath(container.directory(), &place)
        .context(|| format!("cannot look at {}", place.display()))?;
    if taken.is_none() {
        write(&container, &root, ram.as_fd(), record.number).inspect_err(|_| {
            // Half a copy is of no use, and may be what filled the disk.
            let _ = file::remove_tree(container.directory(), OsStr::new(name::ARCHIVE));
        })?;
    }
    Ok(Archived::As(record.number))
}

fn write(
    container: &Container,
    root: &RootIdentity,
    ram: BorrowedFd<'_>,
    number: BootNumber,
) -> Result<()> {
    let what = || format!("cannot archive the root in RAM as past/{number}");
    let directory = container.directory();
    let scratch = OsStr::new(name::ARCHIVE);
    match file::remove_tree(directory, scratch) {
        Err(error) if !error.is_not_found() => return Err(error).context(what),
        _ => {}
    }
    let copy = file::create_directory(directory, scratch, 0o700).context(what)?;
    // Whiteouts are device nodes, and renamed and replaced directories have trusted.overlay.*
    // attributes (filesystems/overlayfs.rst): a faithful copy has them.
    let upper = OsStr::new(overlay::UPPER);
    tree::copy_tree(ram, Path::new(upper), copy.as_fd(), upper, CopyOptions::default())
        .context(what)?;
    file::create_directory(copy.as_fd(), OsStr::new(overlay::WORK), 0o700).context(what)?;
    file::sync_filesystem(copy.as_fd()).context(what)?;
    overlay::write_id(copy.as_fd(), root).context(what)?;
    file::sync_filesystem(copy.as_fd()).context(what)?;
    let past = container.open_directory(Path::new(name::PAST))?;
    let name = number.to_string();
    file::rename_noreplace(directory, scratch, past.as_fd(), OsStr::new(&name)).context(what)?;
    file::sync_filesystem(directory).context(what)
}
