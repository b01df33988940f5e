//! Changes on their way to a decision each: which ones are told together, and which are decided already.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ebbtide_core::changes::{Change, Changes, Group, Order, Summary};
use ebbtide_core::pattern;

/// In how many lines a directory is opened: in the first of these that tells it apart.
const OPENED: [usize; 3] = [30, 300, 3000];

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Keep this path.
    Keep(PathBuf),
    /// Ignore what this absolute pattern describes.
    Ignore(PathBuf),
    /// Neither.
    Skip,
}

impl Decision {
    fn covers(&self, path: &Path) -> bool {
        match self {
            Self::Keep(kept) => path.starts_with(kept),
            Self::Ignore(ignored) => pattern::covers(ignored, path),
            Self::Skip => false,
        }
    }
}

/// Changes that are told together.
#[derive(Debug)]
struct Item {
    group: Group,
    /// Which of the changes, by their place among all.
    changes: Vec<usize>,
    decisions: Vec<Decision>,
}

/// All changes, and where one is among them.
#[derive(Debug)]
pub struct Walk {
    all: Vec<Change>,
    items: Vec<Item>,
    at: usize,
    order: Order,
    /// How many groups are left out because they are too many.
    pub more: u64,
}

impl Walk {
    /// Folds changes into so many groups at most.
    pub fn new(all: Vec<Change>, limit: usize, order: Order) -> Self {
        let indices: Vec<usize> = (0..all.len()).collect();
        let summary = sum(&all, &indices).summary(limit, order);
        let more = summary.more.map_or(0, |more| more.groups);
        let items = fold(&all, &indices, summary);
        Self { all, items, at: 0, order, more }
    }

    /// Where one is, counted from 1, and how many there are.
    pub fn place(&self) -> (usize, usize) {
        (self.at + 1, self.items.len())
    }

    /// What is to be decided now, without what is covered by what was decided before; passes over what has
    /// nothing left.
    pub fn current(&mut self) -> Option<Group> {
        while let Some(item) = self.items.get(self.at) {
            let left = self.left(item);
            if left.len() == item.changes.len() {
                return Some(item.group.clone());
            }
            if !left.is_empty() {
                // Still told as the directory that it was.
                let tally = sum(&self.all, &left).total();
                if tally.count() > 0 {
                    return Some(Group { tally, ..item.group.clone() });
                }
            }
            self.at += 1;
        }
        None
    }

    /// The changes of what is to be decided now.
    pub fn changes(&self) -> Vec<&Change> {
        let item = self.items.get(self.at);
        let left = item.map(|item| self.left(item)).unwrap_or_default();
        left.into_iter().filter_map(|index| self.all.get(index)).collect()
    }

    fn left(&self, item: &Item) -> Vec<usize> {
        let decided: Vec<&Decision> = self.decisions().collect();
        let is_left = |index: &usize| {
            let path = self.all.get(*index).map(|change| change.path.as_path());
            path.is_some_and(|path| !decided.iter().any(|decision| decision.covers(path)))
        };
        item.changes.iter().copied().filter(is_left).collect()
    }

    /// Decides. What this leaves of the current group has to be decided still; a path that is kept or skipped
    /// leaves nothing.
    pub fn decide(&mut self, decision: Decision) {
        let goes_on = !matches!(decision, Decision::Ignore(_));
        if let Some(item) = self.items.get_mut(self.at) {
            item.decisions.push(decision);
        }
        if goes_on {
            self.at += 1;
        }
    }

    /// Goes back to what was decided last, and forgets that. Returns whether there was something.
    pub fn back(&mut self) -> bool {
        let last = self.items.iter().rposition(|item| !item.decisions.is_empty());
        let Some((index, item)) = last.and_then(|index| Some((index, self.items.get_mut(index)?)))
        else {
            return false;
        };
        item.decisions.clear();
        self.at = index;
        true
    }

    /// Puts what is in the current directory in its place, to be decided one by one. Returns whether it could
    /// be told apart.
    pub fn open(&mut self) -> bool {
        let Some(item) = self.items.get(self.at) else { return false };
        let left = self.left(item);
        let changes = sum(&self.all, &left);
        for limit in OPENED {
            let summary = changes.summary(limit, self.order);
            if summary.groups.len() > 1 && summary.more.is_none() {
                let mut opened = fold(&self.all, &left, summary);
                // What was decided about a part of it stays.
                if let Some(first) = opened.first_mut() {
                    first.decisions.clone_from(&item.decisions);
                }
                self.items.splice(self.at..=self.at, opened);
                return true;
            }
        }
        false
    }

    /// All that was decided so far, in that order.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.items.iter().flat_map(|item| &item.decisions)
    }

    /// How many were passed over without a decision, or not reached.
    pub fn undecided(&self) -> usize {
        self.items.iter().filter(|item| !self.left(item).is_empty()).count()
    }
}

fn sum(all: &[Change], indices: &[usize]) -> Changes {
    let mut changes = Changes::default();
    indices.iter().filter_map(|index| all.get(*index)).for_each(|change| changes.add(change));
    changes
}

/// Gives each change to the group that tells it: that of its own path, else of the nearest directory above.
fn fold(all: &[Change], indices: &[usize], summary: Summary) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let (mut own, mut below) = (HashMap::new(), HashMap::new());
    for group in summary.groups {
        let places = if group.below { &mut below } else { &mut own };
        places.insert(group.path.clone(), items.len());
        items.push(Item { group, changes: Vec::new(), decisions: Vec::new() });
    }
    for index in indices {
        let Some(change) = all.get(*index) else { continue };
        let above = || change.path.ancestors().find_map(|path| below.get(path));
        let place = own.get(&change.path).or_else(above);
        if let Some(item) = place.and_then(|place| items.get_mut(*place)) {
            item.changes.push(*index);
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use ebbtide_core::changes::What;
    use ebbtide_sys::metadata::FileKind::{self, Directory, Regular};

    use super::*;

    fn change(path: &str, what: What, kind: FileKind) -> Change {
        Change { path: path.into(), what, kind, bytes: 1, when: None }
    }

    fn walk(limit: usize) -> Walk {
        let mut all = vec![
            change("/etc/issue", What::Changed, Regular),
            change("/srv/new", What::Renamed { from: "/srv/old".into() }, Directory),
            change("/srv/new/x", What::Added, Regular),
            change("/srv/old", What::Deleted, Directory),
            change("/var/lib", What::Added, Directory),
            change("/var/lib/app", What::Added, Directory),
        ];
        for name in ["a.o", "b.o", "c", "sub/d.o"] {
            all.push(change(&format!("/var/lib/app/{name}"), What::Added, Regular));
        }
        Walk::new(all, limit, Order::Biggest)
    }

    /// What is told, as paths with how many changes.
    fn rest(walk: &mut Walk) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(group) = walk.current() {
            told.push(format!("{} {}", group.path.display(), group.tally.count()));
            walk.decide(Decision::Skip);
        }
        told
    }

    #[test]
    fn every_change_is_told_once() {
        assert_eq!(rest(&mut walk(3)), ["/var/lib/app 4", "/srv 3", "/etc/issue 1"]);
        let all = [
            "/etc/issue 1",
            "/srv/new 1",
            "/srv/new/x 1",
            "/srv/old 1",
            "/var/lib/app/a.o 1",
            "/var/lib/app/b.o 1",
            "/var/lib/app/c 1",
            "/var/lib/app/sub/d.o 1",
        ];
        let mut told = rest(&mut walk(30));
        told.sort();
        assert_eq!(told, all);
        let mut opened = walk(3);
        assert!(opened.open());
        assert_eq!(opened.place(), (1, 6));
        let told = rest(&mut opened);
        assert_eq!(told.iter().filter(|path| path.starts_with("/var/lib/app/")).count(), 4);
        assert!(!opened.open());
    }

    #[test]
    fn what_is_decided_is_not_asked_again() {
        let mut walk = walk(30);
        while walk.current().unwrap().path != Path::new("/var/lib/app/a.o") {
            walk.decide(Decision::Skip);
        }
        let (at, _) = walk.place();
        walk.decide(Decision::Ignore("/**/*.o".into()));
        let left = rest(&mut walk);
        assert!(!left.iter().any(|path| path.contains(".o")), "{left:?}");
        assert!(left.iter().any(|path| path.contains("/var/lib/app/c")), "{left:?}");
        while walk.place().0 > at {
            assert!(walk.back());
        }
        assert_eq!(walk.current().unwrap().path, Path::new("/var/lib/app/a.o"));
        walk.decide(Decision::Keep("/var/lib".into()));
        let left = rest(&mut walk);
        assert!(!left.iter().any(|path| path.starts_with("/var/lib")), "{left:?}");
    }

    #[test]
    fn what_a_pattern_leaves_of_a_directory_is_to_be_decided() {
        let mut walk = walk(3);
        walk.decide(Decision::Ignore("/**/*.o".into()));
        let group = walk.current().unwrap();
        assert_eq!((group.path.to_str().unwrap(), group.tally.count()), ("/var/lib/app", 1));
        assert!(walk.back());
        assert_eq!(walk.current().unwrap().tally.count(), 4);
        assert!(!walk.back());
        assert_eq!(walk.undecided(), 3);
    }
}
