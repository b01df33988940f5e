//! A walk beside what becomes of the changes that it finds: one waits for the disk, the other adds up.

use std::mem::take;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use ebbtide_core::changes::{Change, Visit};

use crate::error::{CommandError, Kind};

/// How many changes go over at a time.
const BATCH: usize = 64;

/// How many batches wait at most.
const WAITING: usize = 16;

/// Has `walk` find changes in a thread of its own, while `prepare` makes what takes them, in their order. Returns
/// that when the walk has ended.
pub fn beside<T>(
    walk: &mut (dyn FnMut(&mut Visit<'_>) -> Result<(), CommandError> + Send),
    prepare: impl FnOnce() -> T,
    mut add: impl FnMut(&mut T, Change),
) -> Result<T, CommandError> {
    thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Vec<Change>>(WAITING);
        let start = thread::Builder::new().spawn_scoped(scope, move || {
            let mut batch = Vec::with_capacity(BATCH);
            let walked = walk(&mut |change| {
                batch.push(change);
                if batch.len() == BATCH {
                    // Nobody takes any more only where the other side panicked.
                    let _ = sender.send(take(&mut batch));
                }
            });
            let _ = sender.send(batch);
            walked
        });
        let walking = start.map_err(|error| {
            CommandError::new(Kind::Failed, "cannot start a thread").cause(error.to_string())
        })?;
        let mut taken = prepare();
        receiver.into_iter().flatten().for_each(|change| add(&mut taken, change));
        walking.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(taken)
    })
}
