//! What a harvest will do: a pure function of manifest, root, store, and how the root ended.

use std::collections::BTreeSet;

use super::manifest::{Content, Item};

/// What lies at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A regular file that can be synced.
    File(Content),
    /// Something that can't, and why.
    Unfit(String),
}

/// What was seen of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// At the path in the root.
    pub root: Found,
    /// At the path in the store; `Err` if the recorded store is not there.
    pub store: Result<Found, String>,
}

/// What is to be done for one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing has changed.
    Nothing,
    /// The root's file goes into the store, what the store had into its trash.
    Update,
    /// What the store had goes into its trash.
    Delete,
    /// The store's copy stays. The root's file, if it has any content, goes into the trash.
    Doubt(String),
    /// The store's copy stays, and the root's file where it is.
    Refuse(String),
}

/// The actions for all items, side by side with them.
pub type Plan = Vec<Action>;

/// Plans a harvest. `clean`: the root ended in order, or is running.
pub fn plan(items: &[Item], observed: &[Observation], clean: bool) -> Plan {
    let mut actions: Plan = items
        .iter()
        .zip(observed)
        .map(|(item, seen)| decide(item.content.as_ref(), seen, clean))
        .collect();
    let held = |action: &Action| matches!(action, Action::Doubt(_) | Action::Refuse(_));
    let broken: BTreeSet<&String> = items
        .iter()
        .zip(&actions)
        .filter(|(_, action)| held(action))
        .filter_map(|(item, _)| item.set.as_ref())
        .collect();
    let together: Vec<bool> = items
        .iter()
        .map(|item| item.set.as_ref().is_some_and(|set| broken.contains(set)))
        .collect();
    for (action, held_back) in actions.iter_mut().zip(together) {
        if held_back && matches!(action, Action::Update | Action::Delete) {
            let why = "a file that belongs together with it was not harvested";
            *action = Action::Doubt(why.to_owned());
        }
    }
    actions
}

fn decide(put: Option<&Content>, seen: &Observation, clean: bool) -> Action {
    let store = match &seen.store {
        Ok(store) => store,
        Err(why) => return Action::Refuse(why.clone()),
    };
    if let Found::Unfit(why) = store {
        return Action::Refuse(format!("in the store, {why}"));
    }
    match &seen.root {
        Found::Unfit(why) => Action::Refuse(why.clone()),
        Found::Absent => decide_absent(put, store, clean),
        Found::File(now) => {
            let harvested = matches!(store, Found::File(kept) if kept == now);
            if put == Some(now) || harvested {
                Action::Nothing
            } else if !clean && now.size == 0 && has_content(put, store) {
                Action::Doubt("it was empty after an unclean end".to_owned())
            } else {
                Action::Update
            }
        }
    }
}

fn decide_absent(put: Option<&Content>, store: &Found, clean: bool) -> Action {
    match (put, store) {
        // It was never put there, or it is gone already.
        (None, _) | (_, Found::Absent) => Action::Nothing,
        (Some(put), Found::File(kept)) if put != kept => {
            Action::Doubt("it was deleted, and the store has another one by now".to_owned())
        }
        _ if clean => Action::Delete,
        _ => Action::Doubt("it was gone after an unclean end".to_owned()),
    }
}

fn has_content(put: Option<&Content>, store: &Found) -> bool {
    let kept = matches!(store, Found::File(kept) if kept.size > 0);
    kept || put.is_some_and(|put| put.size > 0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::compiled::StoreName;

    fn content(byte: u8) -> Content {
        Content {
            hash: byte.to_string(),
            size: u64::from(byte),
            uid: 0,
            gid: 0,
            mode: 0o644,
            attributes: String::new(),
        }
    }

    fn item(put: Option<u8>, set: Option<&str>) -> Item {
        Item {
            path: PathBuf::from("/etc/x"),
            store: StoreName("state".to_owned()),
            store_uuid: Uuid::nil(),
            set: set.map(str::to_owned),
            content: put.map(content),
            witness: None,
        }
    }

    fn found(byte: Option<u8>) -> Found {
        byte.map_or(Found::Absent, |byte| Found::File(content(byte)))
    }

    fn one(put: Option<u8>, root: Option<u8>, store: Option<u8>, clean: bool) -> Action {
        let seen = Observation { root: found(root), store: Ok(found(store)) };
        plan(&[item(put, None)], &[seen], clean).remove(0)
    }

    #[test]
    fn after_a_clean_end_the_root_is_believed() {
        assert_eq!(one(Some(1), Some(1), Some(1), true), Action::Nothing);
        assert_eq!(one(Some(1), Some(2), Some(1), true), Action::Update);
        assert_eq!(one(Some(1), Some(0), Some(1), true), Action::Update);
        assert_eq!(one(Some(1), None, Some(1), true), Action::Delete);
        assert_eq!(one(None, Some(2), None, true), Action::Update);
        assert_eq!(one(None, None, Some(1), true), Action::Nothing, "it was never put there");
        assert_eq!(one(Some(1), Some(2), Some(2), true), Action::Nothing, "flushed already");
        assert!(matches!(one(Some(1), None, Some(3), true), Action::Doubt(_)));
    }

    #[test]
    fn after_an_unclean_end_nothing_is_deleted_or_emptied() {
        assert_eq!(one(Some(1), Some(2), Some(1), false), Action::Update);
        assert!(matches!(one(Some(1), None, Some(1), false), Action::Doubt(_)));
        assert!(matches!(one(Some(1), Some(0), Some(1), false), Action::Doubt(_)));
        assert_eq!(one(Some(0), Some(0), Some(0), false), Action::Nothing);
        assert_eq!(one(None, Some(0), None, false), Action::Update, "nothing is lost by it");
    }

    #[test]
    fn files_that_belong_together_are_harvested_all_or_none() {
        let items = [item(Some(1), Some("a")), item(Some(1), Some("a")), item(Some(1), None)];
        let seen = |root| Observation { root: found(root), store: Ok(found(Some(1))) };
        let observed = [seen(Some(2)), seen(None), seen(Some(2))];
        let torn = plan(&items, &observed, false);
        assert!(matches!(torn[0], Action::Doubt(_)) && matches!(torn[1], Action::Doubt(_)));
        assert_eq!(torn[2], Action::Update);
        assert_eq!(plan(&items, &observed, true), [Action::Update, Action::Delete, Action::Update]);
    }

    proptest! {
        /// An obviously right model: the store ends with the root's file, with its own, or with
        /// none; with none or an empty one instead of data only after a clean end.
        #[test]
        fn no_data_is_lost(
            put in prop::option::of(0u8..3),
            root in prop::option::of(0u8..3),
            store in prop::option::of(0u8..3),
            clean in any::<bool>(),
        ) {
            let after = match one(put, root, store, clean) {
                Action::Update => root,
                Action::Delete => None,
                Action::Nothing | Action::Doubt(_) | Action::Refuse(_) => store,
            };
            if store.is_some_and(|size| size > 0) && !clean {
                prop_assert!(after.is_some_and(|size| size > 0));
            }
            if clean && put != root && root.is_some() {
                prop_assert_eq!(after, root, "what was written before a clean end is kept");
            }
            if put == root {
                prop_assert_eq!(after, store, "what did not change changes nothing");
            }
        }
    }
}
