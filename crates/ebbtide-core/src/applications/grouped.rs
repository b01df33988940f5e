//! Changes by application.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use ebbtide_sys::metadata::FileKind;

use super::Application;
use crate::changes::{Change, Changes, Order, Summary, Tally, What};

/// How many applications are told apart; what belongs to others is as if it belonged to none.
const APPLICATIONS: usize = 500;

/// How many paths are remembered of each application.
const REMEMBERED: usize = 2000;

/// Changes, added up for each application.
#[derive(Debug, Default)]
pub struct Grouped {
    known: BTreeMap<Application, Changes>,
    others: Changes,
    /// A new directory that came last. What is in it may belong to another application, and is what counts.
    waiting: Option<(Option<Application>, Change)>,
}

/// What changed of one application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Which one; `None` for all that belongs to none.
    pub application: Option<Application>,
    /// Its changes, within the limit.
    pub summary: Summary,
}

impl Grouped {
    /// Adds a change. They come in the order of a walk, and [`Self::finish`] adds the last one.
    pub fn add(&mut self, application: Option<&Application>, change: &Change) {
        if let Some((owner, outer)) = self.waiting.take()
            && !change.path.starts_with(&outer.path)
        {
            self.count(owner.as_ref(), &outer);
        }
        if change.what == What::Added && change.kind == FileKind::Directory {
            self.waiting = Some((application.cloned(), change.clone()));
        } else {
            self.count(application, change);
        }
    }

    /// Nothing more comes.
    pub fn finish(&mut self) {
        if let Some((owner, last)) = self.waiting.take() {
            self.count(owner.as_ref(), &last);
        }
    }

    fn count(&mut self, application: Option<&Application>, change: &Change) {
        let full = self.known.len() >= APPLICATIONS;
        let part = match application {
            Some(known) if !full || self.known.contains_key(known) => {
                self.known.entry(known.clone()).or_insert_with(|| Changes::remembering(REMEMBERED))
            }
            _ => &mut self.others,
        };
        part.add(change);
    }

    /// Everything added up.
    pub fn total(&self) -> Tally {
        let all = self.known.values().chain([&self.others]);
        all.fold(Tally::default(), |sum, changes| sum.and(&changes.total()))
    }

    /// What each application amounts to, the first ones in order.
    pub fn tallies(&self, order: Order) -> Vec<(&Application, Tally)> {
        let mut all: Vec<_> =
            self.known.iter().map(|(it, changes)| (it, changes.total())).collect();
        all.sort_by_key(|(_, tally)| Reverse(tally.weight(order)));
        all
    }

    /// Says it in at most `limit` groups and applications: first the applications in order, each with about
    /// as much as the next one, and then what belongs to none. Where a single group of each does not fit,
    /// there are none.
    pub fn parts(&self, limit: usize, order: Order) -> Vec<Part> {
        let mut all: Vec<_> = self
            .tallies(order)
            .into_iter()
            .filter_map(|(application, _)| {
                Some((Some(application.clone()), self.known.get(application)?))
            })
            .collect();
        if !self.others.is_empty() {
            all.push((None, &self.others));
        }
        let whole = |(_, changes): &(_, &Changes)| changes.summary(limit, order).groups.len();
        let wanted: Vec<usize> = all.iter().map(whole).collect();
        // What belongs to none needs no heading if there is nothing else.
        let headings = if self.known.is_empty() { 0 } else { all.len() };
        let shares = shares(limit.saturating_sub(headings), &wanted);
        let part = |((application, changes), share): ((Option<Application>, &Changes), usize)| {
            Part { application, summary: changes.summary(share, order) }
        };
        all.into_iter().zip(shares).map(part).collect()
    }
}

/// Divides what there is: nobody gets more than wanted, and nobody less than another one that wants no more.
fn shares(limit: usize, wanted: &[usize]) -> Vec<usize> {
    let given = |most: usize| wanted.iter().map(|it| (*it).min(most)).collect::<Vec<_>>();
    let highest = wanted.iter().copied().max().unwrap_or(0);
    let fits = |most: &usize| given(*most).iter().sum::<usize>() <= limit;
    given((1..=highest).take_while(fits).last().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_shared_fairly() {
        assert_eq!(shares(10, &[20, 1, 4]), [5, 1, 4]);
        assert_eq!(shares(30, &[20, 1, 4]), [20, 1, 4]);
        assert_eq!(shares(2, &[20, 1, 4]), [0, 0, 0]);
        assert_eq!(shares(3, &[20, 1, 4]), [1, 1, 1]);
        assert!(shares(3, &[]).is_empty());
    }

    #[test]
    fn a_new_directory_counts_where_nothing_in_it_does() {
        let mut grouped = Grouped::default();
        for (application, path, kind) in [
            (None, "/etc/app", FileKind::Directory),
            (Some("app"), "/etc/app/keys", FileKind::Directory),
            (Some("app"), "/etc/app/keys/1", FileKind::Regular),
            (None, "/srv/a", FileKind::Directory),
            (None, "/srv/a/empty", FileKind::Directory),
            (None, "/srv/b", FileKind::Directory),
        ] {
            let (path, what) = (path.into(), What::Added);
            let change = Change { path, what, kind, bytes: 0, when: None };
            let application = application.map(|name: &str| Application::Preset(name.to_owned()));
            grouped.add(application.as_ref(), &change);
        }
        grouped.finish();
        let parts = grouped.parts(10, Order::Newest);
        let paths: Vec<Vec<_>> = parts
            .iter()
            .map(|part| part.summary.groups.iter().map(|it| it.path.to_str().unwrap()).collect())
            .collect();
        assert_eq!(paths, [vec!["/etc/app/keys/1"], vec!["/srv/a/empty", "/srv/b"]]);
    }

    #[test]
    fn applications_come_in_order_and_others_last() {
        let mut grouped = Grouped::default();
        let mut add = |application: Option<&str>, path: &str, when: i64| {
            let change = Change {
                path: path.into(),
                what: What::Added,
                kind: FileKind::Regular,
                bytes: 1,
                when: Some((when, 0)),
            };
            let application = application.map(|name| Application::Package(name.to_owned()));
            grouped.add(application.as_ref(), &change);
        };
        add(Some("old"), "/etc/old", 1);
        add(Some("new"), "/etc/new", 3);
        add(Some("old"), "/var/lib/old", 2);
        add(None, "/srv/x", 9);
        let parts = grouped.parts(10, Order::Newest);
        let names: Vec<_> = parts
            .iter()
            .map(|part| match &part.application {
                Some(Application::Package(name)) => (name.as_str(), part.summary.groups.len()),
                _ => ("", part.summary.groups.len()),
            })
            .collect();
        assert_eq!(names, [("new", 1), ("old", 2), ("", 1)]);
        let few = grouped.parts(6, Order::Newest);
        let told: Vec<_> = few.iter().map(|part| part.summary.groups.len()).collect();
        assert_eq!(told, [1, 1, 1]);
        assert_eq!(few.get(1).unwrap().summary.total.count(), 2);
    }
}
