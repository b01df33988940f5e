//! Which files of caches do not stay: for their age, and to be below a limit.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use ebbtide_sys::metadata::Time;
use ebbtide_sys::tree::stack::Identity;

use super::{Step, Why};
use crate::compiled::StoreName;
use crate::retention::KeepCache;

/// What lies below the entries of a cache.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    /// Its directory entries.
    pub entries: Vec<PathBuf>,
    /// What all files below them take, in bytes.
    pub bytes: u64,
    /// Since when reads leave their time, in seconds since 1970; `None` if they do not in this boot.
    pub reads_since: Option<i64>,
    /// The files that nothing has open.
    pub files: Vec<Cached>,
    /// Files that have a name elsewhere too: without that one here they would take as much.
    pub elsewhere: HashSet<Identity>,
}

/// A file of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// The entry that it lies below, by index.
    pub entry: usize,
    /// When it was read or written last, or given another owner, mode or name.
    pub used: Time,
    /// What it takes, in bytes.
    pub bytes: u64,
    /// How many names it has below that entry.
    pub names: u64,
    /// Whether its bytes are free when these names are gone.
    pub frees: bool,
}

/// Plans one store; `clock`: seconds since 1970, `None` if the clock can't be believed.
pub(super) fn steps(
    store: &StoreName,
    cache: &Cache,
    keep: KeepCache,
    clock: Option<i64>,
) -> Vec<Step> {
    let mut files: Vec<&Cached> = cache.files.iter().collect();
    files.sort_by_key(|file| file.used);
    let oldest = keep.max_age.and_then(|age| oldest(cache, age, clock));
    let (old, young): (Vec<&Cached>, Vec<&Cached>) =
        files.into_iter().partition(|file| oldest.is_some_and(|oldest| file.used <= oldest));
    let mut steps = Vec::new();
    if let (Some(oldest), Some(age)) = (oldest, keep.max_age) {
        steps.extend(by_entry(store, cache, &old, Why::Unused(age), oldest));
    }
    let freed = |files: &[&Cached]| -> u64 {
        files.iter().filter(|file| file.frees).map(|file| file.bytes).sum()
    };
    let mut left = cache.bytes.saturating_sub(freed(&old));
    let Some(limit) = keep.limit else { return steps };
    let mut chosen = Vec::new();
    for file in young.into_iter().filter(|file| file.frees && file.bytes > 0) {
        if left <= limit {
            break;
        }
        left = left.saturating_sub(file.bytes);
        chosen.push(file);
    }
    if let Some(last) = chosen.last().map(|file| file.used) {
        steps.extend(by_entry(store, cache, &chosen, Why::Limit(limit), last));
    }
    steps
}

/// The last moment at which a file was used that is too old. As long as reads did not leave their time,
/// any of them may have been read.
fn oldest(cache: &Cache, age: u64, clock: Option<i64>) -> Option<Time> {
    let oldest = clock?.checked_sub_unsigned(age)?;
    (cache.reads_since? <= oldest).then_some((oldest, 0))
}

fn by_entry(
    store: &StoreName,
    cache: &Cache,
    files: &[&Cached],
    why: Why,
    last: Time,
) -> Vec<Step> {
    let mut sums: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for file in files {
        let (count, bytes) = sums.entry(file.entry).or_default();
        *count += file.names;
        *bytes += if file.frees { file.bytes } else { 0 };
    }
    let step = |(entry, (files, bytes)): (usize, (u64, u64))| {
        let path = cache.entries.get(entry)?.clone();
        Some(Step::Cache { store: store.clone(), path, why, files, bytes, last })
    };
    sums.into_iter().filter_map(step).collect()
}

/// What a person should know of a cache.
pub(super) fn notes(store: &StoreName, cache: &Cache, keep: KeepCache) -> Vec<String> {
    let mut notes = Vec::new();
    if keep.max_age.is_some() && cache.reads_since.is_none() {
        notes.push(format!(
            "store {store}: in this boot nobody notes when its files are read, so none goes for its age; \
             the next boot mounts it so that it is noted"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 2_000_000_000;
    const DAY: i64 = 86_400;
    const MIB: u64 = 1 << 20;

    fn file(days_ago: i64, mib: u64) -> Cached {
        let used = (NOW - days_ago * DAY, 5);
        Cached { entry: 0, used, bytes: mib * MIB, names: 1, frees: true }
    }

    fn cache(files: &[Cached]) -> Cache {
        Cache {
            entries: vec![PathBuf::from("/var/cache/a"), PathBuf::from("/var/cache/b")],
            bytes: files.iter().map(|it| it.bytes).sum(),
            reads_since: Some(NOW - 100 * DAY),
            files: files.to_vec(),
            elsewhere: HashSet::new(),
        }
    }

    fn keep(limit_mib: Option<u64>, days: Option<u64>) -> KeepCache {
        let limit = limit_mib.map(|it| it * MIB);
        KeepCache { limit, max_age: days.map(|it| it * DAY.unsigned_abs()) }
    }

    /// Each step as its reason, entry, files and MiB.
    fn plan(cache: &Cache, keep: KeepCache, clock: Option<i64>) -> Vec<(char, char, u64, u64)> {
        let steps = steps(&StoreName("cache".to_owned()), cache, keep, clock);
        let short = |step: &Step| match step {
            Step::Cache { path, why, files, bytes, .. } => {
                let why = if matches!(why, Why::Limit(_)) { 'l' } else { 'a' };
                (why, path.to_str().unwrap().chars().last().unwrap(), *files, bytes / MIB)
            }
            _ => panic!("{step:?}"),
        };
        steps.iter().map(short).collect()
    }

    #[test]
    fn each_rule_by_itself_and_both() {
        let files = [file(1, 10), file(40, 20), file(29, 30), file(31, 40)];
        let all = cache(&files);
        for (keep, expected) in [
            (keep(None, None), vec![]),
            (keep(None, Some(30)), vec![('a', 'a', 2, 60)]),
            (keep(None, Some(50)), vec![]),
            (keep(Some(100), None), vec![]),
            (keep(Some(99), None), vec![('l', 'a', 1, 20)]),
            (keep(Some(80), None), vec![('l', 'a', 1, 20)]),
            (keep(Some(79), None), vec![('l', 'a', 2, 60)]),
            (keep(Some(40), Some(30)), vec![('a', 'a', 2, 60)]),
            (keep(Some(39), Some(30)), vec![('a', 'a', 2, 60), ('l', 'a', 1, 30)]),
            (keep(Some(1), Some(30)), vec![('a', 'a', 2, 60), ('l', 'a', 2, 40)]),
        ] {
            assert_eq!(plan(&all, keep, Some(NOW)), expected, "{keep:?}");
        }
    }

    #[test]
    fn a_file_used_at_the_very_limit_of_its_age_stays_a_moment_more() {
        let step = steps(
            &StoreName("cache".to_owned()),
            &cache(&[file(30, 1), file(31, 1)]),
            keep(None, Some(30)),
            Some(NOW),
        );
        let [Step::Cache { files: 1, last, .. }] = step.as_slice() else { panic!("{step:?}") };
        assert_eq!(*last, (NOW - 30 * DAY, 0));
    }

    #[test]
    fn nothing_goes_for_its_age_by_a_clock_or_times_that_say_nothing() {
        let mut all = cache(&[file(40, 10)]);
        let keep = keep(Some(5), Some(30));
        assert_eq!(plan(&all, keep, None), [('l', 'a', 1, 10)], "the limit needs no clock");
        all.reads_since = Some(NOW - 29 * DAY);
        assert_eq!(plan(&all, keep, Some(NOW)), [('l', 'a', 1, 10)]);
        all.reads_since = None;
        assert_eq!(plan(&all, keep, Some(NOW)), [('l', 'a', 1, 10)]);
        let store = StoreName("cache".to_owned());
        assert_eq!(notes(&store, &all, keep).len(), 1);
        assert!(notes(&store, &all, KeepCache { max_age: None, ..keep }).is_empty());
    }

    #[test]
    fn what_makes_no_room_does_not_go_for_room() {
        let elsewhere = Cached { frees: false, ..file(50, 100) };
        let files = [elsewhere, file(3, 0), Cached { entry: 1, names: 3, ..file(2, 10) }];
        let all = cache(&files);
        assert_eq!(plan(&all, keep(Some(105), None), Some(NOW)), [('l', 'b', 3, 10)]);
        assert_eq!(plan(&all, keep(None, Some(30)), Some(NOW)), [('a', 'a', 1, 0)]);
    }
}
