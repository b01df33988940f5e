use super::*;
use crate::past::version::{Identity, Kind};

fn version(identity: u8) -> Version {
    Version {
        kind: Kind::File,
        bytes: 1,
        modified: 0,
        uid: 0,
        gid: 0,
        mode: 0o644,
        content: None,
        target: None,
        entries: None,
        complete: true,
        identity: Identity([identity; 32]),
    }
}

fn there(identity: u8) -> State {
    State::Present(version(identity))
}

fn kept_by() -> KeptBy {
    KeptBy {
        entry: "/var/log".to_owned(),
        store: StoreName("state".to_owned()),
        method: "bind".to_owned(),
    }
}

fn versions(states: Vec<State>) -> Vec<(Place, State)> {
    let count = states.len();
    let boots = (1..count).rev().map(|it| Place::Boot(BootNumber(it as u64)));
    boots.chain([Place::Base(1)]).zip(states).collect()
}

fn target() -> Target {
    Target {
        path: "/etc/odd\n".into(),
        area: Area::Root(Fate::Forgotten),
        existing: Existing::Nothing,
        parents: Vec::new(),
        mounts: Vec::new(),
        leftover: None,
    }
}

fn request(wanted: Wanted) -> Request {
    Request { path: "/etc/odd\n".into(), wanted, to: None, force: false }
}

/// What is decided, or what is said.
fn said(result: Result<Plan>) -> String {
    match result {
        Ok(plan) => format!("{:?} {:?} {:?}", plan.from, plan.replaced, plan.after),
        Err(failure) => format!("{}\nhint: {}", failure.chain(), failure.advice().unwrap_or("-")),
    }
}

#[test]
fn the_newest_version_that_is_another_is_chosen() {
    let chosen = |states: Vec<State>, now: State, to: bool| {
        let versions = versions(states);
        let mut request = request(Wanted::Newest);
        request.to = to.then(|| "/tmp".into());
        let seen = Seen { versions: &versions, now: &now, target: &target() };
        plan(&request, &seen).map(|plan| plan.from).map_err(|failure| failure.chain())
    };
    let boot = |number| Ok(Place::Boot(BootNumber(number)));
    let kept = || State::Kept(StoreName("state".to_owned()));
    assert_eq!(chosen(vec![there(1), there(2)], State::Absent, false), boot(1));
    assert_eq!(chosen(vec![kept(), State::Absent, there(2), there(1)], there(3), false), boot(1));
    assert_eq!(chosen(vec![there(1), there(2), there(1)], there(1), false), boot(1));
    assert_eq!(chosen(vec![there(1), there(2)], there(1), false), Ok(Place::Base(1)));
    let same = "cannot restore /etc/odd\\n: every version that there is, is what is there now";
    assert_eq!(chosen(vec![there(1), there(1)], there(1), false), Err(same.to_owned()));
    assert_eq!(chosen(vec![there(1), there(1)], there(1), true), boot(1));
    let none = "cannot restore /etc/odd\\n: no past root and no base has it";
    assert_eq!(chosen(vec![kept(), State::Absent], there(1), false), Err(none.to_owned()));
    // Nobody knows whether a part of a large directory is all of it.
    let part = || State::Present(Version { complete: false, ..version(1) });
    assert_eq!(chosen(vec![part(), there(2)], part(), false), boot(1));
}

#[test]
fn one_that_is_asked_for_is_there_or_it_is_said_why_not() {
    let versions = versions(vec![
        State::Unknown("/etc is a symbolic link".to_owned()),
        State::Kept(StoreName("state".to_owned())),
        State::Absent,
        there(1),
        there(2),
    ]);
    let ask = |wanted| {
        let seen = Seen { versions: &versions, now: &there(2), target: &target() };
        said(plan(&request(wanted), &seen))
    };
    let boot = |number| ask(Wanted::Boot(BootNumber(number)));
    insta::assert_snapshot!(boot(1), @"Boot(BootNumber(1)) Nothing Forgotten");
    insta::assert_snapshot!(ask(Wanted::Base), @"Base(1) Nothing Forgotten");
    insta::assert_snapshot!(boot(2), @r"
    cannot restore /etc/odd\n: boot 2 does not have it
    hint: `ebbtide log /etc/odd\n` lists the versions that there are
    ");
    insta::assert_snapshot!(boot(3), @r"
    cannot restore /etc/odd\n: in boot 3 it was mounted from store state, so that past root does not have it
    hint: what left the store since then is in its trash, .ebbtide/trash; `ebbtide log /etc/odd\n` lists the versions that there are
    ");
    insta::assert_snapshot!(boot(4), @r"
    cannot restore /etc/odd\n: that of boot 4 can't be looked at: /etc is a symbolic link
    hint: -
    ");
    insta::assert_snapshot!(boot(9), @r"
    cannot restore /etc/odd\n: there is no past root of boot 9
    hint: `ebbtide boots` lists those that there are
    ");
}

#[test]
fn what_is_there_stays_unless_it_is_asked_for_and_has_a_trash() {
    let versions = versions(vec![there(1), there(2)]);
    let decide = |change: &dyn Fn(&mut Target), force: bool| {
        let mut target = target();
        change(&mut target);
        let request = Request { force, ..request(Wanted::Newest) };
        let seen = Seen { versions: &versions, now: &State::Absent, target: &target };
        said(plan(&request, &seen))
    };
    let data = |area: Area| {
        move |target: &mut Target| {
            target.existing = Existing::Data;
            target.area = area.clone();
        }
    };
    let kept = || data(Area::Store(kept_by()));
    insta::assert_snapshot!(decide(&kept(), false), @r"
    cannot restore /etc/odd\n: /etc/odd\n is there already
    hint: with `--force` it goes to the trash; `ebbtide restore --to DIR /etc/odd\n` puts it elsewhere
    ");
    insta::assert_snapshot!(decide(&data(Area::Given), false), @r"
    cannot restore /etc/odd\n: /etc/odd\n is there already
    hint: choose an empty directory
    ");
    assert!(decide(&kept(), true).starts_with("Boot(BootNumber(1)) Trash Kept("));
    insta::assert_snapshot!(decide(&data(Area::Mounted), true), @r"
    cannot restore /etc/odd\n: /etc/odd\n is on another filesystem than the root, where there is no trash for it
    hint: move it away first; or `ebbtide restore --to DIR /etc/odd\n` puts it elsewhere
    ");
    // A file takes no directory's place.
    let empty = |target: &mut Target| target.existing = Existing::EmptyDirectory;
    assert!(decide(&empty, false).contains("is there already"));
    let mounted = |target: &mut Target| {
        target.existing = Existing::Data;
        target.mounts = vec!["/etc/odd\n/below".into()];
    };
    insta::assert_snapshot!(decide(&mounted, true), @r"
    cannot restore /etc/odd\n: a directory below it is a mount point (/etc/odd\n/below)
    hint: restore what lies in it, path by path; or `ebbtide restore --to DIR /etc/odd\n` puts it elsewhere
    ");
    let itself = |target: &mut Target| target.mounts = vec![target.path.clone()];
    assert!(decide(&itself, true).contains(": it is a mount point"));
    let leftover = |area: Area| {
        move |target: &mut Target| {
            target.leftover = Some("/etc/.ebbtide-restore.odd".into());
            target.area = area.clone();
        }
    };
    assert!(decide(&leftover(Area::Root(Fate::Forgotten)), false).contains("Nothing Forgotten"));
    insta::assert_snapshot!(decide(&leftover(Area::Given), false), @r"
    cannot restore /etc/odd\n: /etc/.ebbtide-restore.odd is what a restore that was cut off left
    hint: it may hold what was replaced: look into it, then move it away
    ");
}

#[test]
fn an_empty_directory_gives_way_to_a_directory() {
    let directory =
        State::Present(Version { kind: Kind::Directory, entries: Some(3), ..version(1) });
    let versions = versions(vec![directory, there(2)]);
    let target = Target { existing: Existing::EmptyDirectory, ..target() };
    let seen = Seen { versions: &versions, now: &there(2), target: &target };
    let decided = said(plan(&request(Wanted::Newest), &seen));
    assert_eq!(decided, "Boot(BootNumber(1)) EmptyDirectory Forgotten");
}
