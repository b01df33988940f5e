//! Attach plans: how they read, and what holds for all of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use ebbtide_core::attach::{
    Attributes, Node, Observation, Plan, Policy, Seed, SeedSource, Step, Tree, plan,
};
use ebbtide_core::compiled::{Entry, Kind, Method, Mode, MountOption, Origin, StoreName};
use ebbtide_core::record::BootNumber;
use proptest::prelude::*;

const ROOT_755: Attributes = Attributes { uid: 0, gid: 0, mode: 0o755 };
const ROOT_644: Attributes = Attributes { uid: 0, gid: 0, mode: 0o644 };

fn entry(path: &str, kind: Kind, method: Method) -> Entry {
    Entry {
        path: PathBuf::from(path),
        kind,
        store: StoreName("state".to_owned()),
        method,
        user: None,
        group: None,
        mode: None,
        parent: None,
        options: Vec::new(),
        optional: false,
        lazy: false,
        home: None,
        units: Vec::new(),
        origin: Origin { file: "test".to_owned(), line: 1 },
    }
}

fn seen(source: Node, target: Node) -> Observation {
    Observation {
        source: Ok(source),
        target,
        in_place: false,
        seed: None,
        deleted: false,
        owner: Ok((None, None)),
        content: None,
        missing_in_store: Vec::new(),
        missing_in_root: Vec::new(),
    }
}

fn render(entry: &Entry, seen: &Observation, policy: Policy) -> String {
    let entries = std::slice::from_ref(entry);
    plan(entries, std::slice::from_ref(seen), policy).render(entries)
}

fn full(entry: &Entry, seen: &Observation) -> String {
    render(entry, seen, Policy::Full)
}

fn directory(path: &str) -> Entry {
    entry(path, Kind::Directory, Method::Bind)
}

#[test]
fn a_directory_that_the_store_has_is_bound() {
    let plan =
        full(&directory("/srv"), &seen(Node::Directory(ROOT_755), Node::Directory(ROOT_755)));
    insta::assert_snapshot!(plan, @"bind state:/srv on /srv");
}

#[test]
fn a_new_directory_is_made_in_the_store_and_in_the_root_with_its_parents() {
    let mut seen = seen(Node::Absent, Node::Absent);
    let private = Attributes { mode: 0o700, ..ROOT_755 };
    seen.missing_in_store =
        vec![(PathBuf::from("/var"), ROOT_755), (PathBuf::from("/var/lib"), private)];
    seen.missing_in_root = vec![(PathBuf::from("/var/lib"), private)];
    seen.owner = Ok((Some(1000), Some(100)));
    let mut entry = directory("/var/lib/app");
    entry.mode = Some(Mode(0o750));
    entry.options = vec![MountOption::Noexec, MountOption::Ro];
    insta::assert_snapshot!(full(&entry, &seen), @r"
    make state:/var as 0:0 0755
    make state:/var/lib as 0:0 0700
    make an empty directory state:/var/lib/app as 1000:100 0750
    make /var/lib as 0:0 0700
    make an empty directory /var/lib/app as 1000:100 0750
    bind state:/var/lib/app on /var/lib/app with noexec,ro
    ");
}

#[test]
fn first_content_is_imported_once_and_tightened() {
    let mut seen = seen(Node::Absent, Node::Directory(ROOT_755));
    seen.seed = Some(Seed {
        source: SeedSource::OldRoot(BootNumber(7)),
        node: Node::Directory(ROOT_755),
        size: 0,
    });
    let mut entry = directory("/var/lib/app");
    entry.mode = Some(Mode(0o700));
    insta::assert_snapshot!(full(&entry, &seen), @r"
    copy /var/lib/app from past root 7 to state:/var/lib/app
    set state:/var/lib/app to 0:0 0700
    bind state:/var/lib/app on /var/lib/app
    ");
}

#[test]
fn a_stricter_mode_stays_and_a_looser_one_does_not() {
    let mut entry = directory("/srv");
    entry.mode = Some(Mode(0o755));
    let strict = Node::Directory(Attributes { mode: 0o700, ..ROOT_755 });
    insta::assert_snapshot!(full(&entry, &seen(strict, Node::Directory(ROOT_755))), @"bind state:/srv on /srv");
    let loose = Node::Directory(Attributes { mode: 0o1777, ..ROOT_755 });
    insta::assert_snapshot!(full(&entry, &seen(loose, Node::Directory(ROOT_755))), @r"
    set state:/srv to 0:0 0755
    bind state:/srv on /srv
    ! /srv in store state was 0:0 1777, is now 0:0 0755
    ");
}

#[test]
fn a_file_without_data_waits_for_some() {
    let entry = entry("/etc/x.conf", Kind::File, Method::Bind);
    insta::assert_snapshot!(full(&entry, &seen(Node::Absent, Node::Absent)), @"! /etc/x.conf is not there yet: neither in store state, nor in the old root, nor in the base (once something has made it, the next boot takes it into the store)");
}

#[test]
fn what_is_in_the_way_is_refused_and_named() {
    let link = Node::Link(PathBuf::from("/etc\u{1b}[2J"));
    let target = seen(Node::Directory(ROOT_755), link.clone());
    insta::assert_snapshot!(full(&directory("/srv"), &target), @r"! /srv is not attached: the root has a symbolic link to /etc\x1b[2J there (declare the path that it really has)");
    let source = seen(link, Node::Directory(ROOT_755));
    insta::assert_snapshot!(full(&directory("/srv"), &source), @r"! /srv is not attached: it is declared as a directory, and store state has a symbolic link to /etc\x1b[2J there (declare it as what it is, or move it away in the store)");
    let mut gone = seen(Node::Absent, Node::Absent);
    gone.source = Err("store state is not there: no such device".to_owned());
    insta::assert_snapshot!(full(&directory("/srv"), &gone), @"! /srv is not attached: store state is not there: no such device");
}

#[test]
fn an_unknown_owner_is_said_and_the_present_one_stays() {
    let mut seen = seen(Node::Directory(ROOT_755), Node::Directory(ROOT_755));
    seen.owner = Err("user bob is not in its /etc/passwd".to_owned());
    insta::assert_snapshot!(full(&directory("/srv"), &seen), @r"
    bind state:/srv on /srv
    ! /srv: user bob is not in its /etc/passwd, so its owner is left as it is
    ");
}

#[test]
fn links_and_copies() {
    let linked = entry("/etc/motd", Kind::File, Method::Symlink);
    insta::assert_snapshot!(full(&linked, &seen(Node::File(ROOT_644), Node::Absent)), @"link /etc/motd to state:/etc/motd");
    let copied = entry("/etc/machine-id", Kind::File, Method::Copy);
    insta::assert_snapshot!(full(&copied, &seen(Node::Absent, Node::File(ROOT_644))), @r"
    make a new machine id in state:/etc/machine-id
    copy state:/etc/machine-id to /etc/machine-id
    ");
}

#[test]
fn as_it_was_only_mounts() {
    let mut entry = directory("/srv");
    entry.mode = Some(Mode(0o700));
    let both = seen(Node::Directory(ROOT_755), Node::Directory(ROOT_755));
    insta::assert_snapshot!(render(&entry, &both, Policy::AsItWas), @"bind state:/srv on /srv");
    let one = seen(Node::Directory(ROOT_755), Node::Absent);
    insta::assert_snapshot!(render(&entry, &one, Policy::AsItWas), @"! /srv is not attached: this boot changes nothing, and the path is not both in store state and in the root");
}

/// Any node that an observation can hold.
fn node() -> impl Strategy<Value = Node> {
    let attributes = (0u32..3, 0u32..3, 0u32..0o10000).prop_map(|(uid, gid, mode)| Attributes {
        uid,
        gid,
        mode,
    });
    prop_oneof![
        Just(Node::Absent),
        attributes.clone().prop_map(Node::Directory),
        attributes.prop_map(Node::File),
        Just(Node::Link(PathBuf::from("/etc"))),
        Just(Node::Unusable("odd".to_owned())),
    ]
}

fn observation() -> impl Strategy<Value = Observation> {
    (
        prop_oneof![5 => node().prop_map(Ok), 1 => Just(Err("gone".to_owned()))],
        node(),
        any::<bool>(),
        prop::option::of((node(), any::<bool>())),
        prop_oneof![
            Just(Ok((None, None))),
            Just(Ok((Some(1), Some(2)))),
            Just(Err("who".to_owned()))
        ],
    )
        .prop_map(|(source, target, in_place, seed, owner)| Observation {
            source,
            target,
            in_place,
            seed: seed.map(|(node, old)| Seed {
                source: if old { SeedSource::OldRoot(BootNumber(7)) } else { SeedSource::Root },
                node,
                size: 0,
            }),
            deleted: false,
            owner,
            content: None,
            missing_in_store: vec![(PathBuf::from("/a"), ROOT_755)],
            missing_in_root: Vec::new(),
        })
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let path =
        prop::collection::vec("[a-c]", 1..4).prop_map(|parts| format!("/{}", parts.join("/")));
    let one = (path, any::<bool>(), 0usize..3, prop::option::of(0u32..0o10000), any::<bool>());
    prop::collection::vec(one, 1..8).prop_map(|all| {
        let mut entries: Vec<Entry> = all
            .into_iter()
            .map(|(path, is_directory, method, mode, optional)| {
                let kind = if is_directory { Kind::Directory } else { Kind::File };
                let method = [Method::Bind, Method::Symlink, Method::Copy][method];
                Entry { mode: mode.map(Mode), optional, ..entry(&path, kind, method) }
            })
            .collect();
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        entries.dedup_by(|a, b| a.path == b.path);
        entries
    })
}

fn binds<'a>(plan: &Plan, entries: &'a [Entry]) -> Vec<&'a Path> {
    let binds = plan.steps.iter().filter(|(_, step)| matches!(step, Step::Bind(_)));
    binds.map(|(index, _)| entries[*index].path.as_path()).collect()
}

proptest! {
    #[test]
    fn all_plans(
        (entries, observed) in entries().prop_flat_map(|entries| {
            let count = entries.len();
            (Just(entries), prop::collection::vec(observation(), count))
        })
    ) {
        let full = plan(&entries, &observed, Policy::Full);
        prop_assert_eq!(&full, &plan(&entries, &observed, Policy::Full), "planning twice is the same");

        let mounts = binds(&full, &entries);
        for (index, later) in mounts.iter().enumerate() {
            for earlier in &mounts[..index] {
                prop_assert!(!earlier.starts_with(later), "{later:?} hides {earlier:?}");
            }
        }

        // What is said to be in place and right needs nothing more.
        let done: Vec<Observation> = entries
            .iter()
            .zip(&observed)
            .map(|(entry, seen)| {
                let attributes = match &seen.source {
                    Ok(Node::Directory(attributes) | Node::File(attributes)) => *attributes,
                    _ => ROOT_644,
                };
                let wanted = Attributes {
                    mode: attributes.mode & entry.mode.map_or(0o7777, |mode| mode.0),
                    ..attributes
                };
                let node = match entry.kind {
                    Kind::Directory => Node::Directory(wanted),
                    Kind::File => Node::File(wanted),
                };
                Observation {
                    source: Ok(node.clone()),
                    target: node,
                    in_place: true,
                    owner: Ok((None, None)),
                    ..seen.clone()
                }
            })
            .collect();
        prop_assert!(plan(&entries, &done, Policy::Full).is_empty());

        let careful = plan(&entries, &observed, Policy::AsItWas);
        let only_mounts = careful.steps.iter().all(|(_, step)| matches!(step, Step::Bind(_)));
        prop_assert!(only_mounts, "a root that is not ours to change was changed");

        for (index, step) in &full.steps {
            if let (Step::Make(Tree::Store, _, attributes) | Step::SetAttributes(attributes), Some(mode)) =
                (step, entries[*index].mode)
            {
                prop_assert_eq!(attributes.mode & !mode.0, 0, "never looser than declared");
            }
        }
    }
}

#[test]
fn imports_share_one_budget_in_their_order() {
    let sized = |size| Observation {
        seed: Some(Seed { source: SeedSource::Root, node: Node::Directory(ROOT_755), size }),
        ..seen(Node::Absent, Node::Directory(ROOT_755))
    };
    let entries: Vec<Entry> = ["/a", "/b", "/c", "/d"].map(directory).into();
    let observed = [sized(40), sized(70), sized(60), sized(u64::MAX)];
    let postponed = |limit| {
        let mut plan = plan(&entries, &observed, Policy::Full);
        plan.postpone_imports_beyond(limit, &observed);
        assert!(plan.steps.iter().all(|(index, _)| !plan.postponed.contains(index)));
        plan.postponed
    };
    assert_eq!(postponed(100), [1, 3]);
    assert_eq!(postponed(39), [0, 1, 2, 3]);
    assert_eq!(postponed(170), [3]);
}
