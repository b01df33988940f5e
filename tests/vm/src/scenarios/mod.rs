//! The scenarios, each in a file of its own.

mod stock_debian_boots;
mod stock_debian_boots_through_grub;

use crate::scenario::Scenario;

/// All of them, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "stock-debian-boots", slow: false, run: stock_debian_boots::run },
    Scenario {
        name: "stock-debian-boots-through-grub",
        slow: true,
        run: stock_debian_boots_through_grub::run,
    },
];
