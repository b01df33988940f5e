//! Entries whose way is changed between the look at them and what is done: no link is followed, and
//! what verifies does not believe what was opened before.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ebbtide_core::attach::{self, Directories, Places, Policy};
use ebbtide_core::compiled::{Entry, Kind, Method, Origin, StoreName};
use ebbtide_core::record::BootNumber;
use ebbtide_sys::accounts::Accounts;
use ebbtide_sys::{mount, mountinfo};

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn entry(path: &str) -> Entry {
    Entry {
        path: PathBuf::from(path),
        kind: Kind::Directory,
        store: StoreName("state".to_owned()),
        method: Method::Bind,
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

/// Looks at one entry, lets somebody change the tree, attaches, and looks again. Returns whether the
/// entry is in place, and whether something is mounted on `/outside`.
fn attached_while(change: impl FnOnce(&Path) + Send) -> Option<(bool, bool)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root for mounts");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().canonicalize().unwrap();
    let inside = || {
        mount::enter_private_mount_namespace().unwrap();
        let tmpfs =
            mount::mount_detached("tmpfs", None, &[], mount::MountAttributes::NONE).unwrap();
        mount::attach(std::os::fd::AsFd::as_fd(&tmpfs), std::os::fd::AsFd::as_fd(&open(&base)))
            .unwrap();
        let (root, stores) = (base.join("root"), base.join("stores"));
        fs::create_dir_all(root.join("home/user/data")).unwrap();
        fs::create_dir_all(root.join("outside/data")).unwrap();
        fs::create_dir_all(stores.join("state/home/user/data")).unwrap();
        let store = open(&stores.join("state"));
        let clone = mount::clone_mount(std::os::fd::AsFd::as_fd(&store), Path::new(""), false);
        mount::attach(std::os::fd::AsFd::as_fd(&clone.unwrap()), std::os::fd::AsFd::as_fd(&store))
            .unwrap();
        let name = StoreName("state".to_owned());
        let places = Places {
            root: open(&root),
            root_path: root.clone(),
            stores: BTreeMap::from([(name, Ok(open(&stores.join("state"))))]),
            stores_path: stores,
            old_roots: Vec::new(),
            accounts: Accounts::default(),
            in_use: false,
            fresh: true,
            base: None,
            import_limit: None,
        };
        let entries = [entry("/home/user/data")];
        let directories = Directories::new();
        let table = mountinfo::read_self().unwrap();
        let seen = attach::observe_with(&directories, &entries, &places, &table).unwrap();
        let plan = attach::plan(&entries, &seen, Policy::Full);
        assert_eq!(plan.steps.len(), 1, "{}", plan.render(&entries));
        change(&root);
        attach::apply_with(&directories, &plan, &entries, &places, BootNumber(1), &mut |_, _| ());
        let table = mountinfo::read_self().unwrap();
        let again = attach::observe(&entries, &places, &table).unwrap();
        let outside = root.join("outside");
        let astray = table.iter().any(|mount| mount.mount_point.starts_with(&outside));
        (again.iter().all(|seen| seen.in_place), astray)
    };
    Some(std::thread::scope(|scope| scope.spawn(inside).join().unwrap()))
}

#[test]
fn undisturbed_it_is_in_place() {
    assert!(attached_while(|_| ()).is_none_or(|it| it == (true, false)));
}

#[test]
fn a_parent_that_becomes_a_link_leads_nowhere() {
    let swapped = attached_while(|root| {
        fs::rename(root.join("home/user"), root.join("home/moved")).unwrap();
        symlink("/outside", root.join("home/user")).unwrap();
    });
    assert!(swapped.is_none_or(|it| it == (false, false)), "{swapped:?}");
}

#[test]
fn a_target_that_becomes_a_link_is_not_followed() {
    let swapped = attached_while(|root| {
        fs::remove_dir(root.join("home/user/data")).unwrap();
        symlink("/outside/data", root.join("home/user/data")).unwrap();
    });
    assert!(swapped.is_none_or(|it| it == (false, false)), "{swapped:?}");
}

#[test]
fn a_parent_that_was_moved_does_not_count_as_its_place() {
    let swapped = attached_while(|root| {
        fs::rename(root.join("home/user"), root.join("home/moved")).unwrap();
        fs::create_dir_all(root.join("home/user/data")).unwrap();
    });
    assert!(swapped.is_none_or(|it| it == (false, false)), "{swapped:?}");
}
