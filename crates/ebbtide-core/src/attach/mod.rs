//! Attach: putting the declared entries in place on a root.
//!
//! Observe, plan, apply; then observe and plan again: what is left to do is what went wrong.

mod apply;
mod directories;
mod observe;
mod old_root;
mod owner;
mod plan;

pub(crate) use apply::import_again;
pub use apply::{apply, apply_with, copy_together, machine_id_is_valid};
pub use directories::Directories;
pub use observe::{Places, observe, observe_each, observe_with};
pub use old_root::{OldRoot, old_roots, places_of_old_roots, roots_of_today};
pub use plan::{
    Attributes, Node, Observation, Plan, Policy, Seed, SeedSource, Step, Tree, plan, waves,
};
