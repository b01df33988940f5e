//! The declaration that the state store keeps, where a refused boot has left the base's in its place.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ebbtide_core::boot::{LOCATOR, RUN};
use ebbtide_core::failure::{Context as _, Result};
use ebbtide_core::locator::Locator;
use ebbtide_core::store::{self, OWN, Place};
use ebbtide_sys::mount;

use crate::context::Context;
use crate::error::CommandError;

const DECLARATION: &str = "etc/ebbtide";
const STATE: &str = "run/ebbtide/stores/state";

/// Mounts the state store where the system has it, and `/etc/ebbtide` from it if it keeps that, for this
/// process alone. Without a state store, what lies in `/etc/ebbtide` is all that there is.
pub fn put(context: &Context) -> std::result::Result<(), CommandError> {
    let booted = fs::read(Path::new(RUN).join(LOCATOR)).ok();
    let booted = booted.and_then(|bytes| Locator::from_bytes(&bytes).ok());
    let done = if let Some(locator) = booted {
        put_from(locator.state.place(), context)?
    } else {
        let declaration = crate::declaration::load(context, None)?;
        match declaration.stores.iter().find(|(name, _)| name.0 == "state") {
            Some((_, state)) => put_from(state.place(), context)?,
            None => false,
        }
    };
    if done {
        context.tell("note: the declaration is read as the state store has it: this boot has not put it in place");
    }
    Ok(())
}

fn put_from(place: Place<'_>, context: &Context) -> Result<bool> {
    // A store that is not there has nothing to say.
    let Ok(state) = store::open_any(place) else { return Ok(false) };
    let [stores, at] = [STATE, DECLARATION].map(|path| context.sysroot.join(path));
    let is_here = is_kept(&state, OWN, &stores.join(OWN));
    let is_declared_here = is_kept(&state, DECLARATION, &at);
    drop(state);
    if is_here && is_declared_here {
        return Ok(false);
    }
    let what = || "cannot put the state store in place for this command";
    mount::enter_private_mount_namespace().context(what)?;
    if !is_here {
        fs::create_dir_all(&stores).context(what)?;
        store::attach_any(place, &stores).context(what)?;
    }
    if !is_declared_here {
        fs::create_dir_all(&at).context(what)?;
        let top = fs::File::open(&stores).context(what)?;
        let clone = mount::clone_mount(top.as_fd(), Path::new(DECLARATION), false).context(what)?;
        mount::attach(clone.as_fd(), fs::File::open(&at).context(what)?.as_fd()).context(what)?;
    }
    Ok(!is_declared_here)
}

/// Whether the system has there what the store has; also if the store has nothing.
fn is_kept(store: &OwnedFd, inside: &str, at: &Path) -> bool {
    // Not through a link that somebody planted in it.
    let Ok(kept) = ebbtide_sys::resolve::open_directory(store.as_fd(), Path::new(inside)) else {
        return true;
    };
    let kept = fs::metadata(format!("/proc/self/fd/{}", kept.as_raw_fd()));
    let same = |a: fs::Metadata, b: fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    kept.is_ok_and(|kept| fs::metadata(at).is_ok_and(|at| same(kept, at)))
}
