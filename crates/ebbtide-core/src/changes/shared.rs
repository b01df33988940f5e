//! A walk that several threads share, with its changes in the order of a walk in one.
//!
//! Who walks gives some of the names away that come next as soon as a thread has nothing to do, and goes on
//! behind them. What it finds there waits until the other one is through with them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use ebbtide_sys::kernel::processors;

use super::way::{Renamed, Task};
use super::{Change, Visit};
use crate::failure::{Failure, Result};

/// How many threads walk, at most.
const THREADS: usize = 4;

/// How many changes go over at a time.
const BATCH: usize = 64;

/// How many pieces of one walk wait at most.
const WAITING: usize = 128;

/// While so many changes wait, nothing is given away: what would be found there had to wait, too.
const UNTOLD: usize = 1 << 13;

/// How many names are given away at a time, at most.
const SHARE: usize = 8;

/// Where a walk tells what it finds.
pub(super) enum Out<'o, T> {
    /// To who asked, at once.
    Here { visit: &'o mut Visit<'o>, renamed: &'o mut VecDeque<Renamed> },
    /// To who puts it in order.
    Over(Over<'o, T>),
}

/// A walk in a thread of its own.
pub(super) struct Over<'o, T> {
    crew: &'o Crew<T>,
    pieces: SyncSender<Piece>,
    batch: Vec<Change>,
}

/// What a walk found, in its order.
enum Piece {
    Changes(Vec<Change>),
    Renamed(Renamed),
    /// What another one walks.
    Elsewhere(Elsewhere),
    /// The end: without it, a walk was broken off.
    End(Result<()>),
}

/// A part of a walk that was given away.
pub(super) struct Elsewhere(Receiver<Piece>);

/// The threads that walk.
pub(super) struct Crew<T> {
    tasks: Mutex<VecDeque<(T, SyncSender<Piece>)>>,
    more: Condvar,
    /// How many threads have nothing to do, and are promised nothing.
    free: AtomicIsize,
    /// How many changes and walks are not told yet.
    untold: AtomicUsize,
    /// How many names are given away at a time.
    share: AtomicUsize,
    over: AtomicBool,
}

/// Walks from the tops down, and then in each directory that turns out to be renamed. `walk` walks one of the
/// tasks, and may give parts of it away.
pub(super) fn walk<'k, L: Send>(
    walk: impl Fn(Task<'k, L>, &mut Out<'_, Task<'k, L>>) -> Result<()> + Sync,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let threads = processors().min(THREADS);
    in_threads(threads, Renamed::top(), Task::Top, walk, visit)
}

/// The same in so many threads, from a task made of each place.
fn in_threads<T: Send>(
    threads: usize,
    top: Renamed,
    task: impl Fn(Renamed) -> T,
    walk: impl Fn(T, &mut Out<'_, T>) -> Result<()> + Sync,
    visit: &mut Visit<'_>,
) -> Result<()> {
    let crew = Crew::default();
    // Renamed directories wait for their turn: their place in the base is another than their own.
    let mut renamed = VecDeque::from([top]);
    thread::scope(|scope| {
        let _ending = Ending(&crew);
        let start = |_| thread::Builder::new().spawn_scoped(scope, || crew.work(&walk)).ok();
        let started = if threads > 1 { (0..threads).filter_map(start).count() } else { 0 };
        crew.free.fetch_add(started.cast_signed(), Ordering::Relaxed);
        while let Some(next) = renamed.pop_front() {
            if started == 0 {
                let visit: &mut Visit<'_> = &mut *visit;
                walk(task(next), &mut Out::Here { visit, renamed: &mut renamed })?;
                continue;
            }
            let (sender, pieces) = sync_channel(WAITING);
            crew.free.fetch_sub(1, Ordering::Relaxed);
            crew.add(task(next), sender);
            crew.tell(pieces, &mut renamed, visit)?;
        }
        Ok(())
    })
}

/// Lets the threads end, whatever happens.
struct Ending<'c, T>(&'c Crew<T>);

impl<T> Drop for Ending<'_, T> {
    fn drop(&mut self) {
        let _tasks = self.0.tasks();
        self.0.over.store(true, Ordering::Relaxed);
        self.0.more.notify_all();
    }
}

impl<T> Default for Crew<T> {
    fn default() -> Self {
        Self {
            tasks: Mutex::default(),
            more: Condvar::new(),
            free: AtomicIsize::new(0),
            untold: AtomicUsize::new(0),
            share: AtomicUsize::new(SHARE),
            over: AtomicBool::new(false),
        }
    }
}

impl<T> Crew<T> {
    fn tasks(&self) -> MutexGuard<'_, VecDeque<(T, SyncSender<Piece>)>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: T, pieces: SyncSender<Piece>) {
        self.tasks().push_back((task, pieces));
        self.more.notify_one();
    }

    fn next(&self) -> Option<(T, SyncSender<Piece>)> {
        let mut tasks = self.tasks();
        loop {
            if self.over.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(task) = tasks.pop_front() {
                return Some(task);
            }
            tasks = self.more.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Walks one task after the other.
    fn work(&self, walk: &impl Fn(T, &mut Out<'_, T>) -> Result<()>) {
        while let Some((task, pieces)) = self.next() {
            let batch = Vec::with_capacity(BATCH);
            let mut out = Out::Over(Over { crew: self, pieces, batch });
            let ended = walk(task, &mut out);
            if let Out::Over(mut over) = out {
                over.send(Piece::End(ended));
            }
            self.free.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells what a walk finds, and at their places what those find that it gave something away to.
    fn tell(
        &self,
        pieces: Receiver<Piece>,
        renamed: &mut VecDeque<Renamed>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let mut walks = vec![pieces];
        while let Some(pieces) = walks.last() {
            match pieces.recv() {
                Ok(Piece::Changes(changes)) => {
                    self.untold.fetch_sub(changes.len(), Ordering::Relaxed);
                    changes.into_iter().for_each(&mut *visit);
                }
                Ok(Piece::Renamed(place)) => renamed.push_back(place),
                Ok(Piece::Elsewhere(Elsewhere(pieces))) => walks.push(pieces),
                Ok(Piece::End(ended)) => {
                    ended?;
                    walks.pop();
                    self.untold.fetch_sub(usize::from(!walks.is_empty()), Ordering::Relaxed);
                }
                // It panicked, and so does who waits for all threads.
                Err(_) => return Err(Failure::new("a walk was broken off")),
            }
        }
        Ok(())
    }
}

impl<T> Out<'_, T> {
    /// Tells a change.
    pub fn change(&mut self, change: Change) {
        match self {
            Self::Here { visit, .. } => visit(change),
            Self::Over(over) => {
                over.batch.push(change);
                if over.batch.len() == BATCH {
                    over.flush();
                }
            }
        }
    }

    /// Leaves a renamed directory for later.
    pub fn renamed(&mut self, place: Renamed) {
        match self {
            Self::Here { renamed, .. } => renamed.push_back(place),
            Self::Over(over) => over.send(Piece::Renamed(place)),
        }
    }

    /// What was given away comes next.
    pub fn elsewhere(&mut self, part: Elsewhere) {
        if let Self::Over(over) = self {
            over.send(Piece::Elsewhere(part));
        }
    }

    /// Whether nobody wants to know any more.
    pub fn is_over(&self) -> bool {
        match self {
            Self::Here { .. } => false,
            Self::Over(over) => over.crew.over.load(Ordering::Relaxed),
        }
    }

    /// Gives a part of the walk to a thread that has nothing to do, if there is one: what `part` returns, which
    /// is told how many names may be in it at most. It goes to [`Self::elsewhere`] where its place is.
    pub fn share(&self, part: impl FnOnce(usize) -> Option<T>) -> Option<Elsewhere> {
        let Self::Over(Over { crew, .. }) = self else { return None };
        let promise = |free: isize| (free > 0).then(|| free - 1);
        let finds_help = crew.free.load(Ordering::Relaxed) > 0
            && crew.untold.load(Ordering::Relaxed) <= UNTOLD
            && crew.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, promise).is_ok();
        if !finds_help {
            return None;
        }
        let Some(task) = part(crew.share.load(Ordering::Relaxed)) else {
            crew.free.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let (sender, pieces) = sync_channel(WAITING);
        crew.untold.fetch_add(1, Ordering::Relaxed);
        crew.add(task, sender);
        Some(Elsewhere(pieces))
    }
}

impl<T> Over<'_, T> {
    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.crew.untold.fetch_add(self.batch.len(), Ordering::Relaxed);
            let next = Vec::with_capacity(BATCH);
            let batch = std::mem::replace(&mut self.batch, next);
            self.wait(Piece::Changes(batch));
        }
    }

    /// Sends a piece behind what was found before it.
    fn send(&mut self, piece: Piece) {
        self.flush();
        self.wait(piece);
    }

    /// Waits until there is room for a piece. Nobody takes any more only where the walk is over.
    fn wait(&self, piece: Piece) {
        if let Err(TrySendError::Full(piece)) = self.pieces.try_send(piece) {
            // Who waits here was given too much.
            let half = |share: usize| Some(share / 2).filter(|half| *half > 0);
            let _ = self.crew.share.fetch_update(Ordering::Relaxed, Ordering::Relaxed, half);
            let _ = self.pieces.send(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::{Path, PathBuf};

    use ebbtide_sys::metadata::FileKind;

    use super::*;
    use crate::changes::What;

    const DEPTH: usize = 6;
    const WIDTH: usize = 5;

    /// A directory with so many levels below it.
    type Place = (PathBuf, usize);

    fn added(path: &Path) -> Change {
        let (path, kind) = (path.to_owned(), FileKind::Directory);
        Change { path, what: What::Added, kind, bytes: 0, when: None }
    }

    /// Finds what is in a directory, and in those below it; `look` is told each path first.
    fn grow(
        (path, depth): Place,
        out: &mut Out<'_, Place>,
        look: &(impl Fn(&Path, &mut Out<'_, Place>) -> Result<()> + Sync),
    ) -> Result<()> {
        for name in 0..WIDTH {
            let path = path.join(name.to_string());
            look(&path, out)?;
            out.change(added(&path));
            if depth == 0 || out.is_over() {
                continue;
            }
            match out.share(|_| Some((path.clone(), depth - 1))) {
                Some(part) => out.elsewhere(part),
                None => grow((path, depth - 1), out, look)?,
            }
        }
        Ok(())
    }

    fn walk(
        threads: usize,
        look: impl Fn(&Path, &mut Out<'_, Place>) -> Result<()> + Sync,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let place = |it: Renamed| {
            let depth = if it.path == Path::new("/") { DEPTH } else { 1 };
            (it.path, depth)
        };
        in_threads(threads, Renamed::top(), place, |it, out| grow(it, out, &look), visit)
    }

    fn paths(
        threads: usize,
        look: impl Fn(&Path, &mut Out<'_, Place>) -> Result<()> + Sync,
    ) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(threads, look, &mut |change| found.push(change.path)).unwrap();
        found
    }

    #[test]
    fn many_threads_tell_in_the_order_of_one() {
        let renames = |path: &Path, out: &mut Out<'_, Place>| {
            if path.ends_with("3/1/4/1") {
                let name = path.to_string_lossy().replace('/', "-");
                out.renamed(Renamed { path: Path::new("/").join(name), from: path.to_owned() });
            }
            Ok(())
        };
        let expected = paths(1, renames);
        assert!(expected.len() > WIDTH.pow(7));
        assert_eq!(expected.last().unwrap(), Path::new("/-4-4-4-3-1-4-1/4/4"));
        for threads in [2, 3, 4, 8, 2, 3, 4, 8] {
            assert!(paths(threads, renames) == expected, "{threads} threads");
        }
    }

    #[test]
    fn a_failure_ends_all_of_it() {
        let fails = |path: &Path, _: &mut Out<'_, Place>| {
            let is_bad = path == Path::new("/2/2/2");
            if is_bad { Err(Failure::new("cannot look at /2/2/2")) } else { Ok(()) }
        };
        for threads in [1, 2, 4] {
            let mut last = PathBuf::new();
            let failed = walk(threads, fails, &mut |change| last = change.path).unwrap_err();
            assert_eq!(failed.to_string(), "cannot look at /2/2/2");
            assert_eq!(last, Path::new("/2/2/1/4/4/4/4"), "all that lies before it is told");
        }
    }

    #[test]
    fn a_panic_comes_through() {
        let panics = |path: &Path, _: &mut Out<'_, Place>| {
            assert!(path != Path::new("/2/2"), "as it should");
            Ok(())
        };
        for threads in [1, 2, 4] {
            let walked = || walk(threads, panics, &mut |_| {});
            assert!(catch_unwind(AssertUnwindSafe(walked)).is_err());
            let told = || walk(threads, |_, _| Ok(()), &mut |_| panic!("as it should"));
            assert!(catch_unwind(AssertUnwindSafe(told)).is_err());
        }
    }

    #[test]
    fn few_changes_wait_for_who_is_slow() {
        const THREADS: usize = 4;
        let found = AtomicUsize::new(0);
        let counts = |_: &Path, _: &mut Out<'_, Place>| {
            found.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        let (mut told, mut most) = (0, 0);
        let mut slow = |_| {
            told += 1;
            most = most.max(found.load(Ordering::Relaxed) - told);
            thread::yield_now();
        };
        walk(THREADS, counts, &mut slow).unwrap();
        // Each walk has what waits at its end, what it is about to send, and what it does not send yet.
        let at_most = UNTOLD + THREADS * (WAITING + 2) * BATCH;
        assert!(most <= at_most, "{most} of {at_most}");
        assert_eq!(told, found.into_inner());
    }
}
