//! Boots that did not come up. After three in a row a boot falls back: to the base, with nothing but the
//! entries that are required, and if that does not come up either, to the last root that did.

use std::path::Path;

use crate::backend;
use crate::container::{Container, name};
use crate::failure::{Level, Problem, Result};
use crate::record::{BootNumber, Ending, Outcome, Record};

/// So many in a row are too many.
const TOO_MANY: usize = 3;

/// Whether this boot is to fall back: the boot that came up last, if too many failed after it. Where no
/// boot ever said that it came up, none is missed: nothing there may say so.
pub(super) fn after_too_many(container: &Container) -> Result<Option<BootNumber>> {
    let Some(last) = container.came_up().map(|mark| mark.number) else { return Ok(None) };
    let later = container.numbers(name::BOOTS)?.into_iter().rev().take_while(|it| *it > last);
    let records = later.map(|number| container.record(number).ok().flatten());
    Ok((in_a_row(records) >= TOO_MANY).then_some(last))
}

/// The past root that came up last, if the boot before this one fell back to the base, and that failed too.
pub(super) fn root_that_came_up(container: &Container) -> Result<Option<BootNumber>> {
    let newest = container.numbers(name::BOOTS)?.into_iter().next_back();
    let Some(newest) = newest.map(|it| container.record(it)).transpose()?.flatten() else {
        return Ok(None);
    };
    let fell_back = newest.outcome == Outcome::Reset && newest.fallback.is_some();
    let Some(mark) = container.came_up().filter(|_| fell_back) else { return Ok(None) };
    let is_it = |number: &BootNumber| {
        let place = Path::new(name::PAST).join(number.to_string());
        backend::identity(container, &place).is_ok_and(|root| root.uuid() == mark.root)
    };
    Ok(container.numbers(name::PAST)?.into_iter().rev().find(is_it))
}

/// How many boots failed in a row, counted from the newest back. `records` are those of the boots since
/// one came up; what can't be read ends the row, since nobody knows what it says.
fn in_a_row(records: impl Iterator<Item = Option<Record>>) -> usize {
    let mut failed = 0;
    for record in records {
        match record.map(|record| (record.outcome, record.ended)) {
            // Somebody is there, and tries something.
            Some((Outcome::Kept(_), _)) => {}
            Some((_, Some(Ending::Unclean))) => failed += 1,
            _ => break,
        }
    }
    failed
}

/// What is said of a boot on the root of one that came up.
pub(super) fn problem_of_both(last: BootNumber) -> Problem {
    let mut problem = Problem::new(
        Level::Error,
        format!(
            "no boot after boot {last} came up, not even with the base and required entries only: its root \
             runs again, with required entries"
        ),
    );
    let hint = "mend what keeps the base from coming up, then reboot; copied-in files that are changed now \
                stay in this root";
    problem.hint = Some(hint.to_owned());
    problem
}

/// What is said of it.
pub(super) fn problem(last: BootNumber) -> Problem {
    let mut problem = Problem::new(
        Level::Error,
        format!(
            "no boot after boot {last} came up: only the base and required entries are in place"
        ),
    );
    let hint =
        "mend what keeps it from coming up, then reboot: the next boot has all entries again";
    problem.hint = Some(hint.to_owned());
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::Boot;
    use crate::record::Switch;

    fn boot(outcome: Outcome, ended: impl Into<Option<Ending>>) -> Option<Record> {
        let record = Record { outcome, ended: ended.into(), ..Boot::new_record(&mut |_, _| {}) };
        record.into()
    }

    fn count(newest_first: &[Option<Record>]) -> usize {
        in_a_row(newest_first.iter().cloned())
    }

    #[test]
    fn only_ends_without_a_word_count_and_an_orderly_one_ends_the_row() {
        let failed = || boot(Outcome::Reset, Ending::Unclean);
        let orderly = || boot(Outcome::Reset, Ending::Clean);
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[failed(), failed(), failed()]), 3);
        assert_eq!(count(&[failed(), orderly(), failed(), failed()]), 1);
        assert_eq!(count(&[orderly(), failed(), failed(), failed()]), 0);
    }

    #[test]
    fn boots_on_a_root_that_was_not_reset_count_unless_they_were_asked_for() {
        let failed = |outcome| boot(outcome, Ending::Unclean);
        let asked = |switch| failed(Outcome::Kept(switch));
        assert_eq!(count(&[failed(Outcome::Refused), failed(Outcome::Postponed)]), 2);
        let some = [failed(Outcome::Reset), asked(Switch::Off), asked(Switch::Keep)];
        assert_eq!(count(&[some.as_slice(), &[failed(Outcome::Reset)]].concat()), 2);
        let orderly = boot(Outcome::Kept(Switch::Off), Ending::Clean);
        assert_eq!(count(&[orderly, failed(Outcome::Reset)]), 1);
    }

    #[test]
    fn what_is_not_known_ends_the_row() {
        let failed = || boot(Outcome::Reset, Ending::Unclean);
        assert_eq!(count(&[failed(), None, failed(), failed()]), 1);
        assert_eq!(count(&[failed(), boot(Outcome::Reset, None), failed()]), 1);
    }
}
