//! The boot's half: takes the paths of a wish from the root that was put away into the new one. Whatever
//! fails is left in the past root and said; the boot goes on.

use std::path::{Path, PathBuf};

use ebbtide_sys::metadata::{FileKind, metadata_beneath};
use ebbtide_sys::text::size;
use ebbtide_sys::tree;

use super::{Wish, listed, shown};
use crate::backend;
use crate::boot::Boot;
use crate::compiled::{Backend, Compiled, Entry, Method};
use crate::container::{Container, name};
use crate::failure::{Failure, Level, Log, Problem, Result};
use crate::past::restore::{Request, Restore, Wanted};
use crate::past::sources::Place;
use crate::record::{BootNumber, Carried, Record};

/// What is to become of a wish.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// The past root of this boot has what was wished for.
    From(BootNumber),
    /// An earlier boot has done it, and was cut off before it could remove the wish.
    Done,
    /// An earlier boot reset that root and did not do it.
    Late(BootNumber),
    /// No past root is the one that the wish is about.
    Gone,
}

/// Carries what is wished for over the reset of this boot, onto a new root on which nothing is mounted yet.
/// What became of it is in the record, and so are problems. Returns whether the wish is to be removed, once
/// the record is durable.
pub(crate) fn carry(
    boot: &Boot,
    container: &Container,
    sysroot: &Path,
    compiled: &Compiled,
    wish: &Wish,
    record: &mut Record,
    log: &mut Log<'_>,
) -> bool {
    let mut say = |record: &mut Record, problem: Problem| {
        log(problem.level, &problem.to_string());
        if problem.level < Level::Info {
            record.problems.push(problem);
        }
    };
    let due = match due(container, wish, record.number) {
        Ok(due) => due,
        Err(failure) => {
            say(record, left(&listed(&wish.paths), &failure.chain(), None));
            return false;
        }
    };
    let from = match due {
        Due::From(number) => number,
        Due::Done => return true,
        Due::Late(number) => {
            let why = "an earlier boot made a new root without it";
            say(record, left(&listed(&wish.paths), why, Some((number, &wish.paths))));
            return true;
        }
        Due::Gone => {
            let why = "there is no past root any more that had it";
            say(record, left(&listed(&wish.paths), why, None));
            return true;
        }
    };
    let mut carried = Carried { from, paths: Vec::new(), left: Vec::new() };
    let mut restore = match Restore::of_boot(boot, sysroot, from) {
        Ok(restore) => restore,
        Err(failure) => {
            say(record, left(&listed(&wish.paths), &failure.chain(), Some((from, &wish.paths))));
            carried.left.clone_from(&wish.paths);
            record.carried = Some(carried);
            return true;
        }
    };
    let mut room = Room::of(container, boot);
    for path in &wish.paths {
        match one(path, from, compiled, &mut restore, &mut room) {
            Ok(One::Carried) => carried.paths.push(path.clone()),
            Ok(One::Kept(entry)) => {
                let (path, entry) = (shown(path), shown(&entry));
                let message = format!("{path} need not be carried over: {entry} is kept");
                say(record, Problem::new(Level::Info, message));
            }
            Ok(One::Gone) => {
                let message = format!("{} was not carried over: it was gone", shown(path));
                say(record, Problem::new(Level::Notice, message));
                carried.left.push(path.clone());
            }
            Err(failure) => {
                let paths = [path.clone()];
                say(record, left(&shown(path), &failure.chain(), Some((from, &paths))));
                carried.left.push(path.clone());
            }
        }
    }
    if !carried.paths.is_empty() {
        log(Level::Info, &format!("carried over from boot {from}: {}", listed(&carried.paths)));
    }
    record.carried = Some(carried);
    true
}

/// What was not carried over, why, and how it is had back.
fn left(paths: &str, why: &str, from: Option<(BootNumber, &[PathBuf])>) -> Problem {
    let message = format!("not carried over the reset: {paths}: {why}");
    let hint = from.map(|(number, paths)| {
        let of = |path| format!("`ebbtide restore --boot {number} {}`", shown(path));
        let all: Vec<_> = paths.iter().map(|path| of(path)).collect();
        format!("it is in the past root of boot {number}: {}", all.join(", "))
    });
    Problem { hint, ..Problem::new(Level::Warning, message) }
}

fn due(container: &Container, wish: &Wish, this: BootNumber) -> Result<Due> {
    let earlier = |numbers: Vec<BootNumber>| numbers.into_iter().rev().filter(move |it| *it < this);
    let holds_it = |place: &Path| {
        backend::identity(container, place).is_ok_and(|root| root.uuid() == wish.root)
    };
    let past = |number: &BootNumber| Path::new(name::PAST).join(number.to_string());
    let put_away = earlier(container.numbers(name::PAST)?).find(|number| holds_it(&past(number)));
    let Some(from) = put_away else {
        // The wish waits for the boot that finishes it, which can say where it is.
        if holds_it(Path::new(name::NEW)) {
            return Err(Failure::new("the last root is not put away yet"));
        }
        return Ok(Due::Gone);
    };
    for number in earlier(container.numbers(name::BOOTS)?).take_while(|it| *it > from) {
        let Ok(Some(record)) = container.record(number) else { continue };
        if record.carried.is_some_and(|carried| carried.from == from) {
            return Ok(Due::Done);
        }
        // One that was cut off before its entries were in place: no system has run on its root.
        if record.attached.is_some() {
            return Ok(Due::Late(from));
        }
    }
    Ok(Due::From(from))
}

/// How many bytes may still be copied; without a limit where content is shared.
struct Room {
    left: Option<u64>,
    limit: u64,
}

impl Room {
    fn of(container: &Container, boot: &Boot) -> Self {
        let copies = container.backend() != Backend::Btrfs;
        Self { left: copies.then_some(boot.import_limit), limit: boot.import_limit }
    }

    fn take(&mut self, needed: impl FnOnce(u64) -> Result<u64>) -> Result<()> {
        let Some(left) = self.left else { return Ok(()) };
        let rest = left.checked_sub(needed(left)?).ok_or_else(|| too_much(self.limit))?;
        self.left = Some(rest);
        Ok(())
    }
}

/// More than a boot copies.
pub(super) fn too_much(limit: u64) -> Failure {
    Failure::new(format!("a boot copies no more than {}, and there is more", size(limit)))
}

enum One {
    Carried,
    Kept(PathBuf),
    Gone,
}

fn one(
    path: &Path,
    from: BootNumber,
    compiled: &Compiled,
    restore: &mut Restore,
    room: &mut Room,
) -> Result<One> {
    if let Some(entry) = compiled.entries.iter().find(|entry| path.starts_with(&entry.path)) {
        return Ok(One::Kept(entry.path.clone()));
    }
    let request =
        Request { path: path.to_owned(), wanted: Wanted::Boot(from), to: None, force: false };
    let relative = path.strip_prefix("/").unwrap_or(path);
    {
        let tree = restore.tree(&Place::Boot(from))?;
        let found = |at: &Path| metadata_beneath(tree, at).ok().flatten();
        // What can't be looked at is said by what follows.
        if matches!(metadata_beneath(tree, relative), Ok(None)) {
            return Ok(One::Gone);
        }
        // Such an entry wants nothing but its link in this place, and what was there goes into its store.
        let in_the_way = |entry: &&Entry| {
            entry.method == Method::Symlink
                && entry.path.starts_with(path)
                && found(entry.relative()).is_some_and(|it| it.kind != FileKind::Symlink)
        };
        if let Some(entry) = compiled.entries.iter().find(in_the_way) {
            return Err(Failure::new(format!(
                "{} in it has been declared since, and becomes a link",
                shown(&entry.path)
            )));
        }
        room.take(|limit| {
            tree::tree_size_up_to(tree, relative, limit).map_err(|error| {
                Failure::new(format!("cannot measure {}", shown(path))).caused_by(error)
            })
        })?;
    }
    restore.apply(&request)?;
    Ok(One::Carried)
}
