use proptest::prelude::*;

use super::*;

const NOW: i64 = EARLIEST + 400 * DAY;
const MIB: u64 = 1 << 20;

fn boot(number: u64, days_ago: i64) -> Boot {
    Boot { number: BootNumber(number), clock: NOW - days_ago * DAY, good: false, has_root: true }
}

fn root(number: u64) -> PastRoot {
    PastRoot { number: BootNumber(number), own_bytes: Some(5 * MIB), mounted: None, came_up: false }
}

/// Boots 1 to `last`, one a day, of which the last runs and the others left roots.
fn daily(last: u64) -> Observation {
    let ago = |number: u64| i64::try_from(last - number).unwrap();
    Observation {
        running: Some(BootNumber(last)),
        now: Now { clock: NOW, uptime: 60 },
        boots: (1..=last).map(|number| boot(number, ago(number))).collect(),
        roots: (1..last).map(root).collect(),
        all_known: true,
        room: Some(Room { total: 1000 * MIB, available: 900 * MIB }),
        ..Observation::default()
    }
}

fn keep(min: u32, count: u32, days: u32, free: Share) -> Policy {
    Policy { boots: KeepBoots { min, count, days, free }, ..Policy::default() }
}

fn roots_of(plan: &Plan) -> Vec<(u64, Why)> {
    let root = |step: &Step| match step {
        Step::Root { boot, why, .. } => Some((boot.0, *why)),
        _ => None,
    };
    plan.steps.iter().filter_map(root).collect()
}

fn numbers(plan: &Plan) -> Vec<u64> {
    roots_of(plan).into_iter().map(|(number, _)| number).collect()
}

const NO_MATTER: Share = Share::Percent(0);

#[test]
fn each_rule_by_itself() {
    let day = daily(8);
    for (policy, expected) in [
        (keep(2, 100, 100, NO_MATTER), vec![]),
        (keep(2, 3, 100, NO_MATTER), vec![1, 2, 3, 4]),
        (keep(0, 0, 100, NO_MATTER), vec![1, 2, 3, 4, 5, 6, 7]),
        // Boot 4 ended 3 days ago, boot 3 four days ago.
        (keep(2, 100, 3, NO_MATTER), vec![1, 2, 3]),
        (keep(6, 100, 3, NO_MATTER), vec![1]),
        (keep(2, 100, 100, Share::Percent(90)), vec![]),
        (keep(2, 100, 100, Share::Bytes(901 * MIB)), vec![1, 2, 3, 4, 5]),
    ] {
        assert_eq!(numbers(&plan(&day, &policy)), expected, "{policy:?}");
    }
}

#[test]
fn what_never_goes() {
    let all = keep(0, 0, 1, Share::Percent(90));
    let mut day = daily(6);
    for number in [0, 1] {
        day.boots[number].good = true;
    }
    day.roots[3].mounted = Some("/mnt".to_owned());
    let made = plan(&day, &all);
    assert_eq!(numbers(&made), [1, 3, 5], "the last good one and what is in use stay");
    assert_eq!(made.notes, ["past root 4 is mounted at /mnt: it stays"]);
    day.running = Some(BootNumber(3));
    assert_eq!(numbers(&plan(&day, &all)), [1, 5], "so does the one that runs");
    day.roots[0].came_up = true;
    assert_eq!(numbers(&plan(&day, &all)), [5], "and the one that a boot may come back to");
}

#[test]
fn an_age_needs_clocks_that_can_be_believed() {
    let policy = keep(0, 100, 3, NO_MATTER);
    let wrong: [fn(&mut Observation); 6] = [
        |it| it.running = None,
        // The clock was set since the boot, or nobody knows when that was.
        |it| it.now.clock += 2 * DAY,
        |it| it.now.uptime = 3 * 86_400,
        |it| it.now.clock = 0,
        |it| it.boots[7].clock = NOW + 1,
        |it| it.boots[7].clock = 0,
    ];
    assert_eq!(numbers(&plan(&daily(8), &policy)), [1, 2, 3]);
    for (index, spoil) in wrong.into_iter().enumerate() {
        let mut day = daily(8);
        spoil(&mut day);
        let made = plan(&day, &policy);
        assert_eq!(numbers(&made), [0; 0], "case {index}");
        assert!(made.notes.iter().any(|note| note.contains("the clock")), "case {index}");
    }
    // One that was wrong long ago says nothing about boots since then, which are older than those before.
    let mut day = daily(8);
    day.boots[0].clock = NOW + 1000 * DAY;
    assert_eq!(numbers(&plan(&day, &policy)), [1, 2, 3]);
    day.boots[2].clock = 0;
    assert_eq!(numbers(&plan(&day, &policy)), [0; 0], "boot 3 is the last that is old enough");
}

#[test]
fn a_root_is_as_old_as_the_boot_after_it() {
    // A server that ran for a hundred days, and was rebooted an hour ago.
    let mut day = daily(3);
    for (boot, days) in day.boots.iter_mut().zip([200, 100, 0]) {
        boot.clock = NOW - days * DAY;
    }
    assert_eq!(numbers(&plan(&day, &keep(0, 100, 30, NO_MATTER))), [1]);
}

#[test]
fn room_is_made_last_and_only_by_what_makes_room() {
    let mut day = daily(7);
    day.room = Some(Room { total: 1000 * MIB, available: MIB });
    day.roots[1].own_bytes = Some(100);
    day.roots[2].own_bytes = None;
    let share = Share::Percent(15);
    let made = plan(&day, &keep(1, 5, 100, share));
    let expected =
        [(1, Why::Count(5)), (3, Why::Free(share)), (4, Why::Free(share)), (5, Why::Free(share))];
    assert_eq!(roots_of(&made), expected);
    day.room = None;
    assert_eq!(numbers(&plan(&day, &keep(1, 5, 100, share))), [1], "unknown is not short");
}

#[test]
fn records_manifests_and_leftovers() {
    let mut day = daily(150);
    day.roots.clear();
    for boot in &mut day.boots {
        boot.has_root = boot.number.0 == 7;
    }
    day.roots.push(root(9));
    let (gone, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
    day.manifests = vec![(gone, false), (there, true)];
    day.unfinished = vec!["3".into(), "odd\n".into()];
    day.strange = vec!["x\u{1b}".into()];
    let made = plan(&day, &keep(2, 10, 1000, NO_MATTER));
    assert_eq!(made.steps[0], Step::Finish { name: "3".into() });
    assert_eq!(made.steps[2], Step::Manifest { root: gone });
    let records: Vec<_> = (1..=50).filter(|number| ![7, 9].contains(number)).collect();
    let found = made.steps.iter().filter_map(|step| match step {
        Step::Record { boot } => Some(boot.0),
        _ => None,
    });
    assert_eq!(found.collect::<Vec<_>>(), records);
    assert_eq!(made.steps.len(), 3 + records.len());
    assert_eq!(made.steps[1].to_string(), r"finish deleting odd\n, which an earlier gc began");
    assert_eq!(made.notes, [r"past/x\x1b in the container is no past root: it stays as it is"]);
    day.all_known = false;
    assert_eq!(plan(&day, &keep(2, 10, 1000, NO_MATTER)).steps.len(), 2, "unsure: they stay");
}

#[test]
fn trash_goes_by_age_and_size_and_never_what_is_recent() {
    let mut day = daily(8);
    let store = StoreName("state".to_owned());
    let trash = |number: u64| Trash { number: BootNumber(number), bytes: 10 };
    day.trash.insert(store.clone(), [0, 1, 4, 5, 6, 7, 8].map(trash).to_vec());
    let went = |days: u32, size: u64, day: &Observation| -> Vec<u64> {
        let mut policy = keep(9, 9, 9, NO_MATTER);
        policy.trash.insert(store.clone(), KeepTrash { days, size });
        let trash = |step: &Step| match step {
            Step::Trash { boot, .. } => Some(boot.0),
            _ => None,
        };
        plan(day, &policy).steps.iter().filter_map(trash).collect()
    };
    assert_eq!(went(100, 70, &day), [0; 0]);
    assert_eq!(went(100, 69, &day), [0]);
    assert_eq!(went(100, 50, &day), [0, 1]);
    assert_eq!(went(100, 0, &day), [0, 1, 4, 5, 6]);
    assert_eq!(went(3, 70, &day), [0, 1]);
    assert_eq!(went(1, 70, &day), [0, 1, 4, 5]);
    day.running = None;
    assert_eq!(went(1, 0, &day), [0; 0]);
}

#[test]
fn steps_as_people_see_them() {
    let policy = keep(1, 5, 3, Share::Percent(15));
    let mut day = daily(7);
    day.room = Some(Room { total: 1000 * MIB, available: MIB });
    day.roots[4].own_bytes = None;
    day.trash.insert(
        StoreName("state".to_owned()),
        vec![
            Trash { number: BootNumber(1), bytes: 1 },
            Trash { number: BootNumber(5), bytes: 2 << 30 },
        ],
    );
    let shown: Vec<_> = plan(&day, &policy).steps.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(shown.join("\n"), @r"
    delete past root 1 (5.0 MiB): there are more than 5
    delete past root 2 (5.0 MiB): it ended more than 3 days ago
    delete past root 3 (5.0 MiB): as long as less than 15% of the volume is free
    delete past root 4 (5.0 MiB): as long as less than 15% of the volume is free
    delete past root 5: as long as less than 15% of the volume is free
    delete what left store state in boot 1 (1 B): the trash takes more than 1.0 GiB
    delete what left store state in boot 5 (2.0 GiB): the trash takes more than 1.0 GiB
    ");
}

/// The rules, as they are documented, for one past root.
fn rule(observed: &Observation, keep: &KeepBoots, root: &PastRoot) -> Option<Why> {
    let newer = observed.roots.iter().filter(|other| other.number > root.number).count();
    let good = |number: BootNumber| observed.boots.iter().any(|it| it.number == number && it.good);
    let newest_good = good(root.number)
        && !observed.roots.iter().any(|it| it.number > root.number && good(it.number));
    if newer < keep.min as usize
        || newest_good
        || root.came_up
        || root.mounted.is_some()
        || observed.running == Some(root.number)
    {
        return None;
    }
    if newer >= keep.count as usize {
        return Some(Why::Count(keep.count));
    }
    // Old: the boot after it, or after a later one, began that long ago, by clocks that never went
    // backwards since.
    let up_to_now: Vec<_> =
        observed.boots.iter().filter(|it| Some(it.number) <= observed.running).collect();
    let clock = observed.now.clock;
    let old = observed.running.is_some_and(|running| {
        let Some(current) = up_to_now.iter().find(|it| it.number == running) else { return false };
        let went = clock - current.clock;
        let plausible =
            went >= 0 && went.abs_diff(i64::try_from(observed.now.uptime).unwrap()) <= 86_400;
        plausible
            && up_to_now.iter().any(|ended| {
                let since: Vec<_> =
                    up_to_now.iter().filter(|it| it.number >= ended.number).collect();
                let monotone = since.iter().all(|one| {
                    let later = since.iter().filter(|other| other.number > one.number);
                    one.clock >= EARLIEST
                        && one.clock <= clock
                        && later.into_iter().all(|other| one.clock <= other.clock)
                });
                ended.number >= root.number
                    && monotone
                    && since
                        .get(1)
                        .is_some_and(|next| clock - next.clock > i64::from(keep.days) * 86_400)
            })
    });
    if old {
        return Some(Why::Days(keep.days));
    }
    let short = observed.room.is_some_and(|it| it.available < keep.free.of(it.total));
    (short && root.own_bytes.is_none_or(|bytes| bytes >= 1 << 20)).then_some(Why::Free(keep.free))
}

fn observations() -> impl Strategy<Value = Observation> {
    let boot = (any::<bool>(), 0..12_i64, prop::bool::weighted(0.9), prop::bool::weighted(0.8));
    let boots = prop::collection::vec((boot, 0..5_u8, prop::option::of(0..3 * MIB)), 1..12);
    (boots, prop::bool::weighted(0.9), 0..1000_u64, 0..3_i64, prop::bool::weighted(0.9)).prop_map(
        |(boots, recorded, available, uptime, plausible)| {
            let mut observation = Observation { all_known: true, ..Observation::default() };
            let total: i64 = boots.iter().map(|((_, days, ..), ..)| days).sum();
            let mut clock = NOW - (total + uptime) * DAY;
            let last = boots.len();
            for (index, ((good, days, sound, kept), fate, own_bytes)) in
                boots.into_iter().enumerate()
            {
                clock += days * DAY;
                let number = BootNumber(index as u64 * 2 + 1);
                let shown = if sound { clock } else { clock * 7 % (2 * NOW) };
                if kept || index + 1 == last {
                    observation.boots.push(Boot { number, clock: shown, good, has_root: kept });
                }
                if index + 1 < last && fate > 0 {
                    let mounted = (fate == 4 && days == 1).then(|| "/mnt".to_owned());
                    let came_up = fate == 3 && days == 2;
                    observation.roots.push(PastRoot { number, own_bytes, mounted, came_up });
                }
            }
            observation.running =
                recorded.then(|| observation.boots.last().map(|it| it.number)).flatten();
            let uptime = if plausible { uptime.unsigned_abs() * 86_400 } else { 1 << 30 };
            observation.now = Now { clock: NOW, uptime };
            observation.room = Some(Room { total: 1000, available });
            observation
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_goes_is_what_the_rules_say(
        observed in observations(),
        min in 0..4_u32,
        more in 0..8_u32,
        days in 1..40_u32,
        percent in 0..=90_u8,
    ) {
        let policy = keep(min, min + more, days, Share::Percent(percent));
        let made = plan(&observed, &policy);
        let mut went = roots_of(&made);
        let is_free = |why: &Why| matches!(why, Why::Free(_));
        let is_sorted = went.is_sorted_by_key(|(number, why)| (is_free(why), *number));
        prop_assert!(is_sorted, "the oldest go first, and for room only after the others");
        went.sort_by_key(|(number, _)| *number);
        let expected: Vec<_> = observed
            .roots
            .iter()
            .filter_map(|root| Some((root.number.0, rule(&observed, &policy.boots, root)?)))
            .collect();
        prop_assert_eq!(&went, &expected);
        // And when it is done, nothing is left to do.
        let mut after = observed.clone();
        after.roots.retain(|root| went.iter().all(|(number, _)| *number != root.number.0));
        prop_assert_eq!(numbers(&plan(&after, &policy)), [0; 0]);
    }
}
