//! The scenarios, each in a file of its own.

mod apply_while_running;
mod bad_disk;
mod base_without_modules;
mod broken_declaration;
mod by_hand;
mod encrypted;
mod failed_boots;
mod forgets_and_remembers;
mod hibernation;
mod in_ram;
mod late_store;
mod lost_and_found;
mod methods_in_a_container;
mod missing_store;
mod no_way_in;
mod off_and_keep;
mod older_boot_binary;
mod power_cut_during_reset;
mod power_cuts;
mod rehearse_in_a_container;
mod replaced_files;
mod root_by_other_names;
mod selinux;
mod separate_filesystems;
mod soak;
mod stock_debian_boots;
mod stock_debian_boots_through_grub;
mod through_grub;
mod tutorial;
mod unmarked_volume;
mod without_the_hook;

use testkit::guest::Distribution::{
    Debian12Dracut, Debian12DracutEncrypted, Debian12Encrypted, Debian12Selinux, Debian13,
    Debian13Dracut,
};

use crate::ebbtide::{BTRFS, OVERLAY_ON_EXT4, OVERLAY_ON_XFS, TMPFS};
use crate::scenario::Story::{Of, OfEach};
use crate::scenario::When::{Always, ForAll, WithOlderBoot};
use crate::scenario::{Scenario, Story};

const fn scenario(name: &'static str, story: Story) -> Scenario {
    Scenario { name, story }
}

/// All of them, in the order in which they run. What is the same on every kind of machine is always
/// run on one of them, and on the others when all are asked for: so every kind meets the power cut, the
/// switches, and a store that is missing, and no run has more than thirty boots.
pub const SCENARIOS: &[Scenario] = &[
    scenario("methods-in-a-container", Of(Always, methods_in_a_container::run)),
    scenario("rehearse-in-a-container", Of(Always, rehearse_in_a_container::run)),
    scenario("older-boot-binary", Of(WithOlderBoot, older_boot_binary::run)),
    scenario(
        "forgets-and-remembers",
        OfEach(
            &[
                (BTRFS, Always),
                (OVERLAY_ON_EXT4, Always),
                (OVERLAY_ON_XFS, ForAll),
                (BTRFS.on(Debian12Dracut), ForAll),
                (OVERLAY_ON_EXT4.on(Debian12Dracut), ForAll),
                (OVERLAY_ON_XFS.on(Debian13), ForAll),
                (BTRFS.on(Debian13Dracut), ForAll),
            ],
            forgets_and_remembers::run,
        ),
    ),
    scenario("in-ram", Of(Always, in_ram::run)),
    scenario("without-the-hook", Of(Always, without_the_hook::run)),
    scenario(
        "through-grub",
        OfEach(&[(BTRFS, Always), (OVERLAY_ON_EXT4, ForAll)], through_grub::run),
    ),
    scenario(
        "off-and-keep",
        OfEach(
            &[(OVERLAY_ON_XFS, Always), (BTRFS, ForAll), (OVERLAY_ON_EXT4, ForAll)],
            off_and_keep::run,
        ),
    ),
    scenario(
        "apply-while-running",
        OfEach(&[(BTRFS, Always), (OVERLAY_ON_EXT4, ForAll)], apply_while_running::run),
    ),
    scenario(
        "lost-and-found",
        OfEach(
            &[
                (BTRFS, Always),
                (OVERLAY_ON_EXT4, ForAll),
                (OVERLAY_ON_XFS.on(Debian13), ForAll),
                (BTRFS.on(Debian13Dracut), ForAll),
                (TMPFS, ForAll),
            ],
            lost_and_found::run,
        ),
    ),
    scenario(
        "replaced-files",
        OfEach(&[(BTRFS, Always), (OVERLAY_ON_XFS, ForAll)], replaced_files::run),
    ),
    scenario(
        "power-cut-during-reset",
        OfEach(
            &[(BTRFS, Always), (OVERLAY_ON_EXT4, ForAll), (OVERLAY_ON_XFS, ForAll)],
            power_cut_during_reset::run,
        ),
    ),
    scenario(
        "power-cuts",
        OfEach(
            &[(BTRFS, Always), (OVERLAY_ON_EXT4, ForAll), (OVERLAY_ON_XFS, ForAll)],
            power_cuts::run,
        ),
    ),
    scenario(
        "hibernation",
        OfEach(&[(BTRFS, ForAll), (OVERLAY_ON_EXT4.on(Debian12Dracut), ForAll)], hibernation::run),
    ),
    scenario("bad-disk", OfEach(&[(BTRFS, ForAll), (OVERLAY_ON_EXT4, ForAll)], bad_disk::run)),
    scenario("by-hand", OfEach(&[(BTRFS, ForAll), (OVERLAY_ON_EXT4, ForAll)], by_hand::run)),
    scenario("no-way-in", Of(ForAll, no_way_in::run)),
    scenario("failed-boots", OfEach(&[(BTRFS, ForAll)], failed_boots::run)),
    scenario(
        "broken-declaration",
        OfEach(&[(BTRFS, Always), (OVERLAY_ON_XFS, ForAll)], broken_declaration::run),
    ),
    scenario(
        "missing-store",
        OfEach(&[(OVERLAY_ON_EXT4, Always), (BTRFS, ForAll)], missing_store::run),
    ),
    scenario("late-store", OfEach(&[(OVERLAY_ON_EXT4, ForAll), (BTRFS, ForAll)], late_store::run)),
    scenario(
        "separate-filesystems",
        OfEach(
            &[
                (OVERLAY_ON_EXT4, ForAll),
                (BTRFS, ForAll),
                (OVERLAY_ON_EXT4.on(Debian12Dracut), ForAll),
            ],
            separate_filesystems::run,
        ),
    ),
    scenario(
        "encrypted",
        OfEach(
            &[
                (BTRFS.on(Debian12Encrypted), ForAll),
                (OVERLAY_ON_EXT4.on(Debian12Encrypted), ForAll),
                (OVERLAY_ON_EXT4.on(Debian12DracutEncrypted), ForAll),
            ],
            encrypted::run,
        ),
    ),
    scenario(
        "selinux",
        OfEach(
            &[(BTRFS.on(Debian12Selinux), ForAll), (OVERLAY_ON_EXT4.on(Debian12Selinux), ForAll)],
            selinux::run,
        ),
    ),
    scenario(
        "root-by-other-names",
        OfEach(&[(BTRFS, ForAll), (OVERLAY_ON_EXT4, ForAll)], root_by_other_names::run),
    ),
    scenario(
        "soak",
        OfEach(&[(BTRFS.on(Debian12Dracut), ForAll), (OVERLAY_ON_EXT4, ForAll)], soak::run),
    ),
    scenario("tutorial", Of(Always, tutorial::run)),
    scenario("unmarked-volume", Of(Always, unmarked_volume::run)),
    scenario("base-without-modules", Of(Always, base_without_modules::run)),
    scenario("stock-debian-boots", Of(Always, stock_debian_boots::run)),
    scenario("stock-debian-boots-through-grub", Of(ForAll, stock_debian_boots_through_grub::run)),
];
