//! Roots as btrfs subvolumes: a new one is a snapshot of the base beside `root`, and takes its
//! place by `RENAME_EXCHANGE`.

mod apply;
mod observe;
mod plan;

pub use apply::apply;
pub use observe::{identity, last_boot_on, observe};
pub use plan::{Leftover, Observation, Plan, Root, Step, plan};
