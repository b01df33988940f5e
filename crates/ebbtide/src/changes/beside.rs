//! A walk beside what is made ready for the changes that it finds.

use std::sync::mpsc::sync_channel;
use std::thread;

use ebbtide_core::changes::{Change, Visit};

use crate::error::{CommandError, Kind};

/// Has `walk` find changes, while a thread of its own has `prepare` make what takes them, in their order. Returns
/// that when the walk has ended.
pub fn beside<T: Send>(
    walk: &mut dyn FnMut(&mut Visit<'_>) -> Result<(), CommandError>,
    prepare: impl FnOnce() -> T + Send,
    mut add: impl FnMut(&mut T, Change),
) -> Result<T, CommandError> {
    let failed = |what: &str| CommandError::new(Kind::Failed, what);
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel(1);
        let prepare = move || {
            // Nobody takes it where the walk failed first.
            let _ = sender.send(prepare());
        };
        thread::Builder::new()
            .spawn_scoped(scope, prepare)
            .map_err(|error| failed("cannot start a thread").cause(error.to_string()))?;
        let mut taken = None;
        walk(&mut |change| {
            if taken.is_none() {
                taken = receiver.recv().ok();
            }
            if let Some(taken) = &mut taken {
                add(taken, change);
            }
        })?;
        // Nothing is sent only where the other thread panics, and so does who waits for it.
        taken.or_else(|| receiver.recv().ok()).ok_or_else(|| failed("a thread was broken off"))
    })
}
