//! How full the stores are. Nothing is walked for it: a filesystem tells what is free, and what a store takes
//! was counted by gc.

use std::os::fd::AsFd;

use ebbtide_sys::file::{self, Room};
use serde::Serialize;

use super::upkeep;
use crate::boot::{Boot, STORES, open_directory};
use crate::compiled::{Class, Compiled, StoreName};
use crate::failure::{Level, Problem};
use crate::gc::LastRun;
use crate::record::BootNumber;

/// How full a store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "declaration", derive(schemars::JsonSchema))]
pub struct StoreUsage {
    /// Its name.
    pub name: StoreName,
    /// What kind of data it holds.
    pub class: Class,
    /// Bytes that it took when gc counted last: of a cache with a rule all files below its entries, of any other
    /// store everything in it; null if gc never counted.
    pub used: Option<u64>,
    /// The boot in which that was.
    pub counted_in: Option<BootNumber>,
    /// What a cache may take, in bytes; null if there is no limit.
    pub limit: Option<u64>,
    /// Bytes that are free on its filesystem; null if the store is not mounted.
    pub available: Option<u64>,
    /// All bytes of that filesystem.
    pub total: Option<u64>,
}

/// Looks at all stores.
pub(super) fn usage(boot: &Boot, compiled: &Compiled, last: Option<&LastRun>) -> Vec<StoreUsage> {
    let usage = |(name, store): (&StoreName, &crate::compiled::Store)| {
        let mounted = open_directory(&boot.run.join(STORES).join(&name.0)).ok();
        let room = mounted.and_then(|it| file::room(it.as_fd()).ok());
        let counted = last.and_then(|last| Some((last.stores.get(name)?.bytes, last.boot)));
        StoreUsage {
            name: name.clone(),
            class: store.class,
            used: counted.map(|(bytes, _)| bytes),
            counted_in: counted.map(|(_, boot)| boot),
            limit: store.expiry.and_then(|it| it.limit),
            available: room.map(|it| it.available),
            total: room.map(|it| it.total),
        }
    };
    compiled.stores.iter().map(usage).collect()
}

/// Tells of filesystems that are nearly full, but for that of the container, which is told of already.
pub(super) fn full(stores: &[StoreUsage], of_container: Option<Room>) -> Vec<Problem> {
    let mut told: Vec<Room> = of_container.into_iter().collect();
    let mut problems = Vec::new();
    for store in stores {
        let Some((total, available)) = store.total.zip(store.available) else { continue };
        let room = Room { total, available };
        // Two that have the same room to a byte are one.
        if told.contains(&room) || !upkeep::is_nearly_full(room) {
            continue;
        }
        told.push(room);
        let (free, all) = (ebbtide_sys::text::size(available), ebbtide_sys::text::size(total));
        let message = format!(
            "the filesystem of store {} is nearly full: {free} of {all} are free",
            store.name
        );
        let hint = match store.class {
            Class::Cache => {
                "`limit` and `max-age` in [store.NAME] say what of a cache goes by itself"
            }
            _ => "`ebbtide gc` deletes what left the store; the rest is for you to delete",
        };
        problems
            .push(Problem { hint: Some(hint.to_owned()), ..Problem::new(Level::Warning, message) });
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(name: &str, available: u64) -> StoreUsage {
        StoreUsage {
            name: StoreName(name.to_owned()),
            class: Class::State,
            used: None,
            counted_in: None,
            limit: None,
            available: Some(available << 20),
            total: Some(1000 << 20),
        }
    }

    #[test]
    fn each_filesystem_that_is_nearly_full_is_told_of_once() {
        let stores = [store("a", 10), store("b", 10), store("c", 11), store("d", 500)];
        let told = |container| {
            let problems = full(&stores, container);
            problems.into_iter().map(|it| it.message).collect::<Vec<_>>()
        };
        let all = told(None);
        assert_eq!(all.len(), 2, "{all:?}");
        assert_eq!(all[0], "the filesystem of store a is nearly full: 10 MiB of 1000 MiB are free");
        assert!(all[1].contains("store c"));
        let container = Room { total: 1000 << 20, available: 10 << 20 };
        assert_eq!(told(Some(container)).len(), 1);
        let away = StoreUsage { available: None, total: None, ..store("away", 0) };
        assert_eq!(full(&[away], None), []);
    }
}
