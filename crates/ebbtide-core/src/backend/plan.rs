//! What a reset will do: a pure function of what was observed.

use std::collections::BTreeSet;
use std::fmt;

use crate::record::BootNumber;

/// What a reset needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The last number that was given out.
    pub last: BootNumber,
    /// Numbers under which past roots lie already.
    pub taken: BTreeSet<BootNumber>,
    /// What is called `root`, if there is one.
    pub root: Option<Root>,
    /// What is called `root.new`, if there is one.
    pub leftover: Option<Leftover>,
    /// Whether roots are in RAM: then none is left of an earlier boot, and none is made on a disk.
    pub in_ram: bool,
    /// The number of the base in use.
    pub base: u64,
}

/// What is or was a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Made from the base in use, and nothing was ever written to it.
    pub pristine: bool,
    /// The last boot that ran on it, if a record knows it.
    pub boot: Option<BootNumber>,
}

/// What lies under the temporary name: the same kind of thing.
pub type Leftover = Root;

/// One step of a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Note that all numbers up to this one were given out.
    GiveOut(BootNumber),
    /// Rename `root.new`, an old root that a crash left there, to its place among the past ones.
    PutAwayLeftover(BootNumber),
    /// Make `root.new` from this base.
    Make(u64),
    /// Rename this past root to `root.new`. Its copied-in files were taken back when it was put away, and what
    /// is in stores by now is newer: its manifest goes first.
    BringBack(BootNumber),
    /// Write the record of the boot, with the identity of the root it is going to run on.
    Record(Source),
    /// Exchange `root.new` and `root` in one atomic step.
    Exchange,
    /// Rename `root.new` to `root`, which does not exist.
    Install,
    /// Rename `root.new`, now the old root, to its place among the past ones.
    PutAway(BootNumber),
}

/// Where the root lies that the boot is going to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `root` itself.
    Root,
    /// `root.new`.
    New,
    /// In RAM, where it is going to be made.
    Ram,
}

/// The steps of a reset, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The number of the boot that the new root is for.
    pub boot: BootNumber,
    /// The boot whose root is put away by it, not counting leftovers.
    pub put_away: Option<BootNumber>,
    /// What to do.
    pub steps: Vec<Step>,
}

/// Plans a reset.
///
/// After every step the name `root` resolves, and planning again from what that step left leads to
/// the same end: an exchange that was not followed by its renaming is found as a leftover, a
/// snapshot that was not followed by its exchange is found as a pristine one.
pub fn plan(observed: &Observation) -> Plan {
    let mut numbers = Numbers::of(observed);
    let mut place_of = |root: &Root| numbers.place_of(root);
    let adopted = observed.root.as_ref().is_some_and(|root| root.pristine);
    let reused = observed.leftover.as_ref().is_some_and(|leftover| leftover.pristine);
    let leftover = observed.leftover.as_ref().filter(|leftover| !leftover.pristine);
    let put_away_leftover = leftover.map(&mut place_of);
    let put_away = observed.root.as_ref().filter(|root| !root.pristine).map(&mut place_of);
    let boot = numbers.next();

    let mut steps = vec![Step::GiveOut(boot)];
    if observed.in_ram {
        steps.push(Step::Record(Source::Ram));
        return Plan { boot, put_away: None, steps };
    }
    steps.extend(put_away_leftover.map(Step::PutAwayLeftover));
    if adopted {
        steps.push(Step::Record(Source::Root));
        return Plan { boot, put_away: None, steps };
    }
    if !reused {
        steps.push(Step::Make(observed.base));
    }
    steps.push(Step::Record(Source::New));
    match put_away {
        Some(number) => steps.extend([Step::Exchange, Step::PutAway(number)]),
        None => steps.push(Step::Install),
    }
    Plan { boot, put_away, steps }
}

/// Plans to run on a past root again, which takes the place of the root that there is.
///
/// A cut leaves the past root under the temporary name, or the root that it takes the place of: the next boot
/// finds it as a leftover.
pub fn plan_to_bring_back(observed: &Observation, past: BootNumber) -> Plan {
    let mut numbers = Numbers::of(observed);
    let leftover = observed.leftover.as_ref().map(|root| numbers.place_of(root));
    let put_away = observed.root.as_ref().map(|root| numbers.place_of(root));
    let boot = numbers.next();
    let mut steps = vec![Step::GiveOut(boot)];
    steps.extend(leftover.map(Step::PutAwayLeftover));
    steps.extend([Step::BringBack(past), Step::Record(Source::New)]);
    match put_away {
        Some(number) => steps.extend([Step::Exchange, Step::PutAway(number)]),
        None => steps.push(Step::Install),
    }
    Plan { boot, put_away, steps }
}

/// Numbers that are given out, and those that are to be.
struct Numbers {
    taken: BTreeSet<BootNumber>,
    last: BootNumber,
}

impl Numbers {
    fn of(observed: &Observation) -> Self {
        Self { taken: observed.taken.clone(), last: observed.last }
    }

    fn next(&mut self) -> BootNumber {
        self.last = BootNumber(self.last.0 + 1);
        self.last
    }

    /// Where an old root goes among the past ones.
    fn place_of(&mut self, root: &Root) -> BootNumber {
        match root.boot {
            Some(boot) if self.taken.insert(boot) => boot,
            // No record knows it, or its place is taken: it gets a number of its own.
            _ => {
                let number = self.next();
                self.taken.insert(number);
                number
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GiveOut(number) => write!(f, "give out boot number {number}"),
            Self::PutAwayLeftover(number) => {
                write!(f, "put the old root that a crash left under root.new away as past/{number}")
            }
            Self::Make(base) => write!(f, "make root.new from base {base}"),
            Self::BringBack(number) => write!(f, "bring past/{number} back as root.new"),
            Self::Record(Source::Root) => f.write_str("record the boot on root, which is pristine"),
            Self::Record(Source::New) => f.write_str("record the boot on root.new"),
            Self::Record(Source::Ram) => f.write_str("record the boot on a root in RAM"),
            Self::Exchange => f.write_str("exchange root.new and root"),
            Self::Install => f.write_str("rename root.new to root"),
            Self::PutAway(number) => write!(f, "put the old root away as past/{number}"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What lies in the container, as names.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct World {
        last: u64,
        root: Option<Tree>,
        new: Option<Tree>,
        past: Vec<(u64, Tree)>,
        recorded: Vec<(u64, u32)>,
    }

    /// A subvolume: who it is, and whether anything was written to it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Tree {
        id: u32,
        used: bool,
    }

    impl World {
        fn observe(&self) -> Observation {
            let root = |tree: &Tree| Root {
                pristine: !tree.used,
                boot: self
                    .recorded
                    .iter()
                    .filter(|(_, id)| *id == tree.id)
                    .map(|(number, _)| BootNumber(*number))
                    .max(),
            };
            Observation {
                last: BootNumber(self.last),
                taken: self.past.iter().map(|(number, _)| BootNumber(*number)).collect(),
                root: self.root.as_ref().map(root),
                leftover: self.new.as_ref().map(root),
                in_ram: false,
                base: 1,
            }
        }

        fn step(&mut self, step: &Step, boot: BootNumber, fresh: &mut u32) {
            match step {
                Step::GiveOut(number) => {
                    assert!(number.0 > self.last, "numbers grow");
                    self.last = number.0;
                }
                Step::PutAwayLeftover(number) | Step::PutAway(number) => {
                    let tree = self.new.take().expect("root.new exists");
                    assert!(self.past.iter().all(|(taken, _)| taken != &number.0), "place is free");
                    self.past.push((number.0, tree));
                }
                Step::BringBack(number) => {
                    assert_eq!(self.new, None, "the temporary name is free");
                    let at = self.past.iter().position(|(past, _)| past == &number.0).unwrap();
                    self.new = Some(self.past.remove(at).1);
                }
                Step::Make(_) => {
                    assert_eq!(self.new, None, "the temporary name is free");
                    *fresh += 1;
                    self.new = Some(Tree { id: *fresh, used: false });
                }
                Step::Record(source) => {
                    let tree = match source {
                        Source::Ram => unreachable!(),
                        Source::Root => &self.root,
                        Source::New => &self.new,
                    };
                    let id = tree.as_ref().expect("the subvolume exists").id;
                    self.recorded.push((boot.0, id));
                }
                Step::Exchange => {
                    assert!(self.root.is_some() && self.new.is_some());
                    std::mem::swap(&mut self.root, &mut self.new);
                }
                Step::Install => {
                    assert_eq!(self.root, None);
                    self.root = self.new.take();
                }
            }
        }

        fn used(&self) -> Vec<u32> {
            let mut ids: Vec<_> = [&self.root, &self.new]
                .into_iter()
                .flatten()
                .chain(self.past.iter().map(|(_, tree)| tree))
                .filter(|tree| tree.used)
                .map(|tree| tree.id)
                .collect();
            ids.sort_unstable();
            ids
        }
    }

    proptest! {
        /// Boots that are cut after any number of steps, some of which get as far as using their
        /// root, and some bring a past root back: no used root is ever lost, `root` never stops resolving,
        /// numbers grow, a whole reset ends on a pristine root, and puts none away.
        #[test]
        fn no_cut_loses_a_root(
            boots in prop::collection::vec((0usize..9, any::<bool>(), 0usize..4), 1..12)
        ) {
            let mut fresh = 1;
            let mut world = World {
                last: 0,
                root: Some(Tree { id: 1, used: false }),
                new: None,
                past: Vec::new(),
                recorded: Vec::new(),
            };
            for (cut, uses, which) in boots {
                let before = world.used();
                let past = world.past.get(which).filter(|_| which < 2).cloned();
                let plan = match past {
                    Some((number, _)) => plan_to_bring_back(&world.observe(), BootNumber(number)),
                    None => plan(&world.observe()),
                };
                for step in plan.steps.iter().take(cut) {
                    if past.is_none() && let Step::PutAway(_) | Step::PutAwayLeftover(_) = step {
                        prop_assert!(world.new.as_ref().is_some_and(|new| new.used));
                    }
                    world.step(step, plan.boot, &mut fresh);
                    prop_assert!(world.root.is_some());
                }
                prop_assert_eq!(&world.used(), &before);
                if cut >= plan.steps.len() {
                    match &past {
                        Some((_, tree)) => prop_assert_eq!(world.root.as_ref(), Some(tree)),
                        None => prop_assert!(!world.root.as_ref().is_some_and(|root| root.used)),
                    }
                    prop_assert!(world.new.as_ref().is_none_or(|new| !new.used));
                }
                if uses && let Some(root) = &mut world.root {
                    root.used = true;
                }
            }
        }
    }

    fn steps(root: Option<(bool, Option<u64>)>, leftover: Option<(bool, Option<u64>)>) -> String {
        let tree =
            |(pristine, boot): (bool, Option<u64>)| Root { pristine, boot: boot.map(BootNumber) };
        plan(&Observation {
            last: BootNumber(7),
            taken: BTreeSet::from([BootNumber(5)]),
            root: root.map(tree),
            leftover: leftover.map(tree),
            in_ram: false,
            base: 1,
        })
        .to_string()
    }

    #[test]
    fn plans_read_as_what_will_happen() {
        insta::assert_snapshot!(steps(Some((false, Some(7))), None), @r"
        give out boot number 8
        make root.new from base 1
        record the boot on root.new
        exchange root.new and root
        put the old root away as past/7
        ");
        insta::assert_snapshot!(steps(Some((true, None)), None), @r"
        give out boot number 8
        record the boot on root, which is pristine
        ");
        insta::assert_snapshot!(steps(Some((false, Some(6))), Some((true, Some(7)))), @r"
        give out boot number 8
        record the boot on root.new
        exchange root.new and root
        put the old root away as past/6
        ");
        insta::assert_snapshot!(steps(Some((true, Some(7))), Some((false, Some(6)))), @r"
        give out boot number 8
        put the old root that a crash left under root.new away as past/6
        record the boot on root, which is pristine
        ");
        insta::assert_snapshot!(steps(None, None), @r"
        give out boot number 8
        make root.new from base 1
        record the boot on root.new
        rename root.new to root
        ");
    }

    #[test]
    fn a_root_that_no_record_knows_gets_a_number_of_its_own() {
        insta::assert_snapshot!(steps(Some((false, Some(5))), Some((false, None))), @r"
        give out boot number 10
        put the old root that a crash left under root.new away as past/8
        make root.new from base 1
        record the boot on root.new
        exchange root.new and root
        put the old root away as past/9
        ");
    }
}
