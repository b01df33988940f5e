//! Which past root the reset of the running boot took from a system.

use super::has_root;
use crate::container::{Container, name};
use crate::failure::Result;
use crate::record::{BootNumber, Record};

/// The boot whose root was taken away by the reset at the beginning of the one that `record` is of. `None` if that
/// one goes on with it, since it is no past root then, or if the past root is not there any more.
///
/// A boot that was cut off before its entries were in place may have put that root away.
pub fn by_the_last_reset(container: &Container, record: &Record) -> Result<Option<BootNumber>> {
    let boots = container.numbers(name::BOOTS)?.into_iter().rev().filter(|it| *it < record.number);
    for number in boots {
        let Ok(Some(earlier)) = container.record(number) else { continue };
        if earlier.attached.is_some() {
            return Ok(has_root(container, number)?.then_some(number));
        }
    }
    Ok(None)
}
