//! The scenarios, each in a file of its own.

mod apply_while_running;
mod base_without_modules;
mod broken_declaration;
mod forgets_and_remembers;
mod methods_in_a_container;
mod missing_store;
mod off_and_keep;
mod overlay;
mod power_cut_during_reset;
mod replaced_files;
mod stock_debian_boots;
mod stock_debian_boots_through_grub;
mod through_grub;
mod unmarked_volume;
mod without_the_hook;

use crate::scenario::Scenario;

/// All of them, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "methods-in-a-container", slow: false, run: methods_in_a_container::run },
    Scenario { name: "forgets-and-remembers", slow: false, run: forgets_and_remembers::run },
    Scenario { name: "without-the-hook", slow: false, run: without_the_hook::run },
    Scenario { name: "through-grub", slow: false, run: through_grub::run },
    Scenario { name: "off-and-keep", slow: false, run: off_and_keep::run },
    Scenario { name: "overlay-on-ext4", slow: false, run: overlay::on_ext4 },
    Scenario { name: "overlay-on-xfs", slow: false, run: overlay::on_xfs },
    Scenario { name: "apply-while-running", slow: false, run: apply_while_running::run },
    Scenario { name: "replaced-files", slow: false, run: replaced_files::run },
    Scenario { name: "power-cut-during-reset", slow: false, run: power_cut_during_reset::run },
    Scenario { name: "broken-declaration", slow: false, run: broken_declaration::run },
    Scenario { name: "missing-store", slow: false, run: missing_store::run },
    Scenario { name: "unmarked-volume", slow: false, run: unmarked_volume::run },
    Scenario { name: "base-without-modules", slow: false, run: base_without_modules::run },
    Scenario { name: "stock-debian-boots", slow: false, run: stock_debian_boots::run },
    Scenario {
        name: "stock-debian-boots-through-grub",
        slow: true,
        run: stock_debian_boots_through_grub::run,
    },
];
