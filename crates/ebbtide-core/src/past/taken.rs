//! Which past root the reset of the running boot took from a system.

use super::has_root;
use crate::container::{Container, name};
use crate::failure::Result;
use crate::record::{BootNumber, Outcome, Record};

/// The boot whose root was taken away by the reset at the beginning of this one, of which `record` is; `None`
/// if there was no reset, or nobody ran on what it took.
///
/// A boot that was cut off before its entries were in place may have put that root away.
pub fn by_the_last_reset(container: &Container, record: &Record) -> Result<Option<BootNumber>> {
    if record.outcome != Outcome::Reset {
        return Ok(None);
    }
    let boots = container.numbers(name::BOOTS)?.into_iter().rev().filter(|it| *it < record.number);
    for number in boots {
        let Ok(Some(earlier)) = container.record(number) else { continue };
        if earlier.attached.is_some() {
            // On a root that nobody wrote to, this boot may go on.
            let went_on = earlier.root.is_some() && earlier.root == record.root;
            return Ok((!went_on && has_root(container, number)?).then_some(number));
        }
    }
    Ok(None)
}
